import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { join, readPacket, writeFrame } from "../src/frame.js";
import { Packet } from "./fake.js";

const metadata = [["a", "1"], ["a", ""], ["b-bin", new Uint8Array([0, 255])], ["c-bin", new Uint8Array()]];

/** Metadata as the proto has it. */
const wire = (entries) => entries.map(([name, value]) => ({ name, [typeof value === "string" ? "text" : "binary"]: value }));

/** What this side sends, and the same in the words of the proto. */
const SENT = {
  "data": [{ stream: 1, data: new Uint8Array([1, 2, 3]), remaining: 0, last: false }, { stream: 1, data: new Uint8Array([1, 2, 3]) }],
  "empty data": [{ stream: 3, data: new Uint8Array() }],
  "a piece": [{ stream: 300, remaining: 70000, data: new Uint8Array(16384).fill(9) }],
  "the last message": [{ stream: 2 ** 32 - 1, last: true, data: new Uint8Array([0]) }],
  "half-close": [{ stream: 1, halfClose: true }, { stream: 1, halfClose: {} }],
  "open": [
    { stream: 1, open: { method: "/a.B/C", metadata, timeoutMs: 86_400_000 } },
    { stream: 1, open: { method: "/a.B/C", metadata: wire(metadata), timeoutMs: 86_400_000 } },
  ],
  "open with little": [{ stream: 1, open: { method: "/a.B/C", metadata: [] } }],
  "long metadata": [
    { stream: 1, open: { method: "/a.B/C", metadata: [["x", "y".repeat(40_000)]] } },
    { stream: 1, open: { method: "/a.B/C", metadata: [{ name: "x", text: "y".repeat(40_000) }] } },
  ],
  "cancel": [{ stream: 1, cancel: true }, { stream: 1, cancel: {} }],
  "credit": [{ stream: 1, credit: 2 ** 40 }],
  "ack": [{ ack: 0 }],
  "ping": [{ ping: new Uint8Array([1]) }, { ping: 1 }],
  "pong": [{ stream: 0, pong: new Uint8Array([0xac, 2]) }, { pong: 300 }],
  "hello": [
    { hello: { metadata, streamCredit: 262144, agent: "x" } },
    { hello: { versions: [1], metadata: wire(metadata), streamCredit: 262144, agent: "x" } },
  ],
};

for (const [name, [frame, same = frame]] of Object.entries(SENT)) {
  test(`${name}: written as another protobuf library writes it`, () => {
    const theirs = Packet.encode(Packet.fromObject({ frames: [same] })).finish();
    assert.deepEqual(Buffer.from(writeFrame(frame)), Buffer.from(theirs));
  });
}

/** What the proxy sends, in the words of the proto, and what is read of it. */
const RECEIVED = {
  "data": [{ stream: 1, data: new Uint8Array([1]), remaining: 5 }],
  "empty data": [{ stream: 1, data: new Uint8Array() }],
  "headers": [{ stream: 1, headers: { metadata: wire(metadata) } }, { stream: 1, headers: { metadata } }],
  "no headers": [{ stream: 1, headers: {} }, { stream: 1, headers: { metadata: [] } }],
  "trailers": [
    { stream: 1, trailers: { code: 5, message: "nö 😀", details: new Uint8Array([8, 5]), metadata: wire(metadata) } },
    { stream: 1, trailers: { code: 5, message: "nö 😀", details: new Uint8Array([8, 5]), metadata } },
  ],
  "OK": [{ stream: 1, trailers: {} }, { stream: 1, trailers: { code: 0, message: "", details: new Uint8Array(), metadata: [] } }],
  "credit": [{ stream: 2 ** 32 - 1, credit: 2 ** 40 }],
  "ack": [{ ack: 0 }],
  "ping": [{ ping: 300 }, { ping: new Uint8Array([0xac, 2]) }],
  "pong": [{ pong: 0 }, { pong: new Uint8Array([0]) }],
  "welcome": [
    { welcome: { version: 1, sessionId: "s", resumeToken: new Uint8Array([1]), resumed: true, received: 3, limits: { maxMessage: 4, maxStreams: 5, streamCredit: 6, maxMetadata: 7 }, pingIntervalMs: 8, resumeGraceMs: 9 } },
    { welcome: { version: 1, resumeToken: new Uint8Array([1]), maxStreams: 5, streamCredit: 6, pingIntervalMs: 8 } },
  ],
  "a bare welcome": [{ welcome: {} }, { welcome: { version: 0, resumeToken: new Uint8Array(), maxStreams: 0, streamCredit: 0, pingIntervalMs: 0 } }],
  "go away": [{ goAway: { lastStream: 7, code: 14, message: "bye", reconnectDelayMs: 500 } }],
  "a frame of a kind that is not known": [{ stream: 1 }],
};

