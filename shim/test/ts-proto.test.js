// The ts-proto `Rpc`: generated clients of each layout over a scripted proxy.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Metadata } from "@grpc/grpc-js";
import { BrowserHeaders } from "browser-headers";
import { Metadata as NiceMetadata } from "nice-grpc-common";
import { Observable, Subject, from, lastValueFrom, throwError, toArray } from "rxjs";
import { BidiwayError, Code } from "../src/index.js";
import { createRpc } from "../src/ts-proto.js";
import { LabClientImpl as BothLab } from "./.gen/ts-proto-both.js";
import { LabClientImpl as ContextLab } from "./.gen/ts-proto-context.js";
import { LabClientImpl as IterableLab } from "./.gen/ts-proto-iterable.js";
import { LabClientImpl as OptionsLab } from "./.gen/ts-proto-options.js";
import { LabClientImpl as SignalLab } from "./.gen/ts-proto-signal.js";
import { LabClientImpl as ObservableLab, Payload } from "./.gen/ts-proto.js";
import { bytes, connected, pair, settle, watchRejections } from "./fake.js";

const payload = (text, data = new Uint8Array()) => Payload.fromPartial({ text, data });
const encode = (text, data) => Payload.encode(payload(text, data)).finish();
const decode = (data) => Payload.decode(new Uint8Array(data)).text;
const request = { count: 1, size: 1, intervalMs: 0 };
const entries = ({ open }) => open.metadata.map(({ name, text, binary }) => [name, text ?? [...binary]]);

async function client(Lab, options, channelOptions) {
  const { channel, peer } = await connected(channelOptions);
  return { peer, rpc: createRpc(channel, options), lab: new Lab(createRpc(channel, options)) };
}
const observable = (options, channelOptions) => client(ObservableLab, { Observable, ...options }, channelOptions);

/** What an Observable has told so far. */
function watch(source) {
  const seen = [];
  const subscription = source.subscribe({
    next: ({ text }) => seen.push(text),
    error: (error) => seen.push(error),
    complete: () => seen.push("complete"),
  });
  return { seen, unsubscribe: () => subscription.unsubscribe() };
}

test("unary: a promise, connected or not", async (t) => {
  watchRejections(t);
  const { channel, proxy } = pair();
  const answer = new ObservableLab(createRpc(channel, { Observable })).Unary(payload("a"));
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.welcome();
  assert.equal(proxy.last.take("open")[0].open.method, "/demo.v1.Lab/Unary");
  const [data] = proxy.last.take("data");
  assert.equal(decode(data.data), "a");
  assert.equal(data.last, true);
  proxy.last.data(1, encode("b"));
  proxy.last.trailers(1, 0);
  assert.equal((await answer).text, "b");
});

test("an empty message is a message", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable();
  const answer = lab.Unary(payload(""));
  await settle();
  assert.equal(peer.take("data")[0].data.length, 0);
  peer.data(1, bytes(0));
  peer.trailers(1, 0);
  assert.equal((await answer).text, "");
});

test("an error is the core's, with code, details and trailers", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable();
  const answer = lab.Unary(payload("a"));
  const stream = watch(lab.ServerStream(request));
  await settle();
  for (const id of [1, 2]) peer.trailers(id, 5, "nö", { details: bytes(2), metadata: [{ name: "t", text: "1" }] });
  const isRight = (error) => {
    assert.ok(error instanceof BidiwayError);
    assert.equal(error.code, Code.NOT_FOUND);
    assert.match(error.message, /nö/);
    assert.deepEqual(error.details, bytes(2));
    assert.deepEqual(error.metadata, [["t", "1"]]);
    return true;
  };
  await assert.rejects(answer, isRight);
  assert.equal(stream.seen.length, 1);
  assert.ok(isRight(stream.seen[0]));
});

