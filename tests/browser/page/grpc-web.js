// Unmodified gRPC-Web clients: connect-web, and google's grpc-web in both formats.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import * as grpcWeb from "grpc-web";
import { Greeter, Lab } from "#gen/demo/v1/demo_pb.js";
import { BadRequestSchema, ErrorInfoSchema } from "#gen/google/rpc/error_details_pb.js";

const transport = createGrpcWebTransport({ baseUrl: location.origin });
const greeter = createClient(Greeter, transport);
const lab = createClient(Lab, transport);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function waitForStats(tag, wanted, timeoutMs = 1000) {
  const start = performance.now();
  for (;;) {
    const stats = await lab.stats({ tag });
    if (Object.entries(wanted).every(([key, value]) => Number(stats[key]) === value)) return true;
    if (performance.now() - start > timeoutMs) throw new Error(`not ${JSON.stringify(wanted)} after ${timeoutMs} ms`);
    await sleep(10);
  }
}

const describe = (error) => {
  if (!(error instanceof ConnectError)) throw error;
  return {
    name: Code[error.code],
    message: error.rawMessage,
    trailer: error.metadata.get("demo-trailing"),
    reason: error.findDetails(ErrorInfoSchema)[0]?.reason,
    field: error.findDetails(BadRequestSchema)[0]?.fieldViolations[0]?.field,
  };
};

export const connectWeb = {
  unary: async () => (await greeter.hello({ name: "Ada" })).text,

  async metadata() {
    let header, trailer;
    const reply = await lab.metadata({}, {
      headers: [["x-one", "1"], ["demo-echo-me", "here"]],
      timeoutMs: 10_000,
      onHeader: (headers) => (header = Object.fromEntries(headers)),
      onTrailer: (headers) => (trailer = Object.fromEntries(headers)),
    });
    return { timeoutMs: Number(reply.timeoutMs), header, trailer, seen: reply.entries.map(({ name, text }) => `${name}: ${text}`) };
  },

  async serverStream() {
    let count = 0;
    for await (const { number, data } of lab.serverStream({ count: 500, size: 100 })) {
      if (Number(number) !== ++count || data.length !== 100) throw new Error(`message ${number}`);
    }
    return count;
  },

  richStatus: () =>
    lab.fail({ code: 9, message: "nö: 100 % 😀", reason: "R", violations: [{ field: "f", description: "d" }] }).then(
      () => { throw new Error("the call did not fail"); },
      describe,
    ),

  async failStream() {
    let messages = 0;
    try {
      for await (const _ of lab.failStream({ code: 8, message: "enough", after: 3 })) messages++;
    } catch (error) {
      return { messages, ...describe(error) };
    }
  },

  async abort(tag) {
    const controller = new AbortController();
    const call = lab.wait({}, { signal: controller.signal, headers: { "demo-tag": tag } }).catch(describe);
    await waitForStats(tag, { running: 1 });
    controller.abort();
    const { name } = await call;
    return { name, reached: await waitForStats(tag, { running: 0, cancelled: 1 }) };
  },

  async large(size) {
    const data = new Uint8Array(size).map((_, i) => (i * 31) % 251);
    const reply = await lab.unary({ data });
    return reply.data.length === size && reply.data.every((byte, i) => byte === data[i]);
  },
};

/** What google's generators would write for a method, with messages of protobuf-es inside. */
function descriptor({ parent, name, input, output, methodKind }) {
  class Message {}
  return new grpcWeb.MethodDescriptor(
    `/${parent.typeName}/${name}`,
    methodKind === "unary" ? grpcWeb.MethodType.UNARY : grpcWeb.MethodType.SERVER_STREAMING,
    Message,
    Message,
    (request) => toBinary(input, create(input, request)),
    (bytes) => fromBinary(output, bytes),
  );
}

const hello = descriptor(Greeter.method.hello);
const fail = descriptor(Lab.method.fail);
const serverStream = descriptor(Lab.method.serverStream);
const failStream = descriptor(Lab.method.failStream);
const waitStream = descriptor(Lab.method.waitStream);

const collect = (stream) =>
  new Promise((resolve) => {
    const result = { numbers: [], metadata: undefined, status: undefined, error: undefined };
    stream.on("metadata", (metadata) => (result.metadata = metadata));
    stream.on("data", ({ number }) => result.numbers.push(Number(number)));
    stream.on("status", ({ code, details, metadata }) => (result.status ??= { code, details, metadata }));
    stream.on("error", ({ code, message }) => resolve({ ...result, error: { code, message } }));
    stream.on("end", () => resolve(result));
  });

export function google(format) {
  const client = new grpcWeb.GrpcWebClientBase({ format });
  const at = (method) => location.origin + method.name;
  return {
    unary: async () => (await client.unaryCall(at(hello), { name: "Ada" }, {}, hello)).text,
    fail: () =>
      client.unaryCall(at(fail), { code: 5, message: "nö 😀" }, {}, fail).then(
        () => { throw new Error("the call did not fail"); },
        ({ code, message, metadata }) => ({ code, message, trailer: metadata?.["demo-trailing"] }),
      ),
    serverStream: () => collect(client.serverStreaming(at(serverStream), { count: 50, size: 1000 }, {}, serverStream)),
    failStream: () => collect(client.serverStreaming(at(failStream), { code: 8, message: "enough", after: 3 }, {}, failStream)),
    /** A message of a stream that stays open arrives at once; cancel() reaches the service. */
    async cancel(tag) {
      const stream = client.serverStreaming(at(waitStream), {}, { "demo-tag": tag }, waitStream);
      if (format === "text") await new Promise((resolve) => stream.on("data", resolve));
      await waitForStats(tag, { running: 1 });
      stream.cancel();
      return waitForStats(tag, { running: 0, cancelled: 1 });
    },
  };
}

window.connectWeb = connectWeb;
window.google = { binary: google("binary"), text: google("text") };
