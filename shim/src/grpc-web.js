// google's grpc-web: the runtime that its generated code imports, over a channel. A bundler can put this module in the
// place of the package `grpc-web`. For pages that keep the package there are interceptors instead; and for the calls
// that the generator has no stubs for, client streaming and bidirectional, there are functions.

import { RpcError, StatusCode, Stream, collect, incomplete, nameOf, open, receive, toError, toObject, toStatus, unary } from "./grpc-web-call.js";
import { createChannel } from "./index.js";

/** @typedef {import("./channel.js").Channel} Channel */

/** @typedef {{ [name: string]: string }} Metadata */
/** @typedef {{ code: number, details: string, metadata?: Metadata }} Status */
/** @typedef {{ readonly signal?: AbortSignal }} PromiseCallOptions */

/**
 * @template RESP
 * @typedef {{
 *   on(eventType: "error", callback: (err: RpcError) => void): ClientReadableStream<RESP>;
 *   on(eventType: "status", callback: (status: Status) => void): ClientReadableStream<RESP>;
 *   on(eventType: "metadata", callback: (metadata: Metadata) => void): ClientReadableStream<RESP>;
 *   on(eventType: "data", callback: (response: RESP) => void): ClientReadableStream<RESP>;
 *   on(eventType: "end", callback: () => void): ClientReadableStream<RESP>;
 *   removeListener(eventType: "error", callback: (err: RpcError) => void): void;
 *   removeListener(eventType: "status", callback: (status: Status) => void): void;
 *   removeListener(eventType: "metadata", callback: (metadata: Metadata) => void): void;
 *   removeListener(eventType: "data", callback: (response: RESP) => void): void;
 *   removeListener(eventType: "end", callback: () => void): void;
 *   cancel(): void;
 * }} ClientReadableStream
 */

/**
 * @template REQ, RESP
 * @typedef {{
 *   getRequestMessage(): REQ;
 *   getMethodDescriptor(): MethodDescriptor<REQ, RESP>;
 *   getMetadata(): Metadata;
 *   getCallOptions(): CallOptions;
 * }} Request
 */

/**
 * @template REQ, RESP
 * @typedef {{
 *   getResponseMessage(): RESP;
 *   getMetadata(): Metadata;
 *   getMethodDescriptor(): MethodDescriptor<REQ, RESP>;
 *   getStatus(): Status;
 * }} UnaryResponse
 */

/**
 * @template REQ, RESP
 * @typedef {{
 *   intercept(
 *     request: Request<REQ, RESP>,
 *     invoker: (request: Request<REQ, RESP>) => ClientReadableStream<RESP>,
 *   ): ClientReadableStream<RESP>;
 * }} StreamInterceptor
 */

/**
 * @template REQ, RESP
 * @typedef {{
 *   intercept(
 *     request: Request<REQ, RESP>,
 *     invoker: (request: Request<REQ, RESP>) => Promise<UnaryResponse<REQ, RESP>>,
 *   ): Promise<UnaryResponse<REQ, RESP>>;
 * }} UnaryInterceptor
 */

/**
 * `format`, `suppressCorsPreflight` and `withCredentials` are about HTTP requests, and do nothing here.
 * @typedef {object} GrpcWebClientBaseOptions
 * @property {string} [format]
 * @property {boolean} [suppressCorsPreflight]
 * @property {boolean} [withCredentials]
 * @property {UnaryInterceptor<unknown, unknown>[]} [unaryInterceptors]
 * @property {StreamInterceptor<unknown, unknown>[]} [streamInterceptors]
 * @property {number} [maxReceiveMessageSize] bytes; without it, the limit is the proxy's
 */

export const MethodType = { UNARY: "unary", SERVER_STREAMING: "server_streaming", BIDI_STREAMING: "bidi_streaming" };

/** Options that an interceptor may find with a request; there are none. */
export class CallOptions {
  /** @param {{ [name: string]: any }} [options] */
  constructor(options = {}) {
    /** @param {string} name @returns {any} */
    this.get = (name) => options[name];
  }
}

/**
 * A method, as generated code describes it.
 * @template REQ, RESP
 */
export class MethodDescriptor {
  /**
   * @param {string} name `"/package.Service/Method"`
   * @param {string} methodType
   * @param {new (...args: any[]) => REQ} requestType
   * @param {new (...args: any[]) => RESP} responseType
   * @param {any} requestSerializeFn
   * @param {any} responseDeserializeFn
   */
  constructor(name, methodType, requestType, responseType, requestSerializeFn, responseDeserializeFn) {
    // In this order, and the functions last: see `Stream`.
    Object.assign(this, { name, methodType, requestType, responseType, requestSerializeFn, responseDeserializeFn });
  }

  /** @returns {string} */
  getName() {
    return /** @type {any} */ (this).name;
  }
}

