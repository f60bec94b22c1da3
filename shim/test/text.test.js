// Text sessions, over a scripted proxy that reads and writes JSON.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createChannel } from "../src/index.js";
import { createJsonClient } from "../src/json.js";
import { textFrames } from "../src/text.js";
import { settle, watchRejections } from "./fake.js";

const WELCOME = { welcome: { limits: { maxMessage: 4194304, maxMetadata: 16384, maxStreams: 100, streamCredit: 65536 }, pingIntervalMs: 0, sessionId: "s", version: 1 } };

/** A channel over text, and the proxy's end: the frames that came as objects, and as they were. */
async function connected(options = {}, welcome = WELCOME) {
  const sockets = [];
  class TextSocket {
    bufferedAmount = 0;
    sent = [];
    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      sockets.push(this);
    }
    send(data) {
      assert.equal(typeof data, "string");
      this.sent.push(data);
    }
    close(code, reason) {
      this.closed = { code, reason };
    }
    give(...frames) {
      for (const frame of frames) this.onmessage({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    }
    take() {
      return this.sent.splice(0).map((text) => JSON.parse(text));
    }
  }
  const channel = createChannel({ url: "ws://proxy.test/x", WebSocket: textFrames(TextSocket), idleTimeoutMs: 0, ...options });
  channel.connect().catch(() => {});
  await settle();
  const [peer] = sockets;
  peer.onopen({});
  if (welcome) peer.give(welcome);
  await settle();
  return { channel, json: createJsonClient(channel), peer };
}

test("the subprotocol is that of text sessions, and Hello says nothing of resuming", async () => {
  const { channel, peer } = await connected({ metadata: { "x-a": ["1", "2"], "x-b-bin": new Uint8Array([0, 255]) } });
  assert.deepEqual(peer.protocols, ["bidiway.v1+json"]);
  const [{ hello }, ...rest] = peer.take();
  assert.match(hello.agent, /^bidiway-js/);
  assert.deepEqual({ ...hello, agent: "" }, { versions: [1], streamCredit: 262144, agent: "", metadata: { "x-a": ["1", "2"], "x-b-bin": "AP8=" } });
  assert.deepEqual(rest, []);
  assert.equal(channel.state, "ready");
});

test("a call: each frame is one text, and messages stand in it as they are", async (t) => {
  watchRejections(t);
  const { json, peer } = await connected();
  peer.take();
  const seen = {};
  const answer = json.call("t.S/One", { text: "nö 😀", n: 1.5 }, { timeoutMs: 500, metadata: { x: "1" }, onHeaders: (h) => (seen.headers = h), onTrailers: (h) => (seen.trailers = h) });
  await settle();
  const [{ stream, open }, data, ...rest] = peer.take();
  assert.equal(stream, 1);
  assert.ok(open.timeoutMs > 400 && open.timeoutMs <= 500);
  assert.deepEqual({ ...open, timeoutMs: 0 }, { method: "/t.S/One", metadata: { x: "1" }, timeoutMs: 0 });
  assert.deepEqual(data, { stream: 1, message: { text: "nö 😀", n: 1.5 }, last: true });
  assert.deepEqual(rest, []);
  peer.give(
    { stream: 1, headers: { metadata: { h: ["1", "2"], "h-bin": "AP8=" } } },
    { stream: 1, message: { text: "ö" } },
    { stream: 1, trailers: { code: 0, message: "", metadata: { t: "1" } } },
  );
  assert.deepEqual(await answer, { text: "ö" });
  assert.deepEqual(seen, { headers: [["h", "1"], ["h", "2"], ["h-bin", new Uint8Array([0, 255])]], trailers: [["t", "1"]] });
});

test("the status comes with its details in JSON", async (t) => {
  watchRejections(t);
  const { json, peer } = await connected();
  const answer = json.call("t.S/One");
  await settle();
  peer.give({ stream: 1, trailers: { code: 5, message: 'weg "ä"', details: [{ "@type": "x" }], metadata: { "bidiway-origin": "proxy" } } });
  await assert.rejects(answer, (error) => {
    assert.equal(error.code, 5);
    assert.equal(error.origin, "proxy");
    assert.match(error.message, /weg "ä"/);
    assert.deepEqual(JSON.parse(new TextDecoder().decode(error.details)), [{ "@type": "x" }]);
    return true;
  });
});

test("half-close, cancel, credit and the answer to a ping", async (t) => {
  watchRejections(t);
  const { json, peer } = await connected({ streamCredit: 16_384 });
  const talk = json.duplex("t.S/Talk");
  await settle();
  peer.take();
  talk.halfClose();
  await settle();
  assert.deepEqual(peer.take(), [{ stream: 1, halfClose: {} }]);
  peer.give({ ping: 7 });
  await settle();
  assert.deepEqual(peer.take(), [{ pong: 7 }]);
  peer.give({ stream: 1, message: "x".repeat(9000) });
  await talk.next();
  await settle();
  assert.deepEqual(peer.take(), [{ stream: 1, credit: 9002 + 32 }]);
  talk.cancel();
  await settle();
  assert.deepEqual(peer.take(), [{ stream: 1, cancel: {} }]);
});

test("credit is counted by the message as it was sent, not as it would be written here", async (t) => {
  watchRejections(t);
  const { json, peer } = await connected({ streamCredit: 16_384 });
  const talk = json.duplex("t.S/Talk");
  await settle();
  peer.take();
  const raw = `{"a" : ${" ".repeat(9000)} 1.0, "b":"\\u00e4"}`;
  peer.give(`{"stream":1,"message":${raw}}`);
  assert.deepEqual((await talk.next()).value, { a: 1, b: "ä" });
  await settle();
  assert.deepEqual(peer.take(), [{ stream: 1, credit: raw.length + 32 }]);
  // Another order of fields is a frame, too.
  peer.give('{"message":{"c":1},"stream":1}', '{"stream":1,"message":{"d":1},"last":true}');
  assert.deepEqual([(await talk.next()).value, (await talk.next()).value], [{ c: 1 }, { d: 1 }]);
});

test("a message that is cut comes in pieces, and leaves in pieces that end between characters", async (t) => {
  watchRejections(t);
  const { json, peer } = await connected();
  const talk = json.duplex("t.S/Talk");
  await settle();
  peer.take();
  for (const character of ["a", "ä", "€", "😀"]) {
    const message = { text: character.repeat(20_000) };
    const sent = talk.send(message);
    const pieces = [];
    const bytes = new TextEncoder().encode(JSON.stringify(message)).length;
    let left = bytes;
    while (left) {
      await settle();
      for (const { stream, piece, remaining } of peer.take()) {
        const size = new TextEncoder().encode(piece).length;
        assert.ok(size > 0 && size <= 16_384 + 3);
        assert.equal(stream, 1);
        assert.equal(remaining, (left -= size));
        pieces.push(piece);
        peer.give({ stream: 1, credit: size + 32 });
      }
    }
    await sent;
    assert.ok(pieces.length > 1);
    assert.deepEqual(JSON.parse(pieces.join("")), message);
  }
  await talk.send({ text: "short" });
  await settle();
  assert.deepEqual(peer.take(), [{ stream: 1, message: { text: "short" } }]);
  peer.give({ stream: 1, piece: '{"a":"', remaining: 8 }, { stream: 1, piece: '\\u00', remaining: 4 }, { stream: 1, piece: 'e4"}', remaining: 0 });
  assert.deepEqual((await talk.next()).value, { a: "ä" });
});

test("the last piece may end the client's side", async (t) => {
  watchRejections(t);
  const { json, peer } = await connected();
  json.call("t.S/One", { text: "x".repeat(20_000) }).catch(() => {});
  await settle();
  const frames = peer.take();
  assert.deepEqual(frames.slice(2).map(({ remaining, last }) => [remaining, last]), [[20_011 - 16_384, undefined], [0, true]]);
});

test("messages that are not JSON end their call, and the proxy sees no more of it than that", async (t) => {
  watchRejections(t);
  const { channel, json, peer } = await connected();
  peer.take();
  const binary = channel.open({ method: "/t.S/One" });
  binary.send(new Uint8Array([0x0a, 1, 0x41])).catch(() => {});
  binary.halfClose();
  const status = await binary.status;
  assert.equal(status.code, 3);
  assert.match(status.message, /a text session carries JSON, not protobuf: call with bidiway\/json/);
  assert.deepEqual(peer.take().map(({ stream, ...frame }) => [stream, Object.keys(frame)[0]]), [[1, "open"], [1, "cancel"]]);
  const answer = json.call("t.S/One", {});
  await settle();
  peer.give({ stream: 2, message: {} }, { stream: 2, trailers: { code: 0 } });
  assert.deepEqual(await answer, {});
});

test("what pretends to be JSON cannot become a part of the frame", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  peer.take();
  const call = channel.open({ method: "/t.S/One", codec: "json" });
  await call.send(new TextEncoder().encode('{},"cancel":{}'));
  await settle();
  assert.deepEqual(peer.take()[1], { stream: 1, piece: '{},"cancel":{}', remaining: 0 });
  call.cancel();
});

