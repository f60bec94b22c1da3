// The transport for @improbable-eng/grpc-web under the unmodified library and the clients that ts-protoc-gen writes, over
// a scripted proxy.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createTransport } from "../src/improbable.js";
import { bundle } from "./bundle.js";
import { bytes, connected, settle, watchRejections } from "./fake.js";

const { grpc, GreeterClient, LabClient, Lab, Greeter, HelloRequest, HelloReply, Payload, StreamRequest, Summary } = await bundle(`
  import { grpc } from "@improbable-eng/grpc-web";
  import * as services from "./demo_pb_service";
  import * as messages from "./demo_pb";
  export default { grpc, ...services, ...messages };
`);

const host = "http://has-no-say.test";

async function client(options) {
  const { channel, peer } = await connected();
  return { channel, peer, transport: createTransport(channel, options) };
}

const payload = (number) => new Payload().setNumber(number);
const numbers = (frames) => frames.map(({ data }) => Payload.deserializeBinary(new Uint8Array(data)).getNumber());
const reply = (text) => new HelloReply().setText(text).serializeBinary();

/** Writes down what a client says. */
function record(target) {
  const events = [];
  target.onHeaders?.((headers) => events.push(["headers", headers]));
  target.onMessage?.((message) => events.push(["message", message.getNumber?.() ?? message.getText?.()]));
  target.onEnd?.((code, message, trailers) => events.push(["end", code, message, trailers]));
  return events;
}

/** Starts a call of a method with one request. */
function invoke(method, request, transport, metadata) {
  const events = [];
  const handle = grpc.invoke(method, {
    host,
    transport,
    metadata,
    request,
    onHeaders: (headers) => events.push(["headers", headers]),
    onMessage: (message) => events.push(["message", message.getNumber()]),
    onEnd: (code, message, trailers) => events.push(["end", code, message, trailers]),
  });
  return { events, handle };
}

test("grpc.unary: headers, message, trailers; the library's HTTP headers stay at home", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const answer = new Promise((onEnd) => {
    grpc.unary(Greeter.Hello, { host, transport, request: new HelloRequest().setName("Ada"), metadata: { x: ["1", "2"], "y-bin": "AQI=" }, onEnd });
  });
  await settle();
  const [{ open }] = peer.take("open");
  assert.equal(open.method, "/demo.v1.Greeter/Hello");
  assert.deepEqual(open.metadata.map(({ name, text, binary }) => [name, text ?? [...binary]]), [["x", "1"], ["x", "2"], ["y-bin", [1, 2]]]);
  const [data] = peer.take("data");
  assert.equal(HelloRequest.deserializeBinary(new Uint8Array(data.data)).getName(), "Ada");
  assert.equal(data.last, true);
  peer.headers(1, [{ name: "h", text: "1" }, { name: "h", text: "2: x, y" }, { name: "h-bin", binary: bytes(2, 255) }]);
  peer.data(1, reply("Hello!"));
  peer.trailers(1, 0, "", { metadata: [{ name: "t", text: "3" }, { name: "t-bin", binary: bytes(1, 0) }] });
  const { status, statusMessage, headers, message, trailers } = await answer;
  assert.equal(status, grpc.Code.OK);
  assert.equal(statusMessage, "");
  assert.equal(message.getText(), "Hello!");
  assert.deepEqual(headers.get("h"), ["1", "2: x, y"]);
  assert.deepEqual(headers.get("h-bin"), ["//8="]);
  assert.deepEqual(trailers.get("t"), ["3"]);
  assert.deepEqual(trailers.get("t-bin"), ["AA=="]);
});

test("an error keeps its code, its text in any alphabet, its trailing metadata and its details", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const { events } = invoke(Lab.ServerStream, new StreamRequest(), transport);
  await settle();
  peer.headers(1);
  peer.data(1, payload(1).serializeBinary());
  peer.trailers(1, 5, "nö 100%\r\n猫", { details: bytes(3, 255), metadata: [{ name: "t", text: "2" }] });
  await settle();
  assert.deepEqual(events.map(([name]) => name), ["headers", "message", "end"]);
  const [, code, message, trailers] = events.at(-1);
  assert.equal(code, grpc.Code.NotFound);
  assert.equal(message, "nö 100%\r\n猫");
  assert.deepEqual(trailers.get("t"), ["2"]);
  assert.deepEqual(trailers.get("grpc-status-details-bin"), ["////"]);
});

