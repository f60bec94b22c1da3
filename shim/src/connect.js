// Connect-ES v2: a Transport over a channel, so that generated clients run unmodified, with all four kinds of calls.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Code, ConnectError, createContextValues, encodeBinaryHeader } from "@connectrpc/connect";
import { pump } from "./pump.js";

/** @typedef {import("@bufbuild/protobuf").DescMessage} DescMessage */
/** @typedef {import("@connectrpc/connect").Interceptor} Interceptor */
/** @typedef {import("@connectrpc/connect").StreamRequest} StreamRequest */
/** @typedef {import("@connectrpc/connect").StreamResponse} StreamResponse */
/** @typedef {import("@connectrpc/connect").Transport} Transport */
/** @typedef {import("@connectrpc/connect").UnaryRequest} UnaryRequest */
/** @typedef {import("@connectrpc/connect").UnaryResponse} UnaryResponse */
/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./status.js").Status} Status */

/**
 * How messages are written and read.
 * @typedef {object} ConnectCodec
 * @property {"json"} [name] what the proxy is told; nothing for binary
 * @property {(schema: DescMessage, message: any) => Uint8Array} write
 * @property {(schema: DescMessage, bytes: Uint8Array) => any} read
 */

/**
 * @typedef {object} ConnectTransportOptions
 * @property {Interceptor[]} [interceptors]
 * @property {number} [defaultTimeoutMs] for calls that have no timeout of their own; such a call can ask for none with 0
 * @property {Partial<import("@bufbuild/protobuf").BinaryReadOptions & import("@bufbuild/protobuf").BinaryWriteOptions>} [binaryOptions]
 * @property {true} [useBinaryFormat] as messages are binary in any case, unless there is a codec
 * @property {ConnectCodec} [codec] for messages that are not binary: `createJsonCodec()` of `bidiway/connect-json`
 * @property {string} [baseUrl] what `url` begins with in the requests that interceptors see
 */

/**
 * A Connect-ES transport for `createClient(Service, transport)`. Aborting a call's signal cancels it at the service;
 * leaving a `for await` loop does not (Connect clients do not pass it on): the abandoned call stalls by flow control.
 * @param {Channel} channel
 * @param {ConnectTransportOptions} [options]
 * @returns {Transport}
 */
