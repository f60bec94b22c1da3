// The channel itself: calls of bytes, without any library.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnswerSchema, AskSchema } from "#gen/es/matrix/v1/matrix_pb.js";
import { details } from "../scenarios.js";
import { channel } from "./channel.js";
import { collect, outcome } from "./outcome.js";

const METHODS = { unary: "Unary", serverStream: "ServerStream", clientStream: "ClientStream", bidi: "Bidi" };

export const BYTES = [
  {
    name: "Bidiway, bytes",
    cannot: {},
    hides: {},
    open: async (url) => async (kind, { metadata, timeoutMs, signal, ask, asks, onAnswer }) => {
      const call = channel(url).open({ method: `/matrix.v1.Matrix/${METHODS[kind]}`, metadata, timeoutMs, signal });
      const result = outcome();
      send(call, asks ?? [ask]);
      try {
        for await (const answer of call) onAnswer(fromBinary(AnswerSchema, answer));
      } catch {
        // The status tells why.
      }
      const status = await call.status;
      Object.assign(result, { code: status.code, message: status.message, details: details(status.details) });
      result.header = collect(await call.headers);
      result.trailer = collect(status.metadata);
      return result;
    },
  },
];

async function send(call, asks) {
  try {
    for await (const ask of asks) await call.send(toBinary(AskSchema, create(AskSchema, ask)));
    call.halfClose();
  } catch {
    // The call is over.
  }
}
