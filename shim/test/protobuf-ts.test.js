// The protobuf-ts transport: generated clients over a scripted proxy.

import assert from "node:assert/strict";
import { test } from "node:test";
import { RpcError, RpcOutputStreamController, ServerStreamingCall } from "@protobuf-ts/runtime-rpc";
import { createTransport } from "../src/protobuf-ts.js";
import { Payload } from "./.gen/protobuf-ts.js";
import { LabClient } from "./.gen/protobuf-ts.client.js";
import { bytes, connected, pair, settle, watchRejections } from "./fake.js";

const payload = (text, data = new Uint8Array()) => Payload.create({ text, data });
const encode = (text, data) => Payload.toBinary(payload(text, data));
const decode = (data) => Payload.fromBinary(new Uint8Array(data)).text;
const request = { count: 1, size: 1, intervalMs: 0 };

async function client(options, channelOptions) {
  const { channel, peer } = await connected(channelOptions);
  return { peer, lab: new LabClient(createTransport(channel, options)) };
}

/** What a promise came to so far. */
function watch(promise) {
  const state = { is: "pending" };
  promise.then(
    (value) => Object.assign(state, { is: "resolved", value }),
    (error) => Object.assign(state, { is: "rejected", error }),
  );
  return state;
}

test("a call is there at once, connected or not, with the headers that it was given", async (t) => {
  watchRejections(t);
  const { channel, proxy } = pair();
  const call = new LabClient(createTransport(channel)).unary(payload("a"), { meta: { x: ["1", "2"], "k-bin": "Af8=" } });
  assert.equal(call.method.name, "Unary");
  assert.deepEqual(call.requestHeaders, { x: ["1", "2"], "k-bin": "Af8=" });
  assert.equal(call.request.text, "a");
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.welcome();
  const [{ open }] = proxy.last.take("open");
  assert.equal(open.method, "/demo.v1.Lab/Unary");
  assert.deepEqual(open.metadata.map(({ name, text, binary }) => [name, text ?? [...binary]]), [["x", "1"], ["x", "2"], ["k-bin", [1, 255]]]);
  const [data] = proxy.last.take("data");
  assert.equal(decode(data.data), "a");
  assert.equal(data.last, true);
  proxy.last.data(1, encode("b"));
  proxy.last.trailers(1, 0);
  assert.equal((await call.response).text, "b");
});

test("headers are settled before the response, then status and trailers, whose values may be many or binary", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const call = lab.unary(payload("a"));
  const order = [];
  for (const name of ["trailers", "status", "response", "headers"]) call[name].then(() => order.push(name));
  await settle();
  peer.headers(1, [{ name: "h", text: "1" }, { name: "h", text: "2" }, { name: "h", text: "3" }, { name: "constructor", text: "4" }]);
  peer.data(1, encode("b"));
  peer.trailers(1, 0, "", { metadata: [{ name: "t-bin", binary: bytes(2, 255) }] });
  const finished = await call;
  assert.deepEqual(finished.headers, { h: ["1", "2", "3"], constructor: "4" });
  assert.equal(finished.response.text, "b");
  assert.deepEqual(finished.status, { code: "OK", detail: "OK" });
  assert.deepEqual(finished.trailers, { "t-bin": "//8=" });
  assert.deepEqual(order.slice(0, 2), ["headers", "response"]);
});

test("a failure rejects every promise and tells the stream; who looks at none of it hears nothing", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const unary = lab.unary(payload("a"));
  const stream = lab.serverStream(request);
  const sum = lab.clientStream();
  const duplex = lab.bidi();
  for (const unseen of [lab.unary(payload("")), lab.serverStream(request), lab.clientStream(), lab.bidi()]) assert.ok(unseen);
  let told;
  stream.responses.onError((error) => (told = error));
  await settle();
  peer.close(1006);
  const isLost = (error) => {
    assert.ok(error instanceof RpcError);
    assert.equal(error.code, "UNAVAILABLE");
    return true;
  };
  for (const call of [unary, stream, sum, duplex]) {
    for (const promise of [call.headers, call.status, call.trailers, ...(call.response ? [call.response] : [])]) {
      await assert.rejects(promise, isLost);
    }
    await assert.rejects(async () => await call, isLost);
  }
  await assert.rejects(duplex.responses[Symbol.asyncIterator]().next(), isLost);
  assert.ok(isLost(told));
});

