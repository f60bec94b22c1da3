// The Connect-ES transport, over a scripted proxy: what needs a real service is tested in tests/browser.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Int32ValueSchema, StringValueSchema, file_google_protobuf_wrappers } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createTransport } from "../src/connect.js";
import { createJsonCodec } from "../src/connect-json.js";
import { bytes, connected, pair, settle, watchRejections } from "./fake.js";

/** A service as a generator would describe it, with string wrappers for messages. */
const service = { kind: "service", typeName: "t.S", name: "S", methods: [], method: {}, file: file_google_protobuf_wrappers };
for (const [localName, methodKind] of [["one", "unary"], ["many", "server_streaming"], ["sum", "client_streaming"], ["talk", "bidi_streaming"], ["number", "unary"], ["numbers", "client_streaming"]]) {
  const name = localName[0].toUpperCase() + localName.slice(1);
  const method = { kind: "rpc", name, localName, parent: service, methodKind, input: localName.startsWith("number") ? Int32ValueSchema : StringValueSchema, output: StringValueSchema, idempotency: 0 };
  service.methods.push(method);
  service.method[localName] = method;
}

const encode = (value) => toBinary(StringValueSchema, create(StringValueSchema, { value }));
const decode = (data) => fromBinary(StringValueSchema, new Uint8Array(data)).value;

async function client(options, channelOptions) {
  const { channel, peer } = await connected(channelOptions);
  return { channel, peer, call: createClient(service, createTransport(channel, options)) };
}

/** A request stream that is told what to yield, and remembers whether it was let go. */
function source() {
  let deliver;
  const state = { returned: 0 };
  return {
    state,
    push: (result) => deliver(result),
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise((resolve) => (deliver = resolve)),
      return: async () => {
        state.returned++;
        return { done: true, value: undefined };
      },
    }),
  };
}

test("unary: headers, message, trailers", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  let header, trailer;
  const answer = call.one({ value: "a" }, { headers: { x: "1", "y-bin": "AQI" }, onHeader: (h) => (header = h), onTrailer: (h) => (trailer = h) });
  await settle();
  const [{ open }] = peer.take("open");
  assert.equal(open.method, "/t.S/One");
  assert.deepEqual(open.metadata.map(({ name, text, binary }) => [name, text ?? [...binary]]), [["x", "1"], ["y-bin", [1, 2]]]);
  const [data] = peer.take("data");
  assert.equal(decode(data.data), "a");
  assert.equal(data.last, true);
  peer.headers(1, [{ name: "h", text: "1" }, { name: "h", text: "2" }]);
  peer.data(1, encode("b"));
  peer.trailers(1, 0, "", { metadata: [{ name: "t-bin", binary: bytes(2, 255) }] });
  assert.equal((await answer).value, "b");
  assert.equal(header.get("h"), "1, 2");
  assert.equal(trailer.get("t-bin"), "//8");
});

test("unary: no message, or two, is Unimplemented", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const none = call.one({});
  const two = call.one({});
  await settle();
  peer.trailers(1, 0);
  for (let i = 0; i < 2; i++) peer.data(2, encode("x"));
  peer.trailers(2, 0);
  for (const answer of [none, two]) await assert.rejects(answer, (error) => error.code === Code.Unimplemented && /protocol error/.test(error.message));
});

test("unary: the call is cancelled at the second message, however many follow", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one({});
  await settle();
  for (let i = 0; i < 2; i++) peer.data(1, encode("x"));
  await assert.rejects(answer, { code: Code.Unimplemented });
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("client streaming: no message, or two, is Unimplemented", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const none = call.sum((async function* () {})());
  const two = call.sum((async function* () {})());
  await settle();
  peer.trailers(1, 0);
  for (let i = 0; i < 2; i++) peer.data(2, encode("x"));
  peer.trailers(2, 0);
  for (const answer of [none, two]) await assert.rejects(answer, { code: Code.Unimplemented });
});

test("an error has code, message, headers and trailers, and details that findDetails() reads", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one({});
  await settle();
  peer.headers(1, [{ name: "h", text: "1" }]);
  // google.rpc.Status { code: 5, details: [Any { type_url: "type.googleapis.com/google.protobuf.StringValue", value }] }
  const detail = encode("why");
  const url = new TextEncoder().encode("type.googleapis.com/google.protobuf.StringValue");
  const any = [0x0a, url.length, ...url, 0x12, detail.length, ...detail];
  peer.trailers(1, 5, "nö 100%", { details: new Uint8Array([0x08, 5, 0x1a, any.length, ...any]), metadata: [{ name: "t", text: "2" }] });
  await assert.rejects(answer, (error) => {
    assert.ok(error instanceof ConnectError);
    assert.equal(error.code, Code.NotFound);
    assert.equal(error.rawMessage, "nö 100%");
    assert.equal(error.metadata.get("h"), "1");
    assert.equal(error.metadata.get("t"), "2");
    assert.deepEqual(error.findDetails(StringValueSchema).map(({ value }) => value), ["why"]);
    return true;
  });
});

