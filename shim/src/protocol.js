// The numbers of the session protocol: docs/protocol.md, and proto/bidiway/v1/session.proto. They have a file of their
// own because bundlers put the numbers of other modules in place.

/** The version that this client speaks. */
export const VERSION = 1;

// The fields of a Frame, as tags: field number * 8 + type (0: varint, 2: with a length).
export const STREAM = 0x08;
export const REMAINING = 0x10;
export const LAST = 0x18;
export const DATA = 0x22;
export const HALF_CLOSE = 0x2a;
export const OPEN = 0x32;
export const HEADERS = 0x3a;
export const TRAILERS = 0x42;
export const CANCEL = 0x4a;
export const CREDIT = 0x50;
export const ACK = 0x58;
export const PING = 0x60;
export const PONG = 0x68;
export const HELLO = 0x72;
export const WELCOME = 0x7a;
export const GO_AWAY = 0x82;
export const REFRESH = 0x8a;
/** The frames of a Packet. */
export const FRAME = 0x0a;

/** What a data frame costs besides its length. */
export const FRAME_OVERHEAD = 32;
/** The credit on each stream until Welcome tells the real one. */
export const INITIAL_CREDIT = 64 * 1024;
/** The largest piece of a message. */
export const MAX_PIECE = 16 * 1024;
/** Unless it ends a message, a piece is not smaller than this: it waits for more credit. */
export const MIN_PIECE = 1024;
/** A packet is sent when it has this many bytes, or when nothing more is ready. */
export const PACKET_TARGET = 64 * 1024;
/** While the carrier holds more than this, data waits in its call, where streams still take turns. */
export const MAX_BUFFERED = 1024 * 1024;
/** How often to look whether a full carrier has room again: there is no event for it. */
export const DRAIN_POLL_MS = 10;
/** Streams that are opened before Welcome tells how many the proxy allows. */
export const INITIAL_STREAMS = 32;
/** How long the answer to a Ping may take after a long silence. */
export const PROBE_MS = 5000;
/** When to acknowledge received frames, in a session that can be resumed. */
export const ACK_FRAMES = 64;
export const ACK_BYTES = 64 * 1024;
/** A session that lived this long was healthy: reconnecting starts from the shortest delay. */
export const HEALTHY_MS = 10_000;

// The status codes that the core itself makes or knows; all of them are in status.js.
export const CANCELLED = 1;
export const UNKNOWN = 2;
export const INVALID_ARGUMENT = 3;
export const DEADLINE_EXCEEDED = 4;
export const PERMISSION_DENIED = 7;
export const RESOURCE_EXHAUSTED = 8;
export const FAILED_PRECONDITION = 9;
export const UNIMPLEMENTED = 12;
export const INTERNAL = 13;
export const UNAVAILABLE = 14;
export const UNAUTHENTICATED = 16;
/** The smallest close code that stands for a status: 4000 + the status code. */
export const CLOSE_CODES = 4000;
/** The close code that loses a connection and not its session. */
export const LOST = 4014;