for (const [name, [frame, read = frame]] of Object.entries(RECEIVED)) {
  test(`${name}: read as another protobuf library wrote it`, () => {
    const packet = new Uint8Array(Packet.encode(Packet.fromObject({ frames: [frame] })).finish());
    const [ours, ...more] = readPacket(packet).map((frame) => JSON.parse(JSON.stringify(frame)));
    assert.deepEqual(more, []);
    assert.deepEqual(ours, JSON.parse(JSON.stringify({ stream: 0, remaining: 0, ...read })));
  });
}

test("packets concatenate", () => {
  const packet = join([writeFrame({ stream: 1, data: new Uint8Array([1]) }), writeFrame({ stream: 2, credit: 5 })]);
  assert.deepEqual(readPacket(packet).map(({ stream }) => stream), [1, 2]);
});

test("a number of 64 bits is echoed exactly", () => {
  const ping = Packet.encode(Packet.fromObject({ frames: [{ ping: "18446744073709551615" }] })).finish();
  const pong = writeFrame({ pong: readPacket(new Uint8Array(ping))[0].ping });
  assert.equal(Packet.toObject(Packet.decode(pong), { longs: String }).frames[0].pong, "18446744073709551615");
});

test("fields of a later version are skipped", () => {
  // Field 100 of the frame as varint, 64 bits, length and 32 bits.
  const unknown = [0xa0, 0x06, 0x01, 0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8, 0xa2, 0x06, 0x02, 9, 9, 0xa5, 0x06, 1, 2, 3, 4];
  const frame = [0x08, 0x05, ...unknown, 0x22, 0x01, 0x2a];
  const [read] = readPacket(new Uint8Array([0x0a, frame.length, ...frame]));
  assert.equal(read.stream, 5);
  assert.deepEqual([...read.data], [0x2a]);
});

test("every cut of a packet is refused or a shorter packet, never a crash or a hang", () => {
  const frames = Object.values(RECEIVED).map(([frame]) => frame);
  const packet = new Uint8Array(Packet.encode(Packet.fromObject({ frames })).finish());
  let refused = 0;
  for (let length = 0; length < packet.length; length++) {
    try {
      readPacket(packet.subarray(0, length));
    } catch (error) {
      assert.ok(error instanceof RangeError || error instanceof TypeError, `${error}`);
      refused++;
    }
  }
  assert.equal(refused, packet.length - frames.length);
});

const VECTORS = new URL("../../tests/vectors/packets.json", import.meta.url);

test("the golden vectors", { skip: !existsSync(VECTORS) && "tests/vectors/packets.json is not there" }, () => {
  const { packets, refused } = JSON.parse(readFileSync(VECTORS, "utf8"));
  let cases = 0;
  for (const { name, hex, frames } of packets) {
    const packet = new Uint8Array(Buffer.from(hex, "hex"));
    const read = readPacket(packet);
    assert.equal(read.length, frames.length, name);
    // What is read and what is written are two halves of the protocol; where a frame belongs to both, it comes back.
    const both = read.length && read.every(({ data, credit, ack, ping, pong }) => data ?? credit ?? ack ?? ping ?? pong);
    if (both && !frames.some((frame) => frame.last || Number(frame.ack) > Number.MAX_SAFE_INTEGER)) {
      const theirs = Packet.toObject(Packet.decode(packet), { longs: String });
      assert.deepEqual(Packet.toObject(Packet.decode(join(read.map(writeFrame))), { longs: String }), theirs, name);
    }
    for (const [i, { trailers }] of frames.entries()) {
      if (trailers) assert.equal(read[i].trailers.code, trailers.code ?? 0, name);
    }
    cases++;
  }
  // The other refusals are not about bytes: the session makes them.
  for (const { name, hex, error } of refused) {
    // An Open is nothing that this side reads.
    if (error !== "malformed" || /method/.test(name)) continue;
    assert.throws(() => readPacket(new Uint8Array(Buffer.from(hex, "hex"))), Error, name);
    cases++;
  }
  assert.ok(cases >= 50, `${cases} vectors`);
});