test("broken details and foreign codes do not hide the error", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one({});
  await settle();
  peer.trailers(1, 99, "odd", { details: bytes(3, 255) });
  await assert.rejects(answer, (error) => error.code === Code.Internal && error.rawMessage === "odd" && error.details.length === 0);
});

test("a stream that fails early does not reject unseen, and throws when it is read", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const seen = call.many({});
  call.many({});
  await settle();
  peer.trailers(1, 5, "gone");
  peer.trailers(2, 5, "gone");
  await settle();
  await assert.rejects(seen[Symbol.asyncIterator]().next(), { code: Code.NotFound });
});

test("bidirectional: sends before headers have come", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const input = source();
  const output = call.talk(input)[Symbol.asyncIterator]();
  const first = output.next();
  await settle();
  input.push({ done: false, value: { value: "a" } });
  await settle();
  assert.equal(decode(peer.take("data")[0].data), "a");
  peer.headers(1);
  peer.data(1, encode("b"));
  assert.equal((await first).value.value, "b");
  input.push({ done: true });
  await settle();
  assert.equal(peer.take("halfClose").length, 1);
  peer.trailers(1, 0);
  assert.equal((await output.next()).done, true);
});

test("when the call ends, a request stream that waits is let go", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const input = source();
  const next = call.talk(input)[Symbol.asyncIterator]().next();
  await settle();
  peer.trailers(1, 0);
  assert.equal((await next).done, true);
  await settle();
  assert.equal(input.state.returned, 1);
});

test("when the call ends, a generator that waits for flow control runs its finally", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  let released = false;
  const input = async function* () {
    try {
      for (;;) yield { value: "x".repeat(60_000) };
    } finally {
      released = true;
      throw new Error("nobody's business");
    }
  };
  const next = call.talk(input())[Symbol.asyncIterator]().next();
  await settle();
  assert.equal(released, false);
  peer.trailers(1, 5, "enough");
  await assert.rejects(next, { code: Code.NotFound });
  await settle();
  assert.equal(released, true);
});

test("a request stream that cannot be iterated ends the call", async (t) => {
  watchRejections(t);
  const { call } = await client();
  await assert.rejects(call.sum([{ value: "a" }]), (error) => error.code === Code.Unknown && error.cause instanceof TypeError);
});

test("a request stream that throws cancels the call, with its error", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const input = async function* () {
    yield { value: "a" };
    throw new Error("no more ideas");
  };
  const answer = call.sum(input());
  await assert.rejects(answer, (error) => error.code === Code.Unknown && error.rawMessage === "no more ideas");
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("a message that cannot be written ends the call", async (t) => {
  watchRejections(t);
  const { call } = await client();
  await assert.rejects(call.number({ value: 2 ** 40 }), { code: Code.Internal });
  await assert.rejects(call.numbers((async function* () { yield { value: 2 ** 40 }; })()), { code: Code.Internal });
});

test("an answer that cannot be read ends the call", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one({});
  const stream = call.many({})[Symbol.asyncIterator]().next();
  await settle();
  peer.data(1, bytes(3, 255));
  peer.data(2, bytes(3, 255));
  await assert.rejects(answer, { code: Code.Internal });
  await assert.rejects(stream, { code: Code.Internal });
  await settle();
  assert.equal(peer.take("cancel").length, 2);
});

test("abort cancels, with the signal's reason when that is an error of Connect's", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const controller = new AbortController();
  const answer = call.one({}, { signal: controller.signal });
  await settle();
  controller.abort();
  await assert.rejects(answer, { code: Code.Canceled });
  const mine = new AbortController();
  const other = call.one({}, { signal: mine.signal });
  await settle();
  mine.abort(new ConnectError("mine", Code.Aborted));
  await assert.rejects(other, { code: Code.Aborted });
  await assert.rejects(call.one({}, { signal: AbortSignal.abort() }), { code: Code.Canceled });
  await settle();
  assert.equal(peer.take("cancel").length, 2);
  assert.equal(peer.take("open").length, 2);
});

test("a deadline is DeadlineExceeded, on the wire and here; 0 is none, whatever the default", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { peer, call } = await client({ defaultTimeoutMs: 5000 });
  const short = call.one({}, { timeoutMs: 100 });
  const normal = call.one({});
  const endless = call.one({}, { timeoutMs: 0 });
  endless.catch(() => {});
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.timeoutMs), [100, 5000, 0]);
  t.mock.timers.tick(100);
  await assert.rejects(short, { code: Code.DeadlineExceeded });
  t.mock.timers.tick(4900);
  await assert.rejects(normal, { code: Code.DeadlineExceeded });
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [1, 2]);
});