export function createTransport(
  channel,
  {
    interceptors = [],
    defaultTimeoutMs,
    binaryOptions,
    codec = {
      write: (schema, message) => toBinary(schema, message, binaryOptions),
      read: (schema, bytes) => fromBinary(schema, bytes, binaryOptions),
    },
    baseUrl = globalThis.location?.origin ?? "http://localhost",
  } = {},
) {
  /**
   * Runs a call through the interceptors. One signal ends it, whatever the reason; it is aborted at the end, too, so
   * that interceptors can let go.
   * @param {boolean} stream
   * @param {any} method
   * @param {AbortSignal | undefined} signal
   * @param {number | undefined} timeoutMs
   * @param {HeadersInit | undefined} header
   * @param {unknown} message
   * @param {import("@connectrpc/connect").ContextValues | undefined} contextValues
   * @param {(request: any, call: Call, send: (message: any) => Promise<void>, receive: () => AsyncIterable<any>) => Promise<any>} answer
   *   what is particular about the kind of the call, as a part of a response
   * @returns {Promise<any>}
   */
  async function run(stream, method, signal, timeoutMs = defaultTimeoutMs, header, message, contextValues = createContextValues(), answer) {
    const service = method.parent;
    const path = `/${service.typeName}/${method.name}`;
    const deadline = timeoutMs && timeoutMs > 0 ? Date.now() + timeoutMs : undefined;
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    // The call keeps the deadline, too, and so does the proxy. Who notices it first ends the call, with the same code;
    // this timer is for interceptors, before and between calls.
    const expire = () => controller.abort(new ConnectError("the operation timed out", Code.DeadlineExceeded));
    const timer = deadline && setTimeout(expire, Math.min(deadline - Date.now(), 2 ** 31 - 1));
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();

    /** @type {Promise<ConnectError | undefined> | undefined} how the latest call failed, if it did */
    let failure;
    const next = async (/** @type {any} */ request) => {
      const call = channel.open({
        method: path,
        metadata: request.header,
        timeoutMs: deadline && deadline - Date.now(),
        signal: request.signal,
        codec: codec.name,
      });
      const header = call.headers.then((metadata) => append(new Headers(), metadata));
      const trailer = new Headers();
      const failed = (failure = call.status.then(async (status) => {
        append(trailer, status.metadata);
        return status.code ? toError(status, await header) : undefined;
      }));
      /**
       * @template T
       * @param {() => T} convert
       */
      const guard = (convert) => {
        try {
          return convert();
        } catch (error) {
          call.cancel(ConnectError.from(error, Code.Internal));
          throw error;
        }
      };
      const send = async (/** @type {any} */ message) =>
        call.send(guard(() => codec.write(method.input, message)));
      async function* receive() {
        try {
          for await (const bytes of call) yield guard(() => codec.read(method.output, bytes));
        } catch {
          // The call's status tells why.
        }
        const error = await failed;
        if (error) throw error;
      }
      const part = await answer(request, call, send, receive);
      return { stream, service, method, header: await header, trailer, ...part };
    };
    try {
      return await interceptors.reduceRight((/** @type {any} */ next, wrap) => wrap(next), next)({
        stream,
        service,
        method,
        requestMethod: "POST",
        url: baseUrl + path,
        signal: controller.signal,
        header: new Headers(header),
        contextValues,
        message,
      });
    } finally {
      Promise.resolve(failure).then((error) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        controller.abort(error);
      });
    }
  }

  return {
    unary: (method, signal, timeoutMs, header, input, contextValues) =>
      run(false, method, signal, timeoutMs, header, create(method.input, input), contextValues, async (request, call, send, receive) => {
        send(request.message).catch(() => {});
        call.halfClose();
        let message;
        for await (const output of receive()) {
          if (message) throw violation("received extra output messages");
          message = output;
        }
        if (!message) throw violation("missing output message");
        return { message };
      }),

    stream: (method, signal, timeoutMs, header, input, contextValues) => {
      const response = run(true, method, signal, timeoutMs, header, normalize(method.input, input), contextValues, async (request, call, send, receive) => {
        // Many services answer only after the first message: sending does not wait for headers.
        pump(request.message, call, send, ConnectError.from);
        return { message: receive() };
      });
      // Clients look at the promise only when the application begins to read.
      response.catch(() => {});
      return response;
    },
  };
}

/** @param {string} problem */
const violation = (problem) => new ConnectError(`protocol error: ${problem} for unary method`, Code.Unimplemented);

/**
 * Makes whole messages of what the application yields. No generator: its `return` must reach an iterator that waits.
 * @param {DescMessage} schema
 * @param {AsyncIterable<any>} input
 * @returns {AsyncIterable<any>}
 */
const normalize = (schema, input) => ({
  [Symbol.asyncIterator]() {
    const messages = input[Symbol.asyncIterator]();
    return {
      next: async () => {
        const { done, value } = await messages.next();
        return done ? { done, value } : { done: false, value: create(schema, value) };
      },
      return: async () => (await messages.return?.()) ?? { done: true, value: undefined },
    };
  },
});

/**
 * @param {Status} status not OK
 * @param {Headers} header
 */
function toError({ code, message, details, metadata, origin, cause }, header) {
  if (code === Code.Canceled && origin === "client" && cause !== undefined) return ConnectError.from(cause, code);
  const all = append(new Headers(header), metadata);
  const error = new ConnectError(message, code in Code ? code : Code.Internal, all, undefined, cause);
  try {
    error.details = readFields(details, 3).map((any) => ({
      type: new TextDecoder().decode(readFields(any, 1)[0]).replace(/.*\//, ""),
      value: readFields(any, 2)[0] ?? new Uint8Array(),
    }));
  } catch {
    // Broken details do not hide the error itself.
  }
  return Object.assign(error, { isWireError: origin !== "client" });
}

/**
 * The occurrences of a field with a length: `details` is field 3 of google.rpc.Status, and each is a
 * google.protobuf.Any with the type in field 1 and the value in field 2.
 * @param {Uint8Array} bytes
 * @param {number} wanted
 */
function readFields(bytes, wanted) {
  const reader = new BinaryReader(bytes);
  const found = [];
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === wanted) found.push(reader.bytes());
    else reader.skip(type, field);
  }
  return found;
}

/**
 * @param {Headers} headers
 * @param {Metadata} metadata
 */
function append(headers, metadata) {
  for (const [name, value] of metadata) {
    headers.append(name, typeof value === "string" ? value : encodeBinaryHeader(value));
  }
  return headers;
}
