// How gRPC is spelled over HTTP, for the adapters whose libraries read and write that spelling themselves.

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./metadata.js").MetadataValue} MetadataValue */
/** @typedef {import("./status.js").Status} Status */

/** What a library says to an HTTP server, and no service wants to hear. */
const HTTP_ONLY = ["accept", "content-type", "x-grpc-web", "x-user-agent"];
/** Milliseconds of the units of `grpc-timeout`. */
const UNITS = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

/**
 * Opens a call as the headers of an HTTP request would. Of `grpc-timeout` it makes the call's timeout.
 * @param {Channel} channel
 * @param {string} method `"/package.Service/Method"`
 * @param {Iterable<readonly [string, any]>} headers a value may be an array
 * @param {AbortSignal} [signal]
 * @param {number} [timeoutMs]
 * @returns {Call}
 */
export function openCall(channel, method, headers, signal, timeoutMs) {
  /** @type {Record<string, MetadataValue | readonly MetadataValue[]>} */
  const metadata = {};
  for (const [key, value] of headers) {
    const name = key.toLowerCase();
    const [, digits, unit] = (name === "grpc-timeout" && /^(\d+)([HMSmun])$/.exec(value)) || [];
    if (unit) timeoutMs = Number(digits) * UNITS[/** @type {keyof typeof UNITS} */ (unit)];
    else if (!HTTP_ONLY.includes(name)) metadata[name] = value;
  }
  return channel.open({ method, metadata, signal, timeoutMs });
}

/**
 * A message or a block of trailers with gRPC's length prefix.
 * @param {Uint8Array} bytes
 * @param {number} [flags] 0x80 for trailers
 */
export function frame(bytes, flags = 0) {
  const framed = new Uint8Array(5 + bytes.length);
  framed[0] = flags;
  new DataView(framed.buffer).setUint32(1, bytes.length);
  framed.set(bytes, 5);
  return framed;
}

/**
 * The message in a frame.
 * @param {Uint8Array} framed
 * @throws {RangeError} when this is not one whole, uncompressed message
 */
export function unframe(framed) {
  const { buffer, byteOffset, length } = framed;
  if (framed[0] || length < 5 || new DataView(buffer, byteOffset).getUint32(1) !== length - 5) {
    throw new RangeError("not one whole, uncompressed gRPC message");
  }
  return framed.subarray(5);
}

/**
 * Trailing metadata as it is over HTTP, where the details are among it.
 * @param {Status} status
 * @returns {Metadata}
 */
export const trailingMetadata = ({ details, metadata }) =>
  details.length ? [...metadata, ["grpc-status-details-bin", details]] : metadata;

/**
 * The trailers of an HTTP response that ends like this.
 * @param {Status} status
 * @returns {Metadata}
 */
export const toTrailers = (status) => [
  ["grpc-status", `${status.code}`],
  // Half a surrogate pair has no UTF-8: an error that quotes one must not fail here.
  ["grpc-message", encodeURIComponent(status.message.replace(/\p{Surrogate}/gu, "\ufffd"))],
  ...trailingMetadata(status),
];

/**
 * A metadata value as text: bytes in base64.
 * @param {MetadataValue} value
 */
export const toText = (value) =>
  typeof value === "string" ? value : btoa(Array.from(value, (byte) => String.fromCharCode(byte)).join(""));
