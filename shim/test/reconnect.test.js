// What a channel does when its credentials expire, when the network comes back, and when its page does: `bidiway/durable`,
// over fake WebSockets.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { BidiwayError, Code } from "../src/durable.js";
import { METHOD, T1, T2, connected, isOpen, pair, resume, setup, talking } from "./durable.js";
import { settle } from "./fake.js";

test("a provider whose metadata expires is asked again in time, and the proxy is told", async (t) => {
  const tick = setup(t);
  let asked = 0;
  const metadata = async () => ({ metadata: { authorization: `Bearer ${++asked}` }, expiresAt: new Date(Date.now() + 600_000) });
  const { channel, peer } = await connected({ metadata });
  assert.equal(peer.take("hello")[0].hello.metadata[0].text, "Bearer 1");
  tick(539_000);
  await settle();
  assert.equal(asked, 1);
  tick(1000);
  await settle();
  assert.equal(asked, 2);
  assert.equal(peer.take("refresh")[0].refresh.metadata[0].text, "Bearer 2");
  tick(540_000);
  await settle();
  assert.equal(asked, 3);
  await channel.close();
  tick(1e6);
  await settle();
  assert.equal(asked, 3);
});

test("metadata that expires keeps no process alive", () => {
  const program = `
    import { createChannel } from ${JSON.stringify(new URL("../src/durable.js", import.meta.url).href)};
    import { fakeProxy } from ${JSON.stringify(new URL("./fake.js", import.meta.url).href)};
    const { WebSocket, peers } = fakeProxy();
    const metadata = () => ({ expiresAt: Date.now() + 3_600_000 });
    const channel = createChannel({ url: "ws://proxy.test/", WebSocket, metadata, fetch: null, idleTimeoutMs: 0 });
    const ready = channel.connect();
    setTimeout(() => {
      peers[0].accept();
      peers[0].welcome({ resumeToken: Uint8Array.of(1) });
    });
    await ready;
    console.log(channel.state);
  `;
  const { status, signal, stdout } = spawnSync(process.execPath, ["--input-type=module", "--eval", program], { timeout: 60_000, encoding: "utf8" });
  assert.deepEqual({ status, signal, stdout }, { status: 0, signal: null, stdout: "ready\n" });
});

test("a provider that fails to renew is asked again, more and more often", async (t) => {
  const tick = setup(t);
  let asked = 0;
  const metadata = async () => {
    if (asked++ % 3) throw new Error("offline");
    return { metadata: { n: `${asked}` }, expiresAt: Date.now() + 100_000 };
  };
  const { channel, peer } = await connected({ metadata });
  tick(90_000);
  await settle();
  assert.equal(asked, 2);
  tick(9_000);
  await settle();
  assert.equal(asked, 3);
  tick(1000);
  await settle();
  assert.equal(asked, 4);
  assert.equal(peer.take("refresh")[0].refresh.metadata[0].text, "4");
  await channel.close();
});

test("refresh() sets other metadata for the calls to come and for the next connection", async (t) => {
  setup(t);
  const { channel, proxy, peer } = await talking({ metadata: { authorization: "1" } });
  await channel.refresh({ authorization: "2" });
  await settle();
  assert.equal(peer.take("refresh")[0].refresh.metadata[0].text, "2");
  peer.close(1006);
  const { hello } = await resume(proxy, 2);
  assert.equal(hello.metadata[0].text, "2");
  await assert.rejects(channel.refresh({ "a b": "3" }), /a b/);
  await channel.close();
});

