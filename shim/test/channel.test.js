// Connecting, waiting, going away, and what becomes of the calls meanwhile.

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

test("a second GoAway gives back what the first one had left, and loses no call", async (t) => {
  watchRejections(t);
  const { channel, peer, proxy } = await connected();
  const calls = [1, 2].map(() => channel.open({ method: METHOD }));
  await settle();
  peer.send({ goAway: { lastStream: 2 } });
  peer.send({ goAway: { lastStream: 1 } });
  await settle();
  assert.equal(proxy.peers.length, 2);
  proxy.last.accept();
  proxy.last.welcome();
  await settle();
  assert.equal(proxy.last.take("open").length, 1);
  proxy.last.trailers(1, 0);
  assert.equal((await calls[1].status).code, Code.OK);
  peer.trailers(1, 0);
  assert.equal((await calls[0].status).code, Code.OK);
});

test("calls that are given back keep their place before those that came later", async () => {
  const { channel, peer, proxy } = await connected({}, { limits: { maxStreams: 2 } });
  for (let i = 0; i < 4; i++) channel.open({ method: METHOD, metadata: { i: `${i}` } });
  await settle();
  peer.send({ goAway: { lastStream: 0 } });
  await settle();
  proxy.last.accept();
  await settle();
  assert.deepEqual(proxy.last.take("open").map(({ open }) => open.metadata[0].text), ["0", "1", "2", "3"]);
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
  assert.equal(proxy.last.closed.code, 1000);
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
