// What a channel does when its socket is lost or refused: when it tries again, and when it gives up.

import assert from "node:assert/strict";
import { test } from "node:test";
import { BidiwayError, Code, createChannel } from "../src/index.js";
import { bytes, connected, fakeProxy, pair, settle, watchRejections } from "./fake.js";

const METHOD = "/demo.v1.Chat/Talk";
const timers = (t) => t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });

/** The states that a channel goes through. */
function states(channel) {
  const seen = [];
  channel.on("state", (state, reason) => seen.push(reason ? `${state}: ${reason.message}` : state));
  return seen;
}

test("a lost socket ends each call with UNAVAILABLE, and says that it may have been processed", async (t) => {
  watchRejections(t);
  timers(t);
  const { channel, peer, proxy } = await connected();
  const seen = states(channel);
  const call = channel.open({ method: METHOD });
  await settle();
  peer.data(1, bytes(1));
  peer.close(1006);
  const status = await call.status;
  assert.equal(status.code, Code.UNAVAILABLE);
  assert.equal(status.maybeProcessed, true);
  assert.equal(status.closeCode, 1006);
  assert.equal(status.origin, "client");
  // What was received can still be read.
  assert.equal((await call.next()).done, false);
  await assert.rejects(call.next(), /UNAVAILABLE: .*\[close code 1006\]/);
  await settle();
  // The first attempt follows at once.
  assert.equal(proxy.peers.length, 2);
  proxy.last.accept();
  proxy.last.welcome();
  await settle();
  assert.equal(seen.length, 2);
  assert.match(seen[0], /^reconnecting: UNAVAILABLE: .*close code 1006/);
  assert.equal(seen[1], "ready");
});

test("a lost socket without calls is connected again only when a call comes", async (t) => {
  timers(t);
  const { channel, peer, proxy } = await connected();
  peer.close(1006);
  await settle();
  assert.equal(channel.state, "idle");
  assert.equal(proxy.peers.length, 1);
  channel.open({ method: METHOD });
  await settle();
  assert.equal(proxy.peers.length, 2);
});

test("attempts are spread with full jitter: at once, then random parts of 250, 500, … 20000 ms", async (t) => {
  timers(t);
  t.mock.method(Math, "random", () => 0.999999);
  const { channel, proxy } = pair({ connectTimeoutMs: 1e9 });
  channel.open({ method: METHOD });
  const delays = [];
  for (let i = 0; i < 10; i++) {
    await settle();
    const before = proxy.peers.length;
    proxy.last.close(1006);
    let delay = 0;
    for (await settle(); proxy.peers.length === before; await settle()) {
      t.mock.timers.tick(250);
      delay += 250;
    }
    delays.push(delay);
  }
  assert.deepEqual(delays, [0, 250, 500, 1000, 2000, 4000, 8000, 16000, 20000, 20000]);
});

test("jitter is a random part of the delay", async (t) => {
  timers(t);
  t.mock.method(Math, "random", () => 0.5);
  const { channel, proxy } = pair({ backoff: { baseMs: 1000, maxMs: 1500 } });
  channel.open({ method: METHOD });
  await settle();
  proxy.last.close(1006);
  await settle();
  proxy.last.close(1006);
  await settle();
  t.mock.timers.tick(499);
  await settle();
  assert.equal(proxy.peers.length, 2);
  t.mock.timers.tick(1);
  await settle();
  assert.equal(proxy.peers.length, 3);
});

test("only a session that lived for 10 s makes the delays short again", async (t) => {
  timers(t);
  t.mock.method(Math, "random", () => 0.999999);
  const { channel, proxy } = pair({ connectTimeoutMs: 1e9 });
  const live = async (ms) => {
    await settle();
    const peer = proxy.last;
    peer.accept();
    peer.welcome();
    channel.open({ method: METHOD });
    t.mock.timers.tick(ms);
    await settle();
    peer.close(1006);
    await settle();
    return proxy.last !== peer;
  };
  channel.connect();
  assert.equal(await live(100), true, "the first attempt is immediate");
  assert.equal(await live(100), false, "the second waits");
  t.mock.timers.tick(250);
  assert.equal(await live(10_000), true, "after a healthy session it is immediate again");
});

