// One session: the client's side of the protocol, but for the streams in it, which are calls.

import { join, metadataFields, number, read, text, write } from "./frame.js";
import { timer } from "./promise.js";
import {
  ACK, CANCEL, CLOSE_CODES, DRAIN_POLL_MS, FRAME, HEALTHY_MS, HELLO, INITIAL_CREDIT, INTERNAL, INVALID_ARGUMENT,
  MAX_BUFFERED, PACKET_TARGET, PING, PONG, PROBE_MS, STREAM, UNAUTHENTICATED, UNAVAILABLE, UNKNOWN, VERSION,
} from "./protocol.js";
import { clientError } from "./status.js";

/** @typedef {import("./call.js").InnerCall} InnerCall */
/** @typedef {import("./frame.js").Fields} Fields */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./status.js").BidiwayError} BidiwayError */
/** @typedef {import("./websocket.js").Carrier} Carrier */

/**
 * @typedef {object} Session
 * @property {Map<number, InnerCall>} calls those that are open, by their streams' numbers
 * @property {number} healthyAt when the failures before it are forgiven; NaN before Welcome
 * @property {number} credit what each stream may send to the proxy
 * @property {number} window what the proxy may send on each stream
 * @property {(metadata: Metadata, carrier: Carrier) => void} start with the default metadata of its calls
 * @property {(call: InnerCall) => number | false} open the number of a new stream, if there is room
 * @property {(...frame: Fields) => void} send a frame that waits for nothing
 * @property {(call: InnerCall) => void} wake the call may have something to send
 * @property {(call: InnerCall, id: number) => void} release the call has ended
 * @property {(error?: BidiwayError, closeCode?: number) => void} close ends the session and its calls, unless the
 *   carrier has a better idea
 * @property {(error: BidiwayError) => void} pause the carrier has lost its connection and looks for another one: until it
 *   brings another Welcome, there are no new streams, and silence means nothing
 * @property {() => void} probe asks the proxy for a sign of life, when there was none for a while
 */

/**
 * A session that waits for its carrier.
 * @param {number} window
 * @param {number} streams how many may be opened before Welcome tells how many the proxy allows
 * @param {(error?: BidiwayError) => void} freed the session was opened or welcomed, or a call has ended; or it is paused
 * @param {(delayMs: number, error: BidiwayError | undefined, carried: number, again: InnerCall[]) => void} left
 *   the session takes no new calls, and is over if there is an error, which ended so many calls; `again` were not
 *   processed and wait for another session
 * @returns {Session}
 */
