// nice-grpc-web: a Transport over a channel, so that all four kinds of calls work without grpcwebproxy.

import { Metadata } from "nice-grpc-web";
import { frame, openCall, toTrailers, unframe } from "./grpc.js";

/** @typedef {import("./call.js").Call} Call */
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
    send(call, body).catch((error) => {
      failure = error;
      call.cancel(error);
    });
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
      const { code, message } = failure ? { code: 13, message: `${failure}` } : status;
      yield { type: "trailer", trailer: toNice(toTrailers({ ...status, code: code > 16 ? 2 : code, message })) };
    } finally {
      call.cancel();
    }
  };
}

/**
 * Sends what the library produces, until either side is done.
 * @param {Call} call
 * @param {AsyncIterable<Uint8Array>} body
 */
async function send(call, body) {
  let over = false;
  const messages = body[Symbol.asyncIterator]();
  call.status.then(() => {
    over = true;
    // Lets the application's generator run its `finally`; what it throws there is nobody's business any more.
    messages.return?.().catch(() => {});
  });
  for (;;) {
    const { done, value } = await messages.next();
    if (over) return;
    if (done) return call.halfClose();
    // What is not sent is not sent because the call is over, and the call's status tells why.
    await call.send(unframe(value)).catch(() => {});
  }
}

/** @param {import("./metadata.js").Metadata} entries */
function toNice(entries) {
  const metadata = Metadata();
  for (const [name, value] of entries) metadata.append(name, value);
  return metadata;
}