test("no message, or two, where there must be one is UNIMPLEMENTED, and the call is cancelled at the second", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable();
  const [none, two] = [lab.Unary(payload("")), lab.ClientStream(from([]))];
  await settle();
  peer.trailers(1, 0);
  await assert.rejects(none, { code: Code.UNIMPLEMENTED, message: /no message.*\/demo\.v1\.Lab\/Unary/ });
  for (let i = 0; i < 2; i++) peer.data(2, bytes(0));
  await assert.rejects(two, { code: Code.UNIMPLEMENTED });
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [2]);
});

test("Observables are cold: each subscription is a call", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable();
  const stream = lab.ServerStream(request);
  await settle();
  assert.equal(peer.take("open").length, 0);
  const [one, two] = [watch(stream), watch(stream)];
  await settle();
  assert.equal(peer.take("open").length, 2);
  peer.data(1, encode("a"));
  peer.data(2, encode("b"));
  peer.data(2, encode("c"));
  await settle();
  assert.deepEqual(one.seen, ["a"]);
  for (const id of [1, 2]) peer.trailers(id, 0);
  await settle();
  assert.deepEqual(one.seen, ["a", "complete"]);
  assert.deepEqual(two.seen, ["b", "c", "complete"]);
  assert.deepEqual(peer.take("cancel"), []);
});

test("unsubscribing cancels the call, and lets go of its requests", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable();
  const requests = new Subject();
  const call = watch(lab.Bidi(requests));
  requests.next(payload("a"));
  await settle();
  assert.equal(decode(peer.take("data")[0].data), "a");
  call.unsubscribe();
  await settle();
  assert.equal(peer.take("cancel").length, 1);
  assert.equal(requests.observed, false);
  assert.deepEqual(call.seen, []);
});

test("an Observable of requests: messages, completion, and both directions at once", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable();
  const requests = new Subject();
  const call = watch(lab.Bidi(requests));
  const sum = lab.ClientStream(from([payload("1"), payload("2")]));
  for (const text of ["a", "b"]) {
    requests.next(payload(text));
    await settle();
    assert.equal(decode(peer.take("data", 1)[0].data), text);
    peer.data(1, encode(text));
    await settle();
    assert.equal(call.seen.at(-1), text);
  }
  requests.complete();
  await settle();
  assert.equal(peer.take("halfClose", 1).length, 1);
  peer.trailers(1, 0);
  const sent = peer.take("data", 2);
  assert.deepEqual(sent.map(({ data }) => decode(data)), ["1", "2"]);
  assert.equal(sent[1].last, true);
  peer.data(2, bytes(0));
  peer.trailers(2, 0);
  await sum;
  assert.deepEqual(call.seen, ["a", "b", "complete"]);
});

test("the end of the call lets go of its requests", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable();
  const requests = new Subject();
  const call = watch(lab.Bidi(requests));
  await settle();
  peer.trailers(1, 0);
  await settle();
  assert.equal(requests.observed, false);
  assert.deepEqual(call.seen, ["complete"]);
});

test("requests that fail cancel the call, and their error is the cause", async (t) => {
  watchRejections(t);
  const cause = new Error("no more ideas");
  const { peer, lab } = await observable();
  await assert.rejects(lab.ClientStream(throwError(() => cause)), { code: Code.CANCELLED, cause });
  const { lab: other } = await client(IterableLab);
  const broken = async function* () {
    yield payload("a");
    throw cause;
  };
  await assert.rejects(other.ClientStream(broken()), { code: Code.CANCELLED, cause });
  await settle();
  // Its Open has not left yet: the two go together.
  assert.equal(peer.take("open").length, peer.take("cancel").length);
});

test("requests that are no bytes cancel the call, rather than being left out", async (t) => {
  watchRejections(t);
  const { rpc } = await client(ObservableLab);
  const wrong = (error) => error.code === Code.CANCELLED && error.cause instanceof TypeError;
  await assert.rejects(rpc.clientStreamingRequest("a.B", "C", [bytes(1)]), wrong);
  await assert.rejects(rpc.clientStreamingRequest("a.B", "C", from([new ArrayBuffer(1)])), wrong);
  await assert.rejects(rpc.clientStreamingRequest("a.B", "C", (async function* () { yield "a"; })()), wrong);
});

