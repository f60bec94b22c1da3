// Connect-ES, with clients made by protoc-gen-es.

import { ConnectError, createClient, encodeBinaryHeader } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { createTransport } from "bidiway/connect";
import { Matrix } from "#gen/es/matrix/v1/matrix_pb.js";
import { base64 } from "../scenarios.js";
import { channel } from "./channel.js";
import { collect, outcome } from "./outcome.js";

const FETCH = "connect-web throws: the fetch API does not support streaming request bodies";

function headers(metadata) {
  const headers = new Headers();
  for (const [name, value] of metadata) headers.append(name, typeof value === "string" ? value : encodeBinaryHeader(value));
  return headers;
}

const connect = (name, transport, cannot) => ({
  name,
  cannot,
  hides: {},
  async open(url) {
    const client = createClient(Matrix, transport(url));
    return async (kind, { metadata, timeoutMs, signal, ask, asks, onAnswer }) => {
      const result = outcome();
      const options = {
        headers: headers(metadata),
        timeoutMs,
        signal,
        onHeader: (header) => (result.header = collect(header)),
        onTrailer: (trailer) => (result.trailer = collect(trailer)),
      };
      try {
        if (kind === "unary" || kind === "clientStream") onAnswer(await client[kind](asks ?? ask, options));
        else for await (const answer of client[kind](asks ?? ask, options)) onAnswer(answer);
      } catch (reason) {
        const error = ConnectError.from(reason);
        Object.assign(result, { code: error.code, message: error.rawMessage });
        // An error has one set of metadata: that of headers and trailers.
        result.header = { ...result.header, ...collect(error.metadata) };
        result.trailer = result.header;
        result.details = error.details.map(({ type, value }) => [type, base64(value)]);
      }
      return result;
    };
  },
});

export const CONNECT = [
  connect("connect-web, gRPC-Web", (baseUrl) => createGrpcWebTransport({ baseUrl }), { clientStream: FETCH, bidi: FETCH }),
  connect("Connect on Bidiway", (url) => createTransport(channel(url)), {}),
];
