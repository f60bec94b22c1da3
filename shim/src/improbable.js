// @improbable-eng/grpc-web: a TransportFactory over a channel, so that all its calls share one socket.

import { frame, openCall, toText, toTrailers, unframe } from "./grpc.js";
import { Code, clientStatus } from "./status.js";

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("@improbable-eng/grpc-web").grpc.TransportFactory} TransportFactory */

/**
 * @typedef {object} ImprobableTransportOptions
 * @property {number} [maxQueuedBytes] what one call may have waiting to be sent: the library's `send()` cannot tell the
 *   application to wait, so a call that has more ends with RESOURCE_EXHAUSTED; 16 MiB by default
 */

/**
 * A transport for the `transport` option of `grpc.unary`, `grpc.invoke` and `grpc.client`, or for
 * `grpc.setDefaultTransport`. Where calls go is the channel's business: the `host` option has no say.
 * @param {Channel} channel
 * @param {ImprobableTransportOptions} [options]
 * @returns {TransportFactory}
 */
export const createTransport =
  (channel, { maxQueuedBytes = 16 * 1024 * 1024 } = {}) =>
  ({ methodDefinition: { service, methodName }, onHeaders, onChunk, onEnd }) => {
    /** @type {Call} */
    let call;
    let queued = 0;
    /** @type {import("./status.js").Status | undefined} an end of our own making */
    let failure;

    /**
     * @param {number} code
     * @param {string} message
     */
    const fail = (code, message) => {
      failure ??= clientStatus(code, message);
      call.cancel();
    };

    /** @param {{ new (): import("@improbable-eng/grpc-web").grpc.Metadata }} Headers */
    async function receive(Headers) {
      const headers = new Headers();
      for (const [name, value] of await call.headers) headers.append(name, toText(value));
      // Also for a call that nobody answered: the library looks at no error, only at headers and trailers.
      onHeaders(headers, 200);
      while (!failure) {
        // The call's own error says less than its status, which follows.
        const message = await call.next().catch(() => undefined);
        if (!message || message.done) break;
        try {
          onChunk(frame(message.value));
        } catch (error) {
          fail(Code.INTERNAL, `the message cannot be read: ${error}`);
        }
      }
      const trailers = toTrailers(failure ?? (await call.status)).map(([name, value]) => `${name}: ${toText(value)}\r\n`);
      onChunk(frame(new TextEncoder().encode(trailers.join("")), 0x80));
      onEnd();
    }

    return {
      start(metadata) {
        call = openCall(channel, `/${service.serviceName}/${methodName}`, Object.entries(metadata.headersMap));
        receive(/** @type {any} */ (metadata.constructor));
      },
      sendMessage(framed) {
        const message = unframe(framed);
        queued += message.length;
        if (queued > maxQueuedBytes) return fail(Code.RESOURCE_EXHAUSTED, "the service takes messages too slowly");
        call.send(message).then(
          () => (queued -= message.length),
          () => {},
        );
      },
      finishSend: () => call.halfClose(),
      cancel: () => call.cancel(),
    };
  };
