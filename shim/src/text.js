// Text sessions (`bidiway.v1+json`): the same frames as JSON, one in each WebSocket message, which people can read in a
// browser's developer tools. Below the core, which knows nothing of it: packets become text on their way.

import { join, metadataFields, number, read, readMetadata, text, write } from "./frame.js";
import { toText } from "./grpc.js";
import {
  ACK, CANCEL, CREDIT, DATA, FRAME, GO_AWAY, HALF_CLOSE, HEADERS, HELLO, INVALID_ARGUMENT, LAST, OPEN, PING, PONG, REFRESH,
  REMAINING, STREAM, TRAILERS, WELCOME,
} from "./protocol.js";

/** @typedef {import("./frame.js").Fields} Fields */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./websocket.js").WebSocketClass} WebSocketClass */
/** @typedef {import("./websocket.js").WebSocketLike} WebSocketLike */

const encoder = new TextEncoder();

/** Frames that hold nothing but a number. @type {[name: string, tag: number][]} */
const NUMBERS = [["credit", CREDIT], ["ack", ACK], ["ping", PING], ["pong", PONG]];

/**
 * A WebSocket class for sessions whose frames are text. All messages are JSON in them: call with `bidiway/json`, or with
 * `createJsonCodec()` of `bidiway/connect-json`; other calls end with INVALID_ARGUMENT. A text session ends with its
 * socket, and the details of a status are the JSON of a list. For debugging: binary sessions cost less, and resume.
 * @example const channel = createChannel({ WebSocket: textFrames() });
 * @param {WebSocketClass} [Socket] where the platform has none
 * @returns {WebSocketClass}
 */
export const textFrames = (Socket = globalThis.WebSocket) =>
  /** @type {any} */ (class {
    /** @param {string} url @param {string[]} protocols */
    constructor(url, protocols) {
      const socket = new Socket(url, protocols.map((protocol) => `${protocol}+json`));
      /** Streams in the middle of a message: what was held back, as it is but a part of a character. @type {Map<number, Uint8Array>} */
      const amid = new Map();
      /** Streams that never were. @type {Set<number>} */
      const refused = new Set();

      /** @type {WebSocketLike} */
      const carrier = {
        binaryType: "arraybuffer",
        get bufferedAmount() {
          return socket.bufferedAmount;
        },
        send(packet) {
          for (const bytes of read(packet, FRAME).list) {
            const frame = read(bytes);
            const stream = number(frame[STREAM]);
            if (frame[OPEN] && !number(read(frame[OPEN])[0x20])) {
              refused.add(stream);
              // It takes its number all the same.
              socket.send(frameText(bytes, amid));
              socket.send(JSON.stringify({ stream, cancel: {} }));
              queueMicrotask(() => receive(write([FRAME, [STREAM, stream, TRAILERS, REFUSAL]])));
            } else if (!refused.has(stream)) {
              socket.send(frameText(bytes, amid));
            }
          }
        },
        close: (code, reason) => socket.close(code, reason),
        onopen: null,
        onmessage: null,
        onclose: null,
        onerror: null,
      };
      /** @param {unknown} data */
      const receive = (data) => carrier.onmessage?.({ data: data instanceof Uint8Array ? data.buffer : data });
      socket.onopen = (/** @type {unknown} */ event) => carrier.onopen?.(event);
      socket.onclose = (/** @type {unknown} */ event) => carrier.onclose?.(event);
      socket.onerror = (/** @type {unknown} */ event) => carrier.onerror?.(event);
      // What is no frame goes on as it is, for the session to complain about.
      socket.onmessage = (/** @type {any} */ { data }) => receive(framePacket(data) ?? data);
      return carrier;
    }
  });

/** @type {Fields} */
const REFUSAL = [
  0x08, INVALID_ARGUMENT,
  0x12, "a text session carries JSON, not protobuf: call with bidiway/json, or with the codec of bidiway/connect-json",
  0x22, [0x0a, "bidiway-origin", 0x12, "proxy"],
];

/**
 * @param {Uint8Array | undefined} bytes a message with metadata
 * @param {number} tag of that
 */
function metadataJson(bytes, tag) {
  const json = Object.create(null);
  for (const [name, value] of readMetadata(bytes, tag)) {
    json[name] = name in json ? [json[name], toText(value)].flat() : toText(value);
  }
  return json;
}

/**
 * A frame of this side's, as text.
 * @param {Uint8Array} bytes
 * @param {Map<number, Uint8Array>} amid
 */
