import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { PacketWriter, readPacket } from "../src/frame.js";
import { Packet } from "./fake.js";

const metadata = [
  { name: "a", text: "1" },
  { name: "a", text: "" },
  { name: "b-bin", binary: new Uint8Array([0, 255]) },
  { name: "c-bin", binary: new Uint8Array() },
];

const FRAMES = {
  "data": { stream: 1, data: new Uint8Array([1, 2, 3]) },
  "empty data": { stream: 3, data: new Uint8Array() },
  "a piece": { stream: 300, remaining: 70000, data: new Uint8Array(16384).fill(9) },
  "the last message": { stream: 2 ** 32 - 1, last: true, data: new Uint8Array([0]) },
  "half-close": { stream: 1, halfClose: {} },
  "open": { stream: 1, open: { method: "/a.B/C", metadata, timeoutMs: 86_400_000, codec: 1 } },
  "open with little": { stream: 1, open: { method: "/a.B/C", metadata: [] } },
  "headers": { stream: 1, headers: { metadata } },
  "long metadata": { stream: 1, headers: { metadata: [{ name: "x", text: "é€😀".repeat(8000) }] } },
  "trailers": { stream: 1, trailers: { code: 5, message: "nö 😀", details: new Uint8Array([8, 5]), metadata } },
  "cancel": { stream: 1, cancel: {} },
  "credit": { stream: 1, credit: 2 ** 40 },
  "ack": { ack: 0 },
  "ping": { ping: new Uint8Array([0]) },
  "hello": { hello: { versions: [1], metadata, streamCredit: 262144, agent: "x" } },
  "hello that resumes": { hello: { versions: [2, 1], resumeToken: new Uint8Array([1]), received: 2 ** 53 - 1, metadata: [] } },
  "go away": { goAway: { lastStream: 7, code: 14, message: "bye", reconnectDelayMs: 500 } },
  "refresh": { refresh: { metadata } },
};

for (const [name, frame] of Object.entries(FRAMES)) {
  test(`${name}: written as another protobuf library writes it, and read back`, () => {
    const writer = new PacketWriter();
    writer.add(frame);
    const ours = writer.take();
    const varint = (raw) => raw && Number(raw[0]);
    const theirs = Packet.encode(
      Packet.fromObject({ frames: [{ ...frame, ...(frame.ping && { ping: varint(frame.ping) }) }] }),
    ).finish();
    assert.deepEqual(Buffer.from(ours), Buffer.from(theirs));

    const [read, ...more] = readPacket(ours);
    assert.equal(more.length, 0);
    const again = new PacketWriter();
    again.add(read);
    assert.deepEqual(again.take(), ours);
  });
}

test("packets concatenate", () => {
  const writer = new PacketWriter();
  writer.add({ stream: 1, data: new Uint8Array([1]) });
  writer.add({ stream: 2, cancel: {} });
  const frames = readPacket(writer.take());
  assert.deepEqual(frames.map(({ stream }) => stream), [1, 2]);
  assert.equal(writer.length, 0);
});

test("a number of 64 bits is echoed exactly", () => {
  const ping = Packet.encode(Packet.fromObject({ frames: [{ ping: "18446744073709551615" }] })).finish();
  const writer = new PacketWriter();
  writer.add({ pong: readPacket(new Uint8Array(ping))[0].ping });
  const { frames } = Packet.toObject(Packet.decode(writer.take()), { longs: String });
  assert.equal(frames[0].pong, "18446744073709551615");
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
  const writer = new PacketWriter();
  for (const frame of Object.values(FRAMES)) if (!frame.data || frame.data.length < 100) writer.add(frame);
  const packet = writer.take().slice(0, 2000);
  for (let length = 0; length < packet.length; length++) {
    try {
      readPacket(packet.subarray(0, length));
    } catch (error) {
      assert.ok(error instanceof RangeError || error instanceof TypeError, `${error}`);
    }
  }
});

test("broken bytes are a RangeError", () => {
  const broken = {
    "a length past the end": [0x0a, 0x05, 0x08],
    "an endless varint": [0x0a, 0x0c, 0x08, ...Array(11).fill(0xff)],
    "a field past its message": [0x0a, 0x03, 0x22, 0x05, 0x01, 1, 1, 1, 1],
    "a group": [0x0a, 0x02, 0x0b, 0x0c],
  };
  for (const [name, packet] of Object.entries(broken)) {
    assert.throws(() => readPacket(new Uint8Array(packet)), RangeError, name);
  }
});

const VECTORS = new URL("../../tests/vectors/packets.json", import.meta.url);

test("the golden vectors", { skip: !existsSync(VECTORS) && "tests/vectors/packets.json is not there" }, () => {
  const { packets, refused } = JSON.parse(readFileSync(VECTORS, "utf8"));
  let cases = 0;
  for (const { name, hex, frames, read_only: readOnly } of packets) {
    const bytes = new Uint8Array(Buffer.from(hex, "hex"));
    const read = readPacket(bytes);
    assert.equal(read.length, frames.length, name);
    // Only Ping and Pong need all 64 bits.
    if (/ack: more than 2\^53/.test(name)) continue;
    if (readOnly) {
      // Another writer's packet means the same as ours.
      const theirs = Packet.toObject(Packet.decode(new Uint8Array(bytes)), { longs: String, defaults: true });
      assert.deepEqual(Packet.toObject(Packet.decode(write(read)), { longs: String, defaults: true }), theirs, name);
    } else {
      assert.equal(Buffer.from(write(read)).toString("hex"), hex, name);
    }
    cases++;
  }
  // The other refusals are not about bytes: the session makes them.
  for (const { name, hex } of refused.filter(({ error }) => error === "malformed")) {
    assert.throws(() => readPacket(new Uint8Array(Buffer.from(hex, "hex"))), Error, name);
    cases++;
  }
  assert.ok(cases >= 50, `${cases} vectors`);
});

function write(frames) {
  const writer = new PacketWriter();
  for (const frame of frames) writer.add(frame);
  return writer.take();
}
