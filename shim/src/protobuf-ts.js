// protobuf-ts: an RpcTransport over a channel, so that generated clients run unmodified, with all four kinds of calls.

import { base64encode } from "@protobuf-ts/runtime";
import { ClientStreamingCall, DuplexStreamingCall, RpcError, ServerStreamingCall, UnaryCall, mergeRpcOptions } from "@protobuf-ts/runtime-rpc";
import { codeName } from "./index.js";

/** @typedef {import("@protobuf-ts/runtime-rpc").RpcMetadata} RpcMetadata */
/** @typedef {import("@protobuf-ts/runtime-rpc").RpcOptions} RpcOptions */
/** @typedef {import("@protobuf-ts/runtime-rpc").RpcTransport} RpcTransport */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./status.js").Status} Status */
/**
 * @template {object} I
 * @template {object} O
 * @typedef {import("@protobuf-ts/runtime-rpc").MethodInfo<I, O>} MethodInfo
 */
/**
 * @template {object} T
 * @typedef {import("@protobuf-ts/runtime-rpc").RpcOutputStream<T>} RpcOutputStream
 */
/**
 * @template {object} T
 * @typedef {Parameters<RpcOutputStream<T>["onNext"]>[0]} NextCallback
 */

/**
 * A protobuf-ts transport for `new FooClient(transport)`. Calls use `meta`, `timeout`, `abort`, `binaryOptions` and
 * `interceptors` of their options; `options` here are the defaults.
 *
 * Responses are not collected: reading them, by `for await` or with `onNext` or `onMessage`, is what lets the service
 * send more, and leaving the loop cancels the call. `send()` settles when flow control has admitted the message.
 * @param {Channel} channel
 * @param {RpcOptions} [options]
 * @returns {RpcTransport}
 */
export function createTransport(channel, options = {}) {
  return {
    mergeOptions: (more) => mergeRpcOptions(options, more),
    unary(method, input, options) {
      const { meta, headers, response, status, trailers } = single(start(channel, method, options, input));
      return new UnaryCall(method, meta, input, headers, response, status, trailers);
    },
    serverStreaming(method, input, options) {
      const { meta, headers, responses, status, trailers } = start(channel, method, options, input);
      return new ServerStreamingCall(method, meta, input, headers, responses, status, trailers);
    },
    clientStreaming(method, options) {
      const { meta, requests, headers, response, status, trailers } = single(start(channel, method, options));
      return new ClientStreamingCall(method, meta, requests, headers, response, status, trailers);
    },
    duplex(method, options) {
      const { meta, requests, headers, responses, status, trailers } = start(channel, method, options);
      return new DuplexStreamingCall(method, meta, requests, headers, responses, status, trailers);
    },
  };
}

/**
 * Opens a call.
 * @template {object} I
 * @template {object} O
 * @param {Channel} channel
 * @param {MethodInfo<I, O>} method
 * @param {RpcOptions} options
 * @param {I} [input] the only message, if the call has one
 */
function start(channel, { name: methodName, service: { typeName: serviceName }, I, O }, { meta = {}, timeout, abort, binaryOptions }, input) {
  const call = channel.open({
    method: `/${serviceName}/${methodName}`,
    metadata: meta,
    timeoutMs: typeof timeout === "object" ? timeout.getTime() - Date.now() : timeout,
    signal: abort,
  });

  /**
   * @param {string} message
   * @param {string} code
   * @param {RpcMetadata} [meta]
   * @param {unknown} [cause]
   */
  const problem = (message, code, meta, cause) =>
    Object.assign(new RpcError(message, code, meta), { methodName, serviceName, cause });
  /**
   * @param {Status} status not OK
   * @param {Metadata} [headers]
   */
  const toError = ({ code, message, details, metadata, cause }, headers = []) => {
    if (cause instanceof RpcError) return cause;
    const name = code > 16 ? "UNKNOWN" : codeName(code);
    /** @type {Metadata} */
    const more = details.length ? [["grpc-status-details-bin", details]] : [];
    return problem(message || name, name, toMeta([...headers, ...metadata, ...more]), cause);
  };
  /**
   * Ends the call, here and at the service.
   * @param {string} message
   * @param {string} code
   * @param {unknown} [cause]
   * @returns {never}
   */
  const fail = (message, code, cause) => {
    const error = problem(message, code, {}, cause);
    call.cancel(error);
    throw error;
  };
  /**
   * @template T
   * @param {() => T} convert
   */
  const guard = (convert) => {
    try {
      return convert();
    } catch (cause) {
      return fail(`${cause}`, "INTERNAL", cause);
    }
  };

  let failed = false;
  const ended = quiet(
    call.status.then(async (status) => {
      failed = status.code !== 0;
      if (failed) throw toError(status, await call.headers);
      return status;
    }),
  );
  const headers = quiet(
    call.headers.then(async (metadata) => {
      // When the call has failed without headers, its status is known in the same moment.
      await undefined;
      if (failed && !metadata.length) await ended;
      return toMeta(metadata);
    }),
  );

  /** @returns {Promise<IteratorResult<O, undefined>>} */
  const read = async () => {
    const { value } = await call.next().catch(() => /** @type {Promise<any>} */ (ended));
    if (value) return { done: false, value: guard(() => O.fromBinary(value, binaryOptions)) };
    await ended;
    return { done: true, value };
  };

  /** @type {import("@protobuf-ts/runtime-rpc").RpcInputStream<I>} */
  const requests = {
    send: (message) =>
      quiet(
        (async () => call.send(guard(() => I.toBinary(message, binaryOptions))))().catch((error) => {
          throw error.status ? toError(error.status) : error;
        }),
      ),
    complete: async () => call.halfClose(),
  };
  if (input) {
    requests.send(input);
    requests.complete();
  }

  return {
    meta,
    requests,
    headers,
    responses: createOutput(read, () => call.cancel(), headers, ended),
    ...conclude(ended),
    ended,
    read,
    fail,
  };
}