test("an Observable that runs too far ahead of flow control is cancelled rather than collected", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable({ maxQueuedBytes: 200_000 });
  const requests = new Subject();
  const answer = lab.ClientStream(requests);
  answer.catch(() => {});
  await settle();
  const [within, beyond] = [50_000, 200_000];
  requests.next(payload("", bytes(within)));
  await settle();
  assert.equal(peer.take("cancel").length, 0);
  requests.next(payload("", bytes(beyond)));
  await assert.rejects(answer, (error) => error.code === Code.CANCELLED && error.cause instanceof RangeError);
  await settle();
  assert.equal(peer.take("cancel").length, 1);
  assert.equal(requests.observed, false);
});

test("what flow control has admitted counts no more", async (t) => {
  watchRejections(t);
  const { peer, lab } = await observable({ maxQueuedBytes: 50_000 });
  const requests = new Subject();
  lab.ClientStream(requests).catch(() => {});
  for (let i = 0; i < 10; i++) {
    requests.next(payload("", bytes(40_000)));
    await settle();
    peer.send({ stream: 1, credit: 65536 });
    await settle();
  }
  assert.equal(peer.take("cancel").length, 0);
});

test("async iterables: a call begins when somebody iterates, and leaving the loop cancels it", async (t) => {
  watchRejections(t);
  const { peer, rpc, lab } = await client(IterableLab);
  const raw = rpc.serverStreamingRequest("demo.v1.Lab", "ServerStream", bytes(0));
  await settle();
  assert.equal(peer.take("open").length, 0);
  const messages = raw[Symbol.asyncIterator]();
  const next = messages.next();
  await settle();
  assert.equal(peer.take("open").length, 1);
  // Also while a read waits.
  assert.equal((await messages.return()).done, true);
  await assert.rejects(next, { code: Code.CANCELLED });

  const seen = [];
  const loop = (async () => {
    for await (const { text } of lab.ServerStream(request)) {
      seen.push(text);
      break;
    }
  })();
  await settle();
  peer.data(2, encode("a"));
  await loop;
  await settle();
  assert.deepEqual(seen, ["a"]);
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [1, 2]);
});

test("async iterables: requests wait for flow control, responses for the reader", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client(IterableLab, {}, { streamCredit: 65536 });
  let yielded = 0;
  let released = false;
  const requests = async function* () {
    try {
      for (;;) {
        yielded++;
        yield payload("", bytes(30_000));
      }
    } finally {
      released = true;
    }
  };
  const messages = lab.Bidi(requests())[Symbol.asyncIterator]();
  const first = messages.next();
  await settle();
  // Two fit into 64 KiB; the third waits, and ts-proto's own generator is one ahead at most.
  assert.ok(yielded <= 4, `${yielded}`);
  for (let i = 0; i < 4; i++) peer.data(1, encode(`${i}`, bytes(15_000)));
  assert.equal((await first).value.text, "0");
  await settle();
  assert.deepEqual(peer.take("credit"), []);
  peer.trailers(1, 0);
  for (let i = 1; i < 4; i++) assert.equal((await messages.next()).value.text, `${i}`);
  assert.equal((await messages.next()).done, true);
  await settle();
  assert.equal(released, true);
});

test("requests may be of either kind, whatever the responses are", async (t) => {
  watchRejections(t);
  const { peer, rpc } = await client(ObservableLab);
  const fromObservable = rpc.bidirectionalStreamingRequest("a.B", "C", from([bytes(1), bytes(2)]))[Symbol.asyncIterator]().next();
  const { peer: other, rpc: observables } = await observable();
  const fromIterable = lastValueFrom(observables.bidirectionalStreamingRequest("a.B", "C", (async function* () { yield bytes(1); yield bytes(2); })()).pipe(toArray()));
  await settle();
  for (const side of [peer, other]) {
    assert.deepEqual(side.take("data").map(({ data }) => data.length), [1, 2]);
    side.data(1, bytes(3));
    side.trailers(1, 0);
  }
  assert.equal((await fromObservable).value.length, 3);
  assert.deepEqual((await fromIterable).map(({ length }) => length), [3]);
});

