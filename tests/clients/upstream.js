// The service behind the proxy: a real gRPC server (grpc-js), which plays the scenarios and remembers what it saw.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import { flat, receivesMany, scenario, sendsMany, summary } from "./scenarios.js";

/**
 * What the service saw of one call.
 * @typedef {object} Seen
 * @property {string} kind
 * @property {Record<string, string>} metadata
 * @property {number} timeoutMs what was left until the deadline; Infinity without one
 * @property {string[]} asks summaries
 * @property {number[]} sizes of the asks, in bytes
 * @property {boolean} halfClosed
 * @property {boolean} cancelled
 */

/** Starts the service on a free port. */
export async function startUpstream() {
  const { AskSchema, AnswerSchema } = await import("./.build/gen/es/matrix/v1/matrix_pb.js");
  /** @type {Map<string, Seen>} */
  const calls = new Map();
  /** @type {Set<() => void>} */
  const listeners = new Set();
  const changed = () => listeners.forEach((listener) => listener());

  const toMetadata = (entries) => {
    const metadata = new Metadata();
    for (const [name, value] of entries) metadata.add(name, typeof value === "string" ? value : Buffer.from(value));
    return metadata;
  };
  /** google.rpc.Status */
  const rich = ({ code, message, details }) => {
    const field = (number, value) => [(number << 3) | 2, value.length, ...value];
    const text = (value) => [...new TextEncoder().encode(value)];
    const anys = details.map(([type, value]) => [...field(1, text(`type.googleapis.com/${type}`)), ...field(2, value)]);
    return Uint8Array.from([8, code, ...field(2, text(message)), ...anys.flatMap((any) => field(3, any))]);
  };

  const serve = (kind) => (call, callback) => {
    const name = `${call.metadata.get("scenario")[0]}`;
    const { header, trailer, answers, status, early, hangs } = scenario(name, kind);
    const deadline = call.getDeadline();
    /** @type {Seen} */
    const seen = {
      kind,
      metadata: flat(Object.keys(call.metadata.getMap()).flatMap((key) => call.metadata.get(key).map((value) => [key, value]))),
      timeoutMs: deadline === Infinity ? Infinity : Number(deadline) - Date.now(),
      asks: [],
      sizes: [],
      halfClosed: false,
      cancelled: false,
    };
    calls.set(seen.metadata["case"], seen);
    call.on("cancelled", () => {
      seen.cancelled = true;
      changed();
    });

    let written = 0;
    const write = () => {
      if (receivesMany(kind) && written < answers.length) call.write(toBinary(AnswerSchema, create(AnswerSchema, answers[written++])));
    };
    const end = () => {
      if (hangs) return;
      if (status.code === 0) {
        if (receivesMany(kind)) call.end(toMetadata(trailer));
        else callback(null, toBinary(AnswerSchema, create(AnswerSchema, answers[0])), toMetadata(trailer));
        return;
      }
      const metadata = toMetadata(trailer);
      if (status.details.length) metadata.add("grpc-status-details-bin", Buffer.from(rich(status)));
      const error = { code: status.code, details: status.message, metadata };
      if (receivesMany(kind)) call.emit("error", error);
      else callback(error);
    };
    const take = (bytes) => {
      seen.asks.push(summary(fromBinary(AskSchema, bytes)));
      seen.sizes.push(bytes.length);
      changed();
      // A bidirectional call fails while its client still sends.
      if (kind === "bidi") {
        if (status.code !== 0 && written === answers.length) end();
        else write();
      }
    };

    if (early) {
      end();
    } else {
      call.sendMetadata(toMetadata(header));
      if (sendsMany(kind)) {
        call.on("data", take);
        call.on("end", () => {
          seen.halfClosed = true;
          changed();
          if (kind === "clientStream" || status.code === 0) end();
        });
      } else {
        take(call.request);
        seen.halfClosed = true;
        while (receivesMany(kind) && written < answers.length) write();
        end();
      }
    }
    changed();
  };

  const server = new Server();
  const raw = (bytes) => Buffer.from(bytes);
  const method = (name, kind) => ({
    path: `/matrix.v1.Matrix/${name}`,
    requestStream: sendsMany(kind),
    responseStream: receivesMany(kind),
    requestSerialize: raw,
    requestDeserialize: (buffer) => buffer,
    responseSerialize: raw,
    responseDeserialize: (buffer) => buffer,
  });
  const methods = { Unary: "unary", ServerStream: "serverStream", ClientStream: "clientStream", Bidi: "bidi" };
  server.addService(
    Object.fromEntries(Object.entries(methods).map(([name, kind]) => [name, method(name, kind)])),
    Object.fromEntries(Object.entries(methods).map(([name, kind]) => [name, serve(kind)])),
  );
  const port = await new Promise((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => (error ? reject(error) : resolve(port))),
  );

  return {
    endpoint: `http://127.0.0.1:${port}`,
    /** What was seen of a call, so far. */
    seen: (id) => calls.get(id),
    /**
     * Waits until the service has seen something of a call.
     * @param {string} id
     * @param {string} what for the error
     * @param {(seen: Seen) => boolean} [test]
     * @returns {Promise<Seen>}
     */
    until: (id, what, test = () => true) =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          listeners.delete(look);
          reject(new Error(`the service never saw ${what}`));
        }, 10_000);
        const look = () => {
          const seen = calls.get(id);
          if (!seen || !test(seen)) return;
          clearTimeout(timer);
          listeners.delete(look);
          resolve(seen);
        };
        listeners.add(look);
        look();
      }),
    stop: () => server.forceShutdown(),
  };
}
