// JSON messages for the Connect transport. Apart from it, so that those who do not use it need not load it.

import { fromJsonString, toJsonString } from "@bufbuild/protobuf";

/**
 * Messages as proto3 JSON, which people can read in a browser's developer tools. The proxy translates them, and needs
 * the service's schema for it; without, calls end with UNIMPLEMENTED.
 * @example createTransport(channel, { codec: createJsonCodec() })
 * @param {Partial<import("@bufbuild/protobuf").JsonReadOptions & import("@bufbuild/protobuf").JsonWriteOptions>} [jsonOptions]
 *   fields that are not known are ignored by default
 * @returns {import("./connect.js").ConnectCodec}
 */
export const createJsonCodec = (jsonOptions) => ({
  name: "json",
  write: (schema, message) => new TextEncoder().encode(toJsonString(schema, message, jsonOptions)),
  read: (schema, bytes) => fromJsonString(schema, new TextDecoder().decode(bytes), { ignoreUnknownFields: true, ...jsonOptions }),
});
