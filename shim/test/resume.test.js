// Sessions that outlive their connections: `bidiway/durable`, over fake WebSockets.

import assert from "node:assert/strict";
import { test } from "node:test";
import { BidiwayError, Code } from "../src/durable.js";
import { METHOD, T1, T2, isOpen, pair, resume, setup, talking } from "./durable.js";
import { bytes, settle } from "./fake.js";

test("a lost connection ends no call: both sides send again what the other lacks", async (t) => {
  setup(t);
  const { channel, proxy, peer, call } = await talking();
  const hello = peer.take("hello")[0].hello;
  assert.equal(hello.resumable, true);
  assert.equal(hello.resumeToken.length, 0);
  const states = [];
  channel.on("state", (state, reason) => states.push([state, reason?.closeCode]));
  peer.headers(1);
  peer.data(1, bytes(2, 9));
  call.send(bytes(3, 3));
  await settle();
  assert.deepEqual(peer.frames.map(({ kind }) => kind), ["open", "data", "data"]);

  peer.close(1006);
  await settle();
  assert.equal(channel.state, "reconnecting");
  assert.equal(proxy.peers.length, 2, "the first attempt follows at once");
  assert.ok(await isOpen(call));
  call.send(bytes(4, 4));
  await settle();

  // Of three frames, the proxy had received two.
  const { peer: next, hello: again } = await resume(proxy, 2);
  assert.deepEqual([...again.resumeToken], [...T1]);
  assert.equal(again.received, 2);
  assert.equal(again.resumable, true);
  assert.equal(again.streamCredit, 2 ** 18, "should a new session begin, its calls have the credit that we count with");
  assert.equal(channel.state, "ready");
  assert.deepEqual(next.frames.map(({ kind, ack, data }) => [kind, ack ?? data.length]), [["ack", 2], ["data", 3], ["data", 4]]);
  next.trailers(1);
  assert.equal((await call.next()).value.length, 2);
  assert.equal((await call.next()).done, true);
  assert.equal((await call.status).code, Code.OK);
  await settle();
  assert.deepEqual(states, [["reconnecting", 1006], ["ready", undefined]]);
  await channel.close();
});

test("what was acknowledged is not kept, and a second loss uses the second token", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking();
  peer.send({ ack: 2 });
  peer.close(1006);
  const { peer: second } = await resume(proxy, 2);
  assert.deepEqual(second.take("ack").map(({ ack }) => ack), [0], "the first frame is an Ack, also of nothing");
  assert.equal(second.frames.length, 0);
  call.send(bytes(5));
  await settle();
  second.close(1006);
  await settle();
  tick(250);
  const { peer: third, hello } = await resume(proxy, 2, { resumeToken: bytes(16, 3) });
  assert.deepEqual([...hello.resumeToken], [...T2]);
  assert.deepEqual(third.frames.map(({ kind }) => kind), ["ack", "data"]);
  await channel.close();
});

test("a connection that is lost before Welcome, or while frames are sent again, loses nothing", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking();
  peer.close(1006);
  await settle();
  proxy.last.accept();
  await settle();
  assert.deepEqual([...proxy.last.take("hello")[0].hello.resumeToken], [...T1]);
  proxy.last.close(1006);
  await settle();
  tick(250);
  const { peer: third, hello } = await resume(proxy, 0);
  assert.deepEqual([...hello.resumeToken], [...T1]);
  assert.deepEqual(third.frames.map(({ kind }) => kind), ["ack", "open", "data"]);
  // Nothing of that has arrived.
  third.close(1006);
  await settle();
  tick(500);
  const { peer: fourth, hello: last } = await resume(proxy, 0, { resumeToken: bytes(16, 4) });
  assert.deepEqual([...last.resumeToken], [...T2]);
  assert.deepEqual(fourth.frames.map(({ kind }) => kind), ["ack", "open", "data"]);
  fourth.trailers(1);
  assert.equal((await call.status).code, Code.OK);
  await channel.close();
});

test("packets of a connection that was given up are not handled", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking({}, { pingIntervalMs: 1000 });
  tick(2000);
  await settle();
  assert.equal(peer.take("ping").length, 1);
  tick(5000);
  await settle();
  assert.equal(peer.closed.code, 4014);
  peer.data(1, bytes(1));
  const { hello, peer: next } = await resume(proxy, 2);
  assert.equal(hello.received, 0);
  peer.close(1006);
  await settle();
  assert.equal(channel.state, "ready");
  next.data(1, bytes(1));
  next.trailers(1);
  let count = 0;
  for await (const _ of call) count++;
  assert.equal(count, 1);
  await channel.close();
});