test("an error has the code's name, the method, headers and trailers, and the details as base64", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const call = lab.fail({ code: 5, message: "", reason: "", info: {}, violations: [], after: 0 });
  await settle();
  peer.headers(1, [{ name: "h", text: "1" }]);
  peer.trailers(1, 5, "nö 100%", { details: new Uint8Array([8, 5]), metadata: [{ name: "h", text: "2" }, { name: "t", text: "3" }] });
  await assert.rejects(call.response, (error) => {
    assert.equal(error.code, "NOT_FOUND");
    assert.equal(error.message, "nö 100%");
    assert.equal(error.serviceName, "demo.v1.Lab");
    assert.equal(error.methodName, "Fail");
    assert.deepEqual(error.meta, { h: ["1", "2"], t: "3", "grpc-status-details-bin": "CAU=" });
    return true;
  });
  assert.deepEqual(await call.headers, { h: "1" });
  await assert.rejects(call.trailers, { code: "NOT_FOUND" });
});

test("an error without text is named by its code, and a code that gRPC does not know is UNKNOWN", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const silent = lab.unary(payload(""));
  const foreign = lab.unary(payload(""));
  await settle();
  peer.trailers(1, 7);
  peer.trailers(2, 99, "odd");
  await assert.rejects(silent.response, { code: "PERMISSION_DENIED", message: "PERMISSION_DENIED" });
  await assert.rejects(foreign.status, { code: "UNKNOWN", message: "odd" });
});

test("a timeout is milliseconds or a Date; one that has passed opens no call", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  const { peer, lab } = await client();
  const short = lab.unary(payload(""), { timeout: 100 });
  const date = lab.unary(payload(""), { timeout: new Date(1_000_250) });
  lab.unary(payload(""));
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.timeoutMs), [100, 250, 0]);
  t.mock.timers.tick(100);
  await assert.rejects(short.response, { code: "DEADLINE_EXCEEDED" });
  t.mock.timers.tick(150);
  await assert.rejects(date.response, { code: "DEADLINE_EXCEEDED" });
  for (const timeout of [0, -5, new Date(999_000)]) {
    await assert.rejects(lab.unary(payload(""), { timeout }).response, { code: "DEADLINE_EXCEEDED" });
  }
  await settle();
  assert.equal(peer.take("open").length, 0);
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [1, 2]);
});

test("abort is CANCELLED, at the service, too; after the end it does nothing", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const controller = new AbortController();
  const call = lab.serverStream(request, { abort: controller.signal });
  const finished = lab.unary(payload(""), { abort: controller.signal });
  const next = call.responses[Symbol.asyncIterator]().next();
  await settle();
  peer.data(2, encode("b"));
  peer.trailers(2, 0);
  await finished;
  controller.abort();
  for (const promise of [call.headers, next, call.status, call.trailers]) await assert.rejects(promise, { code: "CANCELLED" });
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [1]);
  await assert.rejects(lab.unary(payload(""), { abort: AbortSignal.abort() }).response, { code: "CANCELLED" });
});

test("a call's options are merged with the transport's, whose interceptors run first", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["Date"] });
  const log = (name) => ({
    interceptUnary(next, method, input, options) {
      options.meta = { ...options.meta, order: [...(options.meta.order ?? []), name] };
      return next(method, input, options);
    },
  });
  const { peer, lab } = await client({ meta: { a: "1", b: "1" }, timeout: 5000, interceptors: [log("transport")] });
  lab.unary(payload(""), { meta: { b: "2" }, interceptors: [log("call")] });
  await settle();
  const [{ open }] = peer.take("open");
  assert.equal(open.timeoutMs, 5000);
  assert.deepEqual(open.metadata.map(({ name, text }) => [name, text]), [["a", "1"], ["b", "2"], ["order", "transport"], ["order", "call"]]);
});