test("who notices the deadline first does not matter: there is one error, and it is the signal's reason", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  let signal;
  let proceed;
  const { peer, call } = await client({ interceptors: [(next) => async (request) => {
    signal = request.signal;
    if (request.header.has("slow")) await new Promise((resolve) => (proceed = resolve));
    return next(request);
  }] });
  const fails = async (promise) => {
    const error = await promise.catch((error) => error);
    await settle();
    assert.equal(error.code, Code.DeadlineExceeded);
    assert.equal(error, signal.reason);
  };

  const here = fails(call.one({}, { timeoutMs: 100 }));
  await settle();
  t.mock.timers.tick(100);
  await settle();
  peer.trailers(1, 4, "too late to matter");
  await here;

  const there = fails(call.one({}, { timeoutMs: 100 }));
  await settle();
  peer.trailers(2, 4, "the service was first");
  await settle();
  t.mock.timers.tick(100);
  await there;

  const before = fails(call.one({}, { timeoutMs: 100, headers: { slow: "1" } }));
  await settle();
  t.mock.timers.tick(99);
  assert.equal(signal.aborted, false);
  t.mock.timers.tick(1);
  assert.equal(signal.aborted, true);
  proceed();
  await before;
  await settle();
  assert.equal(peer.take("open").length, 2);
});

test("an interceptor that takes its time takes it from the deadline", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  let proceed;
  const { peer, call } = await client({ interceptors: [(next) => async (request) => {
    await new Promise((resolve) => (proceed = resolve));
    return next(request);
  }] });
  call.one({}, { timeoutMs: 100 }).catch(() => {});
  await settle();
  t.mock.timers.tick(60);
  proceed();
  await settle();
  assert.equal(peer.take("open")[0].open.timeoutMs, 40);
});

test("a timeout of 0 or less, or of Infinity, is none", async (t) => {
  watchRejections(t);
  const { peer, call } = await client({ defaultTimeoutMs: 5000 });
  for (const timeoutMs of [0, -1, Infinity]) call.one({}, { timeoutMs }).catch(() => {});
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.timeoutMs), [0, 0, 0]);
});

test("aborting after the end does nothing", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const controller = new AbortController();
  const answer = call.one({}, { signal: controller.signal });
  const output = call.many({}, { signal: controller.signal })[Symbol.asyncIterator]();
  const first = output.next();
  await settle();
  peer.data(1, encode("b"));
  peer.trailers(1, 0);
  peer.data(2, encode("b"));
  peer.data(2, encode("c"));
  peer.trailers(2, 0);
  await answer;
  await first;
  controller.abort();
  // What has come before the end is still there to read.
  assert.equal((await output.next()).value.value, "c");
  assert.equal((await output.next()).done, true);
  await settle();
  assert.deepEqual(peer.take("cancel"), []);
});

test("the end lets go of the timer, of the caller's signal, and of requests that come too late", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const { signal } = new AbortController();
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
  const before = timers();
  const input = source();
  const next = call.talk(input, { signal, timeoutMs: 60_000 })[Symbol.asyncIterator]().next();
  await settle();
  assert.ok(getEventListeners(signal, "abort").length > 0);
  assert.ok(timers() > before);
  peer.trailers(1, 0);
  assert.equal((await next).done, true);
  await settle();
  assert.equal(getEventListeners(signal, "abort").length, 0);
  assert.equal(timers(), before);
  peer.frames.length = 0;
  input.push({ done: true });
  await settle();
  assert.deepEqual(peer.frames, []);
});

test("an interceptor may call again, read every message, and change what comes out", async (t) => {
  watchRejections(t);
  const retry = (next) => async (request) => {
    try {
      return await next(request);
    } catch (error) {
      if (error.code !== Code.Unavailable) throw error;
      return next(request);
    }
  };
  const seen = [];
  const watch = (next) => async (request) => {
    const response = await next(request);
    if (!response.stream) return response;
    const read = async function* () {
      for await (const message of response.message) {
        seen.push(message.value);
        yield { ...message, value: message.value.toUpperCase() };
      }
      seen.push(response.trailer.get("t"));
    };
    return { ...response, message: read() };
  };
  const { peer, call } = await client({ interceptors: [retry, watch] });
  const answer = call.one({ value: "a" });
  await settle();
  peer.trailers(1, Code.Unavailable);
  await settle();
  assert.deepEqual(peer.take("data").map(({ stream, data }) => [stream, decode(data)]), [[1, "a"], [2, "a"]]);
  peer.data(2, encode("b"));
  peer.trailers(2, 0);
  assert.equal((await answer).value, "b");

  const output = call.many({})[Symbol.asyncIterator]();
  const first = output.next();
  await settle();
  peer.data(3, encode("b"));
  peer.trailers(3, 0, "", { metadata: [{ name: "t", text: "1" }, { name: "t", text: "2" }] });
  assert.equal((await first).value.value, "B");
  assert.equal((await output.next()).done, true);
  assert.deepEqual(seen, ["b", "1, 2"]);
});