const FAILURES = ["not resumable", "unknown token", "expired", "wrong principal", "state lost", "other instance"];
for (const [resumeFailure, reason] of FAILURES.entries()) {
  test(`a session that does not go on (${reason}) ends its calls, and calls that wait begin the next one on the same connection`, async (t) => {
    setup(t);
    const { channel, proxy, peer, call } = await talking({ maxQueuedCalls: 2 });
    peer.close(1006);
    await settle();
    const waiting = channel.open({ method: METHOD });
    waiting.send(bytes(6, 6));
    await settle();
    proxy.last.accept();
    await settle();
    assert.equal(proxy.last.take("hello").length, 1);
    proxy.last.welcome({ resumeFailure, resumeToken: T2 });
    const status = await call.status;
    assert.equal(status.code, Code.UNAVAILABLE);
    assert.equal(status.reason, reason);
    assert.equal(status.maybeProcessed, true);
    const error = await call.next().catch((error) => error);
    assert.ok(error instanceof BidiwayError);
    assert.equal(error.reason, reason);
    await settle();
    assert.equal(proxy.peers.length, 2);
    assert.equal(proxy.last.closed, undefined);
    assert.equal(channel.state, "ready");
    assert.deepEqual(proxy.last.frames.map(({ kind, stream }) => [kind, stream]), [["open", 1], ["data", 1]]);
    proxy.last.trailers(1);
    assert.equal((await waiting.status).code, Code.OK);
    // The new session can be resumed, too.
    channel.open({ method: METHOD });
    await settle();
    proxy.last.close(1006);
    const { hello } = await resume(proxy, 3);
    assert.deepEqual([...hello.resumeToken], [...T2]);
    assert.equal(hello.received, 1);
    await channel.close();
  });
}

test("a connection with a new session that nobody needs is closed", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking();
  call.cancel();
  peer.close(1006);
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.welcome({ resumeFailure: 1, resumeToken: T2 });
  await settle();
  tick(10_000);
  assert.equal(proxy.last.closed.code, 1000);
  assert.equal(channel.state, "idle");
  await channel.close();
});

test("when the grace is over, also while an attempt is under way, open calls end and a new session begins", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking({ connectTimeoutMs: 60_000 });
  peer.close(1006);
  await settle();
  const waiting = channel.open({ method: METHOD });
  proxy.last.accept();
  await settle();
  tick(29_999);
  assert.ok(await isOpen(call));
  tick(1);
  const status = await call.status;
  assert.equal(status.reason, "grace over");
  assert.equal(status.maybeProcessed, true);
  assert.equal(proxy.last.closed.code, 1000);
  await settle();
  assert.equal(proxy.peers.length, 2, "others give up at the same time");
  tick(125);
  await settle();
  assert.equal(proxy.peers.length, 3);
  proxy.last.accept();
  await settle();
  assert.equal(proxy.last.take("hello")[0].hello.resumeToken.length, 0);
  proxy.last.welcome();
  await settle();
  proxy.last.trailers(1);
  assert.equal((await waiting.status).code, Code.OK);
  await channel.close();
});

test("deadlines and cancellation work without a connection, and the proxy hears of them on the next one", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking();
  const short = channel.open({ method: METHOD, timeoutMs: 1000 });
  await settle();
  peer.close(1006);
  await settle();
  const late = channel.open({ method: METHOD, timeoutMs: 500 });
  tick(1000);
  assert.equal((await short.status).code, Code.DEADLINE_EXCEEDED);
  assert.equal((await short.status).maybeProcessed, true);
  assert.equal((await late.status).code, Code.DEADLINE_EXCEEDED);
  assert.equal((await late.status).maybeProcessed, false);
  call.cancel();
  assert.equal((await call.status).code, Code.CANCELLED);
  const { peer: next } = await resume(proxy, 3);
  assert.deepEqual(next.frames.map(({ kind, stream }) => [kind, stream]), [["ack", 0], ["cancel", 2], ["cancel", 1]]);
  // What was said without a connection counts as sent now.
  next.send({ ack: 5 });
  await settle();
  assert.equal(next.closed, undefined);
  await channel.close();
});

