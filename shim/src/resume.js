// A carrier that outlives its connections (docs/protocol.md, section 17). To the session it looks like one carrier that
// sometimes takes nothing. It sits where packets pass: it counts sequenced frames, keeps them until they are
// acknowledged, and when a connection is lost it finds another one, on which both sides send again what the other lacks.

import { join, metadataFields, number, read, write } from "./frame.js";
import { backoff, timer } from "./promise.js";
import {
  ACK, ACK_BYTES, ACK_FRAMES, CLOSE_CODES, FRAME, HELLO, INTERNAL, INVALID_ARGUMENT, LOST, PACKET_TARGET, PING, PONG, PROBE_MS,
  REFRESH, STREAM, UNAVAILABLE, VERSION,
} from "./protocol.js";
import { BidiwayError, clientError } from "./status.js";
import { drop } from "./websocket.js";

/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./websocket.js").Carrier} Carrier */

/**
 * @typedef {object} LinkMethods
 * @property {(metadata: Metadata) => void} refresh tells the proxy other default metadata
 * @property {() => void} wake the network or the page is back: tries again at once, or asks for a sign of life
 * @property {() => void} park the page goes into the browser's cache
 * @property {() => boolean} live whether the session goes on
 */

/** @typedef {Carrier & LinkMethods} Link */

/**
 * @typedef {object} Dialling
 * @property {(lastError?: BidiwayError) => Promise<[target: string | URL, metadata: Metadata]>} ask what to connect to, and
 *   with which default metadata
 * @property {(target: string | URL) => import("./fallback.js").Movable} open
 * @property {(carrier: Carrier, welcome: ArrayBuffer) => void} spare takes a carrier on which the proxy has begun another
 *   session, and the packet that says so
 * @property {number} connectTimeoutMs
 * @property {number} baseMs
 * @property {number} maxMs
 */

/** @type {Partial<ReturnType<typeof read>>} what is known of a frame that begins with the number of a stream */
const STREAMS = { 0x08: Uint8Array.of(1) };

/** Why a session does not go on, by the numbers of `ResumeFailure`. */
const FAILURES = ["not resumable", "unknown token", "expired", "wrong principal", "state lost", "other instance"];

/**
 * @param {import("./session.js").Session} session
 * @param {Carrier} first its first connection
 * @param {Dialling} dialling
 * @returns {Link}
 */
