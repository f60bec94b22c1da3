// protobuf-ts, with clients made by @protobuf-ts/plugin.

import { GrpcStatusCode, GrpcWebFetchTransport } from "@protobuf-ts/grpcweb-transport";
import { createTransport } from "bidiway/protobuf-ts";
import { MatrixClient } from "#gen/protobuf-ts/matrix/v1/matrix.client.ts";
import { channel } from "./channel.js";
import { collect, lists, outcome, richDetails } from "./outcome.js";

const FETCH = "its grpcweb-transport throws UNIMPLEMENTED: client streaming is not supported by grpc-web";

const ENCODED = { "UTF-8 status message, message": "its grpcweb-transport shows it percent-encoded, as it was sent" };

const protobufTs = (name, transport, { cannot = {}, hides = {} } = {}) => ({
  name,
  cannot,
  hides,
  async open(url) {
    const client = new MatrixClient(transport(url));
    return async (kind, { metadata, timeoutMs, signal, ask, asks, onAnswer }) => {
      const result = outcome();
      const options = { meta: lists(metadata), timeout: timeoutMs, abort: signal };
      const call = asks ? client[kind](options) : client[kind](ask, options);
      const headers = call.headers.then((header) => (result.header = collect(Object.entries(header))), () => {});
      try {
        if (asks) send(call.requests, asks);
        if (call.response) onAnswer(await call.response);
        else for await (const answer of call.responses) onAnswer(answer);
        await headers;
        const { code, detail } = await call.status;
        Object.assign(result, { code: GrpcStatusCode[code], message: code === "OK" ? "" : detail });
        result.trailer = collect(Object.entries(await call.trailers));
      } catch (error) {
        await headers;
        Object.assign(result, { code: GrpcStatusCode[error.code], message: error.message });
        result.trailer = collect(Object.entries(error.meta));
      }
      result.details = richDetails(result.trailer);
      return result;
    };
  },
});

async function send(requests, asks) {
  try {
    for await (const ask of asks) await requests.send(ask);
    await requests.complete();
  } catch {
    // The call is over, and says itself why.
  }
}

export const PROTOBUF_TS = [
  protobufTs("protobuf-ts, gRPC-Web binary", (baseUrl) => new GrpcWebFetchTransport({ baseUrl, format: "binary" }), {
    cannot: { clientStream: FETCH, bidi: FETCH },
    hides: ENCODED,
  }),
  protobufTs("protobuf-ts, gRPC-Web text", (baseUrl) => new GrpcWebFetchTransport({ baseUrl, format: "text" }), {
    cannot: { clientStream: FETCH, bidi: FETCH },
    hides: ENCODED,
  }),
  protobufTs("protobuf-ts on Bidiway", (url) => createTransport(channel(url))),
];