test("send() settles when flow control has admitted the message", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const call = lab.bidi();
  const small = watch(call.requests.send(payload("a")));
  const large = watch(call.requests.send(payload("b", bytes(100_000))));
  const complete = call.requests.complete();
  await settle();
  assert.equal(small.is, "resolved");
  assert.equal(large.is, "pending");
  peer.send({ stream: 1, credit: 65536 });
  await settle();
  assert.equal(large.is, "resolved");
  await complete;
  assert.equal(peer.take("data").at(-1).last, true);
});

test("send() after the end rejects with the call's error, and silently when nobody looks", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const call = lab.clientStream();
  const stuck = call.requests.send(payload("", bytes(100_000)));
  await settle();
  peer.trailers(1, 8, "enough");
  await settle();
  await assert.rejects(stuck, { code: "RESOURCE_EXHAUSTED" });
  await assert.rejects(call.requests.send(payload("b")), { code: "RESOURCE_EXHAUSTED" });
  call.requests.send(payload("unseen"));
  await call.requests.complete();
  const other = lab.bidi();
  await other.requests.complete();
  await assert.rejects(other.requests.send(payload("b")), { code: "FAILED_PRECONDITION" });
});

test("a message that cannot be written, or read, ends the call with INTERNAL on every promise", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const wrong = lab.bidi();
  await assert.rejects(wrong.requests.send(Payload.create({ number: "not a number" })), { code: "INTERNAL" });
  await assert.rejects(wrong.status, { code: "INTERNAL" });
  const garbage = lab.serverStream(request);
  const answer = lab.unary(payload(""));
  await settle();
  for (const { stream } of peer.take("open").slice(-2)) peer.data(stream, bytes(3, 255));
  await assert.rejects(garbage.responses[Symbol.asyncIterator]().next(), { code: "INTERNAL", methodName: "ServerStream" });
  for (const promise of [garbage.status, garbage.trailers, answer.response, answer.status]) await assert.rejects(promise, { code: "INTERNAL" });
});

test("no message, or two, where there must be one is DATA_LOSS, on every promise", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const calls = [lab.unary(payload("")), lab.unary(payload("")), lab.clientStream(), lab.clientStream()];
  await settle();
  for (const [index] of calls.entries()) {
    if (index % 2) for (let i = 0; i < 2; i++) peer.data(index + 1, bytes(0));
    peer.trailers(index + 1, 0);
  }
  for (const call of calls) {
    for (const promise of [call.response, call.status, call.trailers]) await assert.rejects(promise, { code: "DATA_LOSS" });
  }
  const endless = lab.unary(payload(""));
  await settle();
  for (let i = 0; i < 2; i++) peer.data(5, encode("x"));
  await assert.rejects(endless.response, { code: "DATA_LOSS" });
  await assert.rejects(endless.status, { code: "DATA_LOSS" });
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [5]);
});

test("responses that nobody reads are not collected: credit goes back as they are read", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client({}, { streamCredit: 65536 });
  const call = lab.serverStream(request);
  await settle();
  peer.headers(1);
  for (let i = 0; i < 4; i++) peer.data(1, encode(`${i}`, bytes(15_000)));
  await call.headers;
  await settle();
  assert.deepEqual(peer.take("credit"), []);
  const responses = call.responses[Symbol.asyncIterator]();
  for (let i = 0; i < 4; i++) assert.equal((await responses.next()).value.text, `${i}`);
  await settle();
  assert.ok(peer.take("credit").length > 0);
});

