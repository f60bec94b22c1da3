// Calls in JSON, over a scripted proxy: what needs a real service is tested in tests/browser.

import assert from "node:assert/strict";
import { test } from "node:test";
import { BidiwayError, Code } from "../src/index.js";
import { createJsonClient } from "../src/json.js";
import { bytes, connected, pair, settle, watchRejections } from "./fake.js";

const encode = (message) => new TextEncoder().encode(JSON.stringify(message));
const decode = ({ data }) => JSON.parse(new TextDecoder().decode(data));

async function client(options) {
  const { channel, peer } = await connected(options);
  return { channel, peer, json: createJsonClient(channel) };
}

const is = (code, pattern) => (error) => {
  assert.ok(error instanceof BidiwayError, error);
  assert.equal(error.code, code, error.message);
  assert.match(error.message, pattern);
  return true;
};

test("a call: JSON there and back, and metadata both ways", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const seen = [];
  const answer = json.call("t.S/One", { name: "Ada" }, {
    metadata: { x: "1" },
    timeoutMs: 1000,
    onHeaders: (headers) => seen.push(["headers", headers]),
    onTrailers: (trailers) => seen.push(["trailers", trailers]),
  });
  await settle();
  const [{ open }] = peer.take("open");
  assert.equal(open.method, "/t.S/One");
  assert.equal(open.codec, 1);
  assert.ok(open.timeoutMs > 900);
  assert.deepEqual(open.metadata.map(({ name, text }) => [name, text]), [["x", "1"]]);
  const [data] = peer.take("data");
  assert.deepEqual(decode(data), { name: "Ada" });
  assert.equal(data.last, true);
  peer.headers(1, [{ name: "h", text: "1" }]);
  peer.data(1, encode({ text: "nö" }));
  await settle();
  assert.deepEqual(seen, [["headers", [["h", "1"]]]]);
  peer.trailers(1, 0, "", { metadata: [{ name: "t", text: "2" }] });
  assert.deepEqual(await answer, { text: "nö" });
  assert.deepEqual(seen[1], ["trailers", [["t", "2"]]]);
});

test("a method may have its slash already, and a request may be left out, or be no object", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const answers = [json.call("/t.S/One"), json.call("t.S/One", "text"), json.call("t.S/One", null)];
  await settle();
  assert.deepEqual(peer.take("open").map(({ open }) => open.method), ["/t.S/One", "/t.S/One", "/t.S/One"]);
  assert.deepEqual(peer.take("data").map(decode), [{}, "text", null]);
  for (const [i, message] of [null, 0, ""].entries()) {
    peer.data(i + 1, encode(message));
    peer.trailers(i + 1);
    assert.equal(await answers[i], message);
  }
});

test("what JSON has no literal for is written as proto3 JSON has it", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  json.duplex("t.S/Talk").send({ wide: 2n ** 63n, data: new Uint8Array([0, 255]), buffer: Buffer.from([1]), at: new Date(0), not: [NaN, -Infinity, 1.5], left: undefined });
  await settle();
  assert.deepEqual(peer.take("data").map(decode), [{ wide: "9223372036854775808", data: "AP8=", buffer: "AQ==", at: "1970-01-01T00:00:00.000Z", not: ["NaN", "-Infinity", 1.5] }]);
});

test("a call without an answer, or with two, is UNIMPLEMENTED; at the second it is cancelled", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const none = json.call("t.S/One");
  const two = json.call("t.S/One");
  await settle();
  peer.trailers(1);
  await assert.rejects(none, is(Code.UNIMPLEMENTED, /t\.S\/One answered with no message/));
  for (let i = 0; i < 2; i++) peer.data(2, encode({}));
  await assert.rejects(two, is(Code.UNIMPLEMENTED, /more than one/));
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("a failed call rejects with the service's status", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  let trailers;
  const answer = json.call("t.S/One", {}, { onTrailers: (metadata) => (trailers = metadata) });
  await settle();
  peer.trailers(1, 3, "name: not a string", { details: bytes(2), metadata: [{ name: "t", text: "2" }] });
  await assert.rejects(answer, (error) => is(Code.INVALID_ARGUMENT, /name: not a string \[\/t\.S\/One\]/)(error) && error.origin === "upstream" && error.details.length === 2);
  assert.deepEqual(trailers, [["t", "2"]]);
});

test("client streaming: what an async iterable yields, then half-close", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const sum = json.call("t.S/Sum", (async function* () {
    for (let i = 1; i <= 3; i++) yield { number: i };
  })());
  await settle();
  assert.deepEqual(peer.take("data").map(decode), [{ number: 1 }, { number: 2 }, { number: 3 }]);
  assert.equal(peer.take("halfClose").length, 1);
  peer.data(1, encode({ messages: "3" }));
  peer.trailers(1);
  assert.deepEqual(await sum, { messages: "3" });
});

