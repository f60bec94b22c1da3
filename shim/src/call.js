// One RPC: the application's side of it, and its stream in a session: messages and credit, both ways.

import { join, metadataFields, number, read, readMetadata, text } from "./frame.js";
import { toMetadata } from "./metadata.js";
import { quiet, timer } from "./promise.js";
import {
  CANCELLED, CREDIT, DATA, DEADLINE_EXCEEDED, FAILED_PRECONDITION, FRAME_OVERHEAD, HALF_CLOSE, INITIAL_CREDIT,
  INTERNAL, INVALID_ARGUMENT, LAST, MAX_PIECE, MIN_PIECE, OPEN, REMAINING, RESOURCE_EXHAUSTED, STREAM,
} from "./protocol.js";
import { BidiwayError, clientError } from "./status.js";

/** @typedef {import("./channel.js").CallOptions} CallOptions */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {IteratorResult<Uint8Array, undefined>} Result */

/**
 * One RPC. Iterate over it for the messages that the service sends; leaving a `for await` loop early cancels the call,
 * and so does `await using`.
 * @typedef {CallMethods & AsyncIterableIterator<Uint8Array, undefined> & AsyncDisposable} Call
 */

/**
 * @typedef {object} CallMethods
 * @property {Promise<Metadata>} headers initial metadata; empty when the call ends without. Never rejects.
 * @property {Promise<Status>} status how the call ended. Never rejects.
 * @property {(message: Uint8Array) => Promise<void>} send
 *   Sends a message. The bytes belong to the call from now on: do not change them. Settles when flow control has
 *   admitted the message: wait for it before the next one, and memory stays bounded. Rejects with a `BidiwayError` when
 *   the call is over.
 * @property {() => void} halfClose tells the service that no more messages follow
 * @property {(reason?: unknown) => void} cancel
 *   Gives the call up: it ends with CANCELLED, here and at the service. Does nothing when the call is over. The reason
 *   ends up as the `cause` of the error.
 * @property {() => Promise<Result>} next
 *   The next message. Reading is what gives the sender credit for more. Done when the call ended with OK; rejects with
 *   a `BidiwayError`, once, when it ended otherwise.
 * @property {() => Promise<Result>} return cancels
 */

/**
 * A call as the channel and its sessions see it.
 * @typedef {object} InnerCall
 * @property {Call} call
 * @property {[bytes: Uint8Array, resolve: (value: void) => void, reject: (reason: unknown) => void][]} queue
 *   messages that were not sent, or may have to be sent again
 * @property {() => void} start
 * @property {(error: { status: Status }) => void} end ends the call, once; later ends are ignored
 * @property {(session: Session) => unknown} enter makes it a stream of the session, if there is room
 * @property {() => boolean | void} rewind makes it ready for another session, if nothing that was sent has been forgotten
 * @property {(session: Session) => boolean | void} push sends the next frame, if there is one and credit allows it
 * @property {(frame: ReturnType<typeof read>) => void} handle a frame of its stream
 */

/**
 * @param {CallOptions} options
 * @param {(bytes: number) => boolean} overflows whether so many more bytes are too many to wait for a connection
 * @param {(call: InnerCall) => void} ended
 * @returns {InnerCall}
 */
