// The session's frames, as proto/bidiway/v1/session.proto defines them, read and written by hand. Numbers in
// hexadecimal are protobuf tags as they stand on the wire: field number * 8 + type (0: varint, 2: with a length).

/** @typedef {import("./metadata.js").Metadata} Metadata */

/**
 * A frame that this side sends: its stream (0 or none is the session), and one of the others.
 * @typedef {object} OutFrame
 * @property {number} [stream]
 * @property {Uint8Array} [data] with `remaining` and `last`
 * @property {number} [remaining]
 * @property {boolean} [last]
 * @property {true} [halfClose]
 * @property {{ method: string, metadata: Metadata, timeoutMs?: number, codec?: "json" }} [open]
 * @property {true} [cancel]
 * @property {number} [credit]
 * @property {number} [ack]
 * @property {Uint8Array} [ping] the varint itself: 64 bits do not fit a JavaScript number
 * @property {Uint8Array} [pong] likewise
 * @property {{ metadata: Metadata, streamCredit: number, agent: string }} [hello]
 */

/**
 * A frame that the proxy sends. No field but `stream` and `remaining` is set, when the kind is not known here.
 * @typedef {object} InFrame
 * @property {number} stream
 * @property {number} remaining
 * @property {Uint8Array} [data] shares the packet's memory
 * @property {{ metadata: Metadata }} [headers]
 * @property {{ code: number, message: string, details: Uint8Array, metadata: Metadata }} [trailers]
 * @property {number} [credit]
 * @property {number} [ack]
 * @property {Uint8Array} [ping]
 * @property {Uint8Array} [pong]
 * @property {Welcome} [welcome]
 * @property {{ lastStream: number, code: number, message: string, reconnectDelayMs: number }} [goAway]
 */

/**
 * @typedef {object} Welcome
 * @property {number} version
 * @property {Uint8Array} resumeToken
 * @property {number} maxStreams
 * @property {number} streamCredit
 * @property {number} pingIntervalMs
 */

/** @typedef {(number | string | Uint8Array | Fields | undefined)[]} Fields tag, value, tag, value, … */

/**
 * A packet with one frame. Packets concatenate.
 * @param {OutFrame} frame
 */
export const writeFrame = ({ stream, data, remaining, last, halfClose, open, cancel, credit, ack, ping, pong, hello }) =>
  write([
    0x0a,
    [
      0x08, stream || undefined,
      0x10, remaining || undefined,
      0x18, last ? 1 : undefined,
      0x22, data,
      0x2a, halfClose && [],
      0x32, open && [0x0a, open.method, ...entries(0x12, open.metadata), 0x18, open.timeoutMs, 0x20, open.codec && 1],
      0x4a, cancel && [],
      0x50, credit,
      0x58, ack,
      0x60, ping,
      0x68, pong,
      0x72, hello && [0x0a, new Uint8Array([1]), ...entries(0x22, hello.metadata), 0x28, hello.streamCredit, 0x32, hello.agent],
    ],
  ]);

/**
 * @param {number} tag
 * @param {Metadata} metadata
 */
const entries = (tag, metadata) =>
  metadata.flatMap(([name, value]) => [tag, [0x0a, name, typeof value === "string" ? 0x12 : 0x1a, value]]);

/**
 * The frames of a packet.
 * @param {Uint8Array} packet
 * @returns {InFrame[]}
 * @throws {Error} when the bytes are no packet
 */
export const readPacket = (packet) => read(packet, 0x0a).list.map(readFrame);

/**
 * @param {Uint8Array} bytes
 * @returns {InFrame}
 */
function readFrame(bytes) {
  const {
    0x08: stream, 0x10: remaining, 0x22: data, 0x3a: headers, 0x42: trailers, 0x50: credit, 0x58: ack, 0x60: ping,
    0x68: pong, 0x7a: welcome, 0x82: goAway,
  } = read(bytes);
  return {
    stream: number(stream),
    remaining: number(remaining),
    data,
    headers: headers && { metadata: metadata(read(headers, 0x0a).list) },
    trailers: trailers && readTrailers(trailers),
    credit: credit && number(credit),
    ack: ack && number(ack),
    ping,
    pong,
    welcome: welcome && readWelcome(welcome),
    goAway: goAway && readGoAway(goAway),
  };
}

