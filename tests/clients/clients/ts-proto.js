// ts-proto, with its three kinds of clients: streams as async iterables, streams as Observables (the generator's default),
// and those of `outputClientImpl=grpc-web`, which run on improbable's runtime. `returnObservable=true` is for other
// frameworks: with it the generator's own `Rpc` gives a promise, and the client beside it calls pipe() on that.

import { grpc } from "@improbable-eng/grpc-web";
import { createTransport } from "bidiway/improbable";
import { createRpc } from "bidiway/ts-proto";
import { Observable, from } from "rxjs";
import * as grpcWeb from "#gen/ts-proto-grpc-web/matrix/v1/matrix.ts";
import { MatrixClientImpl as ObservableClient } from "#gen/ts-proto-observable/matrix/v1/matrix.ts";
import { MatrixClientImpl as PromiseClient } from "#gen/ts-proto-promise/matrix/v1/matrix.ts";
import { details } from "../scenarios.js";
import { channel } from "./channel.js";
import { collect, lists, outcome, richDetails } from "./outcome.js";

const METHODS = { unary: "Unary", serverStream: "ServerStream", clientStream: "ClientStream", bidi: "Bidi" };
const THROWS = "ts-proto's grpc-web clients throw: ts-proto does not yet support client streaming!";

/** @param {(client: any, method: string, input: any, options: any, onAnswer: any) => Promise<void>} run */
const onBidiway = (name, make, run) => ({
  name,
  cannot: {},
  hides: {},
  async open(url) {
    const client = make(channel(url));
    return async (kind, { metadata, timeoutMs, signal, ask, asks, onAnswer }) => {
      const result = outcome();
      const options = {
        metadata,
        timeoutMs,
        signal,
        onHeaders: (header) => (result.header = collect(header)),
        onTrailers: (trailer) => (result.trailer = collect(trailer)),
      };
      try {
        await run(client, METHODS[kind], asks ?? ask, options, onAnswer);
      } catch (error) {
        Object.assign(result, { code: error.code, message: error.status.message, details: details(error.status.details) });
      }
      return result;
    };
  },
});

/** What an Observable emits; or it fails. */
const drain = (observable, onAnswer) =>
  new Promise((resolve, reject) => observable.subscribe({ next: onAnswer, error: reject, complete: resolve }));

const overImprobable = (name, transport, runs) => ({
  name,
  runs,
  cannot: {
    clientStream: THROWS,
    bidi: THROWS,
    "unary, cancel": "its promise cannot be cancelled",
  },
  hides: {
    header: "its clients give a message alone",
    "success, trailer": "its clients give trailers with an error alone",
    "empty message, trailer": "its clients give trailers with an error alone",
    "1 MiB message, trailer": "its clients give trailers with an error alone",
    "binary metadata, trailer": "its clients give trailers with an error alone",
    "1,000 empty messages, trailer": "its clients give trailers with an error alone",
    "cancel, code": "unsubscribing ends everything: nothing is told",
  },
  async open(url) {
    const client = new grpcWeb.MatrixClientImpl(new grpcWeb.GrpcWebImpl(url, { transport: transport(url) }));
    return (kind, { metadata, timeoutMs, signal, ask, onAnswer }) =>
      new Promise((resolve) => {
        const result = outcome();
        const meta = new grpc.Metadata(lists(metadata));
        if (timeoutMs) meta.set("grpc-timeout", `${timeoutMs}m`);
        const failed = ({ code, message, metadata }) => {
          Object.assign(result, { code, message, trailer: collect(Object.entries(metadata.headersMap)) });
          result.details = richDetails(result.trailer);
          resolve(result);
        };
        const observable = kind === "unary" ? from(client.Unary(ask, meta)) : client.ServerStream(ask, meta);
        const subscription = observable.subscribe({ next: onAnswer, error: failed, complete: () => resolve(result) });
        signal.addEventListener("abort", () => {
          subscription.unsubscribe();
          resolve({ ...result, code: undefined });
        });
      });
  },
});

export const TS_PROTO = [
  onBidiway(
    "ts-proto Promise on Bidiway",
    (channel) => new PromiseClient(createRpc(channel)),
    async (client, method, input, options, onAnswer) => {
      const answers = client[method](input, options);
      if (!answers[Symbol.asyncIterator]) return onAnswer(await answers);
      for await (const answer of answers) onAnswer(answer);
    },
  ),
  onBidiway(
    "ts-proto Observable on Bidiway",
    (channel) => new ObservableClient(createRpc(channel, { Observable })),
    async (client, method, input, options, onAnswer) => {
      const answers = client[method](input[Symbol.asyncIterator] ? from(input) : input, options);
      if (answers.then) onAnswer(await answers);
      else await drain(answers, onAnswer);
    },
  ),
  overImprobable("ts-proto grpc-web, fetch", () => grpc.FetchReadableStreamTransport({})),
  overImprobable("ts-proto grpc-web on Bidiway", (url) => createTransport(channel(url))),
];
