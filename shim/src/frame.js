// The session's frames as bytes: protobuf, as proto/bidiway/v1/session.proto defines them. Fields are known by their
// tags as they stand on the wire: field number * 8 + type (0: varint, 2: with a length).

/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {(number | string | Uint8Array | Fields | undefined)[]} Fields tag, value, tag, value, … */

const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder();

/** @param {Uint8Array} [varint] 0 when it is absent */
export const number = (varint) => varint?.reduceRight((sum, byte) => sum * 128 + (byte & 127), 0) ?? 0;

/** @param {Uint8Array} [bytes] */
export const text = (bytes) => textDecoder.decode(bytes);

/**
 * The fields of a message by their tags, varints as they stand there. Of a field that occurs twice the last counts,
 * but for the `repeated` one: all of it is in `list`.
 * @param {Uint8Array} [bytes]
 * @param {number} [repeated]
 * @returns {{ [tag: number]: Uint8Array | undefined, list: Uint8Array[] }}
 * @throws {Error} when the bytes are no message
 */
export function read(bytes = new Uint8Array(), repeated) {
  /** @type {ReturnType<typeof read>} */
  const fields = { list: [] };
  let at = 0;
  const take = (/** @type {number} */ length) => bytes.subarray(at, (at += length));
  const varint = () => {
    let length = 0;
    while (bytes[at + length++] & 128);
    // Ten bytes are 64 bits.
    return take(length > 10 ? Infinity : length);
  };
  while (at < bytes.length) {
    const tag = number(varint());
    // Field 0 does not exist, and types 3 and 4 are not used.
    const type = tag > 7 ? tag % 8 : 3;
    /** @type {{ [type: number]: number }} */
    const sizes = { 1: 8, 5: 4 };
    const value = type ? take(type === 2 ? number(varint()) : sizes[type] ?? Infinity) : varint();
    if (tag === repeated) fields.list.push(value);
    else fields[tag] = value;
  }
  if (at > bytes.length) throw new RangeError("malformed");
  return fields;
}

/**
 * @param {Uint8Array | undefined} bytes a message with metadata
 * @param {number} tag of that
 * @returns {Metadata}
 */
export const readMetadata = (bytes, tag) =>
  read(bytes, tag).list.map((entry) => {
    const { 0x0a: name, 0x12: value, 0x1a: binary } = read(entry);
    return [text(name), binary ?? text(value)];
  });

/**
 * @param {number} tag
 * @param {Metadata} metadata
 * @returns {Fields}
 */
export const metadataFields = (tag, metadata) =>
  metadata.flatMap(([name, value]) => [tag, [0x0a, name, typeof value === "string" ? 0x12 : 0x1a, value]]);

/**
 * @param {number} value
 * @returns {number[]}
 */
const varint = (value) => (value > 127 ? [(value % 128) | 128, ...varint(Math.floor(value / 128))] : [value]);

/**
 * @param {Fields} fields those that are `undefined` or 0 are left out
 * @returns {Uint8Array<ArrayBuffer>}
 */
export const write = (fields) =>
  join(
    fields.flatMap((value, i) => {
      const tag = /** @type {number} */ (fields[i - 1]);
      if (!(i % 2) || (!value && value !== "")) return [];
      const bytes =
        typeof value === "number" ? varint(value)
        : typeof value === "string" ? textEncoder.encode(value)
        : Array.isArray(value) ? write(value)
        : value;
      // Without a length it is a varint; bytes are one as it stands on the wire.
      return [varint(tag), tag % 8 ? varint(bytes.length) : [], bytes];
    }),
  );

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