test("calls that are started meanwhile wait, bounded, and go on with the session", async (t) => {
  setup(t);
  const { channel, proxy, peer } = await talking({ maxQueuedCalls: 2 });
  peer.close(1006);
  await settle();
  const calls = [1, 2, 3].map(() => channel.open({ method: METHOD }));
  assert.equal((await calls[2].status).code, Code.RESOURCE_EXHAUSTED);
  const { peer: next } = await resume(proxy, 2);
  assert.deepEqual(next.take("open").map(({ stream }) => stream), [2, 3]);
  await channel.close();
});

test("without acknowledgements send() waits once 1 MiB is kept, and goes on when they come", async (t) => {
  const tick = setup(t);
  const { channel, peer, call } = await talking({}, { limits: { streamCredit: 8 << 20 } });
  let admitted = 0;
  (async () => {
    for (let i = 0; i < 300; i++) {
      await call.send(bytes(16_000));
      admitted++;
    }
  })().catch(() => {});
  const drain = async () => { for (let i = 0; i < 5; i++) { await settle(); tick(100); } };
  await drain();
  assert.ok(admitted >= 65 && admitted < 75, `${admitted}`);
  peer.send({ ack: 2 + 40 });
  await drain();
  assert.ok(admitted >= 104 && admitted < 115, `${admitted}`);
  await channel.close();
});

test("credit goes on where it was, in both directions", async (t) => {
  setup(t);
  const { channel, proxy, peer, call } = await talking({ streamCredit: 32_768 }, { limits: { streamCredit: 100_000 } });
  for (let i = 0; i < 8; i++) call.send(bytes(16_384));
  await settle();
  const size = (peer) => peer.take("data").reduce((sum, { data }) => sum + data.length + 32, 0);
  assert.ok(size(peer) > 98_000);
  peer.close(1006);
  const { peer: next } = await resume(proxy, 9, { limits: { streamCredit: 100_000 } });
  await settle();
  assert.equal(size(next), 0, "no second helping");
  next.send({ stream: 1, credit: 40_000 });
  await settle();
  assert.ok(size(next) > 30_000);
  await channel.close();
});

for (const [closeCode, goesOn] of [
  [1000, false], [1001, false], [1002, true], [1005, true], [1006, true], [1011, true], [1012, true], [4014, true],
  [4003, false], [4008, false], [4016, false], [4000, false],
]) {
  test(`close code ${closeCode} ${goesOn ? "loses the connection only" : "ends the session"}`, async (t) => {
    const tick = setup(t);
    const { channel, proxy, peer, call } = await talking({ metadata: () => ({}) });
    peer.close(closeCode, "because");
    await settle();
    tick(250);
    await settle();
    if (goesOn) {
      await resume(proxy, 2);
      assert.ok(await isOpen(call));
    } else {
      const status = await call.status;
      assert.equal(status.code, closeCode === 4000 ? Code.UNKNOWN : closeCode > 4000 ? closeCode - 4000 : Code.UNAVAILABLE);
      assert.equal(status.maybeProcessed, true);
    }
    await channel.close();
  });
}

test("a session that the proxy ends while it is resumed sends no call a second time", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking({ metadata: () => ({}) });
  peer.close(1006);
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.close(4016, "token expired");
  const status = await call.status;
  assert.equal(status.code, Code.UNAUTHENTICATED);
  assert.equal(status.maybeProcessed, true);
  await settle();
  tick(250);
  await settle();
  if (proxy.peers.length > 2) {
    proxy.last.accept();
    proxy.last.welcome();
    await settle();
    assert.equal(proxy.last.take("open").length, 0);
  }
  await channel.close();
});

test("a proxy that grants no resume is used as ever: nothing is acknowledged, and a lost connection ends the calls", async (t) => {
  setup(t);
  const { channel, peer, call } = await talking({}, { resumeToken: undefined });
  for (let i = 0; i < 100; i++) peer.headers(1);
  peer.send({ ping: 1 });
  await settle();
  assert.equal(peer.take("ack").length, 0);
  peer.close(1006);
  assert.equal((await call.status).maybeProcessed, true);
  await channel.close();
});

test("received frames are acknowledged every 64 frames, every 64 KiB, and with each Pong", async (t) => {
  setup(t);
  const { channel, peer } = await talking();
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
  peer.send({ ping: 1 });
  await settle();
  assert.equal(peer.take("ack").length, 0, "nothing new");
  await channel.close();
});

