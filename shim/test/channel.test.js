// Connecting, reconnecting, going away, and what becomes of the calls meanwhile.

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

test("nothing is connected until the first call", async () => {
  const { channel, proxy } = pair();
  await settle();
  assert.equal(proxy.peers.length, 0);
  assert.equal(channel.state, "idle");
  channel.open({ method: METHOD });
  await settle();
  assert.equal(proxy.peers.length, 1);
  assert.equal(channel.state, "connecting");
  proxy.last.accept();
  proxy.last.welcome();
  assert.equal(channel.state, "ready");
});

test("http becomes ws, https wss, and the URL may be a function", async () => {
  const urls = ["http://a.test/s", new URL("https://b.test/s?x=1"), () => "ws://c.test/s", async () => new URL("wss://d.test/s")];
  for (const [i, url] of urls.entries()) {
    const { channel, proxy } = pair({ url });
    channel.connect();
    await settle();
    assert.equal(proxy.last.url, ["ws://a.test/s", "wss://b.test/s?x=1", "ws://c.test/s", "wss://d.test/s"][i]);
  }
});

test("connect() resolves at Welcome, and again at once", async () => {
  const { channel, proxy } = pair();
  let ready = false;
  const connecting = channel.connect().then(() => (ready = true));
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(ready, false);
  proxy.last.welcome();
  await connecting;
  await channel.connect();
  assert.equal(proxy.peers.length, 1);
});

test("without a page and without a URL, and without a WebSocket, the call tells what is missing", async (t) => {
  watchRejections(t);
  const noUrl = createChannel({ WebSocket: fakeProxy().WebSocket });
  assert.match((await noUrl.open({ method: METHOD }).status).message, /URL/);
  const original = globalThis.WebSocket;
  t.after(() => (globalThis.WebSocket = original));
  globalThis.WebSocket = undefined;
  const noSocket = createChannel({ url: "ws://proxy.test/" });
  const status = await noSocket.open({ method: METHOD }).status;
  assert.equal(status.code, Code.INVALID_ARGUMENT);
  assert.match(status.message, /createChannel\(\{ WebSocket \}\)/);
  assert.equal(noSocket.state, "failed");
});

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
  assert.deepEqual(proxy.peers[0].closed, { code: 1000, reason: "" });
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
  [4012, true], [4013, false], [4014, false], [4016, true],
];

