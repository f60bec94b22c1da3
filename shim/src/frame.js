// The session's frames and packets, as proto/bidiway/v1/session.proto defines them, read and written by hand.

/** @typedef {import("./metadata.js").WireEntry} WireEntry */

/**
 * One unit of the protocol: its stream, and exactly one of the others (`remaining` and `last` go with `data`).
 * @typedef {object} Frame
 * @property {number} [stream]
 * @property {number} [remaining]
 * @property {boolean} [last]
 * @property {Uint8Array} [data]
 * @property {{}} [halfClose]
 * @property {{ method: string, metadata: WireEntry[], timeoutMs?: number, codec?: number }} [open]
 * @property {{ metadata: WireEntry[] }} [headers]
 * @property {{ code: number, message: string, details: Uint8Array, metadata: WireEntry[] }} [trailers]
 * @property {{}} [cancel]
 * @property {number} [credit]
 * @property {number} [ack]
 * @property {Uint8Array} [ping] the number as it stands on the wire: 64 bits do not fit a JavaScript number
 * @property {Uint8Array} [pong]
 * @property {{ versions: number[], resumeToken?: Uint8Array, received?: number, metadata: WireEntry[], streamCredit?: number, agent?: string }} [hello]
 * @property {Welcome} [welcome]
 * @property {{ lastStream: number, code: number, message: string, reconnectDelayMs: number }} [goAway]
 * @property {{ metadata: WireEntry[] }} [refresh]
 */

/**
 * @typedef {object} Welcome
 * @property {number} version
 * @property {string} sessionId
 * @property {Uint8Array} resumeToken
 * @property {boolean} resumed
 * @property {number} received
 * @property {{ maxMessage: number, maxStreams: number, streamCredit: number, maxMetadata: number }} [limits]
 * @property {number} pingIntervalMs
 * @property {number} resumeGraceMs
 */

// Types of fields. RAW is a varint kept as its bytes.
const UINT = 0, FLAG = 1, TEXT = 2, BYTES = 3, RAW = 4;
// Presence, where it is not proto3's default. A message has at most one oneof; a CHOICE of it is written even when empty.
const CHOICE = 1, REPEATED = 2;

/** @typedef {[name: string, type: number | Schema, presence?: number]} Field */
/** @typedef {Field[]} Schema a message: its fields in the order of their numbers, from 1 */

/** @type {Field} */
const METADATA = ["metadata", [["name", TEXT], ["text", TEXT, CHOICE], ["binary", BYTES, CHOICE]], REPEATED];

/** @type {Schema} */
const LIMITS = [["maxMessage", UINT], ["maxStreams", UINT], ["streamCredit", UINT], ["maxMetadata", UINT]];

/** @type {Schema} */
const FRAME = [
  ["stream", UINT],
  ["remaining", UINT],
  ["last", FLAG],
  ["data", BYTES, CHOICE],
  ["halfClose", [], CHOICE],
  ["open", [["method", TEXT], METADATA, ["timeoutMs", UINT], ["codec", UINT]], CHOICE],
  ["headers", [METADATA], CHOICE],
  ["trailers", [["code", UINT], ["message", TEXT], ["details", BYTES], METADATA], CHOICE],
  ["cancel", [], CHOICE],
  ["credit", UINT, CHOICE],
  ["ack", UINT, CHOICE],
  ["ping", RAW, CHOICE],
  ["pong", RAW, CHOICE],
  ["hello", [["versions", UINT, REPEATED], ["resumeToken", BYTES], ["received", UINT], METADATA, ["streamCredit", UINT], ["agent", TEXT]], CHOICE],
  ["welcome", [["version", UINT], ["sessionId", TEXT], ["resumeToken", BYTES], ["resumed", FLAG], ["received", UINT], ["limits", LIMITS, CHOICE], ["pingIntervalMs", UINT], ["resumeGraceMs", UINT]], CHOICE],
  ["goAway", [["lastStream", UINT], ["code", UINT], ["message", TEXT], ["reconnectDelayMs", UINT]], CHOICE],
  ["refresh", [METADATA], CHOICE],
];

/** @type {Schema} */
const PACKET = [["frames", FRAME, REPEATED]];

const DEFAULTS = [0, false, "", new Uint8Array()];
const WIRE_VARINT = 0, WIRE_LENGTH = 2;

/** @param {number | Schema} type */
const wireType = (type) => (type === UINT || type === FLAG || type === RAW ? WIRE_VARINT : WIRE_LENGTH);

const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A packet being written: one carrier message. */
export class PacketWriter {
  #bytes = new Uint8Array(1024);
  /** Bytes written so far. */
  length = 0;

  /** @param {Frame} frame */
  add(frame) {
    this.#fields(PACKET, { frames: [frame] });
  }

  /** The packet; the writer is empty after it. */
  take() {
    const packet = this.#bytes.slice(0, this.length);
    this.length = 0;
    return packet;
  }

