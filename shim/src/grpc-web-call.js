// One call of google's grpc-web over a channel: its events, its one outcome when it is unary, and its error.

import { openCall, toText, trailingMetadata } from "./grpc.js";
import { Code, codeName } from "./index.js";

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./grpc-web.js").Metadata} Metadata */
/** @typedef {import("./grpc-web.js").Status} Status */
/** @typedef {import("./status.js").Status} CoreStatus */
/**
 * @template RESP
 * @typedef {import("./grpc-web.js").ClientReadableStream<RESP>} ClientReadableStream
 */
/**
 * @template REQ, RESP
 * @typedef {import("./grpc-web.js").Request<REQ, RESP>} Request
 */
/**
 * @template REQ, RESP
 * @typedef {import("./grpc-web.js").UnaryResponse<REQ, RESP>} UnaryResponse
 */

/** @typedef {number} StatusCode */
/**
 * The gRPC status codes. Its type is that of google's, an enum of which the numbers have names; there, too, they have
 * none when the program runs.
 */
export const StatusCode = /** @type {typeof Code & { readonly [code: number]: string }} */ (Code);

/** A call has failed. */
export class RpcError extends Error {
  /**
   * @param {StatusCode} code
   * @param {string} message
   * @param {Metadata} [metadata]
   */
  constructor(code, message, metadata = {}) {
    super(message);
    this.name = "RpcError";
    /** @type {StatusCode} */
    this.code = code;
    /** @type {Metadata} trailing metadata */
    this.metadata = metadata;
  }

  toString() {
    return `RpcError(${codeName(this.code)})` + (this.message && `: ${this.message}`);
  }
}

/**
 * @param {Channel} channel
 * @param {string} method
 * @param {Metadata | null} [metadata]
 * @param {AbortSignal} [signal]
 */
export function open(channel, method, metadata, signal) {
  const { deadline, ...rest } = metadata ?? {};
  const timeoutMs = Math.ceil(Number(deadline) - Date.now());
  return openCall(channel, method, Object.entries(rest), signal, Number.isFinite(timeoutMs) ? timeoutMs : undefined);
}

/**
 * The messages of a call, and in the end its status.
 * @template RESP
 * @param {Call} call
 * @param {(bytes: Uint8Array) => RESP} deserialize
 * @param {number} [maxBytes]
 * @returns {AsyncGenerator<RESP, CoreStatus, undefined>}
 */
export async function* receive(call, deserialize, maxBytes) {
  /** @type {(code: number, message: string) => Promise<CoreStatus>} */
  const fail = async (code, message) => {
    call.cancel();
    return { ...(await call.status), code, message, metadata: [], origin: "client" };
  };
  try {
    for (;;) {
      // The call's own error says less than its status.
      const { value } = (await call.next().catch(() => undefined)) ?? {};
      if (!value) return await call.status;
      if (maxBytes && value.length > maxBytes) {
        return await fail(Code.RESOURCE_EXHAUSTED, "Received message larger than max receive message size");
      }
      let message;
      try {
        message = deserialize(value);
      } catch (error) {
        return await fail(Code.INTERNAL, `Error when deserializing response data; error: ${error}`);
      }
      yield message;
    }
  } finally {
    call.cancel();
  }
}

/** @param {import("./metadata.js").Metadata} entries */
export function toObject(entries) {
  /** @type {Map<string, string>} */
  const texts = new Map();
  for (const [name, value] of entries) {
    const before = texts.get(name);
    texts.set(name, (before === undefined ? "" : `${before}, `) + toText(value));
  }
  return Object.fromEntries(texts);
}

/**
 * @param {CoreStatus} status
 * @returns {Required<Status>}
 */
export const toStatus = (status) => ({ code: status.code, details: status.message, metadata: toObject(trailingMetadata(status)) });

/** @param {CoreStatus} status */
export function toError(status) {
  const { code, details, metadata } = toStatus(status);
  return new RpcError(code, details, metadata);
}

export const incomplete = () => new RpcError(Code.UNKNOWN, "Incomplete response");

/**
 * The name of a method; google's 1.2 keeps `getName` to itself.
 * @param {any} descriptor
 * @returns {string}
 */
export const nameOf = (descriptor) => descriptor.getName?.() ?? descriptor.name;

/**
 * A call with one request. Events come in this order: metadata, data, then status and end; or, when the call fails,
 * error and status.
 */
