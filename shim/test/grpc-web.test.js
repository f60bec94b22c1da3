// google's grpc-web, over a scripted proxy: the clients that protoc-gen-grpc-web writes, on our runtime in the place of
// theirs, and on theirs with our interceptors.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bundle } from "./bundle.js";
import { bytes, connected, fakeProxy, pair, settle, watchRejections } from "./fake.js";

/** What an application imports: generated clients and messages, and the runtime. */
const application = (clients = "./demo_grpc_web_pb", runtime = "grpc-web", alias = { "grpc-web": "grpc-web.js" }) =>
  bundle(
    `
      import * as clients from "${clients}";
      import * as messages from "./demo_pb";
      import * as runtime from "${runtime}";
      export default { ...messages, ...clients, runtime };
    `,
    alias,
  );

const { runtime, ...generated } = await application();
const { GreeterClient, GreeterPromiseClient, LabClient, LabPromiseClient } = generated;
const { HelloRequest, HelloReply, Payload, StreamRequest, Summary, Empty } = generated;
const { RpcError, StatusCode, bidi, clientStream, createInterceptors, setChannel } = runtime;

const hostname = "http://edge.test";
const payload = (number) => new Payload().setNumber(number);
const reply = (text) => new HelloReply().setText(text).serializeBinary();
const ada = () => new HelloRequest().setName("Ada");

/** The page's channel, connected. */
async function page() {
  const { channel, peer } = await connected();
  setChannel(channel);
  return { channel, peer };
}

/** Writes a stream's events down. */
function record(stream) {
  const events = [];
  stream.on("metadata", (metadata) => events.push(["metadata", metadata]));
  stream.on("data", (message) => events.push(["data", message.getNumber?.() ?? message.getText?.()]));
  stream.on("status", (status) => events.push(["status", status]));
  stream.on("error", (error) => events.push(["error", error]));
  stream.on("end", () => events.push(["end"]));
  return events;
}
const names = (events) => events.map(([name]) => name).join();

/** An answer to Hello on a stream, of all that an answer can have. */
function answerHello(peer, stream) {
  peer.headers(stream, [{ name: "h", text: "1" }, { name: "h", text: "2" }, { name: "h-bin", binary: bytes(2, 255) }]);
  peer.data(stream, reply("Hello!"));
  peer.trailers(stream, 0, "", { metadata: [{ name: "t", text: "3" }] });
}

test("a promise's call: request, metadata, answer", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const answer = new GreeterPromiseClient(hostname).hello(ada(), { x: "1", "y-bin": "AQI=", "X-User-Agent": "grpc-web-javascript/0.1" });
  await settle();
  const [{ open }] = peer.take("open");
  assert.equal(open.method, "/demo.v1.Greeter/Hello");
  assert.deepEqual(open.metadata.map(({ name, text, binary }) => [name, text ?? [...binary]]), [["x", "1"], ["y-bin", [1, 2]]]);
  const [data] = peer.take("data");
  assert.equal(HelloRequest.deserializeBinary(new Uint8Array(data.data)).getName(), "Ada");
  assert.equal(data.last, true);
  answerHello(peer, 1);
  assert.equal((await answer).getText(), "Hello!");
});

test("a callback's call: metadata, status and end have events, the answer and the error have not", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const events = [];
  const call = new GreeterClient(hostname).hello(ada(), null, (error, message) => events.push(["callback", error, message.getText()]));
  const seen = record(call);
  call.on("status", () => assert.deepEqual(events, [], "the callback comes last"));
  await settle();
  answerHello(peer, 1);
  await settle();
  assert.deepEqual(events, [["callback", null, "Hello!"]]);
  assert.equal(names(seen), "metadata,status,end");
  assert.deepEqual(seen[0][1], { h: "1, 2", "h-bin": "//8=" });
  assert.deepEqual(seen[1][1], { code: 0, details: "", metadata: { t: "3" } });
});

test("a callback hears of an error once, and of an answer that never came", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const heard = [];
  const hello = () => new GreeterClient(hostname).hello(ada(), {}, (error, message) => heard.push([error.code, error.message, message]));
  hello();
  hello();
  await settle();
  peer.trailers(1, 3, "whom?");
  peer.trailers(2, 0);
  await settle();
  assert.deepEqual(heard, [[StatusCode.INVALID_ARGUMENT, "whom?", null], [StatusCode.UNKNOWN, "Incomplete response", null]]);
});