/**
 * The only response of a call that has one, and the end behind it.
 * @template {object} I
 * @template {object} O
 * @param {ReturnType<typeof start<I, O>>} call
 */
function single(call) {
  const { headers, ended, read, fail } = call;
  const response = quiet(
    (async () => {
      await headers;
      /** @type {O | undefined} */
      let message;
      for (let result; !(result = await read()).done; message = result.value) {
        if (message) fail("the service answered with more than one message", "DATA_LOSS");
      }
      return message ?? fail("the service answered with no message, and OK", "DATA_LOSS");
    })(),
  );
  return { ...call, response, ...conclude(response.then(() => ended)) };
}

/** @param {Promise<Status>} ended */
const conclude = (ended) => ({
  status: quiet(ended.then(({ message }) => ({ code: "OK", detail: message || "OK" }))),
  trailers: quiet(ended.then(({ metadata }) => toMeta(metadata))),
});

/**
 * Nobody has to look at each of a call's promises.
 * @template T
 * @param {Promise<T>} promise
 */
function quiet(promise) {
  promise.catch(() => {});
  return promise;
}

/**
 * A stream of responses, read by one iterator or, when there is none, for the callbacks. Callbacks see what the
 * iterator reads, too. Nothing is kept for somebody who comes later.
 * @template {object} O
 * @param {() => Promise<IteratorResult<O, undefined>>} read
 * @param {() => void} cancel
 * @param {Promise<RpcMetadata>} headers
 * @param {Promise<Status>} ended
 * @returns {RpcOutputStream<O>}
 */
function createOutput(read, cancel, headers, ended) {
  /** @type {Set<NextCallback<O>>} */
  const callbacks = new Set();
  let driving = false;
  let iterating = false;
  let missed = false;
  /** @type {ReturnType<typeof read> | undefined} what is being read for the callbacks; an iterator takes it over */
  let driven;

  /** @type {NextCallback<O>} */
  const tell = (...event) => {
    for (const callback of callbacks) {
      try {
        callback(...event);
      } catch (error) {
        // A callback's error harms neither the others nor the call, but does not go unseen.
        Promise.reject(error);
      }
    }
  };
  /** @param {Error} [error] */
  const finish = (error) => {
    tell(undefined, error, !error);
    callbacks.clear();
  };
  const advance = async () => {
    try {
      const result = await read();
      if (result.done) finish();
      else tell(result.value, undefined, false);
      return result;
    } catch (error) {
      finish(/** @type {Error} */ (error));
      throw error;
    }
  };
  const drive = async () => {
    // Somebody who waits for the headers, and iterates then, is in time.
    await headers.catch(() => {});
    while (!iterating) {
      driven = quiet(advance());
      if ((await driven).done) return;
      missed ||= !iterating;
    }
  };
  /**
   * @param {NextCallback<O>} callback
   * @param {boolean} reads
   */
  const add = (callback, reads) => {
    callbacks.add(callback);
    if (reads && !driving) {
      driving = true;
      quiet(drive());
    }
    return () => void callbacks.delete(callback);
  };
  /** @param {Error} [error] */
  const settle = (error) => driving || iterating || finish(error);
  ended.then(() => settle(), settle);

  return {
    onNext: (callback) => add(callback, true),
    onMessage: (callback) => add((message) => message && callback(message), true),
    onError: (callback) => add((_, error) => error && callback(error), false),
    onComplete: (callback) => add((_, __, done) => done && callback(), false),
    [Symbol.asyncIterator]: () => ({
      next() {
        if (missed) return Promise.reject(new RpcError("onMessage or onNext have taken messages already", "FAILED_PRECONDITION"));
        iterating = true;
        const first = driven;
        driven = undefined;
        return first ?? advance();
      },
      async return() {
        cancel();
        ended.then(() => finish(), finish);
        return { done: true, value: undefined };
      },
    }),
  };
}

/**
 * @param {Metadata} metadata
 * @returns {RpcMetadata} bytes as base64
 */
function toMeta(metadata) {
  /** @type {RpcMetadata} */
  const meta = {};
  for (const [name, value] of metadata) {
    const text = typeof value === "string" ? value : base64encode(value);
    meta[name] = Object.hasOwn(meta, name) ? [meta[name], text].flat() : text;
  }
  return meta;
}
