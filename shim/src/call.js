// One RPC, as the application sees it.

import { Code, clientStatus } from "./status.js";

/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./stream.js").Stream} Stream */

/** The longest time that a timer can be set to. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * One RPC. Iterate over it for the messages that the service sends.
 * @implements {AsyncIterableIterator<Uint8Array, undefined>}
 */
export class Call {
  #stream;

  /**
   * @param {Stream} stream
   * @param {number} [timeoutMs]
   * @param {AbortSignal} [signal]
   */
  constructor(stream, timeoutMs, signal) {
    this.#stream = stream;
    /**
     * Initial metadata; empty when the call ends without. Never rejects.
     * @type {Promise<Metadata>}
     */
    this.headers = stream.headers.promise;
    /**
     * How the call ended. Never rejects.
     * @type {Promise<Status>}
     */
    this.status = stream.ended.promise;

    const abort = () => this.#end(Code.CANCELLED, "the call was aborted", signal?.reason);
    const expire = () => this.#end(Code.DEADLINE_EXCEEDED, `the deadline of ${timeoutMs} ms has passed`);
    if (signal?.aborted) abort();
    else if (timeoutMs !== undefined && !(timeoutMs > 0)) expire();
    if (stream.status) return;
    const timer = timeoutMs && timeoutMs <= MAX_TIMER_MS ? setTimeout(expire, timeoutMs) : undefined;
    signal?.addEventListener("abort", abort);
    this.status.then(() => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    });
  }

  /**
   * Sends a message. The bytes belong to the call from now on: do not change them.
   * @param {Uint8Array} message
   * @returns {Promise<void>} settles when flow control has admitted the message: wait for it before the next one, and
   *   memory stays bounded. Rejects with a `BidiwayError` when the call is over.
   */
  send(message) {
    return this.#stream.send(message);
  }

  /** Tells the service that no more messages follow. */
  halfClose() {
    this.#stream.halfClose();
  }

  /**
   * Gives the call up: it ends with CANCELLED, here and at the service. Does nothing when the call is over.
   * @param {unknown} [reason] ends up as the `cause` of the error
   */
  cancel(reason) {
    this.#end(Code.CANCELLED, "the call was cancelled", reason);
  }

  /**
   * The next message. Reading is what gives the sender credit for more.
   * @returns {Promise<IteratorResult<Uint8Array, undefined>>} done when the call ended with OK; rejects with a
   *   `BidiwayError`, once, when it ended otherwise
   */
  next() {
    return this.#stream.read();
  }

  /**
   * Leaving a `for await` loop early cancels the call.
   * @returns {Promise<IteratorResult<Uint8Array, undefined>>}
   */
  async return() {
    this.cancel();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async [Symbol.asyncDispose]() {
    this.cancel();
  }

  /**
   * @param {number} code
   * @param {string} message
   * @param {unknown} [cause]
   */
  #end(code, message, cause) {
    this.#stream.end(clientStatus(code, message, { cause }), true);
  }
}
