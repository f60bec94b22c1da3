// Bidiway: all four kinds of gRPC calls over one WebSocket.

export { createChannel } from "./channel.js";
export { BidiwayError, Code, codeName } from "./status.js";

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./channel.js").CallOptions} CallOptions */
/** @typedef {import("./channel.js").ChannelOptions} ChannelOptions */
/** @typedef {import("./channel.js").ChannelState} ChannelState */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./metadata.js").MetadataInit} MetadataInit */
/** @typedef {import("./status.js").Status} Status */