test("layout: metadata, as grpc-js has it", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client(IterableLab);
  const metadata = new Metadata();
  metadata.set("x", "1");
  metadata.add("x", "2");
  metadata.set("k-bin", Buffer.from([1, 255]));
  lab.Unary(payload(""), metadata).catch(() => {});
  lab.Unary(payload("")).catch(() => {});
  await settle();
  assert.deepEqual(peer.take("open").map(entries), [[["x", "1"], ["x", "2"], ["k-bin", [1, 255]]], []]);
});

test("layout: metadata and signal; either may be missing", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client(BothLab);
  const controller = new AbortController();
  const metadata = new Metadata();
  metadata.set("x", "1");
  const calls = [
    lab.Unary(payload(""), metadata, controller.signal),
    lab.Unary(payload(""), undefined, controller.signal),
    lab.ServerStream(request, metadata, controller.signal)[Symbol.asyncIterator]().next(),
    lab.ClientStream((async function* () {})(), undefined, controller.signal),
  ];
  await settle();
  assert.deepEqual(peer.take("open").map(entries), [[["x", "1"]], [], [["x", "1"]], []]);
  controller.abort();
  for (const call of calls) await assert.rejects(call, { code: Code.CANCELLED });
  await settle();
  assert.equal(peer.take("cancel").length, 4);
});

test("layout: a signal where metadata is expected", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client(SignalLab, { Observable });
  const controller = new AbortController();
  const answer = lab.Unary(payload(""), new Metadata(), controller.signal);
  const stream = watch(lab.Bidi(new Subject(), undefined, controller.signal));
  await settle();
  assert.deepEqual(peer.take("open").map(entries), [[], []]);
  controller.abort(new Error("enough"));
  await assert.rejects(answer, (error) => error.code === Code.CANCELLED && error.cause.message === "enough");
  assert.equal(stream.seen[0].code, Code.CANCELLED);
  await settle();
  assert.equal(peer.take("cancel").length, 2);
});

test("layout: a context comes first, and says nothing", async (t) => {
  watchRejections(t);
  const { peer, lab } = await client(ContextLab);
  lab.Unary({ user: "me" }, payload("a")).catch(() => {});
  lab.ClientStream({ user: "me" }, (async function* () { yield payload("b"); })()).catch(() => {});
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.method), ["/demo.v1.Lab/Unary", "/demo.v1.Lab/ClientStream"]);
  assert.deepEqual(peer.take("data").map(({ data }) => decode(data)), ["a", "b"]);
});

test("layout: this package's own options for a call", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const seen = [];
  const { peer, lab } = await client(OptionsLab, { Observable, timeoutMs: 5000, onHeaders: () => seen.push("not this") });
  const controller = new AbortController();
  const options = { metadata: { x: "1" }, timeoutMs: 100, signal: controller.signal, onHeaders: (headers) => seen.push(headers) };
  const calls = [lab.Unary(payload(""), options), lab.Unary(payload(""), { signal: controller.signal }), lab.Unary(payload(""), { onTrailers: (trailers) => seen.push(trailers) })];
  await settle();
  const opens = peer.take("open");
  assert.deepEqual(opens.map(entries), [[["x", "1"]], [], []]);
  assert.deepEqual(opens.map(({ open }) => open.timeoutMs), [100, 5000, 5000]);
  t.mock.timers.tick(100);
  await assert.rejects(calls[0], { code: Code.DEADLINE_EXCEEDED });
  controller.abort();
  await assert.rejects(calls[1], { code: Code.CANCELLED });
  t.mock.timers.tick(4900);
  await assert.rejects(calls[2], { code: Code.DEADLINE_EXCEEDED });
  assert.deepEqual(seen, [[], "not this", "not this", []]);
});