test("a stream's events: metadata, data, status, end", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const events = record(new LabClient(hostname).serverStream(new StreamRequest()));
  await settle();
  peer.headers(1, [{ name: "h", text: "1" }]);
  await settle();
  assert.equal(names(events), "metadata");
  for (const number of [1, 0, 2]) peer.data(1, payload(number).serializeBinary());
  peer.trailers(1, 0, "", { metadata: [{ name: "t-bin", binary: bytes(1, 0) }] });
  await settle();
  assert.equal(names(events), "metadata,data,data,data,status,end");
  assert.deepEqual(events.slice(1, 4).map(([, number]) => number), [1, 0, 2]);
  assert.deepEqual(events[4][1], { code: 0, details: "", metadata: { "t-bin": "AA==" } });
});

test("an error comes before the status that says the same, with its text in any alphabet, metadata and details", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const events = record(new LabPromiseClient(hostname).serverStream(new StreamRequest()));
  await settle();
  peer.headers(1, [{ name: "h", text: "1" }]);
  peer.data(1, payload(1).serializeBinary());
  peer.trailers(1, 5, "nö 100% 猫", { details: bytes(3, 255), metadata: [{ name: "t", text: "2" }] });
  await settle();
  // google's runtime ends a response that had begun, also after an error.
  assert.equal(names(events), "metadata,data,error,status,end");
  const error = events[2][1];
  assert.ok(error instanceof RpcError && error instanceof Error);
  assert.equal(error.code, StatusCode.NOT_FOUND);
  assert.equal(error.message, "nö 100% 猫");
  assert.deepEqual(error.metadata, { t: "2", "grpc-status-details-bin": "////" });
  assert.equal(`${error}`, "RpcError(NOT_FOUND): nö 100% 猫");
  assert.deepEqual(events[3][1], { code: 5, details: "nö 100% 猫", metadata: error.metadata });
});

test("an error without a response has no end", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const lab = new LabClient(hostname);
  const refused = record(lab.serverStream(new StreamRequest()));
  const lost = record(lab.serverStream(new StreamRequest()));
  await settle();
  peer.trailers(1, 7, "no");
  peer.headers(2, [{ name: "h", text: "1" }]);
  await settle();
  peer.close(1006);
  await settle();
  assert.equal(names(refused), "metadata,error,status");
  assert.equal(names(lost), "metadata,error,status");
  assert.equal(lost[1][1].code, StatusCode.UNAVAILABLE);
});

test("cancel() cancels the call, and nothing is said of it any more", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const stream = new LabClient(hostname).serverStream(new StreamRequest());
  const events = record(stream);
  const call = new GreeterClient(hostname).hello(ada(), {}, () => assert.fail("was cancelled"));
  stream.on("data", () => stream.cancel());
  stream.on("data", () => assert.fail("was cancelled"));
  await settle();
  peer.headers(1);
  peer.data(1, payload(1).serializeBinary());
  peer.data(1, payload(2).serializeBinary());
  call.cancel();
  await settle();
  assert.equal(names(events), "metadata,data");
  assert.equal(peer.take("cancel").length, 2);
});

test("a listener that was removed hears nothing", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const stream = new LabClient(hostname).serverStream(new StreamRequest());
  const heard = [];
  const listener = (message) => heard.push(message.getNumber());
  assert.equal(stream.on("data", listener), stream);
  await settle();
  peer.headers(1);
  peer.data(1, payload(1).serializeBinary());
  await settle();
  stream.removeListener("data", listener);
  stream.removeListener("data", listener);
  peer.data(1, payload(2).serializeBinary());
  peer.trailers(1);
  await settle();
  assert.deepEqual(heard, [1]);
});

test("a listener that throws is heard of, and harms neither the others nor the call", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const thrown = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => thrown.push(error.message));
  t.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  });
  const stream = new LabClient(hostname).serverStream(new StreamRequest());
  stream.on("data", () => {
    throw new Error("mine");
  });
  const events = record(stream);
  await settle();
  peer.headers(1);
  peer.data(1, payload(1).serializeBinary());
  peer.trailers(1);
  await settle();
  assert.equal(names(events), "metadata,data,status,end");
  assert.deepEqual(thrown, ["mine"]);
});