test("calls that wait fail when connecting has failed for longer than connectTimeoutMs, and say why", async (t) => {
  watchRejections(t);
  timers(t);
  t.mock.method(Math, "random", () => 0.5);
  const { channel, proxy } = pair({ connectTimeoutMs: 3000 });
  const call = channel.open({ method: METHOD });
  const connecting = channel.connect();
  let ended = false;
  call.status.then(() => (ended = true));
  for (let elapsed = 0; !ended; elapsed += 100) {
    assert.ok(elapsed < 10_000);
    await settle();
    if (!proxy.last.refused) {
      proxy.last.refused = true;
      proxy.last.close(1006);
    }
    t.mock.timers.tick(100);
    await settle();
  }
  const status = await call.status;
  assert.equal(status.code, Code.UNAVAILABLE);
  assert.equal(status.maybeProcessed, false);
  assert.equal(status.closeCode, 1006);
  await assert.rejects(connecting, { code: Code.UNAVAILABLE });
  assert.equal(channel.state, "idle");
});

test("an attempt without an answer is given up after connectTimeoutMs, before and after the handshake", async (t) => {
  timers(t);
  const { channel, proxy } = pair({ connectTimeoutMs: 3000 });
  const call = channel.open({ method: METHOD, timeoutMs: 60_000 });
  await settle();
  t.mock.timers.tick(3000);
  await settle();
  assert.equal(proxy.peers[0].closed.code, 4004);
  assert.match((await call.status).message, /no connection within 3000 ms/);

  const again = channel.open({ method: METHOD });
  t.mock.timers.tick(1);
  await settle();
  proxy.last.accept();
  await settle();
  t.mock.timers.tick(3000);
  const status = await again.status;
  assert.equal(status.code, Code.UNAVAILABLE);
  assert.equal(status.maybeProcessed, true);
  assert.equal(proxy.last.closed.code, 4004);
});

const CLOSE_CODES = [
  // code, without a call afterwards: does the channel fail?
  [1000, false], [1001, false], [1005, false], [1006, false], [1011, false], [1012, false], [1013, false],
  [4001, false], [4003, true], [4004, false], [4007, true], [4008, false], [4009, true], [4010, false],
  [4012, true], [4013, false], [4014, false], [4016, true], [4000, false], [4099, false],
];
/** The gRPC code behind a close code, as docs/protocol.md sections 14 and 16 say. */
const meaning = (closeCode) =>
  closeCode < 4000 ? Code.UNAVAILABLE : closeCode > 4000 && closeCode <= 4016 ? closeCode - 4000 : Code.UNKNOWN;

for (const [closeCode, fatal] of CLOSE_CODES) {
  test(`close code ${closeCode} is ${fatal ? "final" : "worth another attempt"}`, async (t) => {
    watchRejections(t);
    timers(t);
    const { channel, peer, proxy } = await connected();
    const call = channel.open({ method: METHOD });
    await settle();
    peer.close(closeCode, "because");
    const status = await call.status;
    assert.equal(status.code, meaning(closeCode));
    assert.equal(status.message, "because");
    assert.equal(status.origin, closeCode >= 4000 ? "proxy" : "client");
    assert.equal(channel.state, fatal ? "failed" : "reconnecting");
    await settle();
    t.mock.timers.tick(250);
    await settle();
    assert.equal(proxy.peers.length, fatal ? 1 : 2);
    if (!fatal) return;
    const refused = channel.open({ method: METHOD });
    assert.equal((await refused.status).code, closeCode - 4000);
    assert.equal((await refused.status).maybeProcessed, false);
    assert.equal(proxy.peers.length, 1);
    // connect() tries again.
    const connecting = channel.connect();
    await settle();
    proxy.last.accept();
    proxy.last.welcome();
    await connecting;
    assert.equal(channel.state, "ready");
  });
}

