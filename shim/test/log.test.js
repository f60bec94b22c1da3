// Calls on the console, over a scripted proxy.

import assert from "node:assert/strict";
import { test } from "node:test";
import { format } from "node:util";
import { createChannel } from "../src/index.js";
import { logCalls } from "../src/debug.js";
import { createJsonClient } from "../src/json.js";
import { connected, fakeProxy, settle, watchRejections } from "./fake.js";

/** A console that keeps what it is told, one line each, indented by groups; times are as good as any. */
function recorder() {
  const lines = [];
  let depth = 0;
  const say = (style, values) => {
    const [first, , ...rest] = values.map((value) => (typeof value === "string" ? value : JSON.stringify(value)));
    lines.push("  ".repeat(depth) + style + [first.replace("%c", ""), ...rest].join(" ").replace(/(?<!deadline )\b\d+ ms/g, "N ms"));
  };
  return {
    lines,
    log: (...values) => say("", values),
    groupCollapsed(...values) {
      say("> ", values);
      depth++;
    },
    groupEnd: () => depth--,
  };
}

async function logged(options) {
  const { channel, peer } = await connected();
  const console = recorder();
  return { console, peer, bare: channel, channel: logCalls(channel, { console, ...options }) };
}

const utf8 = (text) => new TextEncoder().encode(text);

test("a short call is one group, when it ends: method, metadata, messages, status", async (t) => {
  watchRejections(t);
  const { console, peer, channel } = await logged();
  const call = channel.open({ method: "/t.S/One", timeoutMs: 500, metadata: { "x-user": "ada" } });
  await call.send(new Uint8Array([0x0a, 1, 0x41]));
  call.halfClose();
  await settle();
  assert.deepEqual(console.lines, []);
  peer.headers(1, [{ name: "h", text: "1" }, { name: "h", text: "2" }]);
  peer.data(1, new Uint8Array(40));
  peer.trailers(1, 0, "", { metadata: [{ name: "t", text: "3" }] });
  for await (const message of call) assert.equal(message.length, 40);
  assert.deepEqual(console.lines, [
    "> #1 ✓ t.S/One OK · N ms · ↑1 ↓1",
    '  #1 open {"x-user":"ada"} deadline 500 ms +N ms',
    "  #1 ↑ 0a 01 41 3 B, +N ms",
    "  #1 ↑ half-close +N ms",
    '  #1 ↓ headers {"h":["1","2"]} +N ms',
    `  #1 ↓ ${"00 ".repeat(32)}… 40 B, +N ms`,
    '  #1 ↓ trailers {"t":"3"}',
  ]);
});

test("a stream shows itself from its second message on, as it goes", async (t) => {
  watchRejections(t);
  const { console, peer, channel } = await logged();
  const call = channel.open({ method: "/t.S/Talk" });
  await call.send(utf8("a"));
  assert.deepEqual(console.lines, []);
  await call.send(utf8("b"));
  assert.deepEqual(console.lines, ["> #1 t.S/Talk …", "  #1 open +N ms", "#1 ↑ 61 1 B, +N ms", "#1 ↑ 62 1 B, +N ms"]);
  peer.data(1, utf8("A"));
  await call.next();
  assert.equal(console.lines.at(-1), "#1 ↓ 41 1 B, +N ms");
  call.cancel("enough");
  await assert.rejects(call.next());
  assert.deepEqual(console.lines.slice(-2), ["> #1 ✗ t.S/Talk CANCELLED: the call was cancelled (by the client) · N ms · ↑2 ↓1", "  #1 because enough"]);
});

test("a call that takes its time shows itself before it ends", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { console, channel } = await logged({ patienceMs: 200 });
  channel.open({ method: "/t.S/Wait" });
  t.mock.timers.tick(199);
  assert.deepEqual(console.lines, []);
  t.mock.timers.tick(1);
  assert.deepEqual(console.lines, ["> #1 t.S/Wait …", "  #1 open +N ms"]);
  await channel.close();
});

test("the end of a call that nobody reads is shown all the same", async (t) => {
  const { console, peer, channel } = await logged();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  channel.open({ method: "/t.S/One" });
  await settle();
  peer.trailers(1, 14, "down", { metadata: [{ name: "bidiway-origin", text: "proxy" }] });
  await settle();
  t.mock.timers.tick(50);
  assert.equal(console.lines[0], "> #1 ✗ t.S/One UNAVAILABLE: down (by the proxy) · N ms · ↑0 ↓0");
});

test("what sounds like a credential is masked, in whatever shape the metadata came", async (t) => {
  const { console, peer, channel } = await logged();
  const call = channel.open({ method: "/t.S/One", metadata: new Headers({ Authorization: "Bearer x", "x-api-key": "k", "x-user": "ada" }) });
  await settle();
  peer.headers(1, [{ name: "set-cookie", text: "a=b" }]);
  peer.trailers(1, 0, "", { metadata: [{ name: "x-token-bin", binary: new Uint8Array([1]) }] });
  await call.next();
  const all = console.lines.join("\n");
  assert.match(all, /"authorization":"•••","x-api-key":"•••","x-user":"ada"/);
  assert.match(all, /"set-cookie":"•••"/);
  assert.match(all, /"x-token-bin":"•••"/);
  t.diagnostic(all);
});