test("metadata that is refreshed between Hello and Welcome is sent behind Welcome, on the first connection and on the next", async (t) => {
  const tick = setup(t);
  const { channel, proxy } = pair({ metadata: { n: "1" } });
  const call = channel.open({ method: METHOD });
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("hello")[0].hello.metadata[0].text, "1");
  await channel.refresh({ n: "2" });
  assert.equal(proxy.last.frames.length, 0);
  proxy.last.welcome({ resumeToken: T1 });
  await settle();
  assert.deepEqual(proxy.last.frames.map(({ kind }) => kind), ["refresh", "open"]);
  assert.equal(proxy.last.take("refresh")[0].refresh.metadata[0].text, "2");

  proxy.last.close(1006);
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("hello")[0].hello.metadata[0].text, "2");
  await channel.refresh({ n: "3" });
  proxy.last.welcome({ resumed: true, received: 1, resumeToken: T2 });
  await settle();
  assert.deepEqual(proxy.last.frames.map(({ kind }) => kind), ["ack", "refresh"]);
  assert.equal(proxy.last.take("refresh")[0].refresh.metadata[0].text, "3");
  assert.ok(await isOpen(call));
  // Once.
  proxy.last.send({ ping: 1 });
  await settle();
  assert.equal(proxy.last.take("refresh").length, 0);

  // Also where the session is not there any more, and this Hello begins the next one.
  proxy.last.close(1006);
  await settle();
  tick(1000);
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("hello")[0].hello.metadata[0].text, "3");
  await channel.refresh({ n: "4" });
  proxy.last.welcome({ resumeToken: T1 });
  await settle();
  assert.equal(proxy.last.take("refresh")[0].refresh.metadata[0].text, "4");
  assert.equal((await call.status).code, 14);
  await channel.close();
});

test("a connection that works has nothing to do with what ended the one before it", async (t) => {
  const tick = setup(t);
  const errors = [];
  const { channel, proxy, peer } = await talking({ metadata: (lastError) => void errors.push(lastError?.closeCode) }, { resumeToken: undefined });
  peer.close(1012);
  await settle();
  tick(250);
  await settle();
  assert.deepEqual(errors, [undefined, 1012]);
  proxy.last.accept();
  proxy.last.welcome();
  await settle();
  tick(10_000);
  proxy.last.send({ goAway: { lastStream: 0, code: 14, message: "restart", reconnectDelayMs: 0 } });
  await settle();
  const states = [];
  channel.on("state", (state, reason) => states.push([state, reason]));
  channel.open({ method: METHOD });
  await settle();
  assert.deepEqual(errors, [undefined, 1012, undefined]);
  assert.deepEqual(states, [["connecting", undefined]]);
  await channel.close();
});

test("a session that was healthy is forgiven what failed before it, also when it ends without a connection", async (t) => {
  const tick = setup(t);
  let asked = 0;
  const { channel, proxy, peer } = await talking({ metadata: () => ({ n: `${++asked}` }) });
  // The provider's second chance is used up, until the session has been healthy.
  peer.close(4016, "expired");
  await settle();
  proxy.last.accept();
  proxy.last.welcome({ resumeToken: T1 });
  const call = channel.open({ method: METHOD });
  await settle();
  tick(10_000);
  proxy.last.close(1006);
  await settle();
  proxy.last.accept();
  await settle();
  const before = asked;
  proxy.last.close(4016, "expired");
  assert.equal((await call.status).code, Code.UNAUTHENTICATED);
  await settle();
  assert.equal(channel.state, "reconnecting");
  tick(250);
  await settle();
  assert.equal(asked, before + 1, "asked once more");
  await channel.close();
});

test("a provider that fails while the session comes back is tried again, unless it throws something final", async (t) => {
  const tick = setup(t);
  let fail;
  const { channel, proxy, peer, call } = await talking({ metadata: () => { if (fail) throw fail; } });
  fail = new Error("offline");
  peer.close(1006);
  await settle();
  assert.equal(proxy.peers.length, 1);
  assert.ok(await isOpen(call));
  fail = new BidiwayError({ code: Code.PERMISSION_DENIED, message: "banned", details: new Uint8Array(), metadata: [], origin: "client" });
  tick(250);
  assert.equal((await call.status).message, "banned");
  assert.equal((await call.status).maybeProcessed, true);
  assert.equal(channel.state, "failed");
  await channel.close();
});

