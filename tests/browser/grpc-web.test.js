// Unmodified gRPC-Web clients in Chromium: connect-web, and google's grpc-web, binary and text; over HTTP/1.1, and over
// HTTP/2 with TLS.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { openPage, startBrowser, startProxy } from "./rig.js";

let ran = 0;

const FAILED = { messages: 3, name: "ResourceExhausted", message: "enough" };

const CONNECT_WEB = {
  "unary": async (run) => assert.equal(await run("unary"), "Hello, Ada!"),
  "metadata and deadline": async (run) => {
    const { timeoutMs, header, trailer, seen } = await run("metadata");
    assert.ok(timeoutMs > 5000 && timeoutMs <= 10_000, `${timeoutMs}`);
    assert.equal(header["demo-initial"], "one, two");
    assert.equal(header["demo-initial-bin"], "AAEC/f7/");
    assert.equal(header["demo-echo-me"], "here");
    assert.equal(trailer["demo-trailing"], "one, two");
    assert.equal(trailer["demo-trailing-bin"], "//79AgEA");
    assert.ok(seen.includes("x-one: 1"));
  },
  "server streaming": async (run) => assert.equal(await run("serverStream"), 500),
  "rich status": async (run) =>
    assert.deepEqual(await run("richStatus"), { name: "FailedPrecondition", message: "nö: 100 % 😀", trailer: "failed", reason: "R", field: "f" }),
  "a stream that fails gives its messages first": async (run) => {
    const { messages, name, message } = await run("failStream");
    assert.deepEqual({ messages, name, message }, FAILED);
  },
  "abort reaches the service within a second": async (run, tag) =>
    assert.deepEqual(await run("abort", tag), { name: "Canceled", reached: true }),
  "a message of 3 MiB goes there and back": async (run) => assert.equal(await run("large", 3 * 1024 * 1024), true),
};

const GOOGLE = {
  "unary": async (run) => assert.equal(await run("unary"), "Hello, Ada!"),
  "a failing unary call": async (run) => {
    const { code, message } = await run("fail");
    assert.deepEqual({ code, message }, { code: 5, message: "nö 😀" });
  },
  "server streaming": async (run) => {
    const { numbers, status, error } = await run("serverStream");
    assert.deepEqual(numbers, Array.from({ length: 50 }, (_, i) => i + 1));
    assert.equal(error, null);
    assert.equal(status.code, 0);
  },
  "a stream that fails gives its messages first": async (run) => {
    const { numbers, error } = await run("failStream");
    assert.deepEqual(numbers, [1, 2, 3]);
    assert.deepEqual(error, { code: 8, message: "enough" });
  },
  "cancel() reaches the service within a second": async (run, tag) => assert.equal(await run("cancel", tag), true),
};

const CLIENTS = [
  { client: "connect-web", path: ["connectWeb"], cases: CONNECT_WEB },
  { client: "grpc-web, binary", path: ["google", "binary"], cases: GOOGLE },
  { client: "grpc-web, text", path: ["google", "text"], cases: GOOGLE },
];
const SCHEMES = [["http", "HTTP/1.1"], ["https", "HTTP/2 with TLS"]];

for (const [scheme, title] of SCHEMES) {
  describe(title, () => {
    let proxy, browser, tab;
    before(async () => {
      proxy = await startProxy();
      browser = await startBrowser();
      tab = await openPage(browser.context, proxy[scheme], "grpc-web");
    });
    after(async () => {
      await browser?.stop();
      await proxy?.stop();
    });

    for (const { client, path, cases } of CLIENTS) {
      for (const [name, check] of Object.entries(cases)) {
        test(`${client}: ${name}`, { timeout: 60_000 }, async () => {
          const run = async (method, ...args) => {
            const result = await tab.page.evaluate(
              ([path, method, args]) => path.reduce((object, key) => object[key], window)[method](...args),
              [path, method, args],
            );
            return JSON.parse(JSON.stringify(result, (_, value) => (value === undefined ? null : value)));
          };
          await check(run, `${scheme}-${ran}`);
          ran++;
        });
      }
    }
  });
}

after(() => {
  const expected = SCHEMES.length * CLIENTS.reduce((sum, { cases }) => sum + Object.keys(cases).length, 0);
  assert.equal(ran, expected, `${ran} of ${expected} cases ran and passed`);
});
