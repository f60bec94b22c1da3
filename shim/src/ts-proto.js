// ts-proto: an `Rpc` over a channel, for the clients that its generator makes by default.

import { BidiwayError, Code } from "./index.js";
import { pump } from "./pump.js";

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./metadata.js").Metadata} Metadata */

/**
 * @typedef {object} RpcOptions
 * @property {number} [timeoutMs] of calls that have no timeout of their own
 * @property {(headers: Metadata, method: string) => void} [onHeaders] sees the initial metadata of each call, before its
 *   first message; `method` is `"/package.Service/Method"`
 * @property {(trailers: Metadata, method: string) => void} [onTrailers] sees the trailing metadata of each call, before
 *   its end
 * @property {number} [maxQueuedBytes] bytes that an Observable of requests may be ahead of what flow control has
 *   admitted, before the call is cancelled; 16 MiB by default. Async iterables wait instead
 */

/**
 * What an Observable's subscriber is told.
 * @template T
 * @typedef {{ next(value: T): void, error(error: unknown): void, complete(): void }} Observer
 */

/**
 * Any library's Observable, as far as it is used here.
 * @template T
 * @typedef {{ subscribe(observer: Observer<T>): { unsubscribe(): void } }} Subscribable
 */

/** @typedef {Subscribable<Uint8Array> | AsyncIterable<Uint8Array>} Requests */

/**
 * @template {Uint8Array | Requests} Input
 * @template Output
 * @typedef {{
 *   (service: string, method: string, data: Input, ...more: unknown[]): Output,
 *   (context: any, service: string, method: string, data: Input, ...more: unknown[]): Output,
 * }} Method
 */

/**
 * What one call can be told: each generated method takes it with
 * `--ts_proto_opt=addGrpcMetadata=true,metadataType=CallOptions@bidiway/ts-proto`.
 * @typedef {object} CallOptions
 * @property {import("./metadata.js").MetadataInit} [metadata]
 * @property {number} [timeoutMs] the call ends with DEADLINE_EXCEEDED after this time
 * @property {AbortSignal} [signal] ends the call with CANCELLED
 * @property {RpcOptions["onHeaders"]} [onHeaders]
 * @property {RpcOptions["onTrailers"]} [onTrailers]
 */

/**
 * The `Rpc` of every variant of generated code. What follows the data, if anything, may be metadata in any shape that
 * the channel takes, a grpc-js `Metadata`, an `AbortSignal`, or `CallOptions`, in any order.
 * @template Responses
 * @typedef {{
 *   request: Method<Uint8Array, Promise<Uint8Array>>,
 *   clientStreamingRequest: Method<Requests, Promise<Uint8Array>>,
 *   serverStreamingRequest: Method<Uint8Array, Responses>,
 *   bidirectionalStreamingRequest: Method<Requests, Responses>,
 * }} Rpc
 */

/**
 * An `Rpc` for `new FooClientImpl(rpc)`. Errors are the core's `BidiwayError`.
 *
 * Without `Observable` it answers with async iterables (`--ts_proto_opt=useAsyncIterable=true`); with rxjs's
 * `Observable` it answers with those (the generator's default). Either way a call begins when somebody subscribes or
 * iterates, and unsubscribing or leaving the loop cancels it. Requests may be of either kind.
 * @overload
 * @param {Channel} channel
 * @param {RpcOptions} [options]
 * @returns {Rpc<AsyncIterable<Uint8Array>>}
 */
/**
 * @template {object} Responses
 * @overload
 * @param {Channel} channel
 * @param {RpcOptions & { Observable: new (subscribe: (subscriber: Observer<Uint8Array>) => () => void) => Responses }} options
 * @returns {Rpc<Responses>}
 */
/**
 * @param {Channel} channel
 * @param {RpcOptions & { Observable?: new (subscribe: (subscriber: Observer<Uint8Array>) => () => void) => any }} [options]
 * @returns {Rpc<any>}
 */
