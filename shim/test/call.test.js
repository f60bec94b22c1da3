// One call over one session: messages, credit, pieces, turns, and the ways to end.

import assert from "node:assert/strict";
import { test } from "node:test";
import { watchFrames } from "../src/debug.js";
import { BidiwayError, Code, createChannel } from "../src/index.js";
import { bytes, connected, fakeProxy, pair, settle, watchRejections } from "./fake.js";

const METHOD = "/demo.v1.Chat/Talk";
const KIB = 1024;

test("a unary call is one Open and one last message, and its answer is headers, message, status", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD, metadata: { "X-A": ["1", "2"], "k-bin": bytes(2) } });
  const sent = call.send(bytes(3));
  call.halfClose();
  await sent;
  await settle();
  const [open, data, ...more] = peer.frames.filter(({ stream }) => stream === 1);
  assert.equal(open.open.method, METHOD);
  assert.deepEqual(
    open.open.metadata.map(({ name, text, binary }) => [name, text ?? [...binary]]),
    [["x-a", "1"], ["x-a", "2"], ["k-bin", [7, 7]]],
  );
  assert.deepEqual([...data.data], [7, 7, 7]);
  assert.equal(data.last, true);
  assert.deepEqual(more, []);

  peer.headers(1, [{ name: "h", text: "v" }, { name: "i-bin", binary: bytes(1) }]);
  peer.data(1, bytes(2, 1));
  peer.trailers(1, 0, "", { metadata: [{ name: "t", text: "w" }] });
  assert.deepEqual(await call.headers, [["h", "v"], ["i-bin", bytes(1)]]);
  const messages = [];
  for await (const message of call) messages.push([...message]);
  assert.deepEqual(messages, [[1, 1]]);
  const status = await call.status;
  assert.equal(status.code, Code.OK);
  assert.deepEqual(status.metadata, [["t", "w"]]);
  assert.equal(status.origin, "upstream");
  assert.deepEqual(peer.take("cancel"), []);
});

test("the first packet holds Hello, Open and the first message", async () => {
  const { channel, proxy } = pair({ metadata: { authorization: "Bearer x" } });
  const call = channel.open({ method: METHOD });
  call.send(bytes(3));
  await settle();
  assert.equal(channel.state, "connecting");
  assert.deepEqual(proxy.last.protocols, ["bidiway.v1"]);
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.packets, 1);
  assert.deepEqual(proxy.last.frames.map(({ kind }) => kind), ["hello", "open", "data"]);
  const { hello } = proxy.last.frames[0];
  assert.deepEqual(hello.versions, [1]);
  assert.equal(hello.metadata[0].text, "Bearer x");
  assert.match(hello.agent, /^bidiway-js\/\d/);
});

test("an empty message is a message", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await call.send(new Uint8Array());
  await settle();
  assert.equal(peer.take("data").length, 1);
  peer.data(1, new Uint8Array());
  assert.deepEqual((await call.next()).value, new Uint8Array());
});

test("an error status is thrown once, after the messages before it, and names code and method", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  peer.data(1, bytes(1));
  peer.trailers(1, Code.NOT_FOUND, "no such room", { details: bytes(4), metadata: [{ name: "t", text: "w" }] });
  assert.equal((await call.next()).done, false);
  await assert.rejects(call.next(), (error) => {
    assert.ok(error instanceof BidiwayError);
    assert.equal(error.code, Code.NOT_FOUND);
    assert.equal(error.message, `NOT_FOUND: no such room [${METHOD}]`);
    assert.deepEqual(error.details, bytes(4));
    assert.deepEqual(error.metadata, [["t", "w"]]);
    assert.equal(error.origin, "upstream");
    assert.equal(error.maybeProcessed, undefined);
    return true;
  });
  assert.equal((await call.next()).done, true);
});

test("a status of the proxy's own says so", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  peer.trailers(1, Code.UNAVAILABLE, "refused", { metadata: [{ name: "bidiway-origin", text: "proxy" }] });
  assert.equal((await call.status).origin, "proxy");
});

