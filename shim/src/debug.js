// `bidiway/debug`: the calls and every frame of a channel, for people. Apart from the core, so that only those who look pay for it.

import { read, readMetadata, number, text } from "./frame.js";
import {
  ACK, CANCEL, CREDIT, DATA, FRAME, GO_AWAY, HALF_CLOSE, HEADERS, HELLO, LAST, OPEN, PING, PONG, REFRESH, REMAINING,
  STREAM, TRAILERS, WELCOME,
} from "./protocol.js";

export { logCalls } from "./log.js";

/** @typedef {Record<string, unknown>} Frame a frame in the words of the proto; only those of its fields that are there */
/** @typedef {(bytes: Uint8Array) => unknown} Decode */
/** @typedef {{ [tag: number]: [name: string, decode: Decode] }} Table */

/** @param {Table} table */
const message = (table) => (/** @type {Uint8Array} */ bytes) => {
  const fields = read(bytes);
  /** @type {Frame} */
  const result = {};
  for (const [tag, [name, decode]] of Object.entries(table)) {
    const value = fields[Number(tag)];
    if (value) result[name] = decode(value);
  }
  return result;
};

/**
 * @param {number} tag of the metadata
 * @param {Table} [table] of the other fields
 */
const withMetadata = (tag, table = {}) => (/** @type {Uint8Array} */ bytes) => ({
  ...message(table)(bytes),
  metadata: readMetadata(bytes, tag),
});

/** @type {Decode} */
const raw = (bytes) => bytes;
const secret = () => "(secret)";
/** 64 bits do not fit a JavaScript number. */
const wide = (/** @type {Uint8Array} */ varint) => varint.reduceRight((sum, byte) => sum * 128n + BigInt(byte & 127), 0n);

const decodeFrame = message({
  [STREAM]: ["stream", number],
  [REMAINING]: ["remaining", number],
  [LAST]: ["last", (varint) => !!number(varint)],
  [DATA]: ["data", raw],
  [HALF_CLOSE]: ["halfClose", message({})],
  [OPEN]: ["open", withMetadata(0x12, { 0x0a: ["method", text], 0x18: ["timeoutMs", number], 0x20: ["codec", number] })],
  [HEADERS]: ["headers", withMetadata(0x0a)],
  [TRAILERS]: ["trailers", withMetadata(0x22, { 0x08: ["code", number], 0x12: ["message", text], 0x1a: ["details", raw] })],
  [CANCEL]: ["cancel", message({})],
  [CREDIT]: ["credit", number],
  [ACK]: ["ack", number],
  [PING]: ["ping", wide],
  [PONG]: ["pong", wide],
  // Tokens are secrets, and belong into no log.
  [HELLO]: [
    "hello",
    withMetadata(0x22, {
      0x12: ["resumeToken", secret], 0x18: ["received", number], 0x28: ["streamCredit", number], 0x32: ["agent", text],
      0x38: ["resumable", (varint) => !!number(varint)],
    }),
  ],
  [WELCOME]: [
    "welcome",
    message({
      0x08: ["version", number],
      0x12: ["sessionId", text],
      0x1a: ["resumeToken", secret],
      0x20: ["resumed", (varint) => !!number(varint)],
      0x28: ["received", number],
      0x32: ["limits", message({ 0x08: ["maxMessage", number], 0x10: ["maxStreams", number], 0x18: ["streamCredit", number], 0x20: ["maxMetadata", number] })],
      0x38: ["pingIntervalMs", number],
      0x40: ["resumeGraceMs", number],
      0x48: ["resumeFailure", number],
    }),
  ],
  [REFRESH]: ["refresh", withMetadata(0x0a)],
  [GO_AWAY]: ["goAway", message({ 0x08: ["lastStream", number], 0x10: ["code", number], 0x1a: ["message", text], 0x20: ["reconnectDelayMs", number] })],
});

/**
 * The frames of a packet in the words of proto/bidiway/v1/session.proto.
 * @param {Uint8Array} packet
 * @returns {Frame[]}
 * @throws {Error} when the bytes are no packet
 */
export const readPacket = (packet) => read(packet, FRAME).list.map(decodeFrame);

/**
 * A WebSocket class that shows what passes: `createChannel({ WebSocket: watchFrames(console.log) })`.
 * @param {(event: { direction: "in" | "out", frame: Frame }) => void} listener sees every frame
 * @param {typeof WebSocket} [Socket] where the platform has none
 * @returns {typeof WebSocket}
 */
export function watchFrames(listener, Socket = globalThis.WebSocket) {
  /**
   * @param {"in" | "out"} direction
   * @param {unknown} data
   */
  const show = (direction, data) => {
    if (data instanceof ArrayBuffer) data = new Uint8Array(data);
    if (data instanceof Uint8Array) for (const frame of readPacket(data)) listener({ direction, frame });
  };
  return class extends Socket {
    /**
     * @param {string | URL} url
     * @param {string | string[]} [protocols]
     */
    constructor(url, protocols) {
      super(url, protocols);
      this.addEventListener("message", ({ data }) => show("in", data));
    }

    /** @param {Parameters<WebSocket["send"]>[0]} data */
    send(data) {
      show("out", data);
      super.send(data);
    }
  };
}