test("status and callbacks for the end come also when nobody reads", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const [good, bad] = [lab.serverStream(request), lab.serverStream(request)];
  const ends = [];
  good.responses.onComplete(() => ends.push("complete"));
  bad.responses.onError(({ code }) => ends.push(code));
  await settle();
  peer.data(1, encode("x"));
  peer.trailers(1, 0);
  peer.trailers(2, 5);
  assert.equal((await good.status).code, "OK");
  await assert.rejects(bad.status, { code: "NOT_FOUND" });
  await settle();
  assert.deepEqual(ends, ["complete", "NOT_FOUND"]);
  // The message is still there.
  const texts = [];
  for await (const { text } of good.responses) texts.push(text);
  assert.deepEqual(texts, ["x"]);
});

test("leaving a loop cancels the call, also while a read waits", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const [left, waiting] = [lab.serverStream(request), lab.bidi()];
  await settle();
  peer.data(1, encode("x"));
  let end;
  left.responses.onError((error) => (end = error));
  for await (const { text } of left.responses) {
    assert.equal(text, "x");
    break;
  }
  await assert.rejects(left.status, { code: "CANCELLED" });
  assert.equal(end.code, "CANCELLED");
  const responses = waiting.responses[Symbol.asyncIterator]();
  const next = responses.next();
  assert.equal((await responses.return()).done, true);
  await assert.rejects(next, { code: "CANCELLED" });
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [1, 2]);
});

test("callbacks get every message in order, then the end, once, until they are removed", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client({}, { streamCredit: 65536 });
  const call = lab.serverStream(request);
  const seen = [];
  const remove = call.responses.onMessage(({ text }) => seen.push(`removed ${text}`));
  call.responses.onMessage(({ text }) => seen.push(text));
  call.responses.onNext((message, error, done) => seen.push([message?.text, error?.code, done]));
  call.responses.onError(() => seen.push("error"));
  call.responses.onComplete(() => seen.push("complete"));
  await settle();
  peer.data(1, encode("a", bytes(40_000)));
  await settle();
  assert.ok(peer.take("credit").length > 0, "callbacks consume");
  remove();
  peer.data(1, encode("b"));
  peer.trailers(1, 0);
  await call;
  await settle();
  assert.deepEqual(seen, ["removed a", "a", ["a", undefined, false], "b", ["b", undefined, false], [undefined, undefined, true], "complete"]);
});

test("callbacks get the messages before an error, and then the error", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const [call, early] = [lab.serverStream(request), lab.serverStream(request)];
  const seen = [];
  call.responses.onNext((message, error, done) => seen.push([message?.text, error?.code, done]));
  early.responses.onNext((message, error, done) => seen.push([message?.text, error?.code, done]));
  await settle();
  peer.trailers(2, 5);
  await settle();
  peer.data(1, encode("a"));
  peer.trailers(1, 10, "half way");
  await settle();
  assert.deepEqual(seen, [[undefined, "NOT_FOUND", false], ["a", undefined, false], [undefined, "ABORTED", false]]);
});

test("a callback that throws harms neither the other callbacks nor the call, but does not go unseen", async (t) => {
  // The test runner takes any rejection that nobody handles for a failure.
  const unseen = t.mock.method(Promise, "reject", () => {});
  const { peer, lab } = await client();
  const call = lab.serverStream(request);
  const seen = [];
  call.responses.onMessage(({ text }) => {
    throw new Error(`no ${text}`);
  });
  call.responses.onMessage(({ text }) => seen.push(text));
  await settle();
  for (const text of ["a", "b"]) peer.data(1, encode(text));
  peer.trailers(1, 0);
  await call;
  await settle();
  assert.deepEqual(seen, ["a", "b"]);
  assert.deepEqual(unseen.mock.calls.map(({ arguments: [error] }) => error.message), ["no a", "no b"]);
});