test("a call that nobody answers ends with its true status, not as one without headers", async (t) => {
  watchRejections(t);
  const { channel, peer, transport } = await client();
  const lost = invoke(Lab.ServerStream, new StreamRequest(), transport);
  await settle();
  peer.close(1006);
  await settle();
  assert.deepEqual(lost.events.map(([name, code]) => [name, name === "end" && code]), [["headers", false], ["end", grpc.Code.Unavailable]]);
  await channel.close();
  const late = invoke(Lab.ServerStream, new StreamRequest(), transport);
  await settle();
  assert.equal(late.events.at(-1)[1], grpc.Code.Canceled);
  const refused = await client();
  const bad = invoke(Lab.ServerStream, new StreamRequest(), refused.transport, { x: "é" });
  await settle();
  assert.equal(bad.events.at(-1)[1], grpc.Code.InvalidArgument);
});

test("grpc.invoke: messages in order, empty ones too", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const { events } = invoke(Lab.ServerStream, new StreamRequest(), transport);
  await settle();
  assert.equal(peer.take("data")[0].data.length, 0);
  peer.headers(1);
  for (const number of [1, 0, 2]) peer.data(1, payload(number).serializeBinary());
  peer.trailers(1);
  await settle();
  assert.deepEqual(events.slice(1, 4), [["message", 1], ["message", 0], ["message", 2]]);
  assert.deepEqual(events[4].slice(0, 2), ["end", grpc.Code.OK]);
  assert.equal(events.length, 5);
});

test("closing a call cancels it, and nothing is said of it any more", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const { events, handle } = invoke(Lab.ServerStream, new StreamRequest(), transport);
  await settle();
  peer.headers(1);
  peer.data(1, payload(1).serializeBinary());
  await settle();
  handle.close();
  await settle();
  assert.equal(peer.take("cancel").length, 1);
  assert.deepEqual(events.map(([name]) => name), ["headers", "message"]);
});

test("grpc.client: a conversation, and finishSend() half-closes", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const call = grpc.client(Lab.Bidi, { host, transport });
  const events = record(call);
  call.start();
  await settle();
  // Before any headers have come.
  call.send(payload(1));
  await settle();
  assert.deepEqual(numbers(peer.take("data")), [1]);
  peer.headers(1);
  peer.data(1, payload(1).serializeBinary());
  await settle();
  assert.deepEqual(events.at(-1), ["message", 1]);
  call.send(payload(2));
  call.finishSend();
  await settle();
  const [data] = peer.take("data");
  assert.ok(data.last || peer.take("halfClose").length === 1);
  peer.trailers(1);
  await settle();
  assert.equal(events.at(-1)[1], grpc.Code.OK);
});

test("grpc.client: client streaming gives its one answer", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const call = grpc.client(Lab.ClientStream, { host, transport });
  let messages;
  call.onMessage((summary) => (messages = summary.getMessages()));
  const ended = new Promise((resolve) => call.onEnd(resolve));
  call.start();
  for (let i = 0; i < 3; i++) call.send(payload(i));
  call.finishSend();
  await settle();
  assert.deepEqual(numbers(peer.take("data")), [0, 1, 2]);
  peer.headers(1);
  peer.data(1, new Summary().setMessages(3).serializeBinary());
  peer.trailers(1);
  assert.equal(await ended, grpc.Code.OK);
  assert.equal(messages, 3);
});