/** @type {Map<string, Channel | undefined>} of hostnames that have one of their own */
const channels = new Map();
/** @type {Map<string, Channel>} of hostnames for which nobody has set one */
const defaults = new Map();
/** @type {Channel | undefined} */
let shared;

/** @param {string} hostname */
const trim = (hostname) => hostname.replace(/\/+$/, "");

/**
 * Says which channel the generated clients use. Without it, each hostname gets a channel of its own, to
 * `/bidiway/session` there.
 * @param {Channel | undefined} channel
 * @param {string} [hostname] what clients are made with, for those alone; a hostname of its own goes before the channel
 *   for all
 */
export function setChannel(channel, hostname) {
  if (hostname === undefined) shared = channel;
  else channels.set(trim(hostname), channel);
}

/** @param {string} hostname */
function channelOf(hostname) {
  const name = trim(hostname);
  let channel = channels.get(name) ?? shared ?? defaults.get(name);
  if (!channel) defaults.set(name, (channel = createChannel({ url: `${name}/bidiway/session` })));
  return channel;
}

/** What generated clients are made of. */
export class GrpcWebClientBase {
  /** @type {new (...args: any[]) => any} */
  static MethodInfo = MethodDescriptor;

  /** @param {GrpcWebClientBaseOptions} [options] */
  constructor(options) {
    // Not declared: what applications put in the place of a client need not have it.
    /** @type {any} */ (this).options = options ?? {};
  }

  /**
   * @template REQ, RESP
   * @param {string} method the hostname and the method's name
   * @param {REQ} request
   * @param {Metadata} metadata
   * @param {MethodDescriptor<REQ, RESP>} methodDescriptor
   * @param {PromiseCallOptions} [options]
   * @returns {Promise<RESP>}
   */
  thenableCall(method, request, metadata, methodDescriptor, options) {
    /** @type {GrpcWebClientBaseOptions} */
    const { unaryInterceptors, maxReceiveMessageSize } = /** @type {any} */ (this).options;
    const channel = channelOf(hostnameOf(method, methodDescriptor));
    return intercept(
      unaryInterceptors,
      (request) => unary(channel, request, maxReceiveMessageSize, options?.signal),
      toRequest(request, metadata, methodDescriptor),
    ).then((/** @type {UnaryResponse<REQ, RESP>} */ response) => response.getResponseMessage());
  }

  /**
   * @template REQ, RESP
   * @param {string} method
   * @param {REQ} request
   * @param {Metadata} metadata
   * @param {MethodDescriptor<REQ, RESP>} methodDescriptor
   * @param {PromiseCallOptions} [options]
   * @returns {Promise<RESP>}
   */
  unaryCall(method, request, metadata, methodDescriptor, options) {
    return this.thenableCall(method, request, metadata, methodDescriptor, options);
  }

  /**
   * @template REQ, RESP
   * @param {string} method
   * @param {REQ} request
   * @param {Metadata} metadata
   * @param {MethodDescriptor<REQ, RESP>} methodDescriptor
   * @param {(err: RpcError, response: RESP) => void} callback
   * @returns {ClientReadableStream<RESP>} for metadata, status, end and `cancel()`: the callback has the rest
   */
  rpcCall(method, request, metadata, methodDescriptor, callback) {
    const stream = this.serverStreaming(method, request, metadata, methodDescriptor);
    collect(stream, (/** @type {any} */ error, /** @type {any} */ { message }) => callback(error, error ? null : message));
    /** @param {string} type */
    const own = (type) => type === "data" || type === "error";
    /** @type {any} */
    const unaryStream = {
      /** @type {(type: any, listener: any) => any} */
      on(type, listener) {
        if (!own(type)) stream.on(type, listener);
        return unaryStream;
      },
      /** @type {(type: any, listener: any) => any} */
      removeListener(type, listener) {
        if (!own(type)) stream.removeListener(type, listener);
        return unaryStream;
      },
      cancel: () => stream.cancel(),
    };
    return unaryStream;
  }

  /**
   * @template REQ, RESP
   * @param {string} method
   * @param {REQ} request
   * @param {Metadata} metadata
   * @param {MethodDescriptor<REQ, RESP>} methodDescriptor
   * @returns {ClientReadableStream<RESP>}
   */
  serverStreaming(method, request, metadata, methodDescriptor) {
    /** @type {GrpcWebClientBaseOptions} */
    const { streamInterceptors, maxReceiveMessageSize } = /** @type {any} */ (this).options;
    const channel = channelOf(hostnameOf(method, methodDescriptor));
    return intercept(
      streamInterceptors,
      (request) => new Stream(channel, request, maxReceiveMessageSize),
      toRequest(request, metadata, methodDescriptor),
    );
  }
}