function frameText(bytes, amid) {
  const frame = read(bytes);
  const { [HELLO]: hello, [OPEN]: open, [DATA]: data, [REFRESH]: refresh } = frame;
  const stream = number(frame[STREAM]) || undefined;
  if (data) return dataText(/** @type {number} */ (stream), data, number(frame[REMAINING]), !!number(frame[LAST]), amid);
  /** @type {Record<string, unknown>} */
  const json = { stream };
  if (hello) {
    const { 0x28: streamCredit, 0x32: agent } = read(hello);
    json.hello = { versions: [...(read(hello)[0x0a] ?? [])], streamCredit: number(streamCredit), agent: text(agent), metadata: metadataJson(hello, 0x22) };
  } else if (open) {
    const { 0x0a: method, 0x18: timeoutMs } = read(open);
    json.open = { method: text(method), metadata: metadataJson(open, 0x12), timeoutMs: number(timeoutMs) || undefined };
  } else if (refresh) {
    json.refresh = { metadata: metadataJson(refresh, 0x0a) };
  } else if (frame[HALF_CLOSE]) {
    json.halfClose = {};
  } else if (frame[CANCEL]) {
    amid.delete(number(frame[STREAM]));
    json.cancel = {};
  } else {
    for (const [name, tag] of NUMBERS) if (frame[tag]) json[name] = number(frame[tag]);
  }
  return JSON.stringify(json);
}

/**
 * A message stands in its frame as it is; of one that is cut, the pieces do as strings.
 * @param {number} stream
 * @param {Uint8Array} bytes
 * @param {number} remaining
 * @param {boolean} last
 * @param {Map<number, Uint8Array>} amid
 */
function dataText(stream, bytes, remaining, last, amid) {
  const before = amid.get(stream);
  const end = last ? ',"last":true}' : "}";
  if (!before && !remaining) {
    const message = text(bytes);
    // Nothing but JSON may stand there, lest it be taken for a part of the frame.
    if (isJson(message)) return `{"stream":${stream},"message":${message}${end}`;
  }
  const all = before ? join([before, bytes]) : bytes;
  // Pieces end between characters; what is held back leaves with the next one.
  const cut = remaining ? wholeCharacters(all) : all.length;
  if (remaining) amid.set(stream, all.subarray(cut));
  else amid.delete(stream);
  return `{"stream":${stream},"piece":${JSON.stringify(text(all.subarray(0, cut)))},"remaining":${remaining + all.length - cut}${end}`;
}

/** @param {string} text */
function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * The length without a character of which the end is missing.
 * @param {Uint8Array} utf8
 */
function wholeCharacters(utf8) {
  let start = utf8.length - 1;
  while (start > 0 && utf8[start] >> 6 === 2) start--;
  const first = utf8[start];
  const size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
  return start + size > utf8.length ? start : utf8.length;
}

/**
 * A frame of the proxy's, as a packet.
 * @param {any} data
 * @returns {Uint8Array | undefined} nothing when it is none
 */
function framePacket(data) {
  try {
    const json = JSON.parse(data);
    const { stream, piece, remaining, headers, trailers, welcome, goAway } = json;
    /** @type {Fields} */
    const fields = [STREAM, stream];
    if ("message" in json) {
      // Credit is counted by what was sent: the message as it stands there, and not as it would be written here.
      const [, raw = ""] = /^\{"stream":\d+,"message":(.*)\}$/s.exec(data) ?? [];
      fields.push(DATA, encoder.encode(isJson(raw) ? raw : JSON.stringify(json.message)));
    } else if (piece !== undefined) {
      fields.push(REMAINING, remaining, DATA, encoder.encode(piece));
    } else if (headers) {
      fields.push(HEADERS, metadataFields(0x0a, toEntries(headers.metadata)));
    } else if (trailers) {
      const { code, message, details, metadata } = trailers;
      fields.push(TRAILERS, [0x08, code, 0x12, message, 0x1a, details && JSON.stringify(details), ...metadataFields(0x22, toEntries(metadata))]);
    } else if (welcome) {
      const { version, sessionId, limits = {}, pingIntervalMs } = welcome;
      const { maxMessage, maxStreams, streamCredit, maxMetadata } = limits;
      fields.push(WELCOME, [0x08, version, 0x12, sessionId, 0x32, [0x08, maxMessage, 0x10, maxStreams, 0x18, streamCredit, 0x20, maxMetadata], 0x38, pingIntervalMs]);
    } else if (goAway) {
      const { lastStream, code, message, reconnectDelayMs } = goAway;
      fields.push(GO_AWAY, [0x08, lastStream, 0x10, code, 0x1a, message, 0x20, reconnectDelayMs]);
    }
    // A number that is 0 is there, too.
    for (const [name, tag] of NUMBERS) if (name in json) fields.push(tag, json[name] || Uint8Array.of(0));
    return write([FRAME, fields]);
  } catch {
    return undefined;
  }
}

/**
 * @param {Record<string, string | string[]>} [json]
 * @returns {Metadata}
 */
const toEntries = (json = {}) =>
  Object.entries(json).flatMap(([name, values]) =>
    [values].flat().map((value) => /** @type {Metadata[number]} */ ([name, /-bin$/.test(name) ? Uint8Array.from(atob(value), (char) => char.charCodeAt(0)) : value])),
  );