for (const [name, frame, label] of [
  ["an Ack of more than was sent", { ack: 3 }, "ack_beyond_sent"],
  ["an Ack of less than before", { ack: 1 }, "ack_backwards"],
]) {
  test(`${name} closes the session with 4003`, async (t) => {
    setup(t);
    const { channel, peer, call } = await talking();
    if (label === "ack_backwards") peer.send({ ack: 2 });
    peer.send(frame);
    await settle();
    assert.equal(peer.closed.code, 4003);
    assert.match(peer.closed.reason, new RegExp(label));
    assert.equal((await call.status).code, Code.INTERNAL);
    await channel.close();
  });
}

for (const [name, more, label] of [
  ["more than was sent", { received: 3 }, "received_beyond_sent"],
  ["less than was acknowledged", { received: 1 }, "received_backwards"],
  ["no token", { received: 2, resumeToken: undefined }, "resumed_without_token"],
]) {
  test(`a Welcome that resumes with ${name} closes the session with 4003`, async (t) => {
    setup(t);
    const { channel, proxy, peer, call } = await talking();
    peer.send({ ack: 2 });
    peer.close(1006);
    const { peer: next } = await resume(proxy, undefined, more);
    assert.equal(next.closed.code, 4003);
    assert.match(next.closed.reason, new RegExp(label));
    assert.equal((await call.status).code, Code.INTERNAL);
    assert.equal((await call.status).maybeProcessed, true);
    await channel.close();
  });
}

test("no call is sent before the first Welcome, so none is lost with a connection that never worked", async (t) => {
  const tick = setup(t);
  const { channel, proxy } = pair();
  const call = channel.open({ method: METHOD });
  call.send(bytes(1));
  await settle();
  proxy.last.accept();
  await settle();
  assert.deepEqual(proxy.last.frames.map(({ kind }) => kind), ["hello"]);
  proxy.last.close(1006);
  await settle();
  tick(250);
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.welcome({ resumeToken: T1 });
  await settle();
  assert.equal(proxy.last.take("open").length, 1);
  proxy.last.trailers(1);
  assert.equal((await call.status).code, Code.OK);
  await channel.close();
});

test("attempts to come back are spread like those to connect, and start short again after 10 healthy seconds", async (t) => {
  const tick = setup(t);
  t.mock.method(Math, "random", () => 0.999999);
  const { channel, proxy, peer } = await talking({}, { resumeGraceMs: 1e6 });
  peer.close(1006);
  const delays = [];
  for (let i = 0; i < 9; i++) {
    await settle();
    const before = proxy.peers.length;
    proxy.last.close(1006);
    let delay = 0;
    for (await settle(); proxy.peers.length === before; await settle()) {
      tick(250);
      delay += 250;
    }
    delays.push(delay);
  }
  assert.deepEqual(delays, [250, 500, 1000, 2000, 4000, 8000, 16000, 20000, 20000]);
  const { peer: next } = await resume(proxy, 2, { resumeGraceMs: 1e6 });
  tick(10_000);
  next.close(1006);
  await settle();
  assert.notEqual(proxy.last, next);
  await channel.close();
});

test("a session that is drained comes back, too, beside the one that takes the new calls", async (t) => {
  setup(t);
  const { channel, proxy, peer, call } = await talking();
  peer.send({ goAway: { lastStream: 1, code: 14, message: "restart", reconnectDelayMs: 0 } });
  await settle();
  const other = channel.open({ method: METHOD });
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.welcome({ resumeToken: bytes(16, 7) });
  await settle();
  assert.equal(proxy.last.take("open").length, 1);
  peer.close(1006);
  const { peer: next, hello } = await resume(proxy, 2);
  assert.deepEqual([...hello.resumeToken], [...T1]);
  next.send({ goAway: { lastStream: 1, code: 14, message: "restart", reconnectDelayMs: 0 } });
  next.trailers(1);
  assert.equal((await call.status).code, Code.OK);
  await settle();
  assert.equal(next.closed.code, 1000);
  assert.ok(await isOpen(other));
  assert.equal(channel.state, "ready");
  await channel.close();
});

test("close() while the session looks for a connection ends everything", async (t) => {
  const tick = setup(t);
  const { channel, proxy, peer, call } = await talking();
  peer.close(1006);
  await settle();
  await channel.close();
  assert.equal((await call.status).code, Code.CANCELLED);
  assert.equal(proxy.last.closed.code, 1000);
  tick(60_000);
  await settle();
  assert.equal(proxy.peers.length, 2);
});
