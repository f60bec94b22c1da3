// @improbable-eng/grpc-web, with services made by ts-protoc-gen.

import { grpc } from "@improbable-eng/grpc-web";
import { createTransport } from "bidiway/improbable";
import { Ask } from "#gen/google/matrix/v1/matrix_pb.js";
import { Matrix, MatrixClient } from "#gen/google/matrix/v1/matrix_pb_service.js";
import { channel } from "./channel.js";
import { fromAnswer, toAsk } from "./google-protobuf.js";
import { collect, lists, outcome, richDetails } from "./outcome.js";

const FETCH = "its HTTP transports send one request message; it says so itself";
const METHODS = { unary: Matrix.Unary, serverStream: Matrix.ServerStream, clientStream: Matrix.ClientStream, bidi: Matrix.Bidi };

const improbable = (name, transport, { cannot = {}, hides = {}, runs } = {}) => ({
  name,
  cannot,
  hides: { "cancel, code": "close() ends all callbacks: nothing is told", ...hides },
  runs,
  async open(url) {
    const options = { host: url, transport: transport(url) };
    return (kind, { metadata, timeoutMs, signal, ask, asks, onAnswer }) =>
      new Promise((resolve) => {
        const result = outcome();
        const meta = new grpc.Metadata(lists(metadata));
        // It has no deadlines; the proxy keeps this one.
        if (timeoutMs) meta.set("grpc-timeout", `${timeoutMs}m`);
        const client = grpc.client(METHODS[kind], options);
        client.onHeaders((header) => (result.header = collect(entries(header))));
        client.onMessage((answer) => onAnswer(fromAnswer(answer)));
        client.onEnd((code, message, trailer) => {
          Object.assign(result, { code, message, trailer: collect(entries(trailer)) });
          result.details = richDetails(result.trailer);
          resolve(result);
        });
        client.start(meta);
        signal.addEventListener("abort", () => {
          client.close();
          resolve({ ...result, code: undefined });
        });
        if (asks) {
          send(client, asks);
        } else {
          client.send(toAsk(Ask, ask));
          client.finishSend();
        }
      });
  },
});

const entries = (headers) => Object.entries(headers.headersMap);

async function send(client, asks) {
  try {
    for await (const ask of asks) client.send(toAsk(Ask, ask));
    client.finishSend();
  } catch {
    // The call is over, and says itself why.
  }
}

/** The same through the stubs of ts-protoc-gen, which show less. */
const stubs = (name, transport) => ({
  name,
  cannot: { clientStream: "its stub has no event for the answer; grpc.client() has one" },
  hides: {
    header: "its stubs have no event for headers",
    "unary, success, trailer": "its stub gives trailers with an error alone",
    "unary, empty message, trailer": "its stub gives trailers with an error alone",
    "unary, 1 MiB message, trailer": "its stub gives trailers with an error alone",
    "unary, binary metadata, trailer": "its stub gives trailers with an error alone",
    "cancel, code": "cancel() ends all callbacks: nothing is told",
  },
  async open(url) {
    const stub = new MatrixClient(url, { transport: transport(url) });
    return (kind, { metadata, timeoutMs, signal, ask, asks, onAnswer }) =>
      new Promise((resolve) => {
        const result = outcome();
        const meta = new grpc.Metadata(lists(metadata));
        if (timeoutMs) meta.set("grpc-timeout", `${timeoutMs}m`);
        const end = ({ code, details, message = details, metadata }) => {
          Object.assign(result, { code, message, trailer: collect(entries(metadata)) });
          result.details = richDetails(result.trailer);
          resolve(result);
        };
        let call;
        if (kind === "unary") {
          call = stub.unary(toAsk(Ask, ask), meta, (error, answer) => {
            if (error) return end(error);
            onAnswer(fromAnswer(answer));
            resolve(result);
          });
        } else {
          call = asks ? stub[kind](meta) : stub[kind](toAsk(Ask, ask), meta);
          call.on("data", (answer) => onAnswer(fromAnswer(answer))).on("end", (status) => end(status));
        }
        if (asks) send({ send: (ask) => call.write(ask), finishSend: () => call.end() }, asks);
        signal.addEventListener("abort", () => {
          call.cancel();
          resolve({ ...result, code: undefined });
        });
      });
  },
});

export const IMPROBABLE = [
  improbable("improbable, fetch", () => grpc.FetchReadableStreamTransport({}), { cannot: { clientStream: FETCH, bidi: FETCH } }),
  improbable("improbable, XHR", () => grpc.XhrTransport({}), {
    cannot: { clientStream: FETCH, bidi: FETCH },
    runs: { node: "it reads bytes as text of the charset x-user-defined, which npm's xhr2 does not know" },
  }),
  improbable("improbable, WebSocket", () => grpc.WebsocketTransport()),
  improbable("improbable on Bidiway", (url) => createTransport(channel(url))),
  stubs("ts-protoc-gen stubs, WebSocket", () => grpc.WebsocketTransport()),
  stubs("ts-protoc-gen stubs on Bidiway", (url) => createTransport(channel(url))),
];