test("the deadline is metadata in milliseconds since 1970, or grpc-timeout; the call ends when it has passed", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_700_000_000_000 });
  const { peer } = await page();
  const greeter = new GreeterPromiseClient(hostname);
  const soon = greeter.hello(ada(), { deadline: `${Date.now() + 1500.2}` });
  const number = greeter.hello(ada(), { deadline: Date.now() + 2000 });
  const timeout = greeter.hello(ada(), { "grpc-timeout": "3S" });
  const none = greeter.hello(ada(), { deadline: `${Infinity}` });
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => [open.timeoutMs || 0, open.metadata.length]), [[1501, 0], [2000, 0], [3000, 0], [0, 0]]);
  await assert.rejects(greeter.hello(ada(), { deadline: `${Date.now() - 1}` }), { code: StatusCode.DEADLINE_EXCEEDED });
  await settle();
  assert.equal(peer.take("open").length, 0);
  t.mock.timers.tick(3000);
  for (const answer of [soon, number, timeout]) await assert.rejects(answer, { name: "RpcError", code: StatusCode.DEADLINE_EXCEEDED });
  answerHello(peer, 4);
  assert.equal((await none).getText(), "Hello!");
});

test("a signal aborts a promise's call: CANCELLED, with the signal's reason, and the call is cancelled", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const descriptor = new runtime.MethodDescriptor("/demo.v1.Greeter/Hello", runtime.MethodType.UNARY, HelloRequest, HelloReply, (request) => request.serializeBinary(), HelloReply.deserializeBinary);
  const client = new runtime.GrpcWebClientBase({ format: "text" });
  const controller = new AbortController();
  const calls = [client.thenableCall, client.unaryCall].map((call) =>
    call.call(client, `${hostname}/demo.v1.Greeter/Hello`, ada(), {}, descriptor, { signal: controller.signal }),
  );
  const late = new AbortController();
  const fine = client.thenableCall(`${hostname}/demo.v1.Greeter/Hello`, ada(), {}, descriptor, { signal: late.signal });
  await settle();
  controller.abort("enough");
  for (const call of calls) await assert.rejects(call, { name: "RpcError", code: StatusCode.CANCELLED, message: "Aborted", cause: "enough" });
  answerHello(peer, 3);
  assert.equal((await fine).getText(), "Hello!");
  late.abort();
  const before = client.thenableCall(`${hostname}/demo.v1.Greeter/Hello`, ada(), {}, descriptor, { signal: AbortSignal.abort() });
  await assert.rejects(before, { code: StatusCode.CANCELLED });
  await settle();
  assert.equal(peer.take("cancel").length, 2);
  assert.equal(peer.take("open").length, 3);
});

test("a message that cannot be read is INTERNAL, and cancels the call", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const events = record(new LabClient(hostname).serverStream(new StreamRequest()));
  await settle();
  peer.headers(1);
  peer.data(1, bytes(3, 255));
  peer.data(1, payload(1).serializeBinary());
  await settle();
  assert.equal(names(events), "metadata,error,status");
  assert.equal(events[1][1].code, StatusCode.INTERNAL);
  assert.match(events[1][1].message, /Error when deserializing response data/);
  assert.equal(peer.take("cancel").length, 1);
});

test("a message above maxReceiveMessageSize is RESOURCE_EXHAUSTED; without it the proxy's limit holds", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const large = new Payload().setData(bytes(1000)).serializeBinary();
  const limited = record(new LabClient(hostname, null, { maxReceiveMessageSize: large.length - 1 }).serverStream(new StreamRequest()));
  const fits = record(new LabClient(hostname, null, { maxReceiveMessageSize: large.length }).serverStream(new StreamRequest()));
  const unlimited = record(new LabClient(hostname, null, { maxReceiveMessageSize: 0 }).serverStream(new StreamRequest()));
  await settle();
  for (const stream of [1, 2, 3]) {
    peer.headers(stream);
    peer.data(stream, large);
  }
  await settle();
  assert.equal(limited[1][1].code, StatusCode.RESOURCE_EXHAUSTED);
  assert.equal(names(fits), "metadata,data");
  assert.equal(names(unlimited), "metadata,data");
  assert.equal(peer.take("cancel", 1).length, 1);
});

test("a request that cannot be written fails where it was made, and opens no call", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  assert.throws(() => new LabClient(hostname).serverStream({}), TypeError);
  await assert.rejects(new GreeterPromiseClient(hostname).hello({}), TypeError);
  await settle();
  assert.equal(peer.take("open").length, 0);
});

test("metadata keeps names that every object has", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const events = record(new LabClient(hostname).serverStream(new StreamRequest()));
  await settle();
  peer.headers(1, [{ name: "constructor", text: "1" }, { name: "__proto__", text: "2" }]);
  peer.trailers(1);
  await settle();
  assert.deepEqual(Object.entries(events[0][1]), [["constructor", "1"], ["__proto__", "2"]]);
});