test("metadata may have any shape, and names that options have", async (t) => {
  watchRejections(t);
  const { peer, rpc } = await client(ObservableLab);
  const shapes = [
    { timeoutms: "1", signal: "s", metadata: ["a", "b"] },
    [["x", "1"], ["x", "2"]],
    new Map([["x", "1"]]),
    new Headers({ x: "1" }),
    new BrowserHeaders({ x: ["1", "2"] }),
    new NiceMetadata({ x: ["1", "2"], "k-bin": bytes(2) }),
    null,
  ];
  for (const shape of shapes) rpc.request("a.B", "C", bytes(0), shape).catch(() => {});
  await settle();
  const twice = [["x", "1"], ["x", "2"]];
  assert.deepEqual(peer.take("open").map(entries), [
    [["timeoutms", "1"], ["signal", "s"], ["metadata", "a"], ["metadata", "b"]],
    twice,
    [["x", "1"]],
    [["x", "1"]],
    twice,
    // It joins them itself.
    [["x", "1, 2"], ["k-bin", [7, 7]]],
    [],
  ]);
});

test("a signal is known by what it does, not by its class, wherever it stands", async (t) => {
  watchRejections(t);
  const { rpc } = await client(ObservableLab);
  const listeners = [];
  const signal = { aborted: false, reason: "mine", addEventListener: (_, listener) => listeners.push(listener), removeEventListener: () => {} };
  const calls = [rpc.request("a.B", "C", bytes(0), signal), rpc.request("a.B", "C", bytes(0), undefined, { x: "1" }, signal)];
  await settle();
  for (const listener of listeners) listener();
  for (const call of calls) await assert.rejects(call, { code: Code.CANCELLED, cause: "mine" });
});

test("headers are told before the first message, trailers before the end", async (t) => {
  watchRejections(t);
  const order = [];
  const { peer, rpc } = await client(ObservableLab, {
    onHeaders: (headers, method) => order.push([method, headers]),
    onTrailers: (trailers, method) => order.push([method, trailers]),
  });
  const answer = rpc.request("a.B", "C", bytes(0)).then(() => order.push("answered"));
  const stream = (async () => {
    for await (const { length } of rpc.serverStreamingRequest("a.B", "D", bytes(0))) order.push(length);
    order.push("ended");
  })();
  const failed = rpc.request("a.B", "E", bytes(0)).catch(() => order.push("failed"));
  await settle();
  for (const id of [1, 2, 3]) {
    peer.headers(id, [{ name: "h", text: `${id}` }]);
    if (id < 3) peer.data(id, bytes(1));
    peer.trailers(id, id < 3 ? 0 : 5, "", { metadata: [{ name: "t-bin", binary: bytes(1) }] });
    await settle();
  }
  await Promise.all([answer, stream, failed]);
  const end = (method) => [method, [["t-bin", bytes(1)]]];
  assert.deepEqual(order, [
    ["/a.B/C", [["h", "1"]]], end("/a.B/C"), "answered",
    ["/a.B/D", [["h", "2"]]], 1, end("/a.B/D"), "ended",
    ["/a.B/E", [["h", "3"]]], end("/a.B/E"), "failed",
  ]);
});

test("a timeout of all calls is on the wire and kept here", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { peer, lab } = await observable({ timeoutMs: 100 });
  const answer = lab.Unary(payload(""));
  const stream = watch(lab.ServerStream(request));
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.timeoutMs), [100, 100]);
  t.mock.timers.tick(100);
  await assert.rejects(answer, { code: Code.DEADLINE_EXCEEDED });
  assert.equal(stream.seen[0].code, Code.DEADLINE_EXCEEDED);
});
