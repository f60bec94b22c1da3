// Real balancers in front, with the examples of deploy/behind, all times divided by twenty: an idle timeout of 3 s
// instead of 60, pings every second instead of every 20 s. What is silent for ten idle timeouts lives, because the
// proxy pings; where it pings too seldom, connections are cut, and sessions go on all the same.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { maySkip, scratch, sleep, startServices } from "../rolling/rig.js";
import * as callers from "./callers.js";
import { ENVOY, IDLE_MS, certify, edge, envoy, haproxy, haproxyTcp, nginx, nginxTcp, tcpEdge } from "./rig.js";

const SILENCE_MS = 10 * IDLE_MS;
const UNAVAILABLE = 14;
/** A call that hangs is a failure. */
const timeout = SILENCE_MS + 20_000;

const installed = (command, ...args) => spawnSync(command, args).status === 0;

const BALANCERS = [
  { name: "nginx", start: nginx, missing: !installed("nginx", "-v") && "nginx is not installed" },
  { name: "HAProxy", start: haproxy, missing: !installed("haproxy", "-v") && "haproxy is not installed", overHttp2: 200 },
  { name: "Envoy", start: envoy, missing: !ENVOY && "envoy is not installed" },
];

const PASSING_TCP = [
  { name: "nginx-tcp", start: nginxTcp, missing: BALANCERS[0].missing },
  { name: "HAProxy-tcp", start: haproxyTcp, missing: BALANCERS[1].missing },
];

// All balancers, and everything behind them, are silent at the same time.
describe("behind", { concurrency: true }, () => {
  let folder, services;
  before(async () => {
    folder = scratch();
    certify(folder.path);
    services = await startServices();
  });
  after(async () => {
    await services?.stop();
    folder?.remove();
  });

  for (const { name, start, missing, overHttp2 } of BALANCERS) {
    describe(name, { skip: maySkip(missing), concurrency: true }, () => {
      let lively, drowsy, front, short;
      before(async () => {
        lively = await edge(folder.path, `${name}-lively`, { upstream: services.url });
        drowsy = await edge(folder.path, `${name}-drowsy`, { upstream: services.url, patient: true });
        front = await start(folder.path, `${name}-front`, lively);
        short = await start(folder.path, `${name}-short`, drowsy);
      });
      after(async () => {
        for (const each of [front, short, lively, drowsy]) await each?.stop();
      });

      for (const way of ["session", "streaming", "polling", "improbable", "jsonSocket"]) {
        test(`a silent stream lives: ${way}`, { timeout }, async () => {
          const { code, connects = 1 } = await callers[way](front.url, SILENCE_MS);
          assert.equal(code, 0);
          assert.equal(connects, 1, "it kept its connection");
        });
      }

      test("a silent stream of native gRPC lives, which nothing pings: its timeout is a longer one", { timeout }, async () => {
        assert.equal((await callers.native(front.url, SILENCE_MS)).code, 0);
      });

      test("native gRPC passes", { timeout }, async () => {
        assert.equal((await callers.native(front.url, 0)).code, 0);
      });

      for (const way of ["session", "streaming", "polling"]) {
        test(`pings that come too seldom: connections are cut, and the session goes on: ${way}`, { timeout }, async () => {
          const resumed = await drowsy.count("bidiway_sessions_resumed");
          const { code } = await callers[way](short.url, SILENCE_MS);
          assert.equal(code, 0);
          assert.ok((await drowsy.count("bidiway_sessions_resumed")) >= resumed + 3, "it was cut, and came back");
        });
      }

      test("pings that come too seldom: a session that is not resumed is told so", { timeout }, async () => {
        await assert.rejects(callers.plain(short.url, SILENCE_MS), ({ code }) => code === UNAVAILABLE);
      });

      test("a silent server stream over gRPC-Web has no pings: it is cut, and does not look complete", { timeout }, async () => {
        const { broken, lastedMs, text } = await callers.grpcWebStream(front.url);
        assert.ok(lastedMs >= IDLE_MS * 0.9, `cut after ${lastedMs} ms`);
        assert.ok(lastedMs < SILENCE_MS, `cut after ${lastedMs} ms`);
        assert.ok(broken || !text.includes("grpc-status"), text);
      });

      test("requests on connections that were idle for about as long as they are kept do not fail", { timeout }, async () => {
        for (const part of [0.7, 0.9, 0.98, 1, 1.02, 1.1, 1.25, 1.3]) {
          await callers.grpcWebUnary(front.url);
          await sleep(IDLE_MS * part);
        }
        await callers.grpcWebUnary(front.url);
      });

      test("pages of listed origins may call, others may not", { timeout }, async () => {
        // The proxy's own origin: the browser came by TLS, the proxy was reached without.
        for (const origin of [front.url, "https://app.example.com"]) {
          assert.equal(await callers.upgradeFrom(origin, front.url), 101);
        }
        for (const origin of [front.url.replace("https", "http"), "https://evil.example.com"]) {
          assert.equal(await callers.upgradeFrom(origin, front.url), 403);
        }
      });

      test("WebSockets over HTTP/2, which browsers use where they are offered, work where they are offered", { timeout }, async () => {
        assert.equal(await callers.upgradeOverHttp2(front.url), overHttp2);
      });

      test("the client is who the balancer says, not who the client says", { timeout }, async () => {
        const { status, forwarded } = await callers.told(front.url);
        assert.equal(status, 200, "a page of the proxy's own origin");
        assert.match(forwarded, /(^|, ?)127\.0\.0\.2, 127\.0\.0\.1$/);
        await lively.says(/Lab\/Metadata.*peer=127\.0\.0\.2:/);
      });
    });
  }

  for (const { name, start, missing } of PASSING_TCP) {
    describe(name, { skip: maySkip(missing), concurrency: true }, () => {
      let proxy, front;
      before(async () => {
        proxy = await tcpEdge(folder.path, `${name}-proxy`, { upstream: services.url });
        front = await start(folder.path, `${name}-front`, proxy);
      });
      after(async () => {
        for (const each of [front, proxy]) await each?.stop();
      });

      for (const way of ["session", "streaming", "polling"]) {
        test(`a silent stream lives: ${way}`, { timeout }, async () => {
          const { code, connects } = await callers[way](front.url, SILENCE_MS);
          assert.equal(code, 0);
          assert.equal(connects, 1, "it kept its connection");
        });
      }

      test("WebSockets over HTTP/2, which browsers use where they are offered, work where they are offered", { timeout }, async () => {
        assert.equal(await callers.upgradeOverHttp2(front.url), 200);
      });

      test("the client is who the PROXY header says", { timeout }, async () => {
        const { status, forwarded } = await callers.told(front.url);
        assert.equal(status, 200);
        assert.equal(forwarded, callers.CLIENT);
        await proxy.says(/Lab\/Metadata.*peer=127\.0\.0\.2:/);
      });
    });
  }
});