export class Stream {
  /** @type {Record<string, Function[]>} */
  #listeners = {};
  #call;
  #cancelled = false;

  /**
   * @param {Channel} channel
   * @param {Request<any, any>} request
   * @param {number} [maxBytes]
   */
  constructor(channel, request, maxBytes) {
    const descriptor = request.getMethodDescriptor();
    // google's runtime shortens the names of these fields, but keeps them in order.
    const [serialize, deserialize] = Object.values(descriptor).filter((value) => typeof value === "function").slice(-2);
    const bytes = serialize(request.getRequestMessage());
    const call = (this.#call = open(channel, nameOf(descriptor), request.getMetadata()));
    call.send(bytes).catch((error) => call.cancel(error));
    call.halfClose();
    this.#run(deserialize, maxBytes);
  }

  /**
   * @param {string} type
   * @param {Function} listener
   */
  on(type, listener) {
    (this.#listeners[type] ??= []).push(listener);
    return this;
  }

  /**
   * @param {string} type
   * @param {Function} listener
   */
  removeListener(type, listener) {
    const listeners = this.#listeners[type] ?? [];
    const index = listeners.indexOf(listener);
    if (index >= 0) listeners.splice(index, 1);
    return this;
  }

  /** Gives the call up. No event follows. */
  cancel() {
    this.#cancelled = true;
    this.#call.cancel();
  }

  /**
   * @param {(bytes: Uint8Array) => any} deserialize
   * @param {number} [maxBytes]
   */
  async #run(deserialize, maxBytes) {
    const headers = await this.#call.headers;
    let begun = headers.length > 0;
    this.#emit("metadata", toObject(headers));
    const messages = receive(this.#call, deserialize, maxBytes);
    for (;;) {
      const { done, value } = await messages.next();
      if (done) {
        if (value.code) this.#emit("error", toError(value));
        this.#emit("status", toStatus(value));
        // Where google's runtime has it: not when there was no response, or nothing but an error.
        if (!value.code || (begun && value.origin !== "client")) this.#emit("end");
        return;
      }
      begun = true;
      this.#emit("data", value);
    }
  }

  /**
   * @param {string} type
   * @param {unknown} [value]
   */
  #emit(type, value) {
    for (const listener of [...(this.#listeners[type] ?? [])]) {
      if (this.#cancelled) return;
      try {
        listener(value);
      } catch (error) {
        // The application's own: it must be seen, and must not harm the call.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/**
 * Makes one outcome of a unary call's events.
 * @param {ClientReadableStream<any>} stream
 * @param {(error: RpcError | null, response: { message?: any, metadata?: Metadata, status?: Status }) => void} done
 */
export function collect(stream, done) {
  /** @type {{ message?: any, metadata?: Metadata, status?: Status }} */
  const response = {};
  let over = false;
  /** @param {RpcError | null} error */
  const end = (error) => {
    if (!over) done(error, response);
    over = true;
  };
  stream.on("metadata", (metadata) => (response.metadata = metadata));
  stream.on("data", (message) => (response.message = message));
  stream.on("error", end);
  stream.on("status", (status) => {
    response.status = status;
    // A stream that an interceptor has made may say so only here.
    if (status.code) end(new RpcError(status.code, status.details, status.metadata));
  });
  stream.on("end", () => end(response.message === undefined ? incomplete() : null));
}

/**
 * @param {Channel} channel
 * @param {Request<any, any>} request
 * @param {number} [maxBytes]
 * @param {AbortSignal} [signal]
 * @returns {Promise<UnaryResponse<any, any>>}
 */
export const unary = (channel, request, maxBytes, signal) =>
  new Promise((resolve, reject) => {
    const abort = () => {
      stream?.cancel();
      reject(Object.assign(new RpcError(Code.CANCELLED, "Aborted"), { cause: signal?.reason }));
    };
    /** @type {Stream | undefined} */
    let stream;
    if (signal?.aborted) return abort();
    stream = new Stream(channel, request, maxBytes);
    signal?.addEventListener("abort", abort);
    collect(/** @type {any} */ (stream), (error, { message, metadata = {}, status }) => {
      signal?.removeEventListener("abort", abort);
      if (error) return reject(error);
      resolve({
        getResponseMessage: () => message,
        getMetadata: () => metadata,
        getMethodDescriptor: () => request.getMethodDescriptor(),
        getStatus: () => /** @type {Status} */ (status),
      });
    });
  });