test("a call that the proxy refused unseen is marked as not processed", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  const metadata = [{ name: "bidiway-origin", text: "proxy" }, { name: "bidiway-unprocessed", text: "1" }];
  peer.trailers(1, Code.RESOURCE_EXHAUSTED, "too many streams", { metadata });
  assert.equal((await call.status).maybeProcessed, false);
});

test("headers resolve to nothing when the call ends without", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  peer.trailers(1, Code.INTERNAL);
  assert.deepEqual(await call.headers, []);
});

test("send() waits for credit, with 32 bytes for each frame", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  let admitted = 0;
  // 65536 bytes of credit are 4 frames of 16352 + 32 bytes, and none more.
  for (let i = 0; i < 6; i++) call.send(bytes(16 * KIB - 32)).then(() => admitted++);
  await settle();
  assert.equal(admitted, 4);
  assert.equal(peer.take("data").length, 4);
  peer.send({ stream: 1, credit: 16 * KIB });
  await settle();
  assert.equal(admitted, 5);
  assert.equal(peer.take("data").length, 1);
});

test("a large message goes in pieces of 16 KiB, the first of which tells its size", async () => {
  const { channel, peer } = await connected({}, { limits: { streamCredit: 1 << 20 } });
  const call = channel.open({ method: METHOD });
  await call.send(bytes(40 * KIB));
  await settle();
  const pieces = peer.take("data");
  assert.deepEqual(pieces.map(({ data, remaining }) => [data.length, remaining]), [
    [16 * KIB, 24 * KIB], [16 * KIB, 8 * KIB], [8 * KIB, 0],
  ]);
});

test("no piece is smaller than 1 KiB because credit trickles in", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  call.send(bytes(100 * KIB));
  await settle();
  // 65536 = 3 × (16384 + 32) + 16288: the fourth piece uses up the credit.
  assert.deepEqual(peer.take("data").map(({ data }) => data.length), [16384, 16384, 16384, 16256]);
  peer.send({ stream: 1, credit: 500 });
  await settle();
  assert.equal(peer.take("data").length, 0);
  peer.send({ stream: 1, credit: 556 });
  await settle();
  assert.deepEqual(peer.take("data").map(({ data }) => data.length), [1024]);
});

test("Welcome adds its credit to streams that were opened before it", async () => {
  const { channel, proxy } = pair();
  const call = channel.open({ method: METHOD });
  let admitted = 0;
  for (let i = 0; i < 10; i++) call.send(bytes(16 * KIB - 32)).then(() => admitted++);
  await settle();
  proxy.last.accept();
  await settle();
  assert.equal(admitted, 4);
  proxy.last.welcome({ limits: { streamCredit: 7 * 16 * KIB } });
  await settle();
  assert.equal(admitted, 7);
});

test("credit goes back in halves of the window, only as messages are read", async () => {
  const { channel, peer } = await connected({ streamCredit: 64 * KIB });
  const call = channel.open({ method: METHOD });
  await settle();
  for (let i = 0; i < 4; i++) peer.data(1, bytes(16 * KIB - 32));
  await settle();
  assert.deepEqual(peer.take("credit"), []);
  await call.next();
  await settle();
  assert.deepEqual(peer.take("credit"), []);
  await call.next();
  await settle();
  assert.deepEqual(peer.take("credit").map(({ credit }) => credit), [32 * KIB]);
});

test("a message larger than the window gets through when somebody waits for it, and not before", async () => {
  const { channel, peer } = await connected({ streamCredit: 16 * KIB });
  const call = channel.open({ method: METHOD });
  await settle();
  let credit = 16 * KIB;
  let rest = 100 * KIB;
  const send = async () => {
    for (const frame of peer.take("credit")) credit += frame.credit;
    while (rest && credit >= 1056) {
      const size = Math.min(rest, credit - 32);
      rest -= size;
      credit -= size + 32;
      peer.data(1, bytes(size), rest);
      await settle();
      for (const frame of peer.take("credit")) credit += frame.credit;
    }
  };
  await send();
  assert.ok(rest > 80 * KIB, "a reader who does not read stalls the sender");
  const message = call.next();
  await settle();
  await send();
  assert.equal(rest, 0);
  assert.equal((await message).value.length, 100 * KIB);
});

