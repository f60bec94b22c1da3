// One session: the client's side of the protocol, and the streams in it.

import { join, metadataFields, number, read, readMetadata, text, write } from "./frame.js";
import { timer } from "./promise.js";
import {
  ACK, ACK_BYTES, ACK_FRAMES, CANCEL, CLOSE_CODES, CREDIT, DATA, DRAIN_POLL_MS, FRAME, FRAME_OVERHEAD, GO_AWAY, HALF_CLOSE, HEADERS, HEALTHY_MS,
  HELLO, INITIAL_CREDIT, INITIAL_STREAMS, INTERNAL, INVALID_ARGUMENT, LAST, MAX_BUFFERED, MAX_PIECE, MIN_PIECE, OPEN,
  PACKET_TARGET, PING, PONG, PROBE_MS, REMAINING, STREAM, TRAILERS, UNAUTHENTICATED, UNAVAILABLE, UNKNOWN,
  VERSION, WELCOME,
} from "./protocol.js";
import { clientError, clientStatus } from "./status.js";

/** @typedef {import("./call.js").InnerCall} InnerCall */
/** @typedef {import("./frame.js").Fields} Fields */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./status.js").BidiwayError} BidiwayError */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./websocket.js").Carrier} Carrier */

const AGENT = "bidiway-js/0.1.0";

/**
 * A call inside the session.
 * @typedef {object} Stream
 * @property {InnerCall} call
 * @property {boolean} fresh the proxy has not looked at it, as far as is known, and all that was sent is still there
 * @property {() => boolean | void} push adds its next frame to the packet, if there is one and credit allows it
 * @property {(frame: ReturnType<typeof read>) => void} handle
 * @property {() => void} wake there may be something to send
 * @property {(cost: number) => void} consume the application has taken so much
 * @property {() => void} cancel
 */

/**
 * @typedef {object} Session
 * @property {ReadonlyMap<number, Stream>} streams those that are open
 * @property {number} [healthyAt] set at Welcome: when failures before it are forgiven
 * @property {(carrier: Carrier, metadata: Metadata) => void} start
 * @property {(call: InnerCall) => boolean} open makes a stream of a call, if there is room
 * @property {(error: BidiwayError, closeCode?: number) => void} close ends the session and its streams
 * @property {() => void} probe asks the proxy for a sign of life, when there was none for a while
 */

/**
 * A session that waits for its carrier.
 * @param {number} streamCredit what each stream may send to this side
 * @param {() => void} freed the session was opened or welcomed, or a stream has ended
 * @param {(again: InnerCall[], delayMs: number) => void} goingAway the session takes no new streams; `again` were not
 *   processed and wait for another session
 * @param {(again: InnerCall[], error: BidiwayError, carried: boolean) => void} ended
 *   `carried` tells whether streams were open
 * @returns {Session}
 */