test("1012, 1013 and refusals of the proxy are not answered with an immediate attempt", async (t) => {
  timers(t);
  for (const closeCode of [1012, 1013, 4008, 4014]) {
    const { channel, peer, proxy } = await connected();
    channel.open({ method: METHOD });
    await settle();
    peer.close(closeCode);
    await settle();
    assert.equal(proxy.peers.length, 1, `${closeCode}`);
    t.mock.timers.tick(250);
    await settle();
    assert.equal(proxy.peers.length, 2, `${closeCode}`);
  }
});

test("after UNAUTHENTICATED the metadata provider is asked once more, told why, and the call goes on", async (t) => {
  watchRejections(t);
  timers(t);
  const asked = [];
  const metadata = async (lastError) => {
    asked.push(lastError?.code);
    return { authorization: `Bearer ${asked.length}` };
  };
  const { channel, proxy } = pair({ metadata });
  const call = channel.open({ method: METHOD });
  call.send(bytes(3));
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("data").length, 1);
  proxy.last.close(4016, "token expired");
  await settle();
  assert.equal(proxy.peers.length, 2);
  proxy.last.accept();
  await settle();
  assert.deepEqual(asked, [undefined, Code.UNAUTHENTICATED]);
  assert.equal(proxy.last.take("hello")[0].hello.metadata[0].text, "Bearer 2");
  proxy.last.welcome();
  await settle();
  // The proxy took nothing of the first session, so the call was made again, with its message.
  assert.equal(proxy.last.take("open").length, 1);
  assert.equal(proxy.last.take("data")[0].data.length, 3);
  proxy.last.trailers(1, 0);
  assert.equal((await call.status).code, Code.OK);
});

test("a second UNAUTHENTICATED is final", async (t) => {
  watchRejections(t);
  timers(t);
  const { channel, proxy } = pair({ metadata: () => ({}) });
  const call = channel.open({ method: METHOD });
  for (let i = 0; i < 2; i++) {
    await settle();
    proxy.last.accept();
    await settle();
    proxy.last.close(4016, "who are you?");
  }
  assert.equal((await call.status).code, Code.UNAUTHENTICATED);
  assert.equal((await call.status).maybeProcessed, false);
  assert.equal(channel.state, "failed");
  await settle();
  assert.equal(proxy.peers.length, 2);
});

test("a provider that throws is tried again, unless it throws something final", async (t) => {
  watchRejections(t);
  timers(t);
  let attempts = 0;
  const flaky = pair({ metadata: () => { if (!attempts++) throw new Error("offline"); } });
  flaky.channel.open({ method: METHOD });
  await settle();
  assert.equal(attempts, 2);
  assert.equal(flaky.proxy.peers.length, 1);

  const status = { code: Code.PERMISSION_DENIED, message: "no session", details: new Uint8Array(), metadata: [], origin: "client" };
  const final = pair({ metadata: async () => { throw new BidiwayError(status); } });
  assert.equal((await final.channel.open({ method: METHOD }).status).message, "no session");
  assert.equal(final.channel.state, "failed");

  const invalid = pair({ metadata: { "a b": "1" } });
  assert.match((await invalid.channel.open({ method: METHOD }).status).message, /a b/);
});

test("metadata is asked for at each connect", async (t) => {
  timers(t);
  let asked = 0;
  const { channel, peer, proxy } = await connected({ metadata: () => ({ n: `${++asked}` }) });
  channel.open({ method: METHOD });
  await settle();
  peer.close(1006);
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("hello")[0].hello.metadata[0].text, "2");
});

test("when the network comes back, a waiting attempt is made at once", async (t) => {
  timers(t);
  t.mock.method(Math, "random", () => 0.999);
  const target = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) {
    globalThis[name] = target[name].bind(target);
    t.after(() => delete globalThis[name]);
  }
  const { channel, proxy } = pair({ backoff: { baseMs: 10_000 }, connectTimeoutMs: 60_000 });
  channel.open({ method: METHOD });
  for (let i = 0; i < 2; i++) {
    await settle();
    proxy.last.close(1006);
  }
  await settle();
  assert.equal(proxy.peers.length, 2);
  target.dispatchEvent(new Event("online"));
  await settle();
  assert.equal(proxy.peers.length, 3);
  await channel.close();
});