test("the clients that ts-protoc-gen writes work, all kinds of calls", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const hello = new Promise((resolve) => new GreeterClient(host, { transport }).hello(new HelloRequest(), (error, message) => resolve([error, message])));
  await settle();
  peer.trailers(1, 3, "whom?");
  const [error, message] = await hello;
  assert.deepEqual([error.code, error.message, message], [grpc.Code.InvalidArgument, "whom?", null]);

  const lab = new LabClient(host, { transport });
  const talk = lab.bidi();
  const events = [];
  talk.on("data", (message) => events.push(message.getNumber())).on("status", ({ code }) => events.push(`status ${code}`)).on("end", () => events.push("end"));
  talk.write(payload(7));
  await settle();
  peer.headers(2);
  peer.data(2, payload(8).serializeBinary());
  talk.end();
  await settle();
  peer.trailers(2);
  await settle();
  assert.deepEqual(events, [8, "status 0", "end"]);

  const sum = lab.clientStream();
  const status = new Promise((resolve) => sum.on("status", resolve));
  sum.write(payload(1)).write(payload(2));
  sum.end();
  await settle();
  peer.headers(3);
  peer.data(3, new Summary().serializeBinary());
  peer.trailers(3);
  assert.equal((await status).code, grpc.Code.OK);

  const many = lab.serverStream(new StreamRequest());
  many.on("data", () => many.cancel());
  await settle();
  peer.headers(4);
  peer.data(4, payload(1).serializeBinary());
  await settle();
  assert.equal(peer.take("cancel", 4).length, 1);
});

test("setDefaultTransport takes it, for everything on the page", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  grpc.setDefaultTransport(transport);
  const { events } = invoke(Lab.WaitStream, new StreamRequest());
  await settle();
  assert.equal(peer.take("open").length, 1);
  peer.trailers(1, 12, "");
  await settle();
  assert.equal(events.at(-1)[1], grpc.Code.Unimplemented);
});

test("a message that cannot be read is Internal, and cancels the call", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const { events } = invoke(Lab.ServerStream, new StreamRequest(), transport);
  await settle();
  peer.headers(1);
  peer.data(1, bytes(3, 255));
  peer.data(1, payload(1).serializeBinary());
  await settle();
  assert.deepEqual(events.map(([name, code]) => (name === "end" ? code : name)), ["headers", grpc.Code.Internal]);
  assert.match(events.at(-1)[2], /cannot be read/);
  assert.equal(peer.take("cancel").length, 1);
});

test("what a page sends faster than the service takes it has a limit: ResourceExhausted", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client({ maxQueuedBytes: 200_000 });
  const call = grpc.client(Lab.Bidi, { host, transport });
  const events = record(call);
  call.start();
  const large = new Payload().setData(bytes(50_000));
  // 64 KiB are admitted at once.
  for (let i = 0; i < 3; i++) call.send(large);
  await settle();
  peer.send({ stream: 1, credit: 100_000 });
  await settle();
  for (let i = 0; i < 3; i++) call.send(large);
  await settle();
  assert.deepEqual(events, []);
  call.send(large);
  await settle();
  assert.equal(events.at(-1)[1], grpc.Code.ResourceExhausted);
  assert.equal(peer.take("cancel").length, 1);
});

test("grpc-timeout is the call's timeout, at the service and here", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { peer, transport } = await client();
  const { events } = invoke(Lab.ServerStream, new StreamRequest(), transport, { "grpc-timeout": "2S" });
  await settle();
  const [{ open }] = peer.take("open");
  assert.deepEqual([open.timeoutMs, open.metadata.length], [2000, 0]);
  t.mock.timers.tick(2000);
  await settle();
  assert.equal(events.at(-1)[1], grpc.Code.DeadlineExceeded);
});

test("a callback of the application's that throws does not harm the call", async (t) => {
  watchRejections(t);
  const { peer, transport } = await client();
  const thrown = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => thrown.push(error.message));
  t.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  });
  let ended;
  grpc.invoke(Lab.ServerStream, {
    host,
    transport,
    request: new StreamRequest(),
    onMessage: () => {
      throw new Error("mine");
    },
    onEnd: (code) => (ended = code),
  });
  await settle();
  peer.headers(1);
  peer.data(1, payload(1).serializeBinary());
  peer.data(1, payload(2).serializeBinary());
  peer.trailers(1);
  await settle();
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(ended, grpc.Code.OK);
  assert.deepEqual(thrown, ["mine", "mine"]);
});