test("interceptors of the application run, the last of them first, and see everything", async (t) => {
  watchRejections(t);
  const { peer } = await page();
  const log = [];
  const unary = (name) => ({
    async intercept(request, invoker) {
      log.push(`${name} ${request.getRequestMessage().getName()} ${request.getMethodDescriptor().getName()}`);
      request.getMetadata()[name] = "1";
      const response = await invoker(request);
      log.push(`${name} ${response.getResponseMessage().getText()} ${response.getMetadata().h} ${response.getStatus().metadata.t} ${response.getMethodDescriptor().getName()}`);
      return response;
    },
  });
  const answer = new GreeterPromiseClient(hostname, null, { unaryInterceptors: [unary("inner"), unary("outer")] }).hello(ada());
  await settle();
  assert.deepEqual(peer.take("open")[0].open.metadata.map(({ name }) => name), ["outer", "inner"]);
  answerHello(peer, 1);
  await answer;
  assert.deepEqual(log, [
    "outer Ada /demo.v1.Greeter/Hello",
    "inner Ada /demo.v1.Greeter/Hello",
    "inner Hello! 1, 2 3 /demo.v1.Greeter/Hello",
    "outer Hello! 1, 2 3 /demo.v1.Greeter/Hello",
  ]);

  // Interceptors of streams have the callbacks' unary calls as well, and may answer in the service's place.
  const stream = {
    intercept(request, invoker) {
      request.getMetadata().stream = "1";
      return invoker(request);
    },
  };
  const called = new Promise((resolve) => new GreeterClient(hostname, null, { streamInterceptors: [stream] }).hello(ada(), {}, (error, message) => resolve(message)));
  await settle();
  assert.deepEqual(peer.take("open")[0].open.metadata.map(({ name }) => name), ["stream"]);
  answerHello(peer, 2);
  assert.equal((await called).getText(), "Hello!");
});

test("a failure that an interceptor's stream tells only in its status reaches the callback", async (t) => {
  watchRejections(t);
  await page();
  const streamInterceptors = [{
    intercept: () => ({
      on(type, listener) {
        if (type === "status") queueMicrotask(() => listener({ code: 8, details: "mine", metadata: {} }));
      },
    }),
  }];
  const error = await new Promise((resolve) => new GreeterClient(hostname, null, { streamInterceptors }).hello(ada(), {}, resolve));
  assert.deepEqual([error.code, error.message], [8, "mine"]);
});

test("each hostname has one channel of its own, unless one is set: for it, or for all", async (t) => {
  watchRejections(t);
  setChannel(undefined);
  const proxy = fakeProxy();
  const before = globalThis.WebSocket;
  globalThis.WebSocket = proxy.WebSocket;
  t.after(() => (globalThis.WebSocket = before));
  const answers = ["http://a.test", "http://a.test/", "http://b.test/under"].map((name) => new GreeterPromiseClient(name).hello(ada()));
  await settle();
  assert.deepEqual(proxy.peers.map(({ url }) => `${url}`), ["ws://a.test/bidiway/session", "ws://b.test/under/bidiway/session"]);
  for (const peer of proxy.peers) {
    peer.accept();
    peer.welcome();
    answerHello(peer, 1);
  }
  answerHello(proxy.peers[0], 2);
  await Promise.all(answers);
  const own = await connected();
  const all = await connected();
  setChannel(own.channel, "http://a.test/");
  setChannel(all.channel);
  const hello = (name) => new GreeterPromiseClient(name).hello(ada()).catch(() => {});
  hello("http://a.test");
  hello("http://b.test/under");
  hello("");
  await settle();
  assert.deepEqual([own, all].map(({ peer }) => peer.take("open").length), [1, 2]);
  setChannel(undefined, "http://a.test");
  hello("http://a.test");
  await settle();
  assert.equal(all.peer.take("open").length, 1);
  setChannel(undefined);
  hello("http://a.test");
  await settle();
  assert.equal(proxy.peers.length, 2);
  assert.equal(proxy.peers[0].take("open").length, 3);
  for (const peer of proxy.peers) peer.close(4403);
});

test("clients generated for grpc-web-text work as well", async (t) => {
  watchRejections(t);
  const text = await application("./demo_grpc_web_text_pb");
  const { channel, peer } = await connected();
  text.runtime.setChannel(channel);
  const answer = new text.GreeterPromiseClient(hostname).hello(new text.HelloRequest().setName("Ada"));
  await settle();
  answerHello(peer, 1);
  assert.equal((await answer).getText(), "Hello!");
});

