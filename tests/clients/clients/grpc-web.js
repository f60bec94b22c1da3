// google's grpc-web, with clients in the shape of protoc-gen-grpc-web's (fixtures/README.md).

import { bidi, clientStream, createInterceptors, setChannel } from "bidiway/grpc-web";
import { Answer, Ask } from "#gen/google/matrix/v1/matrix_pb.js";
import { MatrixClient as BinaryClient } from "#gen/google/matrix/v1/matrix_grpc_web_binary_pb.js";
import { MatrixClient as TextClient } from "#gen/google/matrix/v1/matrix_grpc_web_pb.js";
import { MatrixClient as BidiwayClient } from "#gen/google-on-bidiway/matrix/v1/matrix_grpc_web_pb.js";
import { channel } from "./channel.js";
import { fromAnswer, toAsk } from "./google-protobuf.js";
import { collect, outcome, richDetails, strings } from "./outcome.js";

const NO_STUB = "protoc-gen-grpc-web makes nothing for methods that stream requests";

const AT_END = "a binary XHR is read when it has ended";

/** The runtime's own HTTP. */
const OWN = {
  cannot: { clientStream: NO_STUB, bidi: NO_STUB },
  keepsLast: "of trailers with one name its parser keeps the last",
};

const google = (name, make, { cannot = {}, hides = {}, keepsLast = undefined, streams = undefined }) => ({
  name,
  cannot,
  hides: { "cancel, code": "cancel() ends all events: nothing is told", ...hides },
  keepsLast,
  async open(url) {
    const client = make(url);
    return (kind, options) => {
      if (kind === "clientStream" || kind === "bidi") return streams(url, kind, options);
      const { metadata, timeoutMs, signal, ask, onAnswer } = options;
      return new Promise((resolve) => {
        const result = outcome();
        const meta = strings(metadata);
        if (timeoutMs) meta.deadline = `${Date.now() + timeoutMs}`;
        const finish = ({ code, message, details, metadata = {} }) => {
          Object.assign(result, { code, message: message ?? details, trailer: collect(Object.entries(metadata)) });
          result.details = richDetails(result.trailer);
        };
        // Its own HTTP tells the metadata of a call that fails after the error, if there is any.
        let seen = false;
        let late = () => {};
        const settle = () => {
          late = () => resolve(result);
          if (seen) late();
          else setTimeout(late, 1000);
        };
        const call =
          kind === "unary"
            ? client.unary(toAsk(Ask, ask), meta, (error, answer) => {
                if (answer) onAnswer(fromAnswer(answer));
                if (error) {
                  finish(error);
                  settle();
                } else {
                  queueMicrotask(() => resolve(result));
                }
              })
            : client.serverStream(toAsk(Ask, ask), meta);
        call.on("metadata", (header) => {
          result.header = collect(Object.entries(header));
          seen = true;
          late();
        });
        call.on("status", finish);
        if (kind !== "unary") {
          call.on("data", (answer) => onAnswer(fromAnswer(answer)));
          call.on("error", (error) => {
            finish(error);
            settle();
          });
          call.on("end", () => resolve(result));
        }
        signal.addEventListener("abort", () => {
          call.cancel();
          resolve({ ...result, code: undefined });
        });
      });
    };
  },
});

/** Calls that have no stubs, with the generated messages. */
async function streams(url, kind, { metadata, timeoutMs, signal, asks, onAnswer }) {
  const result = outcome();
  const meta = strings(metadata);
  if (timeoutMs) meta.deadline = `${Date.now() + timeoutMs}`;
  const [open, method] = kind === "bidi" ? [bidi, "Bidi"] : [clientStream, "ClientStream"];
  const call = open(channel(url), `/matrix.v1.Matrix/${method}`, Ask, Answer, { metadata: meta, signal });
  const sent = (async () => {
    for await (const ask of asks) await call.send(toAsk(Ask, ask));
    return kind === "bidi" ? call.halfClose() : onAnswer(fromAnswer(await call.finish()));
  })().catch(() => {});
  try {
    if (kind === "bidi") for await (const answer of call) onAnswer(fromAnswer(answer));
    else await Promise.race([sent, call.status]);
  } catch {
    // The status tells why.
  }
  const status = await call.status;
  if (status.code === 0) await sent;
  result.header = collect(Object.entries(await call.metadata));
  result.trailer = collect(Object.entries(status.metadata));
  return { ...result, code: status.code, message: status.details, details: richDetails(result.trailer) };
}

export const GOOGLE = [
  google("google grpc-web, binary", (url) => new BinaryClient(url, null, null), {
    ...OWN,
    hides: { "cancel, answers": AT_END },
  }),
  google("google grpc-web, text", (url) => new TextClient(url, null, null), {
    ...OWN,
    hides: { "node, cancel, answers": "npm's xhr2 shows no text before the end" },
  }),
  google(
    "google grpc-web runtime on Bidiway",
    (url) => {
      setChannel(channel(url));
      return new BidiwayClient(url, null, null);
    },
    { streams },
  ),
  google("google grpc-web interceptors on Bidiway", (url) => new TextClient(url, null, createInterceptors(channel(url))), {
    cannot: OWN.cannot,
  }),
];