test("streams take turns, a piece each", async () => {
  const { channel, peer } = await connected({}, { limits: { streamCredit: 1 << 20 } });
  const large = channel.open({ method: METHOD });
  const small = channel.open({ method: METHOD });
  large.send(bytes(200 * KIB));
  small.send(bytes(10));
  small.send(bytes(10));
  await settle();
  assert.deepEqual(peer.take("data").slice(0, 5).map(({ stream }) => stream), [1, 2, 1, 2, 1]);
});

test("data waits while the socket is full, and other frames do not", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  peer.socket.bufferedAmount = 2 << 20;
  let admitted = false;
  call.send(bytes(10)).then(() => (admitted = true));
  peer.send({ ping: 5 });
  await settle();
  assert.equal(admitted, false);
  assert.equal(peer.take("data").length, 0);
  assert.equal(peer.take("pong")[0].pong, 5);
  peer.socket.bufferedAmount = 0;
  t.mock.timers.tick(10);
  await settle();
  assert.equal(admitted, true);
});

test("halfClose() after the last message left is a frame of its own, once", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await call.send(bytes(1));
  await settle();
  call.halfClose();
  call.halfClose();
  await settle();
  assert.equal(peer.take("data")[0].last, false);
  assert.equal(peer.take("halfClose").length, 1);
  await assert.rejects(call.send(bytes(1)), { code: Code.FAILED_PRECONDITION });
});

test("a call without messages is half-closed by a frame", async () => {
  const { channel, peer } = await connected();
  channel.open({ method: METHOD }).halfClose();
  await settle();
  assert.deepEqual(peer.frames.filter(({ stream }) => stream).map(({ kind }) => kind), ["open", "halfClose"]);
});

test("cancel() sends Cancel, ends the call with CANCELLED and drops what was not read", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  const parked = [];
  for (let i = 0; i < 6; i++) parked.push(call.send(bytes(16 * KIB)));
  await settle();
  peer.data(1, bytes(1));
  const reason = new Error("enough");
  call.cancel(reason);
  call.cancel();
  const status = await call.status;
  assert.equal(status.code, Code.CANCELLED);
  assert.equal(status.origin, "client");
  assert.equal(status.cause, reason);
  await assert.rejects(call.next(), { code: Code.CANCELLED });
  await assert.rejects(parked[5], { code: Code.CANCELLED });
  await assert.rejects(call.send(bytes(1)), { code: Code.CANCELLED });
  await settle();
  assert.equal(peer.take("cancel").length, 1);
  // What was on its way is ignored.
  peer.data(1, bytes(1));
  peer.trailers(1, 0);
  await settle();
  assert.equal(peer.closed, undefined);
  assert.equal((await call.status).code, Code.CANCELLED);
});

test("after the end nothing is sent: no half-close, and no credit for what is read late", async () => {
  const { channel, peer } = await connected({ streamCredit: 16 * KIB });
  const call = channel.open({ method: METHOD });
  await settle();
  peer.data(1, bytes(15 * KIB));
  peer.trailers(1, 0);
  call.halfClose();
  assert.equal((await call.next()).value.length, 15 * KIB);
  assert.equal((await call.next()).done, true);
  await settle();
  assert.deepEqual(peer.frames.filter(({ kind }) => kind === "halfClose" || kind === "credit"), []);
});

test("what the client itself ends says whether the service may have seen it", async () => {
  const { channel, peer } = await connected({}, { limits: { maxStreams: 1 } });
  const [open, waiting] = [channel.open({ method: METHOD }), channel.open({ method: METHOD })];
  await settle();
  assert.equal(peer.take("open").length, 1);
  for (const call of [waiting, open]) call.cancel();
  assert.equal((await waiting.status).maybeProcessed, false);
  assert.equal((await open.status).maybeProcessed, true);
});