test("the runtime has the names of google's", async () => {
  const theirs = await import("grpc-web");
  for (const name of ["GrpcWebClientBase", "MethodDescriptor", "MethodInfo", "MethodType", "RpcError", "StatusCode"]) {
    assert.ok(name in theirs && name in runtime, name);
  }
  assert.deepEqual(runtime.StatusCode, { ...theirs.StatusCode });
  assert.deepEqual(runtime.MethodType, { ...theirs.MethodType });
  assert.equal(`${new runtime.RpcError(3, "a")}`, `${new theirs.RpcError(3, "a")}`);
  assert.equal(`${new runtime.RpcError(3, "")}`, `${new theirs.RpcError(3, "")}`);
});

for (const version of ["grpc-web", "grpc-web-2.0", "grpc-web-1.5", "grpc-web-1.4", "grpc-web-1.3", "grpc-web-1.2"]) {
  test(`interceptors on ${version}: every call goes over the channel`, async (t) => {
    watchRejections(t);
    const google = await bundle(`
      import * as clients from "./demo_grpc_web_pb";
      import * as messages from "./demo_pb";
      export default { ...messages, ...clients };
    `, version === "grpc-web" ? {} : { "grpc-web": `../node_modules/${version}/index.js` });
    const { channel, peer } = await connected();
    const hello = () => new google.HelloRequest().setName("Ada");

    const answer = new google.GreeterPromiseClient(hostname, null, createInterceptors(channel)).hello(hello(), { x: "1" });
    await settle();
    const [{ open }] = peer.take("open");
    assert.equal(open.method, "/demo.v1.Greeter/Hello");
    assert.deepEqual(open.metadata.map(({ name, text }) => [name, text]), [["x", "1"]]);
    assert.equal(HelloRequest.deserializeBinary(new Uint8Array(peer.take("data")[0].data)).getName(), "Ada");
    answerHello(peer, 1);
    const message = await answer;
    assert.ok(message instanceof google.HelloReply);
    assert.equal(message.getText(), "Hello!");

    const called = new Promise((resolve) => new google.GreeterClient(hostname, null, createInterceptors(channel)).hello(hello(), {}, (error, message) => resolve([error, message])));
    await settle();
    answerHello(peer, 2);
    assert.equal((await called)[1].getText(), "Hello!");

    const failed = new google.GreeterPromiseClient(hostname, null, createInterceptors(channel)).hello(hello());
    await settle();
    peer.trailers(3, 3, "whom?", { metadata: [{ name: "t", text: "2" }] });
    await assert.rejects(failed, { code: 3, message: "whom?", metadata: { t: "2" } });

    const stream = new google.LabClient(hostname, null, createInterceptors(channel)).serverStream(new google.StreamRequest());
    const events = record(stream);
    await settle();
    peer.headers(4);
    peer.data(4, payload(1).serializeBinary());
    peer.trailers(4);
    await settle();
    assert.equal(names(events), "metadata,data,status,end");
    assert.deepEqual(events[1], ["data", 1]);
  });
}

test("interceptors of the application go round ours, which come first in the list", async (t) => {
  watchRejections(t);
  const google = await application("./demo_grpc_web_pb", "grpc-web", {});
  const { channel, peer } = await connected();
  const ours = createInterceptors(channel);
  const mine = {
    intercept(request, invoker) {
      request.getMetadata().mine = "1";
      return invoker(request);
    },
  };
  new google.GreeterPromiseClient(hostname, null, { ...ours, unaryInterceptors: [...ours.unaryInterceptors, mine] }).hello(new google.HelloRequest()).catch(() => {});
  await settle();
  assert.deepEqual(peer.take("open")[0].open.metadata.map(({ name }) => name), ["mine"]);
});