for (const [closeCode, fatal] of CLOSE_CODES) {
  test(`close code ${closeCode} is ${fatal ? "final" : "worth another attempt"}`, async (t) => {
    watchRejections(t);
    timers(t);
    const { channel, peer, proxy } = await connected();
    const call = channel.open({ method: METHOD });
    await settle();
    peer.close(closeCode, "because");
    const status = await call.status;
    assert.equal(status.code, closeCode > 4000 ? closeCode - 4000 : Code.UNAVAILABLE);
    assert.equal(status.message, "because");
    assert.equal(status.origin, closeCode > 4000 ? "proxy" : "client");
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

test("calls above the proxy's limit wait for a free stream, in order", async () => {
  const { channel, peer } = await connected({}, { limits: { maxStreams: 2 } });
  const calls = Array.from({ length: 4 }, (_, i) => channel.open({ method: METHOD, metadata: { i: `${i}` } }));
  await settle();
  assert.equal(peer.take("open").length, 2);
  peer.trailers(1, 0);
  await calls[0].status;
  await settle();
  calls[1].cancel();
  await settle();
  assert.deepEqual(peer.take("open").map(({ stream, open }) => [stream, open.metadata[0].text]), [[3, "2"], [4, "3"]]);
});

test("before Welcome, some calls are opened and the others wait", async () => {
  const { channel, proxy } = pair();
  for (let i = 0; i < 50; i++) channel.open({ method: METHOD });
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("open").length, 32);
  proxy.last.welcome();
  await settle();
  assert.equal(proxy.last.take("open").length, 18);
});

test("what waits is bounded in count and bytes", async (t) => {
  watchRejections(t);
  const { channel } = pair({ maxQueuedCalls: 2, maxQueuedBytes: 1000 });
  const first = channel.open({ method: METHOD });
  channel.open({ method: METHOD });
  const third = channel.open({ method: METHOD });
  assert.equal((await third.status).code, Code.RESOURCE_EXHAUSTED);
  first.send(bytes(600));
  await assert.rejects(first.send(bytes(600)), { code: Code.RESOURCE_EXHAUSTED });
  assert.equal((await first.status).maybeProcessed, false);
  channel.open({ method: METHOD }).send(bytes(1000));
});

test("a deadline runs while a call waits for the connection", async (t) => {
  timers(t);
  const { channel, proxy } = pair();
  const call = channel.open({ method: METHOD, timeoutMs: 50 });
  await settle();
  t.mock.timers.tick(50);
  assert.equal((await call.status).code, Code.DEADLINE_EXCEEDED);
  proxy.last.accept();
  await settle();
  assert.deepEqual(proxy.last.frames.map(({ kind }) => kind), ["hello"]);
});

test("GoAway: open calls run out, new ones get a new socket, later ones are made again", async (t) => {
  watchRejections(t);
  timers(t);
  const { channel, peer, proxy } = await connected();
  const seen = states(channel);
  const old = channel.open({ method: METHOD });
  const late = channel.open({ method: METHOD });
  late.send(bytes(5));
  late.halfClose();
  await settle();
  peer.send({ goAway: { lastStream: 1, code: 14, message: "restart", reconnectDelayMs: 500 } });
  await settle();
  assert.equal(proxy.peers.length, 1);
  t.mock.timers.tick(500);
  await settle();
  assert.equal(proxy.peers.length, 2);
  const next = proxy.last;
  next.accept();
  next.welcome();
  await settle();
  assert.equal(next.take("open")[0].stream, 1);
  const [data] = next.take("data");
  assert.equal(data.data.length, 5);
  assert.equal(data.last, true);
  next.trailers(1, 0);
  assert.equal((await late.status).code, Code.OK);

  peer.data(1, bytes(1));
  assert.equal((await old.next()).done, false);
  assert.equal(peer.closed, undefined);
  peer.trailers(1, 0);
  assert.equal((await old.status).code, Code.OK);
  assert.equal(peer.closed.code, 1000);
  assert.equal(channel.state, "ready");
  await settle();
  assert.deepEqual(seen, ["draining", "connecting", "ready"]);
});

test("GoAway without calls closes the socket, and the channel is idle", async () => {
  const { channel, peer, proxy } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  peer.send({ goAway: { lastStream: 1 } });
  assert.equal(channel.state, "draining");
  call.cancel();
  assert.equal(peer.closed.code, 1000);
  assert.equal(channel.state, "idle");
  assert.equal(proxy.peers.length, 1);
});

test("a call that the proxy did not take but that is too large to keep fails as not processed", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected({}, { limits: { streamCredit: 1 << 20 } });
  const call = channel.open({ method: METHOD });
  await call.send(bytes(100_000));
  await settle();
  peer.send({ goAway: { lastStream: 0, code: 14, message: "restart" } });
  const status = await call.status;
  assert.equal(status.code, Code.UNAVAILABLE);
  assert.equal(status.maybeProcessed, false);
  assert.equal(status.origin, "proxy");
});

test("an idle connection is closed, and a call opens it again at once", async (t) => {
  timers(t);
  const { channel, peer, proxy } = await connected({ idleTimeoutMs: 60_000 });
  t.mock.timers.tick(59_999);
  const call = channel.open({ method: METHOD });
  await settle();
  t.mock.timers.tick(120_000);
  assert.equal(peer.closed, undefined);
  peer.trailers(1, 0);
  await call.status;
  t.mock.timers.tick(60_000);
  assert.equal(peer.closed.code, 1000);
  assert.equal(channel.state, "idle");
  channel.open({ method: METHOD });
  await settle();
  assert.equal(proxy.peers.length, 2);
});

test("idleTimeoutMs 0 and Infinity keep the connection", async (t) => {
  timers(t);
  for (const idleTimeoutMs of [0, Infinity]) {
    const { peer } = await connected({ idleTimeoutMs });
    t.mock.timers.tick(2 ** 31 - 1);
    assert.equal(peer.closed, undefined);
  }
});

test("Ping is answered by Pong with the same number", async () => {
  const { peer } = await connected();
  peer.send({ ping: 300 });
  await settle();
  assert.equal(peer.take("pong")[0].pong, 300);
});

test("a silent proxy is asked after two ping intervals, and given up 5 s later", async (t) => {
  watchRejections(t);
  timers(t);
  const { channel, peer } = await connected({}, { pingIntervalMs: 1000 });
  const call = channel.open({ method: METHOD });
  await settle();
  t.mock.timers.tick(1500);
  peer.send({ ping: 1 });
  await settle();
  t.mock.timers.tick(1999);
  await settle();
  assert.equal(peer.take("ping").length, 0);
  t.mock.timers.tick(1);
  await settle();
  assert.equal(peer.take("ping").length, 1);
  peer.send({ pong: 1 });
  t.mock.timers.tick(5000);
  await settle();
  assert.equal(peer.closed, undefined);
  t.mock.timers.tick(2000);
  await settle();
  t.mock.timers.tick(5000);
  assert.equal(peer.closed.code, 4014);
  assert.match((await call.status).message, /nothing was heard/);
});

test("without resume nothing is acknowledged; with it, every 64 frames, 64 KiB, and with each Pong", async () => {
  const silent = await connected();
  silent.channel.open({ method: METHOD });
  await settle();
  for (let i = 0; i < 200; i++) silent.peer.headers(1);
  silent.peer.send({ ping: 1 });
  await settle();
  assert.equal(silent.peer.take("ack").length, 0);

  const { channel, peer } = await connected({}, { resumeToken: bytes(8) });
  channel.open({ method: METHOD });
  await settle();
  for (let i = 0; i < 64; i++) peer.headers(1);
  await settle();
  assert.deepEqual(peer.take("ack").map(({ ack }) => ack), [64]);
  for (let i = 0; i < 5; i++) peer.data(1, bytes(16 * 1024));
  await settle();
  assert.equal(peer.take("ack").length, 1);
  peer.headers(1);
  peer.send({ ping: 1 });
  await settle();
  assert.deepEqual(peer.take("ack").map(({ ack }) => ack), [70]);
});

test("close() ends open and waiting calls with CANCELLED, and the channel for good", async (t) => {
  watchRejections(t);
  const { channel, peer, proxy } = await connected({}, { limits: { maxStreams: 1 } });
  const open = channel.open({ method: METHOD });
  const waiting = channel.open({ method: METHOD });
  await settle();
  await channel.close();
  await channel.close();
  for (const call of [open, waiting, channel.open({ method: METHOD })]) {
    assert.equal((await call.status).code, Code.CANCELLED);
  }
  assert.equal(peer.closed.code, 1000);
  assert.equal(channel.state, "closed");
  await assert.rejects(channel.connect(), { code: Code.CANCELLED });
  assert.equal(proxy.peers.length, 1);
});

test("close() while one session drains and the next is awaited ends everything", async (t) => {
  watchRejections(t);
  timers(t);
  const { channel, peer, proxy } = await connected();
  const old = channel.open({ method: METHOD });
  await settle();
  peer.send({ goAway: { lastStream: 1, reconnectDelayMs: 500 } });
  const waiting = channel.open({ method: METHOD });
  await channel.close();
  for (const call of [old, waiting]) assert.equal((await call.status).code, Code.CANCELLED);
  assert.equal(peer.closed.code, 1000);
  t.mock.timers.tick(60_000);
  await settle();
  assert.equal(proxy.peers.length, 1);
});

test("close() while connecting leaves nothing behind", async (t) => {
  watchRejections(t);
  const { channel, proxy } = pair();
  const call = channel.open({ method: METHOD });
  channel.connect();
  await settle();
  await channel[Symbol.asyncDispose]();
  assert.equal((await call.status).code, Code.CANCELLED);
  assert.deepEqual(proxy.last.closed, { code: 1000, reason: "" });
  proxy.last.accept();
  proxy.last.close(1006);
  await settle();
  assert.equal(proxy.peers.length, 1);
});

test("a listener that throws disturbs nobody, and one that unsubscribed is not called", async (t) => {
  const uncaught = [];
  const original = queueMicrotask;
  t.mock.method(globalThis, "queueMicrotask", (run) =>
    original(() => {
      try {
        run();
      } catch (error) {
        uncaught.push(error.message);
      }
    }),
  );
  const { channel, proxy } = pair();
  const seen = [];
  channel.on("state", () => { throw new Error("mine"); });
  channel.on("state", (state) => seen.push(state));
  const off = channel.on("state", () => seen.push("never"));
  off();
  channel.connect();
  await settle();
  proxy.last.accept();
  proxy.last.welcome();
  await settle();
  assert.deepEqual(seen, ["connecting", "ready"]);
  assert.deepEqual(uncaught, ["mine", "mine"]);
  assert.throws(() => channel.on("stat", () => {}), TypeError);
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
