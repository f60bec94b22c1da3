// Calls in JSON, without generated code: the proxy translates, by the service's schema.

import { text } from "./frame.js";
import { toText } from "./grpc.js";
import { quiet } from "./promise.js";
import { INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED } from "./protocol.js";
import { pump } from "./pump.js";
import { BidiwayError, clientError } from "./status.js";

/** @typedef {import("./call.js").CallMethods} CallMethods */
/** @typedef {import("./channel.js").CallOptions} CallOptions */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./metadata.js").Metadata} Metadata */

/**
 * What one call can be told.
 * @typedef {Omit<CallOptions, "method" | "codec"> & {
 *   onHeaders?: (headers: Metadata) => void,
 *   onTrailers?: (trailers: Metadata) => void,
 * }} JsonCallOptions `onHeaders` sees the initial metadata, before the first message; `onTrailers` the trailing, before
 *   the end
 */

/**
 * An open call. Iterate over it for the messages that the service sends; leaving a `for await` loop early cancels it.
 * @template O what the service sends
 * @template I what it is sent
 * @typedef {Omit<CallMethods, "send" | "next" | "return"> & JsonMessages<O, I> & AsyncIterableIterator<O, undefined> & AsyncDisposable} JsonCall
 */

/**
 * @template O
 * @template I
 * @typedef {object} JsonMessages
 * @property {(message: I) => Promise<void>} send
 *   Sends a message. Settles when flow control has admitted it: wait for it before the next one, and memory stays
 *   bounded. Rejects with a `BidiwayError` when the call is over, or when this is nothing that JSON can say.
 * @property {() => Promise<IteratorResult<O, undefined>>} next
 *   The next message. Reading is what gives the sender credit for more.
 * @property {() => Promise<IteratorResult<O, undefined>>} return cancels
 */

/**
 * `method` is `"package.Service/Method"`. Messages are proto3 JSON: fields in camelCase, 64-bit numbers as strings, bytes
 * as base64, enums by name. In what is sent, a `bigint`, a `Uint8Array` and a `Date` (for a Timestamp) will do, too.
 * @typedef {object} JsonClient
 * @property {<O = any, I = unknown>(method: string, request?: I | AsyncIterable<I>, options?: JsonCallOptions) => Promise<O>} call
 *   A call with one answer: unary, or client streaming when the request is an async iterable. Rejects with a
 *   `BidiwayError`.
 * @property {<O = any, I = unknown>(method: string, request?: I | AsyncIterable<I>, options?: JsonCallOptions) => JsonCall<O, I>} stream
 *   A call with many answers: `for await (const message of json.stream(…))`.
 * @property {JsonDuplex} duplex
 *   A call of any kind that stays open for `send()`, until `halfClose()`; or that sends what an async iterable yields.
 */

/**
 * @typedef {{
 *   <O = any, I = unknown>(method: string, options?: JsonCallOptions): JsonCall<O, I>,
 *   <O = any, I = unknown>(method: string, input: AsyncIterable<I>, options?: JsonCallOptions): JsonCall<O, I>,
 * }} JsonDuplex
 */

/**
 * Calls any method of any service, if the proxy has its schema; without, calls end with UNIMPLEMENTED. What does not fit
 * the schema ends the call with INVALID_ARGUMENT, which names the field.
 * @example const { text } = await createJsonClient(channel).call("demo.v1.Greeter/Hello", { name: "Ada" });
 * @param {Channel} channel
 * @returns {JsonClient}
 */
export function createJsonClient(channel) {
  /**
   * @param {string} method
   * @param {JsonCallOptions} [options]
   * @param {[any]} [only] the one message of the request, which ends with it
   * @returns {JsonCall<any, any>}
   */
  const open = (method, { onHeaders, onTrailers, ...options } = {}, only) => {
    const call = channel.open({ ...options, method: method.replace(/^(?!\/)/, "/"), codec: "json" });
    if (onHeaders) call.headers.then(onHeaders);
    if (onTrailers) call.status.then(({ metadata }) => onTrailers(metadata));
    if (only) {
      try {
        quiet(call.send(write(only[0])));
        call.halfClose();
      } catch (error) {
        // And no half-close: to a service, a stream that ends well without a message is a request, too.
        call.cancel(error);
      }
    }
    return {
      ...call,
      send: (message) => quiet((async () => call.send(write(message)))()),
      next: () =>
        quiet(
          (async () => {
            try {
              const { value } = await call.next();
              return value ? { done: false, value: read(value) } : { done: true, value };
            } catch (/** @type {any} */ error) {
              call.cancel(error);
              // What led to the call's end, if it was an error of the same kind, says more than that it was cancelled.
              throw error.cause instanceof BidiwayError ? error.cause : error;
            }
          })(),
        ),
      return: /** @type {any} */ (call.return),
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  };

  const streams = (/** @type {any} */ input) => typeof input?.[Symbol.asyncIterator] === "function";

  /** @type {JsonClient["stream"]} */
  const stream = (method, /** @type {any} */ request = {}, options) => {
    if (!streams(request)) return open(method, options, [request]);
    const call = open(method, options);
    pump(request, /** @type {any} */ (call), call.send);
    return call;
  };

  return {
    stream,
    async call(method, request, options) {
      /** @type {[any] | undefined} a message may be `null` */
      let answer;
      for await (const message of stream(method, request, options)) {
        if (answer) throw violation("more than one message", method);
        answer = [message];
      }
      if (!answer) throw violation("no message", method);
      return answer[0];
    },
    duplex: (/** @type {string} */ method, /** @type {any} */ input, /** @type {JsonCallOptions | undefined} */ options = input) =>
      streams(input) ? stream(method, input, options === input ? undefined : options) : open(method, options),
  };
}

/**
 * @param {string} problem
 * @param {string} method
 */
const violation = (problem, method) =>
  clientError(UNIMPLEMENTED, `${method} answered with ${problem}, and OK`);

/** @param {unknown} message */
function write(message) {
  try {
    const json = JSON.stringify(message, function (key, value) {
      const raw = this[key];
      if (raw instanceof Uint8Array) return toText(raw);
      return typeof raw === "bigint" || (typeof raw === "number" && !Number.isFinite(raw)) ? `${raw}` : value;
    });
    if (!json) throw new TypeError(`a ${typeof message} is not JSON`);
    return new TextEncoder().encode(json);
  } catch (cause) {
    throw clientError(INVALID_ARGUMENT, `the message cannot be written as JSON: ${/** @type {Error} */ (cause).message}`, { cause });
  }
}

/** @param {Uint8Array} bytes */
function read(bytes) {
  try {
    return JSON.parse(text(bytes));
  } catch (cause) {
    throw clientError(INTERNAL, "the answer is not JSON", { cause });
  }
}
