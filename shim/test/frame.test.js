import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { readPacket } from "../src/debug.js";
import { join, metadataFields, write } from "../src/frame.js";
import {
  ACK, CANCEL, CREDIT, DATA, FRAME, HALF_CLOSE, HELLO, LAST, OPEN, PING, PONG, REFRESH, REMAINING, STREAM,
} from "../src/protocol.js";
import { Packet } from "./fake.js";

const metadata = [["a", "1"], ["a", ""], ["b-bin", new Uint8Array([0, 255])], ["c-bin", new Uint8Array()]];

/** Metadata as the proto has it. */
const wire = (entries) => entries.map(([name, value]) => ({ name, [typeof value === "string" ? "text" : "binary"]: value }));

/** A packet with one frame. */
const packet = (...fields) => write([FRAME, fields]);

/** What this side sends, and the same in the words of the proto. */
const SENT = {
  "data": [[STREAM, 1, REMAINING, undefined, LAST, undefined, DATA, new Uint8Array([1, 2, 3])], { stream: 1, data: new Uint8Array([1, 2, 3]) }],
  "empty data": [[STREAM, 3, DATA, new Uint8Array()], { stream: 3, data: new Uint8Array() }],
  "a piece": [
    [STREAM, 300, REMAINING, 70000, DATA, new Uint8Array(16384).fill(9)],
    { stream: 300, remaining: 70000, data: new Uint8Array(16384).fill(9) },
  ],
  "the last message": [[STREAM, 2 ** 32 - 1, LAST, 1, DATA, new Uint8Array([0])], { stream: 2 ** 32 - 1, last: true, data: new Uint8Array([0]) }],
  "half-close": [[STREAM, 1, HALF_CLOSE, []], { stream: 1, halfClose: {} }],
  "open": [
    [STREAM, 1, OPEN, [0x0a, "/a.B/C", ...metadataFields(0x12, metadata), 0x18, 86_400_000, 0x20, 1]],
    { stream: 1, open: { method: "/a.B/C", metadata: wire(metadata), timeoutMs: 86_400_000, codec: 1 } },
  ],
  "open with little": [[STREAM, 1, OPEN, [0x0a, "/a.B/C", 0x18, undefined]], { stream: 1, open: { method: "/a.B/C", metadata: [] } }],
  "long metadata": [
    [STREAM, 1, OPEN, [0x0a, "/a.B/C", ...metadataFields(0x12, [["x", "y".repeat(40_000)]])]],
    { stream: 1, open: { method: "/a.B/C", metadata: [{ name: "x", text: "y".repeat(40_000) }] } },
  ],
  "refresh": [[REFRESH, metadataFields(0x0a, metadata)], { refresh: { metadata: wire(metadata) } }],
  "hello, to resume": [
    [HELLO, [0x0a, new Uint8Array([1]), 0x12, new Uint8Array([9, 9]), 0x18, 300, 0x38, 1]],
    { hello: { versions: [1], resumeToken: new Uint8Array([9, 9]), received: 300, resumable: true } },
  ],
  "ack of nothing": [[ACK, new Uint8Array([0])], { ack: 0 }],
  "cancel": [[STREAM, 1, CANCEL, []], { stream: 1, cancel: {} }],
  "credit": [[STREAM, 1, CREDIT, 2 ** 40], { stream: 1, credit: 2 ** 40 }],
  "ack": [[ACK, 300], { ack: 300 }],
  "ping": [[PING, 1], { ping: 1 }],
  "pong": [[PONG, new Uint8Array([0xac, 2])], { pong: 300 }],
  "hello": [
    [HELLO, [0x0a, new Uint8Array([1]), ...metadataFields(0x22, metadata), 0x28, 262144, 0x32, "x"]],
    { hello: { versions: [1], metadata: wire(metadata), streamCredit: 262144, agent: "x" } },
  ],
};

for (const [name, [fields, same]] of Object.entries(SENT)) {
  test(`${name}: written as another protobuf library writes it`, () => {
    const theirs = Packet.encode(Packet.fromObject({ frames: [same] })).finish();
    assert.deepEqual(Buffer.from(packet(...fields)), Buffer.from(theirs));
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
  "OK": [{ stream: 1, trailers: {} }, { stream: 1, trailers: { metadata: [] } }],
  "credit": [{ stream: 2 ** 32 - 1, credit: 2 ** 40 }],
  "ack": [{ ack: 0 }],
  "ping": [{ ping: 300 }, { ping: 300n }],
  "a ping of 64 bits": [{ ping: "18446744073709551615" }, { ping: 18446744073709551615n }],
  "pong": [{ pong: 0 }, { pong: 0n }],
  "welcome": [
    { welcome: { version: 1, sessionId: "s", resumeToken: new Uint8Array([1]), resumed: true, received: 3, limits: { maxMessage: 4, maxStreams: 5, streamCredit: 6, maxMetadata: 7 }, pingIntervalMs: 8, resumeGraceMs: 9 } },
    { welcome: { version: 1, sessionId: "s", resumeToken: "•••", resumed: true, received: 3, limits: { maxMessage: 4, maxStreams: 5, streamCredit: 6, maxMetadata: 7 }, pingIntervalMs: 8, resumeGraceMs: 9 } },
  ],
  "a hello that resumes": [
    { hello: { versions: [1], resumeToken: new Uint8Array([1]), received: 3, metadata: wire(metadata), streamCredit: 65536, agent: "x", resumable: true } },
    { hello: { resumeToken: "•••", received: 3, metadata, streamCredit: 65536, agent: "x", resumable: true } },
  ],
  "a refresh": [{ refresh: { metadata: wire(metadata) } }, { refresh: { metadata } }],
  "a bare welcome": [{ welcome: {} }],
  "go away": [{ goAway: { lastStream: 7, code: 14, message: "bye", reconnectDelayMs: 500 } }],
  "a frame of a kind that is not known": [{ stream: 1 }],
};

for (const [name, [frame, same = frame]] of Object.entries(RECEIVED)) {
  test(`${name}: read as another protobuf library wrote it`, () => {
    const packet = new Uint8Array(Packet.encode(Packet.fromObject({ frames: [frame] })).finish());
    assert.deepEqual(readPacket(packet), [same]);
  });
}

test("packets concatenate", () => {
  const both = join([packet(STREAM, 1, DATA, new Uint8Array([1])), packet(STREAM, 2, CREDIT, 5)]);
  assert.deepEqual(readPacket(both).map(({ stream }) => stream), [1, 2]);
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
    for (const [i, frame] of frames.entries()) {
      for (const kind of ["data", "headers", "trailers", "credit", "ack", "ping", "pong", "welcome", "goAway"]) {
        if (kind in frame) assert.ok(kind in read[i], `${name}: ${kind}`);
      }
      for (const kind of ["credit", "ack", "ping", "pong"]) {
        if (kind in frame && Number(frame[kind]) <= Number.MAX_SAFE_INTEGER) assert.equal(`${read[i][kind]}`, `${frame[kind]}`, name);
      }
      if (frame.data !== undefined) assert.equal(Buffer.from(read[i].data).toString("base64"), frame.data, name);
      if (frame.trailers) assert.equal(read[i].trailers.code ?? 0, frame.trailers.code ?? 0, name);
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