export function createRpc(channel, { Observable, maxQueuedBytes = 16 * 1024 * 1024, ...defaults } = {}) {
  /**
   * @param {any[]} args as the generated code hands them in
   * @returns {[messages: AsyncIterableIterator<Uint8Array>, method: string]}
   */
  const start = (args) => {
    const [service, name, data, ...more] = typeof args[0] === "string" ? args : args.slice(1);
    const method = `/${service}/${name}`;
    const {
      metadata,
      signal,
      timeoutMs = defaults.timeoutMs,
      onHeaders = defaults.onHeaders,
      onTrailers = defaults.onTrailers,
    } = Object.assign({}, ...more.map(toOptions));
    const call = channel.open({ method, metadata, timeoutMs, signal });
    if (onHeaders) call.headers.then((headers) => onHeaders(headers, method));

    if (data.subscribe) {
      follow(data, call, maxQueuedBytes);
    } else if (data[Symbol.asyncIterator]) {
      pump(data, call, (message) => call.send(message));
    } else {
      // What is no message ends the call, rather than being left out.
      call.send(data).catch((error) => call.cancel(error));
      call.halfClose();
    }
    return [receive(call, (trailers) => onTrailers?.(trailers, method)), method];
  };

  /** @param {any[]} args */
  const one = async (...args) => {
    const [messages, method] = start(args);
    /** @type {Uint8Array | undefined} */
    let answer;
    for await (const message of messages) {
      if (answer) throw violation("more than one message", method);
      answer = message;
    }
    if (!answer) throw violation("no message", method);
    return answer;
  };

  /**
   * @param {any[]} args
   * @returns {any}
   */
  const many = (...args) =>
    Observable
      ? new Observable((subscriber) => {
          const [messages] = start(args);
          (async () => {
            for await (const message of messages) subscriber.next(message);
          })().then(
            () => subscriber.complete(),
            (error) => subscriber.error(error),
          );
          return () => void messages.return?.();
        })
      : { [Symbol.asyncIterator]: () => start(args)[0] };

  return { request: one, clientStreamingRequest: one, serverStreamingRequest: many, bidirectionalStreamingRequest: many };
}

/**
 * The options in an argument that may be anything. They are told from metadata by values that metadata cannot have.
 * @param {any} value
 * @returns {CallOptions}
 */
function toOptions(value) {
  if (typeof value?.aborted === "boolean") return { signal: value };
  const isOption = (/** @type {string} */ name) => typeof (value[name]?.at?.(0) ?? value[name] ?? "") !== "string";
  if (value == null || ["timeoutMs", "signal", "metadata", "onHeaders", "onTrailers"].some(isOption)) return value;
  return { metadata: value.toJSON?.() ?? value.headersMap ?? value };
}

/**
 * The messages of a call, and behind them its trailers. No generator: its `return` must reach a read that waits.
 * @param {Call} call
 * @param {(trailers: Metadata) => void} onTrailers
 * @returns {AsyncIterableIterator<Uint8Array>}
 */
const receive = (call, onTrailers) => ({
  async next() {
    let result;
    try {
      return (result = await call.next());
    } finally {
      if (!result || result.done) onTrailers((await call.status).metadata);
    }
  },
  return: () => call.return(),
  [Symbol.asyncIterator]() {
    return this;
  },
});

/**
 * @param {string} problem
 * @param {string} method
 */
const violation = (problem, method) =>
  new BidiwayError(
    { code: Code.UNIMPLEMENTED, message: `the service answered with ${problem}, and OK`, details: new Uint8Array(), metadata: [], origin: "client" },
    method,
  );

/**
 * Sends what an Observable emits.
 * @param {Subscribable<Uint8Array>} input
 * @param {Call} call
 * @param {number} maxQueuedBytes
 */
function follow(input, call, maxQueuedBytes) {
  let queued = 0;
  const subscription = input.subscribe({
    next(message) {
      queued += message.length;
      if (queued > maxQueuedBytes) call.cancel(new RangeError(`the requests are more than ${maxQueuedBytes} bytes ahead of flow control`));
      call.send(message).then(
        () => (queued -= message.length),
        (error) => call.cancel(error),
      );
    },
    error: (error) => call.cancel(error),
    complete: () => call.halfClose(),
  });
  call.status.then(() => subscription.unsubscribe());
}