test("an error of the input's cancels the call, and tells why", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const broken = new Error("broken");
  const sum = json.call("t.S/Sum", (async function* () {
    yield {};
    throw broken;
  })());
  await assert.rejects(sum, (error) => is(Code.CANCELLED, /cancelled/)(error) && error.cause === broken);
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("a stream is read message by message, with headers and status beside it", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const stream = json.stream("t.S/Many", { count: 2 });
  await settle();
  peer.headers(1, [{ name: "h", text: "1" }]);
  for (const number of [1, 2]) peer.data(1, encode({ number }));
  peer.trailers(1, 0, "", { metadata: [{ name: "t", text: "2" }] });
  const numbers = [];
  for await (const { number } of stream) numbers.push(number);
  assert.deepEqual(numbers, [1, 2]);
  assert.deepEqual(await stream.headers, [["h", "1"]]);
  assert.deepEqual((await stream.status).metadata, [["t", "2"]]);
});

test("leaving the loop cancels the call, and so does its signal", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const left = json.stream("t.S/Many");
  const controller = new AbortController();
  const aborted = json.stream("t.S/Many", {}, { signal: controller.signal }).next();
  await settle();
  peer.data(1, encode({}));
  for await (const _ of left) break;
  controller.abort("enough");
  await assert.rejects(aborted, (error) => is(Code.CANCELLED, /cancelled/)(error) && error.cause === "enough");
  await settle();
  assert.deepEqual(peer.take("cancel").map(({ stream }) => stream), [1, 2]);
});

test("a stream that nobody reads gives no credit, one that is read does", async (t) => {
  watchRejections(t);
  const { peer, json } = await client({ streamCredit: 65_536 });
  const stream = json.stream("t.S/Many");
  await settle();
  const big = encode({ text: "x".repeat(16_000) });
  for (let i = 0; i < 4; i++) peer.data(1, big);
  await settle();
  assert.deepEqual(peer.take("credit"), []);
  for (let i = 0; i < 4; i++) assert.equal((await stream.next()).value.text.length, 16_000);
  await settle();
  assert.ok(peer.take("credit").length > 0);
});

test("a conversation: send() waits for credit, halfClose() ends this side, the loop ends with the other", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const talk = json.duplex("t.S/Talk", { metadata: { x: "1" } });
  await talk.send({ text: "one" });
  let admitted = false;
  const large = talk.send({ text: "x".repeat(100_000) }).then(() => (admitted = true));
  await settle();
  assert.equal(admitted, false);
  peer.send({ stream: 1, credit: 100_000 });
  await large;
  talk.halfClose();
  await settle();
  assert.equal(peer.take("open")[0].open.metadata[0].name, "x");
  assert.equal(peer.frames.filter(({ last, kind }) => last || kind === "halfClose").length, 1);
  peer.data(1, encode({ text: "ONE" }));
  peer.trailers(1);
  const heard = [];
  for await (const { text } of talk) heard.push(text);
  assert.deepEqual(heard, ["ONE"]);
  await assert.rejects(talk.send({}), is(Code.FAILED_PRECONDITION, /halfClose/));
});

test("a conversation can send what an async iterable yields, with options behind it", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const input = async function* () {
    yield { text: "one" };
  };
  const talks = [json.duplex("t.S/Talk", input()), json.duplex("t.S/Talk", input(), { timeoutMs: 500 })];
  await settle();
  assert.deepEqual(peer.take("data").map(decode), [{ text: "one" }, { text: "one" }]);
  assert.equal(peer.take("halfClose").length, 2);
  assert.deepEqual(peer.take("open").map(({ open }) => open.timeoutMs > 0), [false, true]);
  for (const talk of talks) talk.cancel();
});

test("a message that JSON cannot say is INVALID_ARGUMENT, and nothing of it is sent", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const circle = {};
  circle.self = circle;
  await assert.rejects(json.call("t.S/One", circle), is(Code.INVALID_ARGUMENT, /cannot be written as JSON/));
  await assert.rejects(json.call("t.S/One", () => {}), is(Code.INVALID_ARGUMENT, /a function is not JSON/));
  await settle();
  assert.deepEqual(peer.take("halfClose"), [], "a request without messages, which a service would take for one");
  await assert.rejects(json.call("t.S/Sum", (async function* () {
    yield circle;
  })()), is(Code.INVALID_ARGUMENT, /cannot be written as JSON/));
  const talk = json.duplex("t.S/Talk");
  await assert.rejects(talk.send(circle), is(Code.INVALID_ARGUMENT, /cannot be written as JSON/));
  await talk.send({ text: "the call goes on" });
  await settle();
  assert.deepEqual(peer.take("data").map(decode), [{ text: "the call goes on" }]);
});

test("an answer that is not JSON ends the call as INTERNAL", async (t) => {
  watchRejections(t);
  const { peer, json } = await client();
  const answer = json.call("t.S/One");
  await settle();
  peer.data(1, bytes(3, 0x7b));
  await assert.rejects(answer, is(Code.INTERNAL, /the answer is not JSON/));
  await settle();
  assert.equal(peer.take("cancel").length, 1);
});

test("a call whose promises nobody looks at does not bring the program down", async (t) => {
  watchRejections(t);
  const { channel } = pair();
  const json = createJsonClient(channel);
  const talk = json.duplex("t.S/Talk");
  talk.send({});
  talk.next();
  json.stream("t.S/Many").next();
  await channel.close();
  assert.equal((await talk.status).code, Code.CANCELLED);
});
