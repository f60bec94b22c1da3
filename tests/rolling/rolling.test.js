// Two instances behind a TCP balancer are replaced one after the other, several times, under load: no unary call fails,
// and conversations end well or are told why.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { startLoad } from "./load.js";
import { freePorts, haproxy, instance, maySkip, nginx, scratch, startServices, until } from "./rig.js";

const ROUNDS = Number(process.env.ROUNDS ?? 3);
const LOAD = { channels: 40, fetchers: 8, http2: 4, visitors: 4 };
const GRACE_MS = 1500;
// With the grace more than the 4 s for which Node's `fetch` keeps a connection that has nothing to do: Node does not
// repeat a request that crosses with the end of its connection, as browsers do.
const SPREAD_MS = 3000;
const TIMEOUT_MS = 7000;
const DRAIN = `{ grace: ${GRACE_MS}ms, spread: ${SPREAD_MS}ms, timeout: ${TIMEOUT_MS}ms }`;
/** What the last words may take. */
const LAST_WORDS_MS = 3000;

const installed = (command, ...args) => spawnSync(command, args).status === 0;

/** When an instance said this. */
const timeOf = (what, log) => Date.parse(log.match(new RegExp(`^(\\S+) .*: ${what}: `, "m"))[1]);

const BALANCERS = [
  { name: "HAProxy, which asks /readyz", start: haproxy, missing: !installed("haproxy", "-v") && "haproxy is not installed" },
  { name: "nginx, which asks nobody", start: nginx, missing: !installed("nginx", "-v") && "nginx is not installed" },
];

for (const { name, start, missing } of BALANCERS) {
  describe(name, { skip: maySkip(missing) }, () => {
    let folder, services, instances, balancer;
    before(async () => {
      folder = scratch();
      services = await startServices();
      const [front, ...ports] = await freePorts(5);
      instances = [0, 1].map((i) =>
        instance(folder.path, `instance-${i}`, { port: ports[i], admin: ports[i + 2], upstream: services.url, drain: DRAIN }));
      await Promise.all(instances.map((each) => each.start()));
      balancer = await start(folder.path, front, instances);
    });
    after(async () => {
      await balancer?.stop();
      await Promise.all((instances ?? []).map((each) => each.kill()));
      await services?.stop();
      folder?.remove();
    });

    test(`${ROUNDS} rounds of restarts`, { timeout: ROUNDS * 60_000 }, async (t) => {
      const load = startLoad(balancer.url, LOAD);
      await until(async () => load.seen.answers > 200);
      const moves = [];
      const logs = [];
      for (let round = 0; round < ROUNDS; round++) {
        for (const each of instances) {
          const before = load.seen.moves.length;
          const begun = Date.now();
          each.terminate();
          await until(async () => (await each.ready()) === 503);
          // Not ready, but it serves whoever comes: nobody has been told yet.
          const page = await fetch(`http://127.0.0.1:${each.port}/bidiway/index.js`);
          assert.equal(page.status, 200);
          assert.equal(page.headers.get("connection"), "close");
          await page.text();
          assert.equal(await each.ended(), 0, each.log());
          logs.push(each.log());
          const grace = timeOf("draining", each.log()) - timeOf("stopping", each.log());
          assert.ok(grace >= GRACE_MS - 1, `the grace was over after ${grace} ms`);
          const took = Date.now() - begun;
          assert.ok(took < TIMEOUT_MS + LAST_WORDS_MS, `it took ${took} ms to stop`);
          moves.push(...load.seen.moves.slice(before).map((at) => at - begun));
          await each.start();
          // The next one may go when the balancer knows that this one is back: it sends visitors there.
          await until(async () => /^bidiway_connections_total [1-9]/m.test(await each.metrics()));
        }
      }
      const seen = await load.stop();
      const restarts = ROUNDS * instances.length;
      t.diagnostic(`calls ${JSON.stringify(seen.calls)}, the slowest of them ${JSON.stringify(seen.slowest, (_, ms) => (ms.toFixed ? Math.round(ms) : ms))} ms`);
      t.diagnostic(`answers in conversations ${seen.answers}, finished ${seen.finished}, ended by the proxy ${seen.ends.length}`);
      t.diagnostic(`moves ${moves.length}: ${moves.map((ms) => Math.round(ms / 100)).sort((a, b) => a - b).join(" ")} (× 100 ms after the signal)`);
      if (seen.failed.length) t.diagnostic(`the instances' logs:\n${logs.join("")}\nthe balancer's:\n${balancer.log()}`);
      assert.deepEqual(seen.failed, []);
      for (const [way, calls] of Object.entries(seen.calls)) assert.ok(calls > 100 * restarts / 4, `only ${calls} calls by ${way}`);
      assert.ok(seen.finished >= restarts, `${seen.finished} conversations ran out`);
      assert.ok(seen.ends.length >= restarts, `${seen.ends.length} conversations were ended`);
      for (const end of seen.ends) {
        assert.equal(end.code, 14, end.message);
        assert.equal(end.origin, "proxy", end.message);
        assert.match(end.message, /did not finish before the drain deadline/);
      }
      // Those with conversations were sent away one after the other, and came to the other instance at once.
      const quarters = [0, 0, 0, 0];
      for (const ms of moves) quarters[Math.min(3, Math.max(0, Math.floor(((ms - GRACE_MS) * 4) / SPREAD_MS)))]++;
      assert.ok(moves.length >= 8 * restarts, `${moves.length} moves`);
      assert.ok(Math.max(...quarters) < moves.length * 0.6, `moves by quarters of the spread: ${quarters}`);
    });
  });
}
