// The nice-grpc-web transport under the unmodified library, over a scripted proxy.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ClientError, Metadata, createChannel, createClient, createClientFactory } from "nice-grpc-web";
import { deadlineMiddleware } from "nice-grpc-client-middleware-deadline";
import { createTransport } from "../src/nice-grpc.js";
import { bytes, connected, settle, watchRejections } from "./fake.js";

const encode = (text) => new TextEncoder().encode(text);
const message = (text) => ({ text });
const decode = (data) => new TextDecoder().decode(data);

/** A service as a generator would describe it, with plain text for messages. */
const service = Object.fromEntries(
  [["one", false, false], ["many", false, true], ["sum", true, false], ["talk", true, true]].map(([name, requestStream, responseStream]) => [
    name,
    {
      path: `/t.S/${name}`,
      requestStream,
      responseStream,
      requestSerialize: ({ text }) => {
        if (text === "unwritable") throw new Error("cannot be written");
        return encode(text);
      },
      requestDeserialize: (data) => message(decode(data)),
      responseSerialize: ({ text }) => encode(text),
      responseDeserialize: (data) => {
        if (decode(data) === "unreadable") throw new Error("cannot be read");
        return message(decode(data));
      },
      options: {},
    },
  ]),
);

async function client(options) {
  const { channel, peer } = await connected(options);
  const remote = createChannel("http://has-no-say.test", createTransport(channel));
  return { channel, peer, remote, call: createClient(service, remote) };
}

/** A request stream that is told what to yield, and remembers whether it was let go. */
function source() {
  const waiting = [];
  const state = { returned: 0, pulled: 0 };
  return {
    state,
    push: (result) => waiting.shift()(result),
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise((resolve) => (state.pulled++, waiting.push(resolve))),
      return: async () => {
        state.returned++;
        return { done: true, value: undefined };
      },
    }),
  };
}

test("unary: headers, message, trailers; the library's HTTP headers stay at home", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  let header, trailer;
  const answer = call.one(message("a"), { metadata: Metadata({ x: "1" }), onHeader: (h) => (header = h), onTrailer: (h) => (trailer = h) });
  await settle();
  const [{ open }] = peer.take("open");
  assert.equal(open.method, "/t.S/one");
  assert.deepEqual(open.metadata.map(({ name, text }) => [name, text]), [["x", "1"]]);
  const [data] = peer.take("data");
  assert.equal(decode(data.data), "a");
  peer.headers(1, [{ name: "h", text: "1" }, { name: "h", text: "2" }]);
  peer.data(1, encode("b"));
  peer.trailers(1, 0, "", { metadata: [{ name: "t", text: "3" }] });
  assert.deepEqual(await answer, message("b"));
  assert.equal(header.get("h"), "1, 2");
  assert.equal(trailer.get("t"), "3");
  assert.equal(peer.take("cancel").length, 0);
});

test("binary metadata is bytes, both ways", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  let header, trailer;
  const metadata = Metadata();
  metadata.append("y-bin", bytes(2, 255)).append("y-bin", bytes(1, 0));
  const answer = call.one(message(""), { metadata, onHeader: (h) => (header = h), onTrailer: (h) => (trailer = h) });
  await settle();
  assert.deepEqual(peer.take("open")[0].open.metadata.map(({ name, binary }) => [name, ...binary]), [["y-bin", 255, 255], ["y-bin", 0]]);
  peer.headers(1, [{ name: "h-bin", binary: bytes(2, 1) }, { name: "h-bin", binary: bytes(1, 2) }]);
  peer.data(1, encode("b"));
  peer.trailers(1, 0, "", { metadata: [{ name: "t-bin", binary: bytes(3, 254) }] });
  await answer;
  assert.deepEqual(header.getAll("h-bin").map((value) => [...value]), [[1, 1], [2]]);
  assert.ok(header.get("h-bin") instanceof Uint8Array);
  assert.deepEqual([...trailer.get("t-bin")], [254, 254, 254]);
});

test("an empty message is a message, both ways", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one(message(""));
  await settle();
  assert.equal(peer.take("data")[0].data.length, 0);
  peer.headers(1);
  peer.data(1, bytes(0));
  peer.trailers(1);
  assert.deepEqual(await answer, message(""));
});