export function createCall({ method, metadata, timeoutMs = Infinity, signal, codec }, overflows, ended) {
  const deadline = Date.now() + timeoutMs;
  const expiry = timer();
  /** @type {Metadata} */
  let entries = [];
  /** @type {Session | undefined} */
  let session;
  let id = 0;
  /** @type {Status | undefined} */
  let status;
  /** @type {(metadata: Metadata) => void} */
  let setHeaders;
  /** @type {(status: Status) => void} */
  let setStatus;

  // Sending. What is on the wire is kept while the proxy may still say that it has not looked at the call: then all of it
  // is sent again on another session.
  /** @type {InnerCall["queue"]} */
  const queue = [];
  /** @type {InnerCall["queue"] | undefined} */
  let kept = [];
  let offset = 0;
  /** Credit used, less what the proxy gave back. */
  let spent = 0;
  let halfClosed = false;
  let finished = false;

  // Receiving.
  /** @type {[piece: Uint8Array, remaining: number][]} */
  let incoming = [];
  /** What is still to come of the last message. */
  let missing = 0;
  /** Bytes for which the proxy got no credit again, and how many of them the application has consumed. */
  let held = 0;
  let consumed = 0;
  /** @type {(() => void) | undefined} */
  let wakeReader;

  /** The error for what comes too late. */
  const over = () =>
    status?.code ? new BidiwayError(status, method) : clientError(FAILED_PRECONDITION, "send() after halfClose() or the end");

  const messages = (async function* () {
    for (let pieces = []; ; ) {
      const next = incoming.shift();
      if (next) {
        // Somebody waits for the message: its pieces count as consumed, even when it is not complete.
        const [piece, remaining] = next;
        consumed += piece.length + FRAME_OVERHEAD;
        // Credit goes back to the sender in halves of the window.
        if (session && consumed * 2 >= session.window) {
          held -= consumed;
          session.send(STREAM, id, CREDIT, consumed);
          consumed = 0;
        }
        pieces.push(piece);
        if (remaining) continue;
        yield pieces[1] ? join(pieces) : piece;
        pieces = [];
      } else if (status) {
        if (status.code) throw over();
        return;
      } else {
        await new Promise((resolve) => (wakeReader = /** @type {() => void} */ (resolve)));
      }
    }
  })();

  /** @type {InnerCall["end"]} */
  const end = ({ status: how }) => {
    if (status) return;
    if (missing && !how.code) ({ status: how } = clientError(INTERNAL, "OK inside a message"));
    status = { maybeProcessed: !!session, ...how };
    expiry();
    signal?.removeEventListener("abort", abort);
    session?.release(inner, id);
    session = undefined;
    for (const [, , reject] of queue.splice(0)) reject(over());
    setHeaders([]);
    setStatus(status);
    wakeReader?.();
    ended(inner);
  };

  /**
   * Ends the call from this side, and forgets what was received and not read.
   * @param {number} code
   * @param {string} message
   * @param {unknown} [cause]
   */
  const giveUp = (code, message, cause) => {
    if (!status) incoming = [];
    end(clientError(code, message, { cause }));
  };
  const expire = () => giveUp(DEADLINE_EXCEEDED, `the deadline of ${timeoutMs} ms has passed`);
  const cancel = async (/** @type {unknown} */ reason) => {
    giveUp(CANCELLED, "the call was cancelled", reason);
    return { done: true };
  };
  const abort = () => void cancel(signal?.reason);

  /** @type {Call} */
  const call = {
    headers: new Promise((resolve) => (setHeaders = resolve)),
    status: new Promise((resolve) => (setStatus = resolve)),
    send: (bytes) =>
      quiet(
        new Promise((resolve, reject) => {
          if (!(bytes instanceof Uint8Array)) throw new TypeError("send() takes a Uint8Array");
          if (!session && !halfClosed && overflows(bytes.length)) end(clientError(RESOURCE_EXHAUSTED, "too much waits for a connection"));
          if (status || halfClosed) throw over();
          queue.push([bytes, resolve, reject]);
          session?.wake(inner);
        }),
      ),
    halfClose() {
      halfClosed = true;
      session?.wake(inner);
    },
    cancel,
    next: () => quiet(/** @type {Promise<any>} */ (messages.next())),
    return: /** @type {any} */ (cancel),
    [Symbol.asyncIterator]: () => call,
    [Symbol.asyncDispose]: /** @type {any} */ (cancel),
  };

  /** @type {InnerCall} */
  const inner = {
    call,
    queue,
    start() {
      signal?.addEventListener("abort", abort);
      expiry(timeoutMs, expire);
      try {
        if (!/^\/[^/]+\/[^/]+$/.test(method)) throw new TypeError(`method ${method}: not "/package.Service/Method"`);
        entries = toMetadata(metadata);
      } catch (cause) {
        end(clientError(INVALID_ARGUMENT, /** @type {Error} */ (cause).message, { cause }));
      }
      if (signal?.aborted) abort();
      if (!(timeoutMs > 0)) expire();
    },
    end,
    enter(to) {
      const number = to.open(inner);
      if (!number) return;
      session = to;
      id = number;
      offset = spent = held = consumed = 0;
      finished = false;
      to.send(STREAM, id, OPEN, [
        0x0a, method,
        ...metadataFields(0x12, entries),
        0x18, deadline < 2 ** 53 ? Math.max(1, Math.ceil(deadline - Date.now())) : 0,
        0x20, +(codec === "json"),
      ]);
      to.wake(inner);
      return true;
    },
    rewind() {
      if (kept) {
        queue.unshift(...kept.splice(0));
        session = undefined;
        return true;
      }
    },
    push({ credit, send }) {
      const message = queue[0];
      if (!message) {
        if (halfClosed && !finished) send(STREAM, id, HALF_CLOSE, []);
        finished = halfClosed;
        return;
      }
      const [bytes, resolve] = message;
      const rest = bytes.length - offset;
      const size = Math.min(rest, MAX_PIECE, credit - spent - FRAME_OVERHEAD);
      if (size < Math.min(rest, MIN_PIECE)) return;
      const data = bytes.subarray(offset, (offset += size));
      spent += size + FRAME_OVERHEAD;
      if (size === rest) {
        offset = 0;
        queue.shift();
        kept?.push(message);
        if (spent > INITIAL_CREDIT) kept = undefined;
        finished = halfClosed && !queue[0];
        resolve();
      }
      send(STREAM, id, REMAINING, rest - size, LAST, +finished, DATA, data);
      return true;
    },
    handle({ 0x10: remaining, 0x22: data, 0x3a: headers, 0x42: trailers, 0x50: credit }) {
      kept = undefined;
      if (data) {
        // Headers come before data, or not at all.
        setHeaders([]);
        held += data.length + FRAME_OVERHEAD;
        if (held > /** @type {Session} */ (session).window) throw new RangeError("data_beyond_credit");
        const left = number(remaining);
        if (missing && missing !== data.length + left) throw new RangeError("wrong_remaining");
        missing = left;
        incoming.push([data, left]);
        wakeReader?.();
      } else if (credit) {
        spent -= number(credit);
        session?.wake(inner);
      } else if (headers) {
        setHeaders(readMetadata(headers, 0x0a));
      } else if (trailers) {
        const { 0x08: code, 0x12: message, 0x1a: details = new Uint8Array() } = read(trailers);
        const metadata = readMetadata(trailers, 0x22);
        const { "bidiway-origin": proxy, "bidiway-unprocessed": refused } = Object.fromEntries(metadata);
        session?.calls.delete(id);
        end({
          status: {
            code: number(code),
            message: text(message),
            details,
            metadata,
            origin: proxy ? "proxy" : "upstream",
            maybeProcessed: !refused && undefined,
          },
        });
      } else {
        throw new RangeError("malformed");
      }
    },
  };
  return inner;
}