test("with the JSON codec, the wire says so, messages are text, and unknown fields do no harm", async (t) => {
  watchRejections(t);
  const { peer, call } = await client({ codec: createJsonCodec() });
  const text = (value) => new TextEncoder().encode(value);
  const answer = call.one({ value: "ä" });
  const stream = call.many({})[Symbol.asyncIterator]().next();
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.codec), [1, 1]);
  assert.equal(new TextDecoder().decode(peer.take("data")[0].data), '"ä"');
  peer.data(1, text('"b"'));
  peer.trailers(1, 0);
  assert.equal((await answer).value, "b");
  peer.data(2, text('{"no": "string"}'));
  await assert.rejects(stream, { code: Code.Internal });

  const { Lab } = await import("./.gen/connect.js");
  const { channel, peer: other } = await connected();
  const lab = createClient(Lab, createTransport(channel, { codec: createJsonCodec() }));
  const reply = lab.unary({ number: 2n ** 60n, data: bytes(1, 255) });
  await settle();
  assert.deepEqual(JSON.parse(new TextDecoder().decode(other.take("data")[0].data)), { number: `${2n ** 60n}`, data: "/w==" });
  other.data(1, text('{"text": "b", "newer": 1}'));
  other.trailers(1, 0);
  assert.equal((await reply).text, "b");
});

test("without a codec, messages are binary", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  call.one({}).catch(() => {});
  await settle();
  assert.equal(peer.take("open")[0].open.codec, 0);
});

test("interceptors see the request, may change it, and the first is the outermost", async (t) => {
  watchRejections(t);
  const order = [];
  const log = (name) => (next) => async (request) => {
    order.push(`${name} ${request.stream} ${request.method.name} ${new URL(request.url).pathname}`);
    request.header.set(name, "1");
    const response = await next(request);
    order.push(name);
    return response;
  };
  const { peer, call } = await client({ interceptors: [log("a"), log("b")] });
  const answer = call.one({});
  await settle();
  assert.deepEqual(peer.take("open")[0].open.metadata.map(({ name }) => name), ["a", "b"]);
  peer.data(1, encode("x"));
  peer.trailers(1, 0);
  await answer;
  assert.deepEqual(order, ["a false One /t.S/One", "b false One /t.S/One", "b", "a"]);
});

test("the request's signal ends with the call, and an interceptor that throws opens none", async (t) => {
  watchRejections(t);
  let signal;
  const { peer, call } = await client({ interceptors: [(next) => async (request) => {
    signal = request.signal;
    if (request.header.has("stop")) throw new ConnectError("stopped", Code.PermissionDenied);
    return next(request);
  }] });
  const answer = call.one({});
  await settle();
  assert.equal(signal.aborted, false);
  peer.data(1, encode("x"));
  peer.trailers(1, 0);
  await answer;
  await settle();
  assert.equal(signal.aborted, true);
  call.many({}, { headers: { stop: "1" } });
  await assert.rejects(call.one({}, { headers: { stop: "1" } }), { code: Code.PermissionDenied });
  await settle();
  assert.equal(peer.take("open").length, 1);
  assert.deepEqual(peer.take("cancel"), []);
});

test("a reader who stops reading a stream stalls it: no credit goes back", async (t) => {
  watchRejections(t);
  const { peer, call } = await client({}, { streamCredit: 65536 });
  const output = call.many({})[Symbol.asyncIterator]();
  const first = output.next();
  await settle();
  peer.headers(1);
  for (let i = 0; i < 4; i++) peer.data(1, encode("x".repeat(16000)));
  await first;
  await settle();
  assert.deepEqual(peer.take("credit"), []);
  assert.deepEqual(peer.take("cancel"), []);
});

test("a lost connection is Unavailable", async (t) => {
  watchRejections(t);
  const { peer, call } = await client();
  const answer = call.one({});
  await settle();
  peer.close(1006);
  await assert.rejects(answer, { code: Code.Unavailable });
});

test("calls go through a channel that is not connected yet", async (t) => {
  watchRejections(t);
  const { channel, proxy } = pair();
  const answer = createClient(service, createTransport(channel)).one({ value: "a" });
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.welcome();
  proxy.last.data(1, encode("b"));
  proxy.last.trailers(1, 0);
  assert.equal((await answer).value, "b");
});