test("an error keeps its code, its text in any alphabet, its trailing metadata and its details", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  let trailer;
  const answer = call.one(message(""), { onTrailer: (h) => (trailer = h) });
  await settle();
  peer.headers(1);
  peer.trailers(1, 5, "nö 100% 猫", { details: bytes(3, 9), metadata: [{ name: "t", text: "2" }] });
  await assert.rejects(answer, (error) => {
    assert.ok(error instanceof ClientError);
    assert.equal(error.code, 5);
    assert.equal(error.details, "nö 100% 猫");
    return true;
  });
  assert.equal(trailer.get("t"), "2");
  assert.deepEqual([...trailer.get("grpc-status-details-bin")], [9, 9, 9]);
});

test("an error without headers is that error", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.many(message(""))[Symbol.asyncIterator]().next();
  await settle();
  peer.trailers(1, 7, "no");
  await assert.rejects(answer, { code: 7, details: "no" });
});

test("a lost connection is UNAVAILABLE, not an unknown transport error", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.many(message(""))[Symbol.asyncIterator]();
  const first = answer.next();
  await settle();
  peer.headers(1);
  peer.data(1, encode("b"));
  assert.deepEqual((await first).value, message("b"));
  const next = answer.next();
  peer.close(1006);
  await assert.rejects(next, { code: 14 });
});

test("metadata that gRPC does not allow is INVALID_ARGUMENT", async (t) => {
  watchRejections(t);
  const { remote } = await client();
  // nice-grpc's own Metadata would have refused the name before.
  const frames = remote.transport({ metadata: [["a b", "1"]], body: (async function* () {})(), signal: new AbortController().signal, method: service.one });
  const codes = [];
  for await (const frame of frames) codes.push(frame.trailer?.get("grpc-status"));
  assert.deepEqual(codes, [undefined, "3"]);
});

test("a call on a closed channel is CANCELLED", async (t) => {
  watchRejections(t);
  const { channel, call } = await client();
  await channel.close();
  await assert.rejects(call.one(message("")), { name: "ClientError", code: 1 });
});

test("a code that the library does not know is UNKNOWN, and keeps its text", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one(message(""));
  await settle();
  peer.trailers(1, 99, "odd");
  await assert.rejects(answer, { code: 2, details: "odd" });
});

test("abort is an AbortError, and cancels the call", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const controller = new AbortController();
  const answer = call.one(message(""), { signal: controller.signal });
  const stream = call.many(message(""), { signal: controller.signal })[Symbol.asyncIterator]().next();
  await settle();
  controller.abort();
  await assert.rejects(answer, { name: "AbortError" });
  await assert.rejects(stream, { name: "AbortError" });
  await settle();
  assert.equal(peer.take("cancel").length, 2);
});

test("CANCELLED from the service is an error of the service's, not an AbortError", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one(message(""), { signal: new AbortController().signal });
  await settle();
  peer.trailers(1, 1, "enough");
  await assert.rejects(answer, { name: "ClientError", code: 1, details: "enough" });
});

test("leaving a loop cancels the call", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const left = (async () => {
    for await (const answer of call.many(message(""))) return answer;
  })();
  await settle();
  peer.headers(1);
  peer.data(1, encode("b"));
  assert.deepEqual(await left, message("b"));
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("bidirectional: sends before headers have come, and half-closes when the requests end", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const input = source();
  const output = call.talk(input)[Symbol.asyncIterator]();
  const first = output.next();
  await settle();
  input.push({ done: false, value: message("a") });
  await settle();
  assert.equal(decode(peer.take("data")[0].data), "a");
  peer.headers(1);
  peer.data(1, encode("b"));
  assert.deepEqual((await first).value, message("b"));
  input.push({ done: true });
  await settle();
  assert.equal(peer.take("halfClose").length, 1);
  peer.trailers(1, 0);
  assert.equal((await output.next()).done, true);
});

test("client streaming: the answer may come before the requests end, which are let go", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  let finished = false;
  let go;
  const answer = call.sum(
    (async function* () {
      try {
        yield message("a");
        await new Promise((resolve) => (go = resolve));
        yield message("b");
      } finally {
        finished = true;
      }
    })(),
  );
  await settle();
  peer.headers(1);
  peer.data(1, encode("c"));
  peer.trailers(1);
  assert.deepEqual(await answer, message("c"));
  go();
  await settle();
  assert.ok(finished);
  assert.equal(peer.take("data").length, 1);
});

