// nice-grpc-web, with generic definitions made by ts-proto.

import { isAbortError } from "abort-controller-x";
import { deadlineMiddleware } from "nice-grpc-client-middleware-deadline";
import { Metadata } from "nice-grpc-common";
import { ClientError, FetchTransport, WebsocketTransport, createChannel, createClientFactory } from "nice-grpc-web";
import { createTransport } from "bidiway/nice-grpc";
import { MatrixDefinition } from "#gen/nice-grpc/matrix/v1/matrix.ts";
import { channel } from "./channel.js";
import { collect, outcome, richDetails } from "./outcome.js";

const FETCH = "a streamed request body goes over HTTP/2 in Chromium alone, and gives no answer before its end";

const niceGrpc = (name, transport, { cannot = {}, hides = {} } = {}) => ({
  name,
  cannot,
  hides,
  async open(url) {
    const client = createClientFactory().use(deadlineMiddleware).create(MatrixDefinition, createChannel(url, transport(url)));
    return async (kind, { metadata, timeoutMs, signal, ask, asks, onAnswer }) => {
      const result = outcome();
      const all = Metadata();
      for (const [name, value] of metadata) all.append(name, value);
      const options = {
        metadata: all,
        signal,
        // Its deadline is the client's own affair: the service hears of it by metadata.
        ...(timeoutMs ? { deadline: timeoutMs } : {}),
        onHeader: (header) => (result.header = collect(header)),
        onTrailer: (trailer) => (result.trailer = collect(trailer)),
      };
      if (timeoutMs) all.set("grpc-timeout", `${timeoutMs}m`);
      try {
        if (kind === "unary" || kind === "clientStream") onAnswer(await client[kind](asks ?? ask, options));
        else for await (const answer of client[kind](asks ?? ask, options)) onAnswer(answer);
      } catch (error) {
        if (error instanceof ClientError) Object.assign(result, { code: error.code, message: error.details });
        else if (isAbortError(error)) Object.assign(result, { code: 1 });
        else throw error;
      }
      result.details = richDetails(result.trailer);
      return result;
    };
  },
});

export const NICE_GRPC = [
  niceGrpc("nice-grpc-web, fetch", () => FetchTransport(), { cannot: { clientStream: FETCH, bidi: FETCH } }),
  niceGrpc("nice-grpc-web, WebSocket", () => WebsocketTransport()),
  niceGrpc("nice-grpc-web on Bidiway", (url) => createTransport(channel(url))),
];