export function createLink(session, first, { ask, open, spare, connectTimeoutMs, baseMs, maxMs }) {
  const retry = timer();
  const patience = timer();
  const grace = timer();
  /** @type {Carrier | undefined} */
  let carrier;
  /** Changes with each connection and each attempt. */
  let epoch = 0;
  /** Whether packets pass: not between the loss of a connection and the Welcome on the next one. */
  let attached = true;
  let over = false;
  /** @type {Uint8Array | undefined} what each call may have of the proxy, should a new session begin in place of this one */
  let credit;
  /** @type {Uint8Array | undefined} that of the last Welcome, in a session that can be resumed */
  let token;
  let graceMs = 0;
  /** When the session is given up; 0 while it is connected. */
  let expires = 0;
  let attempts = 0;
  /** @type {BidiwayError | undefined} what ended the last connection */
  let lastError;
  /** @type {Metadata | undefined} default metadata that the proxy has not heard of */
  let fresh;

  /** @type {Uint8Array[]} sequenced frames that the proxy has not acknowledged, and their size */
  let kept = [];
  let keptBytes = 0;
  /** Sequenced frames that were acknowledged, and that were handed to a connection. */
  let forgotten = 0;
  let sent = 0;
  let received = 0;
  let acked = 0;
  let unackedBytes = 0;

  /** @param {import("./frame.js").Fields} frame */
  const control = (...frame) => carrier?.send(write([FRAME, frame]));

  const ack = () => {
    acked = received;
    unackedBytes = 0;
    // A number of 0 has to be there, too.
    control(ACK, received || Uint8Array.of(0));
  };

  /**
   * The proxy has so many of our frames.
   * @param {Uint8Array | undefined} count
   * @param {string} what
   */
  const forget = (count, what) => {
    const to = number(count);
    if (to < forgotten) throw new RangeError(`${what}_backwards`);
    if (to > sent) throw new RangeError(`${what}_beyond_sent`);
    for (const { length } of kept.splice(0, to - forgotten)) keptBytes -= length;
    forgotten = to;
  };

  /** Sends again what is kept, and for the first time what has come meanwhile. */
  const replay = () => {
    attached = true;
    ack();
    sent = forgotten + kept.length;
    let packet = [];
    let size = 0;
    for (const [i, frame] of kept.entries()) {
      packet.push(write([FRAME, frame]));
      size += frame.length;
      if (size < PACKET_TARGET && kept[i + 1]) continue;
      carrier?.send(join(packet));
      packet = [];
      size = 0;
    }
  };

  /**
   * Handles packets of the connection no more.
   * @param {number} [code] closes it
   * @param {string} [reason]
   */
  const leave = (code, reason) => {
    drop(carrier, code, reason);
    carrier = undefined;
    attached = false;
    epoch++;
    retry();
    patience();
  };

  /**
   * The session does not go on.
   * @param {string} reason
   */
  const giveUp = (reason) =>
    session.close(clientError(UNAVAILABLE, `the session could not be resumed: ${reason}`, { reason }));

  /**
   * The session is without a connection.
   * @param {BidiwayError} error
   * @param {number} [code] with which its connection is closed
   */
  const suspend = (error, code) => {
    leave(code);
    lastError = error;
    if (!expires) {
      expires = Date.now() + graceMs;
      grace(graceMs, () => giveUp("grace over"));
    }
    if (Date.now() >= session.healthyAt) attempts = 0;
    session.pause(error);
  };

  /**
   * The session is without a connection, and needs another one.
   * @param {BidiwayError} error
   * @param {boolean} [polite] whether the proxy asks us to stay away for a moment
   */
  const detach = (error, polite) => {
    suspend(error, LOST);
    // Some attempts have to fall into the grace that is left, but not more and more of them at its end.
    const delayMs = backoff(attempts, baseMs, Math.min(maxMs, Math.max(2000, (expires - Date.now()) / 3)));
    if (attempts++ || polite) retry(delayMs || 1, attempt);
    else attempt();
  };

  const attempt = async () => {
    leave(LOST);
    if (Date.now() >= expires) return giveUp("grace over");
    const mine = epoch;
    patience(connectTimeoutMs, () => detach(clientError(UNAVAILABLE, `no connection within ${connectTimeoutMs} ms`)));
    try {
      fresh = undefined;
      const [target, metadata] = await ask(lastError);
      if (mine !== epoch) return;
      use(open(target), () =>
        control(HELLO, [
          0x0a, Uint8Array.of(VERSION), 0x12, token, 0x18, received, ...metadataFields(0x22, metadata), 0x28, credit, 0x38, 1,
        ]),
      );
    } catch (cause) {
      if (mine !== epoch) return;
      if (cause instanceof BidiwayError && cause.code !== UNAVAILABLE) session.close(cause);
      else detach(clientError(UNAVAILABLE, `${cause}`, { cause }));
    }
  };

  /**
   * @param {import("./fallback.js").Movable} next
   * @param {() => void} opened
   */
  const use = (next, opened) => {
    let greeted = false;
    carrier = next;
    next.onopen = opened;
    next.onbetter = () => token && link.close(LOST, "moving to a WebSocket");
    next.onclose = ({ code, reason }) => {
      const ends = code === 1000 || code === 1001 || (code >= CLOSE_CODES && code !== LOST);
      if (!ends && token && (session.calls.size || kept.length)) {
        return detach(clientError(UNAVAILABLE, reason, { closeCode: code }), code >= 1012);
      }
      // Whatever happened on this connection, the proxy has seen the session.
      if (token) session.healthyAt ||= Infinity;
      stop();
      link.onclose?.({ code, reason });
    };
    next.onmessage = ({ data }) => {
      if (!expires) patience();
      let count = 0;
      try {
        for (const frame of read(new Uint8Array(/** @type {ArrayBuffer} */ (data)), FRAME).list) {
          // Most frames begin with the number of a stream, and are not looked into.
          const { 0x08: stream, 0x58: acknowledged, 0x7a: hello } = frame[0] === STREAM && frame[1] ? STREAMS : read(frame);
          if (number(stream)) {
            count++;
          } else if (acknowledged) {
            forget(acknowledged, "ack");
          } else if (hello && !greeted) {
            greeted = true;
            const welcome = read(hello);
            if (token && !number(welcome[0x20])) {
              // Its Hello is what the next session begins with.
              if (fresh) control(REFRESH, metadataFields(0x0a, fresh));
              leave();
              spare(next, /** @type {ArrayBuffer} */ (data));
              // The proxy is well: the next session begins at once.
              session.healthyAt = 0;
              return giveUp(FAILURES[number(welcome[0x48])] ?? "for an unknown reason");
            }
            const asked = token;
            token = welcome[0x1a]?.slice();
            graceMs = number(welcome[0x40]);
            if (asked) {
              if (!token?.length) throw new RangeError("resumed_without_token");
              forget(welcome[0x28], "received");
              expires = 0;
              grace();
              patience();
              replay();
            } else if (!token?.length) token = undefined;
          }
        }
      } catch (cause) {
        return session.close(
          clientError(INTERNAL, `the proxy broke the protocol: ${/** @type {Error} */ (cause).message}`, { cause }),
          CLOSE_CODES + INVALID_ARGUMENT,
        );
      }
      link.onmessage?.({ data });
      if (fresh) link.refresh(fresh);
      received += count;
      if (count) unackedBytes += /** @type {ArrayBuffer} */ (data).byteLength;
      if (token && attached && (received - acked >= ACK_FRAMES || unackedBytes >= ACK_BYTES)) ack();
    };
  };

  /** @type {typeof leave} */
  const stop = (code, reason) => {
    over = true;
    grace();
    leave(code, reason);
  };

  /** @type {Link} */
  const link = {
    get bufferedAmount() {
      return attached && carrier ? Math.max(keptBytes, carrier.bufferedAmount) : Infinity;
    },
    send(packet) {
      const frames = read(packet, FRAME).list;
      for (const frame of frames) {
        // The core writes the stream first, and one session frame first in its packet: Hello.
        if (frame[0] === HELLO) {
          const hello = /** @type {Uint8Array} */ (read(frame)[HELLO]);
          credit = read(hello)[0x28];
          packet = write([FRAME, [HELLO, join([hello, [0x38, 1]])]]);
        }
        if (frame[0] === STREAM && token) {
          kept.push(frame);
          keptBytes += frame.length;
          if (attached) sent++;
        }
      }
      if (!attached) return;
      carrier?.send(packet);
      if (token && received > acked && frames.some(([tag]) => tag === PONG)) ack();
    },
    close(code, reason) {
      if (attached && token && code === LOST) {
        detach(clientError(UNAVAILABLE, reason));
        return true;
      }
      stop(code, reason);
    },
    refresh(metadata) {
      fresh = metadata;
      if (!attached || !session.healthyAt) return;
      control(REFRESH, metadataFields(0x0a, metadata));
      fresh = undefined;
    },
    wake() {
      if (over || !session.healthyAt === !expires) return;
      // A browser may say that it is online a moment before it is: should this attempt fail, the next follows soon.
      attempts &&= 1;
      if (expires) return void attempt();
      control(PING, 1);
      patience(PROBE_MS, () => session.close(clientError(UNAVAILABLE, "nothing was heard of the proxy"), LOST));
    },
    park() {
      if (!token || over) return;
      const old = /** @type {any} */ (carrier);
      suspend(clientError(UNAVAILABLE, "the page was put away"));
      // Without a code: the session goes on, if the page comes back.
      old?.close();
    },
    live: () => !over,
  };
  use(first, () => link.onopen?.());
  return link;
}