test("requests are asked for as flow control admits them", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const input = source();
  const output = call.talk(input)[Symbol.asyncIterator]();
  output.next().catch(() => {});
  await settle();
  for (let i = 0; i < 4; i++) {
    input.push({ done: false, value: message("x".repeat(16_000)) });
    await settle();
  }
  // The credit of 64 KiB is used up: the fifth message waits, and nobody asks for a sixth.
  input.push({ done: false, value: message("x".repeat(16_000)) });
  await settle();
  assert.equal(input.state.pulled, 5);
  peer.send({ stream: 1, credit: 65_536 });
  await settle();
  assert.equal(input.state.pulled, 6);
  peer.trailers(1, 0);
});

test("a call that ends while a message waits for credit ends with its true status, and lets the request stream go", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  let finished = false;
  const answer = call.sum(
    (async function* () {
      try {
        for (;;) yield message("x".repeat(16_000));
      } finally {
        finished = true;
      }
    })(),
  );
  await settle();
  assert.ok(peer.take("data").length > 0);
  peer.trailers(1, 8, "too much");
  await assert.rejects(answer, { code: 8, details: "too much" });
  await settle();
  assert.ok(finished);
});

test("a message that cannot be written when the call has ended does not hide how it ended", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const requests = source();
  const answers = call.talk(requests)[Symbol.asyncIterator]();
  const first = answers.next();
  await settle();
  peer.headers(1);
  peer.data(1, encode("a"));
  assert.deepEqual((await first).value, message("a"));
  peer.trailers(1, 9, "not now");
  await settle();
  requests.push({ done: false, value: message("unwritable") });
  await settle();
  await assert.rejects(answers.next(), (error) => error instanceof ClientError && error.code === 9 && error.details === "not now");
});

test("a request stream that throws cancels the call, with its error", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.sum(
    (async function* () {
      yield message("a");
      throw new Error("no more ideas");
    })(),
  );
  await assert.rejects(answer, { message: "no more ideas" });
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("a message that cannot be written or read is INTERNAL, and cancels the call", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  await assert.rejects(call.one(message("unwritable")), (error) => error.code === 13 && /cannot be written/.test(error.details));
  const answer = call.one(message(""));
  await settle();
  const [{ stream }] = peer.take("open").slice(-1);
  peer.headers(stream);
  peer.data(stream, encode("unreadable"));
  await assert.rejects(answer, (error) => error.code === 13 && /cannot be read/.test(error.details));
  await settle();
  assert.equal(peer.take("cancel").length, 2);
});

test("the deadline middleware's deadline is DEADLINE_EXCEEDED, and cancels the call", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { peer, remote } = await client();
  const call = createClientFactory().use(deadlineMiddleware).create(service, remote);
  const answer = call.one(message(""), { deadline: 1000 });
  await settle();
  t.mock.timers.tick(1000);
  await assert.rejects(answer, { code: 4 });
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("grpc-timeout is the call's timeout, at the service and here", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { peer, call } = await client();
  const answers = ["2S", "3M", "1500m"].map((timeout) => call.one(message(""), { metadata: { "grpc-timeout": timeout } }));
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => [open.timeoutMs, open.metadata.length]), [[2000, 0], [180_000, 0], [1500, 0]]);
  t.mock.timers.tick(180_000);
  for (const answer of answers) await assert.rejects(answer, { code: 4 });
});

test("two clients share one socket", async (t) => {
  watchRejections(t);
  const { channel, peer, call } = await client();
  const other = createClient(service, createChannel("http://other.test", createTransport(channel)));
  const answers = [call.one(message("a")), other.one(message("b"))];
  await settle();
  assert.deepEqual(peer.take("data").map(({ data }) => decode(data)), ["a", "b"]);
  for (const stream of [1, 2]) {
    peer.headers(stream);
    peer.data(stream, encode("c"));
    peer.trailers(stream);
  }
  assert.deepEqual(await Promise.all(answers), [message("c"), message("c")]);
});