test("messages are shown by whoever can read them, and JSON by itself", async (t) => {
  watchRejections(t);
  const asked = [];
  const decode = (method, direction, bytes) => {
    asked.push([method, direction, bytes.length]);
    if (direction === "in") throw new Error("cut off");
    return { name: "Ada" };
  };
  const { console, peer, channel } = await logged({ decode });
  const call = channel.open({ method: "/t.S/One" });
  call.send(utf8("x"));
  const answer = createJsonClient(channel).call("t.S/One", { a: 1 });
  await settle();
  peer.data(1, utf8("y"));
  peer.trailers(1);
  for await (const _ of call);
  peer.data(2, utf8('{"b":2}'));
  peer.trailers(2);
  assert.deepEqual(await answer, { b: 2 });
  assert.deepEqual(asked, [["/t.S/One", "out", 1], ["/t.S/One", "in", 1]]);
  const all = console.lines.join("\n");
  assert.match(all, /#1 ↑ \{"name":"Ada"\} 1 B/);
  assert.match(all, /#1 ↓ unreadable: Error: cut off; 79 1 B/);
  assert.match(all, /#2 open JSON/);
  assert.match(all, /#2 ↑ \{"a":1\} 7 B/);
  assert.match(all, /#2 ↓ \{"b":2\} 7 B/);
});

test("the types of rich details are named, also when they are broken", async () => {
  const { console, peer, channel } = await logged();
  const calls = [channel.open({ method: "/t.S/One" }), channel.open({ method: "/t.S/One" })];
  await settle();
  const url = utf8("type.googleapis.com/google.rpc.ErrorInfo");
  peer.trailers(1, 9, "", { details: new Uint8Array([0x08, 9, 0x1a, url.length + 2, 0x0a, url.length, ...url]) });
  peer.trailers(2, 9, "", { details: new Uint8Array([0x1a, 99]) });
  for (const call of calls) await assert.rejects(call.next());
  const lines = console.lines.filter((line) => /details/.test(line));
  assert.deepEqual(lines, ["  #1 ↓ details google.rpc.ErrorInfo 46 B", "  #2 ↓ details (malformed) 2 B"]);
});

test("a status message is no format", async () => {
  const said = [];
  const console = { log: () => {}, groupCollapsed: (...values) => said.push(format(...values)), groupEnd() {} };
  const { peer, channel } = await logged({ console });
  const call = channel.open({ method: "/t.S/One" });
  await settle();
  peer.trailers(1, 9, "100% of %s and %c");
  await assert.rejects(call.next());
  assert.match(said[0], /^#1 ✗ t\.S\/One FAILED_PRECONDITION: 100% of %s and %c · \d+ ms/);
});

test("calls that run at the same time are told apart by number and colour", async () => {
  const seen = [];
  const console = { log: () => {}, groupCollapsed: (text, colour) => seen.push([text.slice(2, 4), colour]), groupEnd() {} };
  const { peer, channel } = await logged({ console });
  const calls = [channel.open({ method: "/t.S/A" }), channel.open({ method: "/t.S/B" })];
  await settle();
  for (const [i, call] of calls.entries()) {
    peer.trailers(i + 1);
    await call.next();
  }
  assert.deepEqual(seen.map(([id]) => id), ["#1", "#2"]);
  assert.notEqual(seen[0][1], seen[1][1]);
});

test("the channel is the same in everything else, and its states are shown", async () => {
  const proxy = fakeProxy();
  const bare = createChannel({ url: "ws://proxy.test/x", WebSocket: proxy.WebSocket, idleTimeoutMs: 0 });
  const console = recorder();
  const channel = logCalls(bare, { console });
  assert.equal(channel.state, "idle");
  channel.connect().catch(() => {});
  await settle();
  proxy.last.accept();
  proxy.last.welcome();
  await settle();
  assert.equal(channel.state, "ready");
  await channel.close();
  assert.equal(bare.state, "closed");
  assert.deepEqual(console.lines, ["bidiway: connecting", "bidiway: ready", "bidiway: closed"]);
});

test("wrong metadata is the call's to complain about", async () => {
  const { console, channel } = await logged();
  const call = channel.open({ method: "/t.S/One", metadata: { "a b": "1" } });
  await assert.rejects(call.next(), { code: 3 });
  assert.match(console.lines[0], /INVALID_ARGUMENT: metadata a b: not a gRPC name \(by the client\)/);
});

test("reads and sends that nobody looks at do not bring the program down", async (t) => {
  watchRejections(t);
  const { channel } = await logged();
  const call = channel.open({ method: "/t.S/One" });
  call.send(utf8("x"));
  call.send("no bytes");
  call.next();
  call.cancel();
  await call.status;
});