/** A page, for as long as the test runs. */
function page(t) {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden: false });
  for (const name of ["addEventListener", "removeEventListener"]) globalThis[name] = window[name].bind(window);
  globalThis.document = document;
  t.after(() => {
    for (const name of ["addEventListener", "removeEventListener", "document"]) delete globalThis[name];
  });
  return { window, document, fire: (target, type, fields) => target.dispatchEvent(Object.assign(new Event(type), fields)) };
}

test("when the network or the page is back, the next attempt is made at once", async (t) => {
  setup(t);
  t.mock.method(Math, "random", () => 0.999);
  const { window, document, fire } = page(t);
  const { channel, proxy, peer } = await talking({ backoff: { baseMs: 10_000 } });
  peer.close(1006);
  await settle();
  let count = proxy.peers.length;
  for (const [target, type] of [[window, "online"], [window, "pageshow"], [document, "visibilitychange"], [document, "resume"]]) {
    proxy.last.close(1006);
    await settle();
    assert.equal(proxy.peers.length, count);
    fire(target, type);
    await settle();
    assert.equal(proxy.peers.length, ++count, type);
  }
  await resume(proxy, 2);
  assert.equal(channel.state, "ready");
  await channel.close();
  fire(window, "online");
});

test("an attempt that fails when the network is just back is followed by another soon, however many have failed before", async (t) => {
  const tick = setup(t);
  t.mock.method(Math, "random", () => 0.999);
  const { window, fire } = page(t);
  const { channel, proxy, peer } = await talking({ backoff: { baseMs: 100 } });
  peer.close(1006);
  await settle();
  for (let delayMs = 100; delayMs < 5000; delayMs *= 2) {
    proxy.last.close(1006);
    await settle();
    tick(delayMs);
    await settle();
  }
  fire(window, "online");
  await settle();
  const count = proxy.peers.length;
  proxy.last.close(1006);
  await settle();
  tick(100);
  await settle();
  assert.equal(proxy.peers.length, count + 1);
  await channel.close();
});

test("when the network is back, the proxy is asked for a sign of life, and without one the session looks for another connection", async (t) => {
  const tick = setup(t);
  const { window, fire } = page(t);
  const { channel, proxy, peer, call } = await talking({}, { pingIntervalMs: 20_000 });
  fire(window, "online");
  assert.equal(peer.take("ping").length, 1);
  peer.send({ pong: 1 });
  tick(5000);
  await settle();
  assert.equal(peer.closed, undefined);
  fire(window, "online");
  tick(5000);
  await settle();
  assert.equal(peer.closed.code, 4014);
  await resume(proxy, 2);
  assert.ok(await isOpen(call));
  await channel.close();
});

test("a page that goes into the browser's cache closes without a code, and goes on when it is back", async (t) => {
  const tick = setup(t);
  const { window, fire } = page(t);
  const { channel, proxy, peer, call } = await talking();
  fire(window, "pagehide", { persisted: false });
  assert.equal(peer.closed, undefined);
  fire(window, "pagehide", { persisted: true });
  assert.deepEqual(peer.closed, { code: undefined, reason: undefined });
  assert.equal(channel.state, "reconnecting");
  peer.close(1005);
  tick(20_000);
  await settle();
  assert.equal(proxy.peers.length, 1);
  fire(window, "pageshow", { persisted: true });
  await resume(proxy, 2);
  assert.ok(await isOpen(call));
  await channel.close();
});

test("a page that comes back after the grace learns it at once", async (t) => {
  const tick = setup(t);
  const { window, fire } = page(t);
  const { channel, proxy, peer, call } = await talking();
  fire(window, "pagehide", { persisted: true });
  // Frozen: no timer fires.
  t.mock.timers.setTime(2_000_000);
  fire(window, "pageshow", { persisted: true });
  assert.equal((await call.status).reason, "grace over");
  await settle();
  tick(250);
  await settle();
  assert.ok(proxy.peers.length >= 2);
  assert.notEqual(proxy.last, peer);
  await channel.close();
});