  /**
   * @param {Schema} schema
   * @param {any} message
   */
  #fields(schema, message) {
    for (let i = 0; i < schema.length; i++) {
      const [name, type, presence] = schema[i];
      const value = message[name];
      if (presence === REPEATED && type === UINT) {
        // Numbers are packed, as proto3 does it.
        const start = this.#begin(i);
        for (const item of value) this.#varint(item);
        this.#end(start);
      } else if (presence === REPEATED) {
        for (const item of value) this.#field(i, type, item);
      } else if (presence ? value !== undefined : value && value.length !== 0) {
        this.#field(i, type, value);
      }
    }
  }

  /**
   * @param {number} index
   * @param {number | Schema} type
   * @param {any} value
   */
  #field(index, type, value) {
    if (wireType(type) === WIRE_VARINT) {
      this.#varint((index + 1) * 8);
      if (type === RAW) this.#raw(value);
      else this.#varint(+value);
      return;
    }
    const start = this.#begin(index);
    if (type === TEXT) this.#raw(textEncoder.encode(value));
    else if (type === BYTES) this.#raw(value);
    else this.#fields(/** @type {Schema} */ (type), value);
    this.#end(start);
  }

  /**
   * Opens a field with a length, which is not known yet: one byte is kept for it.
   * @param {number} index
   */
  #begin(index) {
    this.#varint((index + 1) * 8 + WIRE_LENGTH);
    this.#varint(0);
    return this.length;
  }

  /**
   * Writes the length of the field that began at `start`, moving its content when one byte is too few.
   * @param {number} start
   */
  #end(start) {
    const end = this.length;
    const length = end - start;
    const extra = length < 0x80 ? 0 : length < 0x4000 ? 1 : length < 0x20_0000 ? 2 : 3;
    this.#reserve(extra);
    this.#bytes.copyWithin(start + extra, start, end);
    this.length = start - 1;
    this.#varint(length);
    this.length = end + extra;
  }

  /** @param {number} value */
  #varint(value) {
    this.#reserve(10);
    while (value > 0x7f) {
      this.#bytes[this.length++] = (value % 0x80) | 0x80;
      value = Math.floor(value / 0x80);
    }
    this.#bytes[this.length++] = value;
  }

  /** @param {Uint8Array} bytes */
  #raw(bytes) {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** @param {number} count */
  #reserve(count) {
    if (this.length + count > this.#bytes.length) {
      const bytes = new Uint8Array((this.length + count) * 2);
      bytes.set(this.#bytes);
      this.#bytes = bytes;
    }
  }
}

/**
 * The frames of a packet, with proto3's defaults filled in. `data` and the other byte fields share the packet's memory.
 * @param {Uint8Array} bytes
 * @returns {Frame[]}
 * @throws {Error} when the bytes are no packet
 */
export function readPacket(bytes) {
  let at = 0;

  /** @param {boolean} holds */
  const check = (holds) => {
    if (!holds) throw new RangeError(`the packet is malformed at byte ${at}`);
  };

  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 0x80) {
      check(at < bytes.length && scale < 2 ** 70);
      const byte = bytes[at++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  };

  /** @param {number} length */
  const take = (length) => {
    check(length <= bytes.length - at);
    return bytes.subarray(at, (at += length));
  };

  /**
   * @param {number | Schema} type
   * @returns {any}
   */
  const value = (type) => {
    const start = at;
    if (wireType(type) === WIRE_VARINT) {
      const number = varint();
      return type === RAW ? bytes.subarray(start, at) : type === FLAG ? number > 0 : number;
    }
    const length = varint();
    if (typeof type === "object") return message(type, at + length);
    const content = take(length);
    return type === TEXT ? textDecoder.decode(content) : content;
  };

  /**
   * @param {Schema} schema
   * @param {number} end
   */
  const message = (schema, end) => {
    check(end <= bytes.length);
    /** @type {any} */
    const result = {};
    let chosen = "";
    for (const [name, type, presence] of schema) {
      if (presence !== CHOICE) result[name] = presence ? [] : DEFAULTS[/** @type {number} */ (type)];
    }
    while (at < end) {
      const key = varint();
      const wire = key % 8;
      const [name = "", type, presence] = schema[Math.floor(key / 8) - 1] ?? [];
      if (type !== undefined && wire === wireType(type)) {
        if (presence === CHOICE) {
          delete result[chosen];
          chosen = name;
        }
        if (presence === REPEATED) result[name].push(value(type));
        else result[name] = value(type);
      } else if (presence === REPEATED && type === UINT && wire === WIRE_LENGTH) {
        for (const stop = varint() + at; at < stop; ) result[name].push(varint());
      } else {
        // A field of a later version.
        check(key > 7 && wire !== 3 && wire !== 4 && wire < 6);
        if (wire === WIRE_VARINT) varint();
        else take(wire === 1 ? 8 : wire === 5 ? 4 : varint());
      }
    }
    check(at === end);
    return result;
  };

  return message(PACKET, bytes.length).frames;
}