test("many Opens with much metadata go in packets below the limit", async () => {
  const { channel, proxy } = pair();
  const sizes = [];
  for (let i = 0; i < 32; i++) channel.open({ method: METHOD, metadata: { x: "y".repeat(10_000) } });
  await settle();
  const { receive } = proxy.last;
  proxy.last.receive = function (data) { sizes.push(data.length); receive.call(this, data); };
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("open").length, 32);
  assert.ok(Math.max(...sizes) < 80 * KIB, `${sizes}`);
});

test("leaving a for await loop cancels", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  peer.data(1, bytes(1));
  for await (const _ of call) break;
  await settle();
  assert.equal(peer.take("cancel").length, 1);
  assert.equal((await call.status).code, Code.CANCELLED);
});

test("readers that wait get the messages in order, and the end once", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  const reads = [call.next(), call.next(), call.next()];
  peer.data(1, bytes(1, 1));
  peer.data(1, bytes(1, 2));
  peer.trailers(1, 0);
  assert.deepEqual((await Promise.all(reads)).map(({ value }) => value?.[0]), [1, 2, undefined]);
});

test("aborting the signal sends Cancel and keeps the reason; after the end it does nothing", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const first = new AbortController();
  const second = new AbortController();
  const call = channel.open({ method: METHOD, signal: first.signal });
  const other = channel.open({ method: METHOD, signal: second.signal });
  await settle();
  const reason = new Error("gone");
  first.abort(reason);
  assert.equal((await call.status).cause, reason);
  peer.trailers(2, 0);
  await other.status;
  await settle();
  second.abort();
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [1]);
  assert.equal((await other.status).code, Code.OK);
});

test("a call with an aborted signal is never opened", async () => {
  const { channel, proxy } = pair();
  const call = channel.open({ method: METHOD, signal: AbortSignal.abort() });
  assert.equal((await call.status).code, Code.CANCELLED);
  await settle();
  assert.equal(proxy.peers.length, 0);
});

test("the deadline is told to the proxy as what is left of it, and enforced here", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { channel, proxy } = pair();
  const call = channel.open({ method: METHOD, timeoutMs: 5000 });
  await settle();
  t.mock.timers.tick(1000);
  proxy.last.accept();
  await settle();
  const [{ open }] = proxy.last.take("open");
  assert.equal(open.timeoutMs, 4000);
  t.mock.timers.tick(3999);
  await settle();
  assert.equal(proxy.last.take("cancel").length, 0);
  t.mock.timers.tick(1);
  const status = await call.status;
  assert.equal(status.code, Code.DEADLINE_EXCEEDED);
  assert.match(status.message, /5000 ms/);
  await settle();
  assert.equal(proxy.last.take("cancel").length, 1);
});

test("a deadline that has passed already opens nothing, and one that never comes is none", async () => {
  const { channel, peer } = await connected();
  for (const timeoutMs of [0, -1, NaN]) {
    assert.equal((await channel.open({ method: METHOD, timeoutMs }).status).code, Code.DEADLINE_EXCEEDED);
  }
  channel.open({ method: METHOD, timeoutMs: Infinity });
  await settle();
  const opens = peer.take("open");
  assert.equal(opens.length, 1);
  assert.equal(opens[0].open.timeoutMs, 0);
});

test("when the service ends the call early, waiting messages are refused", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const failed = channel.open({ method: METHOD });
  const done = channel.open({ method: METHOD });
  const parked = failed.send(bytes(100 * KIB));
  const late = done.send(bytes(100 * KIB));
  await settle();
  peer.trailers(1, Code.ABORTED, "no more");
  peer.trailers(2, Code.OK);
  await assert.rejects(parked, { code: Code.ABORTED });
  await assert.rejects(late, { code: Code.FAILED_PRECONDITION });
  await settle();
  assert.deepEqual(peer.take("cancel"), []);
});