export function createSession(streamCredit, freed, goingAway, ended) {
  /** @type {Map<number, Stream>} */
  const streams = new Map();
  /** @type {Set<Stream>} streams that may have something to send, in turn */
  const ready = new Set();
  const drain = timer();
  const silence = timer();
  /** @type {Carrier} */
  let carrier;
  let closed = false;
  let draining = false;
  /** None before there is a carrier. */
  let maxStreams = 0;
  let initialCredit = INITIAL_CREDIT;
  let pingIntervalMs = 0;
  let resumable = false;
  let lastId = 0;
  /** The last stream whose Open was handed to the carrier. */
  let lastSent = 0;
  /** @type {Uint8Array[]} frames that leave with the next packet, and their size */
  let packet = [];
  let packetSize = 0;
  let scheduled = false;
  let heardAt = Date.now();
  let received = 0;
  let acked = 0;
  let unackedBytes = 0;

  // Sending.

  const sendPacket = () => {
    if (packetSize) carrier.send(join(packet));
    packet = [];
    packetSize = 0;
    lastSent = lastId;
  };

  /** @param {Fields} frame */
  const add = (...frame) => {
    const bytes = write([FRAME, frame]);
    packet.push(bytes);
    packetSize += bytes.length;
    if (packetSize >= PACKET_TARGET) sendPacket();
  };

  const flush = () => {
    scheduled = false;
    drain();
    if (closed) return;
    // A set yields what is added to it on the way: the streams take turns, one piece each.
    for (const stream of ready) {
      if (carrier.bufferedAmount > MAX_BUFFERED) {
        drain(DRAIN_POLL_MS, flush);
        break;
      }
      ready.delete(stream);
      if (stream.push()) ready.add(stream);
    }
    sendPacket();
  };

  /** Everything that is ready by the end of the running task leaves in one packet. */
  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    queueMicrotask(flush);
  };

  /** @param {Fields} frame that waits for nothing */
  const send = (...frame) => {
    add(...frame);
    schedule();
  };

  // Streams.

  /** @param {InnerCall} call */
  const open = (call) => {
    if (streams.size >= maxStreams) return false;
    const id = ++lastId;
    // Messages before `next` are on the wire already, and kept while the stream is fresh.
    let next = 0;
    let offset = 0;
    let spent = 0;
    let granted = 0;
    let finished = false;
    let allowance = streamCredit;
    let consumed = 0;

    /** Lets go of messages that will not be sent again. */
    const forget = () => {
      stream.fresh = false;
      call.queue.splice(0, next);
      next = 0;
    };

    /** @type {Stream} */
    const stream = {
      call,
      fresh: true,
      push() {
        const message = call.queue[next];
        if (!message) {
          if (call.halfClosed && !finished) add(STREAM, id, HALF_CLOSE, []);
          finished = call.halfClosed;
          return;
        }
        const { bytes, resolve } = message;
        const rest = bytes.length - offset;
        const size = Math.min(rest, MAX_PIECE, initialCredit + granted - spent - FRAME_OVERHEAD);
        if (size < Math.min(rest, MIN_PIECE)) return;
        const data = bytes.subarray(offset, (offset += size));
        spent += size + FRAME_OVERHEAD;
        if (size === rest) {
          offset = 0;
          next++;
          finished = call.halfClosed && !call.queue[next];
          if (!stream.fresh || spent > INITIAL_CREDIT) forget();
          resolve();
        }
        add(STREAM, id, REMAINING, rest - size || undefined, LAST, finished ? 1 : undefined, DATA, data);
        return true;
      },
      handle({ [REMAINING]: remaining, [DATA]: data, [HEADERS]: headers, [TRAILERS]: trailers, [CREDIT]: credit }) {
        forget();
        if (data) {
          const cost = data.length + FRAME_OVERHEAD;
          allowance -= cost;
          if (allowance < 0) throw new RangeError("more data than the credit allows");
          // Headers come before data, or not at all.
          call.headers([]);
          call.receive(data, number(remaining), cost);
        } else if (credit) {
          granted += number(credit);
          stream.wake();
        } else if (headers) {
          call.headers(readMetadata(headers, 0x0a));
        } else if (trailers) {
          const { 0x08: code, 0x12: message, 0x1a: details = new Uint8Array() } = read(trailers);
          const metadata = readMetadata(trailers, 0x22);
          const has = (/** @type {string} */ wanted) => metadata.some(([name]) => name === wanted);
          detach(id);
          call.end({
            code: number(code),
            message: text(message),
            details,
            metadata,
            origin: has("bidiway-origin") ? "proxy" : "upstream",
            ...(has("bidiway-unprocessed") && { maybeProcessed: false }),
          });
          settle();
        } else {
          throw new RangeError("a frame of an unknown kind");
        }
      },
      wake() {
        ready.add(stream);
        schedule();
      },
      consume(cost) {
        consumed += cost;
        // Credit goes back to the sender in halves of the window.
        if (consumed * 2 < streamCredit) return;
        allowance += consumed;
        send(STREAM, id, CREDIT, consumed);
        consumed = 0;
      },
      cancel() {
        detach(id);
        send(STREAM, id, CANCEL, []);
        settle();
      },
    };
    streams.set(id, stream);
    call.stream = stream;
    add(STREAM, id, OPEN, call.open());
    stream.wake();
    return true;
  };

  /** @param {number} id */
  const detach = (id) => {
    const stream = /** @type {Stream} */ (streams.get(id));
    streams.delete(id);
    ready.delete(stream);
    stream.call.stream = undefined;
    return stream;
  };

  /** A stream has ended. */
  const settle = () => {
    if (draining && !streams.size) session.close(clientError(UNAVAILABLE, "the session has run out"));
    else freed();
  };

  /**
   * Ends the streams that the session will not: those above `last`, which were not processed, and all when it is closed.
   * @param {number} last
   * @param {Status} status
   * @returns {InnerCall[]} calls that can be made again on another session
   */
  const drop = (last, status) => {
    const again = [];
    for (const id of streams.keys()) {
      if (id <= last && !closed) continue;
      const { fresh, call } = detach(id);
      if (fresh && id > last) again.push(call);
      else call.end({ ...status, maybeProcessed: id <= last });
    }
    return again;
  };

  /**
   * @param {BidiwayError} error
   * @param {number} [last] the last stream that the proxy may have processed
   */
  const end = (error, last = lastSent) => {
    if (closed) return;
    closed = true;
    silence();
    const carried = streams.size > 0;
    ended(drop(last, error.status), error, carried);
  };

  // Receiving.

  /** While the proxy is heard of nothing happens; it pings, so its silence means something. */
  const listen = () => {
    heardAt = Date.now();
    silence(2 * pingIntervalMs, probe);
  };

  const probe = () => {
    if (!pingIntervalMs || Date.now() - heardAt < pingIntervalMs) return;
    send(PING, 1);
    silence(PROBE_MS, () => session.close(clientError(UNAVAILABLE, "nothing was heard of the proxy"), CLOSE_CODES + UNAVAILABLE));
  };

  const ack = () => {
    if (!resumable) return;
    acked = received;
    unackedBytes = 0;
    send(ACK, received);
  };

  /** @param {Uint8Array} bytes */
  const handle = (bytes) => {
    const frame = read(bytes);
    const { [STREAM]: stream, [PING]: ping, [WELCOME]: welcome, [GO_AWAY]: goAway } = frame;
    const id = number(stream);
    if (!session.healthyAt !== !!welcome) throw new RangeError("the first frame, and only the first, is Welcome");
    if (id) {
      received++;
      if (id > lastId) throw new RangeError(`stream ${id} was never opened`);
      // Frames for a stream that has just been given up are normal.
      streams.get(id)?.handle(frame);
    } else if (welcome) {
      const { 0x08: version, 0x1a: token, 0x32: limits, 0x38: interval } = read(welcome);
      const { 0x10: max, 0x18: credit } = read(limits);
      if (number(version) !== VERSION) throw new RangeError(`version ${number(version)} was not offered`);
      session.healthyAt = Date.now() + HEALTHY_MS;
      maxStreams = number(max) || Infinity;
      initialCredit = Math.max(INITIAL_CREDIT, number(credit));
      resumable = !!token?.length;
      pingIntervalMs = number(interval);
      for (const stream of streams.values()) stream.wake();
      listen();
      freed();
    } else if (ping) {
      send(PONG, ping);
      ack();
    } else if (goAway) {
      const { 0x08: last, 0x10: code, 0x1a: message, 0x20: delayMs } = read(goAway);
      draining = true;
      maxStreams = 0;
      const status = clientStatus(number(code) || UNAVAILABLE, text(message) || "the proxy is going away", { origin: "proxy" });
      goingAway(drop(number(last), status), number(delayMs));
      settle();
    } else if (!frame[PONG] && !frame[ACK]) {
      throw new RangeError("a frame of an unknown kind");
    }
  };

  /** @type {Session} */
  const session = {
    streams,
    start(socket, metadata) {
      carrier = socket;
      carrier.onopen = () => {
        maxStreams = INITIAL_STREAMS;
        send(HELLO, [0x0a, new Uint8Array([VERSION]), ...metadataFields(0x22, metadata), 0x28, streamCredit, 0x32, AGENT]);
        freed();
      };
      carrier.onmessage = ({ data }) => {
        if (closed) return;
        try {
          if (!(data instanceof ArrayBuffer)) throw new RangeError("a text message");
          listen();
          unackedBytes += data.byteLength;
          for (const frame of read(new Uint8Array(data), FRAME).list) if (!closed) handle(frame);
          if (received - acked >= ACK_FRAMES || unackedBytes >= ACK_BYTES) ack();
        } catch (cause) {
          session.close(
            clientError(INTERNAL, `the proxy broke the protocol: ${/** @type {Error} */ (cause).message}`, { cause }),
            CLOSE_CODES + INVALID_ARGUMENT,
          );
        }
      };
      // Without a Welcome, but with a code that only a proxy which has read Hello gives: it took no stream.
      carrier.onclose = ({ code, reason }) => end(closeError(code, reason), !session.healthyAt && code >= 1012 ? 0 : lastSent);
    },
    open,
    close(error, closeCode = 1000) {
      if (closed) return;
      if (!lastId && !maxStreams) closeCode = 1000;
      // A close reason has at most 123 bytes; ours are ASCII.
      carrier?.close(closeCode, closeCode > 1000 ? error.status.message.slice(0, 123) : "");
      end(error);
    },
    probe,
  };
  return session;
}

/**
 * The error that stands for the end of a carrier. A session-level failure of the proxy closes with 4000 + the gRPC
 * code; every other code is a lost connection.
 * @param {number} closeCode
 * @param {string} reason
 */
function closeError(closeCode, reason) {
  const code = closeCode - CLOSE_CODES;
  return clientError(
    code < 0 ? UNAVAILABLE : code > 0 && code <= UNAUTHENTICATED ? code : UNKNOWN,
    reason || "the connection was lost",
    { origin: code < 0 ? "client" : "proxy", closeCode },
  );
}