test("bidi: a conversation in generated messages, which the generator writes no stub for", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const call = bidi(channel, "/demo.v1.Lab/Bidi", Payload, Payload, { metadata: { x: "1" } });
  await call.send(payload(1));
  await settle();
  const [{ open }] = peer.take("open");
  assert.equal(open.method, "/demo.v1.Lab/Bidi");
  assert.deepEqual(open.metadata.map(({ name, text }) => [name, text]), [["x", "1"]]);
  assert.equal(Payload.deserializeBinary(new Uint8Array(peer.take("data")[0].data)).getNumber(), 1);
  peer.headers(1, [{ name: "h", text: "1" }]);
  peer.data(1, payload(2).serializeBinary());
  const messages = call[Symbol.asyncIterator]();
  assert.equal((await messages.next()).value.getNumber(), 2);
  assert.deepEqual(await call.metadata, { h: "1" });
  call.halfClose();
  await settle();
  assert.equal(peer.take("halfClose").length, 1);
  peer.trailers(1, 0, "", { metadata: [{ name: "t", text: "2" }] });
  assert.equal((await messages.next()).done, true);
  assert.deepEqual(await call.status, { code: 0, details: "", metadata: { t: "2" } });
  await assert.rejects(call.send(payload(3)));
});

test("bidi: an error is an RpcError, thrown by the loop; leaving the loop, cancel() and the signal cancel", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const read = async (call) => {
    for await (const message of call) return message;
  };
  const failing = bidi(channel, "/demo.v1.Lab/Bidi", Payload, Payload);
  const left = bidi(channel, "/demo.v1.Lab/Bidi", Payload, Payload);
  const cancelled = bidi(channel, "/demo.v1.Lab/Bidi", Payload, Payload);
  const controller = new AbortController();
  const aborted = bidi(channel, "/demo.v1.Lab/Bidi", Payload, Payload, { signal: controller.signal });
  await settle();
  peer.trailers(1, 5, "gone", { details: bytes(1, 0) });
  await assert.rejects(read(failing), (error) => error instanceof RpcError && error.code === 5 && error.metadata["grpc-status-details-bin"] === "AA==");
  assert.equal((await failing.status).code, 5);
  peer.data(2, payload(1).serializeBinary());
  assert.equal((await read(left)).getNumber(), 1);
  cancelled.cancel();
  await assert.rejects(read(cancelled), { name: "RpcError", code: StatusCode.CANCELLED });
  controller.abort();
  await assert.rejects(read(aborted), { code: StatusCode.CANCELLED });
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [2, 3, 4]);
});

test("bidi: unread messages stall the service, they do not fill memory", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected({ streamCredit: 65_536 });
  const call = bidi(channel, "/demo.v1.Lab/Bidi", Payload, Payload);
  await settle();
  const large = new Payload().setData(bytes(16_000)).serializeBinary();
  peer.headers(1);
  for (let i = 0; i < 3; i++) peer.data(1, large);
  await settle();
  assert.equal(peer.take("credit").length, 0);
  const messages = call[Symbol.asyncIterator]();
  for (let i = 0; i < 3; i++) await messages.next();
  await settle();
  assert.ok(peer.take("credit").length > 0);
  await messages.return();
});

test("clientStream: messages, then the one answer", async (t) => {
  watchRejections(t);
  const { channel, peer } = await connected();
  const call = clientStream(channel, "/demo.v1.Lab/ClientStream", Payload, Summary);
  for (const number of [1, 2, 3]) await call.send(payload(number));
  const answer = call.finish();
  await settle();
  assert.deepEqual(peer.take("data").map(({ data }) => Payload.deserializeBinary(new Uint8Array(data)).getNumber()), [1, 2, 3]);
  assert.equal(peer.take("halfClose").length, 1);
  peer.headers(1);
  peer.data(1, new Summary().setMessages(3).serializeBinary());
  peer.trailers(1);
  assert.equal((await answer).getMessages(), 3);
  const none = clientStream(channel, "/demo.v1.Lab/ClientStream", Payload, Summary);
  const failed = clientStream(channel, "/demo.v1.Lab/ClientStream", Payload, Summary);
  await settle();
  peer.trailers(2, 0);
  peer.trailers(3, 9, "not now");
  await assert.rejects(none.finish(), { code: StatusCode.UNKNOWN, message: "Incomplete response" });
  await assert.rejects(failed.finish(), { name: "RpcError", code: StatusCode.FAILED_PRECONDITION, message: "not now" });
});

test("a call that waits for a connection is made when there is one", async (t) => {
  watchRejections(t);
  const { channel, proxy } = pair();
  setChannel(channel);
  const answer = new LabPromiseClient(hostname).unary(payload(1));
  await settle();
  proxy.last.accept();
  proxy.last.welcome();
  await settle();
  proxy.last.headers(1);
  proxy.last.data(1, payload(1).serializeBinary());
  proxy.last.trailers(1);
  assert.equal((await answer).getNumber(), 1);
  assert.ok(Empty);
});
