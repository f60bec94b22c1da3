// google's grpc-web, with clients in the shape of protoc-gen-grpc-web's (fixtures/README.md).

import { Ask } from "#gen/google/matrix/v1/matrix_pb.js";
import { MatrixClient as BinaryClient } from "#gen/google/matrix/v1/matrix_grpc_web_binary_pb.js";
import { MatrixClient as TextClient } from "#gen/google/matrix/v1/matrix_grpc_web_pb.js";
import { fromAnswer, toAsk } from "./google-protobuf.js";
import { collect, outcome, richDetails, strings } from "./outcome.js";

const NO_STUB = "protoc-gen-grpc-web makes nothing for methods that stream requests";

const ERROR = "a call that fails has no metadata event";
const AT_END = "a binary XHR is read when it has ended";

const google = (name, make, { cannot = {}, hides = {}, runs } = {}) => ({
  name,
  cannot: { clientStream: NO_STUB, bidi: NO_STUB, ...cannot },
  hides: {
    "cancel, code": "cancel() ends all events: nothing is told",
    "rich error, header": ERROR,
    "UTF-8 status message, header": ERROR,
    ...hides,
  },
  keepsLast: "of trailers with one name its parser keeps the last",
  runs,
  async open(url) {
    const client = make(url);
    return (kind, { metadata, timeoutMs, signal, ask, onAnswer }) =>
      new Promise((resolve) => {
        const result = outcome();
        const meta = strings(metadata);
        if (timeoutMs) meta.deadline = `${Date.now() + timeoutMs}`;
        const finish = ({ code, message, details, metadata = {} }) => {
          Object.assign(result, { code, message: message ?? details, trailer: collect(Object.entries(metadata)) });
          result.details = richDetails(result.trailer);
        };
        const call =
          kind === "unary"
            ? client.unary(toAsk(Ask, ask), meta, (error, answer) => {
                if (answer) onAnswer(fromAnswer(answer));
                if (error) {
                  finish(error);
                  resolve(result);
                } else {
                  queueMicrotask(() => resolve(result));
                }
              })
            : client.serverStream(toAsk(Ask, ask), meta);
        call.on("metadata", (header) => (result.header = collect(Object.entries(header))));
        call.on("status", finish);
        if (kind !== "unary") {
          call.on("data", (answer) => onAnswer(fromAnswer(answer)));
          call.on("error", (error) => {
            finish(error);
            resolve(result);
          });
          call.on("end", () => resolve(result));
        }
        signal.addEventListener("abort", () => {
          call.cancel();
          resolve({ ...result, code: undefined });
        });
      });
  },
});

export const GOOGLE = [
  google("google grpc-web, binary", (url) => new BinaryClient(url, null, null), {
    hides: { "cancel, answers": AT_END, "deadline, answers": AT_END },
  }),
  google("google grpc-web, text", (url) => new TextClient(url, null, null), {
    hides: { "node, cancel, answers": "npm's xhr2 shows no text before the end" },
  }),
];