export { GrpcWebClientBase as AbstractClientBase, MethodDescriptor as MethodInfo, RpcError, RpcError as Error, StatusCode };

/**
 * Interceptors that answer calls over a channel, for clients of google's own runtime:
 * `new EchoClient(hostname, null, createInterceptors(channel))`. Other interceptors come after these in the lists. The
 * `signal` of a promise's call does not reach interceptors: such a call cannot be aborted.
 * @param {Channel} channel
 * @returns {{
 *   unaryInterceptors: { intercept(request: any, invoker?: any): Promise<UnaryResponse<any, any>> }[],
 *   streamInterceptors: { intercept(request: any, invoker?: any): ClientReadableStream<any> }[],
 * }} such as every version of the runtime takes
 */
export const createInterceptors = (channel) => ({
  unaryInterceptors: [{ intercept: (request) => unary(channel, request) }],
  streamInterceptors: [{ intercept: (request) => new Stream(channel, request) }],
});

/**
 * @typedef {object} StreamingOptions
 * @property {Metadata} [metadata]
 * @property {AbortSignal} [signal]
 */

/**
 * A call that generated message classes go through. `send` settles when flow control has admitted the message: wait for
 * it before the next one, and memory stays bounded; it rejects when the call is over, and `status` tells why.
 * @template REQ, RESP
 * @typedef {{
 *   send(request: REQ): Promise<void>;
 *   halfClose(): void;
 *   cancel(): void;
 *   readonly metadata: Promise<Metadata>;
 *   readonly status: Promise<Status>;
 *   [Symbol.asyncIterator](): AsyncGenerator<RESP, void, undefined>;
 * }} BidiCall
 */

/**
 * A bidirectional call, for which the generator writes no stub. Leaving its `for await` loop cancels it; the loop throws
 * an `RpcError` when the call fails.
 * @template {{ serializeBinary(): Uint8Array }} REQ
 * @template RESP
 * @param {Channel} channel
 * @param {string} method `"/package.Service/Method"`
 * @param {new (...args: any[]) => REQ} _requestType for the type's sake
 * @param {{ deserializeBinary(bytes: Uint8Array): RESP }} responseType
 * @param {StreamingOptions} [options]
 * @returns {BidiCall<REQ, RESP>}
 */
export function bidi(channel, method, _requestType, responseType, { metadata, signal } = {}) {
  const call = open(channel, method, metadata, signal);
  return {
    send: async (request) => call.send(request.serializeBinary()),
    halfClose: () => call.halfClose(),
    cancel: () => call.cancel(),
    metadata: call.headers.then(toObject),
    status: call.status.then(toStatus),
    async *[Symbol.asyncIterator]() {
      const failure = yield* receive(call, (bytes) => responseType.deserializeBinary(bytes));
      if (failure.code) throw toError(failure);
    },
  };
}

/**
 * A client-streaming call, for which the generator writes no stub: `send()` messages, then `finish()` for the answer.
 * @template {{ serializeBinary(): Uint8Array }} REQ
 * @template RESP
 * @param {Channel} channel
 * @param {string} method `"/package.Service/Method"`
 * @param {new (...args: any[]) => REQ} requestType for the type's sake
 * @param {{ deserializeBinary(bytes: Uint8Array): RESP }} responseType
 * @param {StreamingOptions} [options]
 * @returns {Omit<BidiCall<REQ, RESP>, "halfClose" | typeof Symbol.asyncIterator> & { finish(): Promise<RESP> }}
 */
export function clientStream(channel, method, requestType, responseType, options) {
  const { halfClose, ...call } = bidi(channel, method, requestType, responseType, options);
  return {
    ...call,
    async finish() {
      halfClose();
      let answer;
      for await (const message of call) answer = message;
      if (!answer) throw incomplete();
      return answer;
    },
  };
}

// Calls as the generated clients make them.

/**
 * @param {string} method
 * @param {MethodDescriptor<any, any>} descriptor
 */
const hostnameOf = (method, descriptor) => method.slice(0, method.length - nameOf(descriptor).length);

/**
 * @param {any} message
 * @param {Metadata} metadata
 * @param {MethodDescriptor<any, any>} descriptor
 * @returns {Request<any, any>}
 */
const toRequest = (message, metadata, descriptor) => ({
  getRequestMessage: () => message,
  getMethodDescriptor: () => descriptor,
  getMetadata: () => metadata,
  getCallOptions: () => new CallOptions(),
});

/**
 * The last of the interceptors sees the request first.
 * @param {{ intercept(request: any, invoker: any): any }[] | undefined} interceptors
 * @param {(request: Request<any, any>) => any} invoker
 * @param {Request<any, any>} request
 */
const intercept = (interceptors = [], invoker, request) =>
  interceptors.reduce((next, interceptor) => (request) => interceptor.intercept(request, next), invoker)(request);