test("an interceptor that listens takes nothing from who iterates, even behind the headers", async (t) => {
  watchRejections(t);
  const seen = [];
  const { peer, lab } = await client({
    interceptors: [{
      interceptServerStreaming(next, method, input, options) {
        const call = next(method, input, options);
        call.responses.onMessage(({ text }) => seen.push(text));
        call.responses.onComplete(() => seen.push("complete"));
        return call;
      },
    }],
  });
  const call = lab.serverStream(request);
  const theirHeaders = async () => await call.headers;
  const texts = (async () => {
    await theirHeaders();
    const texts = [];
    for await (const { text } of call.responses) texts.push(text);
    return texts;
  })();
  await settle();
  peer.headers(1);
  for (const text of ["a", "b", "c"]) peer.data(1, encode(text));
  peer.trailers(1, 0);
  assert.deepEqual(await texts, ["a", "b", "c"]);
  assert.deepEqual(seen, ["a", "b", "c", "complete"]);
});

test("who begins to iterate while callbacks wait for the first message gets it, too", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const call = lab.serverStream(request);
  const seen = [];
  call.responses.onMessage(({ text }) => seen.push(text));
  await settle();
  peer.headers(1);
  await settle();
  const texts = (async () => {
    const texts = [];
    for await (const { text } of call.responses) texts.push(text);
    return texts;
  })();
  await settle();
  for (const text of ["a", "b"]) peer.data(1, encode(text));
  peer.trailers(1, 0);
  assert.deepEqual(await texts, ["a", "b"]);
  assert.deepEqual(seen, ["a", "b"]);
});

test("an interceptor may put a stream of its own in the place of ours", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client({
    interceptors: [{
      interceptServerStreaming(next, method, input, options) {
        const call = next(method, input, options);
        const output = new RpcOutputStreamController();
        call.responses.onNext((message, error, done) => output.notifyNext(message && { ...message, text: message.text.toUpperCase() }, error, done));
        return new ServerStreamingCall(call.method, call.requestHeaders, call.request, call.headers, output, call.status, call.trailers);
      },
    }],
  });
  const call = lab.serverStream(request);
  await settle();
  for (const text of ["a", "b"]) peer.data(1, encode(text));
  peer.trailers(1, 0);
  const texts = [];
  for await (const { text } of call.responses) texts.push(text);
  assert.deepEqual(texts, ["A", "B"]);
});

test("who begins to iterate after callbacks have taken messages is told so, rather than given the rest", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const call = lab.serverStream(request);
  call.responses.onMessage(() => {});
  await settle();
  peer.data(1, encode("a"));
  await settle();
  await assert.rejects(call.responses[Symbol.asyncIterator]().next(), { code: "FAILED_PRECONDITION", message: /onMessage/ });
});

test("a stream that has ended is empty, or throws its error, for whoever iterates then", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const [good, bad] = [lab.serverStream(request), lab.serverStream(request)];
  const ends = [];
  good.responses.onComplete(() => ends.push("complete"));
  bad.responses.onError(({ code }) => ends.push(code));
  await settle();
  peer.trailers(1, 0);
  peer.trailers(2, 5);
  await settle();
  for (let i = 0; i < 2; i++) {
    for await (const message of good.responses) assert.fail(message);
    await assert.rejects(async () => { for await (const message of bad.responses) assert.fail(message); }, { code: "NOT_FOUND" });
  }
  assert.deepEqual(ends, ["complete", "NOT_FOUND"], "callbacks hear of the end once");
});

test("duplex: both directions at once, and headers come when they come", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client();
  const call = lab.bidi();
  const headers = watch(call.headers);
  const responses = call.responses[Symbol.asyncIterator]();
  for (const text of ["a", "b"]) {
    await call.requests.send(payload(text));
    await settle();
    assert.equal(decode(peer.take("data")[0].data), text);
    assert.equal(headers.is, text === "a" ? "pending" : "resolved");
    if (text === "a") peer.headers(1);
    peer.data(1, encode(text));
    assert.equal((await responses.next()).value.text, text);
  }
  await call.requests.complete();
  await settle();
  assert.equal(peer.take("halfClose").length, 1);
  peer.trailers(1, 0);
  assert.equal((await responses.next()).done, true);
  assert.equal((await call).status.code, "OK");
});