/** @param {Uint8Array} bytes */
function readTrailers(bytes) {
  const { 0x08: code, 0x12: message, 0x1a: details = EMPTY, list } = read(bytes, 0x22);
  return { code: number(code), message: text(message), details, metadata: metadata(list) };
}

/** @param {Uint8Array} bytes */
function readWelcome(bytes) {
  const { 0x08: version, 0x1a: resumeToken = EMPTY, 0x32: limits = EMPTY, 0x38: interval } = read(bytes);
  const { 0x10: maxStreams, 0x18: streamCredit } = read(limits);
  return {
    version: number(version),
    resumeToken,
    maxStreams: number(maxStreams),
    streamCredit: number(streamCredit),
    pingIntervalMs: number(interval),
  };
}

/** @param {Uint8Array} bytes */
function readGoAway(bytes) {
  const { 0x08: last, 0x10: code, 0x1a: message, 0x20: delay } = read(bytes);
  return { lastStream: number(last), code: number(code), message: text(message), reconnectDelayMs: number(delay) };
}

/**
 * @param {Uint8Array[]} list
 * @returns {Metadata}
 */
const metadata = (list) =>
  list.map((entry) => {
    const { 0x0a: name, 0x12: value, 0x1a: binary } = read(entry);
    return [text(name), binary ?? text(value)];
  });

// Protobuf itself.

const EMPTY = new Uint8Array();
const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @param {Uint8Array} [varint] */
const number = (varint = EMPTY) => varint.reduceRight((sum, byte) => sum * 128 + (byte & 127), 0);

/** @param {Uint8Array} [bytes] */
const text = (bytes) => textDecoder.decode(bytes);

/**
 * The fields of a message by their tags, varints as they stand there. Of a field that occurs twice the last counts,
 * but for the `repeated` one: all of it is in `list`.
 * @param {Uint8Array} bytes
 * @param {number} [repeated]
 * @returns {{ [tag: number]: Uint8Array | undefined, list: Uint8Array[] }}
 */
function read(bytes, repeated) {
  /** @type {ReturnType<typeof read>} */
  const fields = { list: [] };
  let at = 0;
  const varint = () => {
    const start = at;
    while (bytes[at++] & 128);
    // Ten bytes are 64 bits.
    return check(bytes.subarray(start, at), at - start < 11);
  };
  /**
   * @param {Uint8Array} value
   * @param {boolean} valid
   */
  const check = (value, valid = true) => {
    if (at > bytes.length || !valid) throw new RangeError("a malformed packet");
    return value;
  };
  while (at < bytes.length) {
    const tag = number(varint());
    const type = tag % 8;
    check(bytes, tag > 7 && type < 6 && type !== 3 && type !== 4);
    const length = type === 1 ? 8 : type === 5 ? 4 : type && number(varint());
    const value = type ? check(bytes.subarray(at, (at += length))) : varint();
    if (tag === repeated) fields.list.push(value);
    else fields[tag] = value;
  }
  return fields;
}

/**
 * @param {Fields} fields
 * @returns {Uint8Array}
 */
function write(fields) {
  const parts = [];
  for (let i = 0; i < fields.length; i += 2) {
    const tag = /** @type {number} */ (fields[i]);
    const value = fields[i + 1];
    if (value === undefined) continue;
    parts.push(varint(tag));
    if (typeof value === "number") {
      parts.push(varint(value));
    } else {
      const bytes = typeof value === "string" ? textEncoder.encode(value) : Array.isArray(value) ? write(value) : value;
      if (tag % 8) parts.push(varint(bytes.length));
      parts.push(bytes);
    }
  }
  return join(parts);
}

/** @param {number} value */
function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  bytes.push(value);
  return bytes;
}

/** @param {ArrayLike<number>[]} parts */
export function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
