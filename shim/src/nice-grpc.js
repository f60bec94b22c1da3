// nice-grpc-web: a Transport over a channel, so that all four kinds of calls work without grpcwebproxy.

import { Metadata } from "nice-grpc-web";
import { frame, openCall, toTrailers, unframe } from "./grpc.js";
import { pump } from "./pump.js";

/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("nice-grpc-web").Channel["transport"]} Transport */

/**
 * A transport for nice-grpc-web's own `createChannel(address, transport)`. Where calls go is the Bidiway channel's
 * business: the address has no say. Aborting a call's signal cancels it at the service; so does leaving a
 * `for await` loop.
 * @param {Channel} channel
 * @returns {Transport}
 */
export function createTransport(channel) {
  return async function* transport({ metadata, body, signal, method }) {
    const call = openCall(channel, method.path, metadata, signal);
    /** @type {unknown} */
    let failure;
    // Many services answer only after the first message: sending does not wait for headers.
    pump(body, call, (framed) => call.send(unframe(framed)), (error) => (failure = error));
    try {
      yield { type: "header", header: toNice(await call.headers) };
      for (;;) {
        // The call's own error says less than its status, which follows.
        const message = await call.next().catch(() => undefined);
        if (!message || message.done) break;
        yield { type: "data", data: frame(message.value) };
      }
      const status = await call.status;
      if (signal.aborted) throw new DOMException("The call was aborted", "AbortError");
      // A thrown error would become UNKNOWN, whatever it says; so would a code that the library does not know.
      // What fails when the call has its end already does not hide that.
      const { code, message } = failure && status.cause === failure ? { code: 13, message: `${failure}` } : status;
      yield { type: "trailer", trailer: toNice(toTrailers({ ...status, code: code > 16 ? 2 : code, message })) };
    } finally {
      call.cancel();
    }
  };
}

/** @param {import("./metadata.js").Metadata} entries */
function toNice(entries) {
  const metadata = Metadata();
  for (const [name, value] of entries) metadata.append(name, value);
  return metadata;
}