test("what cannot be sent is told where", async (t) => {
  watchRejections(t);
  const { channel } = await connected();
  const bad = [
    [{ method: "Chat/Talk" }, /Chat\/Talk/],
    [{ method: METHOD, metadata: { "a b": "1" } }, /a b/],
    [{ method: METHOD, metadata: { a: "é" } }, /metadata a: .*-bin/],
    [{ method: METHOD, metadata: { "a-bin": "%" } }, /metadata a-bin: .*base64/],
  ];
  for (const [options, message] of bad) {
    const status = await channel.open(options).status;
    assert.equal(status.code, Code.INVALID_ARGUMENT);
    assert.match(status.message, message);
    assert.equal(status.maybeProcessed, false);
  }
  await assert.rejects(channel.open({ method: METHOD }).send("text"), TypeError);
});

test("metadata comes as an object, Headers, a Map or entries", async () => {
  const { channel, peer } = await connected();
  const headers = new Headers([["a", "1"], ["b-bin", "AQ=="]]);
  headers.append("b-bin", "Ag");
  const inits = [{ a: "1", "b-bin": [bytes(1, 1), bytes(1, 2)], c: undefined }, headers, [["A", "1"], ["b-bin", bytes(1, 1)], ["b-bin", "Ag=="]]];
  for (const metadata of inits) channel.open({ method: METHOD, metadata });
  await settle();
  for (const { open } of peer.take("open")) {
    assert.deepEqual(open.metadata.map(({ name, text, binary }) => [name, text ?? binary[0]]), [["a", "1"], ["b-bin", 1], ["b-bin", 2]]);
  }
});

test("OK in the middle of a message is INTERNAL", async () => {
  const { channel, peer } = await connected();
  const call = channel.open({ method: METHOD });
  await settle();
  peer.data(1, bytes(1), 5);
  peer.trailers(1, 0);
  assert.equal((await call.status).code, Code.INTERNAL);
});

const VIOLATIONS = {
  "a stream that was never opened": (peer) => peer.headers(9),
  "data without credit": (peer) => { for (let i = 0; i < 5; i++) peer.data(1, bytes(16 * KIB)); },
  "pieces that do not add up": (peer) => { peer.data(1, bytes(1), 5); peer.data(1, bytes(1), 5); },
  "a second Welcome": (peer) => peer.welcome(),
  "a frame without a kind": (peer) => peer.send({ stream: 1 }),
  "a session frame without a kind": (peer) => peer.send({}),
  "bytes that are no packet": (peer) => peer.sendBytes([0x0a, 0xff]),
  "a text message": (peer) => peer.socket.onmessage({ data: "hello" }),
};

for (const [name, act] of Object.entries(VIOLATIONS)) {
  test(`${name} ends the session with 4003, and its calls with INTERNAL`, async (t) => {
    watchRejections(t);
    const { channel, peer } = await connected({ streamCredit: 64 * KIB });
    const call = channel.open({ method: METHOD });
    await settle();
    act(peer);
    const status = await call.status;
    assert.equal(status.code, Code.INTERNAL);
    assert.equal(status.maybeProcessed, true);
    assert.equal(peer.closed.code, 4003);
    await channel.close();
  });
}

test("watchFrames() shows every frame, both ways, and disturbs nothing", async () => {
  const seen = [];
  const { WebSocket, peers } = fakeProxy();
  const watched = watchFrames(({ direction, frame }) => seen.push([direction, ...Object.keys(frame)].join(" ")), WebSocket);
  const channel = createChannel({ url: "ws://proxy.test/", WebSocket: watched, idleTimeoutMs: 0 });
  const connecting = channel.connect();
  await settle();
  peers[0].accept();
  await settle();
  peers[0].welcome();
  await connecting;
  const call = channel.open({ method: METHOD });
  await call.send(bytes(1));
  await settle();
  peers[0].trailers(1, 0);
  assert.equal((await call.status).code, Code.OK);
  assert.deepEqual(seen, ["out hello", "in welcome", "out stream open", "out stream data", "in stream trailers"]);
});

test("the codec is named in Open", async () => {
  const { channel, peer } = await connected();
  for (const codec of [undefined, "proto", "json"]) channel.open({ method: METHOD, codec });
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.codec), [0, 0, 1]);
});