test("Refresh, GoAway and the limits of Welcome pass", async (t) => {
  watchRejections(t);
  const { channel, json, peer } = await connected({}, { welcome: { ...WELCOME.welcome, limits: { ...WELCOME.welcome.limits, maxStreams: 1 } } });
  peer.take();
  json.duplex("t.S/Talk");
  const second = json.duplex("t.S/Talk");
  await settle();
  assert.equal(peer.take().length, 1);
  peer.give({ goAway: { lastStream: 1, code: 14, message: "restart", reconnectDelayMs: 1 } });
  await settle();
  // For the call that waits.
  assert.equal(channel.state, "connecting");
  second.cancel();
  await channel.close();
});

test("what is no frame breaks the protocol", async () => {
  for (const text of ["hello", "[]", '{"stream":1}', "null", '{"stream":1,"headers":{"metadata":{"x-bin":"?"}}}']) {
    const { channel, peer } = await connected();
    const call = channel.open({ method: "/t.S/One", codec: "json" });
    await settle();
    peer.give(text);
    await settle();
    assert.equal(peer.closed?.code, 4003, text);
    await channel.close();
    await call.status;
  }
});

test("the end of the socket is the session's", async (t) => {
  watchRejections(t);
  const { json, peer } = await connected();
  const answer = json.call("t.S/One");
  await settle();
  peer.onclose({ code: 1006, reason: "" });
  await assert.rejects(answer, { code: 14 });
});