export function createSession(window, streams, freed, left) {
  /** @type {Session["calls"]} */
  const calls = new Map();
  /** @type {Set<InnerCall>} those that may have something to send, in turn */
  const ready = new Set();
  const drain = timer();
  const silence = timer();
  /** @type {Carrier} */
  let carrier;
  let closed = false;
  let draining = false;
  /** None before there is a carrier. */
  let maxStreams = 0;
  let pingIntervalMs = Infinity;
  let lastId = 0;
  /** The last stream whose Open was handed to the carrier. */
  let lastSent = 0;
  /** @type {Uint8Array[]} frames that leave with the next packet, and their size */
  let packet = [];
  let packetSize = 0;
  let scheduled = false;
  let heardAt = Date.now();

  // Sending.

  const sendPacket = () => {
    if (packetSize) carrier.send(join(packet));
    packet = [];
    packetSize = 0;
    lastSent = lastId;
  };

  /** Everything that is ready by the end of the running task leaves in one packet. */
  const schedule = () => {
    if (!scheduled) queueMicrotask(flush);
    scheduled = true;
  };

  /** @param {Fields} frame */
  const send = (...frame) => {
    const bytes = write([FRAME, frame]);
    packet.push(bytes);
    packetSize += bytes.length;
    if (packetSize >= PACKET_TARGET) sendPacket();
    schedule();
  };

  const flush = () => {
    drain();
    // A set yields what is added to it on the way: the streams take turns, one piece each.
    for (const call of ready) {
      if (carrier.bufferedAmount > MAX_BUFFERED) {
        drain(DRAIN_POLL_MS, flush);
        break;
      }
      ready.delete(call);
      if (call.push(session)) ready.add(call);
    }
    sendPacket();
    scheduled = false;
  };

  /** A call has ended. */
  const settle = () => {
    if (draining && !calls.size) session.close();
    else freed();
  };

  /**
   * Ends the calls that the session will not: those above `last`, which were not processed, and all when it is closed.
   * @param {number} last
   * @param {BidiwayError} error
   * @returns {InnerCall[]} calls that can be made again on another session
   */
  const drop = (last, { status }) => {
    const again = [];
    maxStreams = 0;
    for (const [id, call] of calls) {
      if (id <= last && !closed) continue;
      calls.delete(id);
      ready.delete(call);
      if (id > last && call.rewind()) again.push(call);
      else call.end({ status: { ...status, maybeProcessed: id <= last } });
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
    left(0, error, calls.size, drop(last, error));
  };

  // Receiving.

  /** While the proxy is heard of nothing happens; it pings, so its silence means something. */
  const listen = () => {
    heardAt = Date.now();
    silence(2 * pingIntervalMs, probe);
  };

  const probe = () => {
    if (Date.now() - heardAt < pingIntervalMs) return;
    send(PING, 1);
    silence(PROBE_MS, () => session.close(clientError(UNAVAILABLE, "nothing was heard of the proxy"), CLOSE_CODES + UNAVAILABLE));
  };

  /** @param {Uint8Array} bytes */
  const handle = (bytes) => {
    const frame = read(bytes);
    const { 0x08: stream, 0x60: ping, 0x7a: welcome, 0x82: goAway } = frame;
    const id = number(stream);
    if (!session.healthyAt !== !!welcome) throw new RangeError("first_not_welcome");
    if (id) {
      if (id > lastId) throw new RangeError("stream_unknown");
      // Frames for a stream that has just been given up are normal.
      calls.get(id)?.handle(frame);
    } else if (welcome) {
      const { 0x08: version, 0x32: limits, 0x38: interval } = read(welcome);
      const { 0x10: max, 0x18: credit } = read(limits);
      if (number(version) !== VERSION) throw new RangeError("version_not_offered");
      session.healthyAt = Date.now() + HEALTHY_MS;
      maxStreams = number(max) || Infinity;
      session.credit = Math.max(INITIAL_CREDIT, number(credit));
      pingIntervalMs = number(interval) || Infinity;
      calls.forEach(session.wake);
      listen();
      freed();
    } else if (ping) {
      send(PONG, ping);
    } else if (goAway) {
      const { 0x08: last, 0x10: code, 0x1a: message, 0x20: delayMs } = read(goAway);
      const error = clientError(number(code) || UNAVAILABLE, text(message), { origin: "proxy" });
      const again = drop(number(last), error);
      draining = true;
      left(number(delayMs), undefined, 0, again);
      settle();
    } else if (!frame[PONG] && !frame[ACK]) {
      throw new RangeError("malformed");
    }
  };

  /** @type {Session} */
  const session = {
    calls,
    healthyAt: NaN,
    credit: INITIAL_CREDIT,
    window,
    start(metadata, socket) {
      carrier = socket;
      carrier.onopen = () => {
        maxStreams = streams;
        send(HELLO, [0x0a, new Uint8Array([VERSION]), ...metadataFields(0x22, metadata), 0x28, window, 0x32, "bidiway-js/0.1.0"]);
        freed();
      };
      carrier.onmessage = ({ data }) => {
        if (closed) return;
        try {
          if (!(data instanceof ArrayBuffer)) throw new RangeError("text");
          listen();
          read(new Uint8Array(data), FRAME).list.forEach((frame) => closed || handle(frame));
        } catch (cause) {
          session.close(
            clientError(INTERNAL, `the proxy broke the protocol: ${/** @type {Error} */ (cause).message}`, { cause }),
            CLOSE_CODES + INVALID_ARGUMENT,
          );
        }
      };
      carrier.onclose = ({ code: closeCode, reason }) => {
        // A session-level failure of the proxy closes with 4000 + the gRPC code; every other code is a lost connection.
        const code = closeCode - CLOSE_CODES;
        end(
          clientError(
            code < 0 ? UNAVAILABLE : (code <= UNAUTHENTICATED && code) || UNKNOWN,
            reason,
            { origin: code < 0 ? "client" : "proxy", closeCode },
          ),
          // Without a Welcome, but with a code that only a proxy which has read Hello gives: it took no stream.
          session.healthyAt || closeCode < 1012 ? lastSent : 0,
        );
      };
    },
    open(call) {
      return calls.size < maxStreams && calls.set(++lastId, call) && lastId;
    },
    send,
    wake(call) {
      ready.add(call);
      schedule();
    },
    release(call, id) {
      ready.delete(call);
      if (calls.delete(id)) send(STREAM, id, CANCEL, []);
      settle();
    },
    close(error = clientError(UNAVAILABLE, "idle"), closeCode = 1000) {
      // A close reason has at most 123 bytes; ours are ASCII.
      if (!carrier?.close(closeCode, error.status.message.slice(0, 123))) end(error);
    },
    pause(error) {
      maxStreams = 0;
      pingIntervalMs = Infinity;
      silence();
      freed(error);
      session.healthyAt = NaN;
    },
    probe,
  };
  return session;
}
