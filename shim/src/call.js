// One RPC: what the application does, and what waits on this side for the wire or for the application.

import { join, metadataFields } from "./frame.js";
import { toMetadata } from "./metadata.js";
import { quiet, timer } from "./promise.js";
import { CANCELLED, DEADLINE_EXCEEDED, FAILED_PRECONDITION, INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED } from "./protocol.js";
import { BidiwayError, clientError, clientStatus } from "./status.js";

/** @typedef {import("./channel.js").CallOptions} CallOptions */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./session.js").Stream} Stream */
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
 * @property {Stream | undefined} stream what it is in a session, when it is in one
 * @property {{ bytes: Uint8Array, resolve: (value: void) => void, reject: (reason: unknown) => void }[]} queue
 *   messages that the session has not sent, or may have to send again
 * @property {boolean} halfClosed
 * @property {() => void} start
 * @property {() => import("./frame.js").Fields} open the fields of its Open frame
 * @property {(metadata: Metadata) => void} headers
 * @property {(piece: Uint8Array, remaining: number, cost: number) => void} receive
 * @property {(status: Status) => void} end ends the call, once; later ends are ignored
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
  /** @type {{ pieces: Uint8Array[], missing: number, cost: number }[]} messages that were not read; the last may be incomplete */
  let incoming = [];
  /** @type {[resolve: (result: Result) => void, reject: (reason: unknown) => void][]} */
  const readers = [];
  /** @type {Status | undefined} */
  let status;
  let raised = false;
  /** @type {(metadata: Metadata) => void} */
  let setHeaders;
  /** @type {(status: Status) => void} */
  let setStatus;

  /** The error for what came too late. */
  const over = () =>
    /** @type {Status} */ (status).code
      ? new BidiwayError(/** @type {Status} */ (status), method)
      : clientError(FAILED_PRECONDITION, "the call has ended with OK already");

  /** Gives readers what they wait for, as far as it is there. */
  const deliver = () => {
    while (readers[0] && (incoming[0] || status)) {
      const message = incoming[0];
      if (message) {
        // Somebody waits for it: what has come of it counts as consumed, even when it is not complete.
        inner.stream?.consume(message.cost);
        message.cost = 0;
        if (message.missing) return;
        incoming.shift();
      }
      const [resolve, reject] = /** @type {(typeof readers)[0]} */ (readers.shift());
      if (message) {
        resolve({ value: message.pieces[1] ? join(message.pieces) : message.pieces[0], done: false });
      } else if (raised || !status?.code) {
        resolve({ value: undefined, done: true });
      } else {
        raised = true;
        reject(over());
      }
    }
  };

  /** @param {Status} how */
  const end = (how) => {
    if (status) return;
    if (incoming.at(-1)?.missing) {
      incoming.pop();
      if (!how.code) how = clientStatus(INTERNAL, "the call ended with OK in the middle of a message");
    }
    status = how;
    expiry();
    signal?.removeEventListener("abort", abort);
    inner.stream?.cancel();
    for (const { reject } of inner.queue.splice(0)) reject(over());
    setHeaders([]);
    setStatus(how);
    deliver();
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
    end(clientStatus(code, message, { cause }));
  };
  const abort = () => giveUp(CANCELLED, "the call was aborted", signal?.reason);
  const expire = () => giveUp(DEADLINE_EXCEEDED, `the deadline of ${timeoutMs} ms has passed`);
  const cancel = (/** @type {unknown} */ reason) => giveUp(CANCELLED, "the call was cancelled", reason);
  const leave = async () => {
    cancel(undefined);
    return { value: undefined, done: /** @type {true} */ (true) };
  };

  /** @type {Call} */
  const call = {
    headers: new Promise((resolve) => (setHeaders = resolve)),
    status: new Promise((resolve) => (setStatus = resolve)),
    send: (bytes) =>
      quiet((resolve, reject) => {
        if (!(bytes instanceof Uint8Array)) throw new TypeError("send() takes the bytes of a message as a Uint8Array");
        if (inner.halfClosed) throw clientError(FAILED_PRECONDITION, "send() was called after halfClose()");
        if (!inner.stream && overflows(bytes.length)) {
          end(clientStatus(RESOURCE_EXHAUSTED, "too many bytes wait for a connection", { maybeProcessed: false }));
        }
        if (status) throw over();
        inner.queue.push({ bytes, resolve, reject });
        inner.stream?.wake();
      }),
    halfClose: () => {
      inner.halfClosed = true;
      inner.stream?.wake();
    },
    cancel,
    next: () =>
      quiet((...reader) => {
        readers.push(reader);
        deliver();
      }),
    return: leave,
    [Symbol.asyncIterator]: () => call,
    [Symbol.asyncDispose]: /** @type {any} */ (leave),
  };

  /** @type {InnerCall} */
  const inner = {
    call,
    stream: undefined,
    queue: [],
    halfClosed: false,
    start() {
      try {
        if (!/^\/[^/]+\/[^/]+$/.test(method)) throw new TypeError(`method ${JSON.stringify(method)}: must look like "/package.Service/Method"`);
        entries = toMetadata(metadata);
      } catch (cause) {
        end(clientStatus(INVALID_ARGUMENT, /** @type {Error} */ (cause).message, { cause, maybeProcessed: false }));
      }
      if (signal?.aborted) abort();
      if (!(timeoutMs > 0)) expire();
      if (status) return;
      expiry(timeoutMs, expire);
      signal?.addEventListener("abort", abort);
    },
    open: () => [
      0x0a, method,
      ...metadataFields(0x12, entries),
      0x18, deadline < Infinity ? Math.min(Math.max(1, Math.ceil(deadline - Date.now())), Number.MAX_SAFE_INTEGER) : undefined,
      0x20, codec === "json" ? 1 : undefined,
    ],
    headers: (metadata) => setHeaders(metadata),
    receive(piece, remaining, cost) {
      let message = incoming.at(-1);
      if (!message?.missing) incoming.push((message = { pieces: [], missing: piece.length + remaining, cost: 0 }));
      if (message.missing !== piece.length + remaining) throw new RangeError("the pieces of a message do not add up");
      message.pieces.push(piece);
      message.missing = remaining;
      message.cost += cost;
      deliver();
    },
    end,
  };
  return inner;
}
