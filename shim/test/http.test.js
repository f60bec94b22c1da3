// Where WebSockets do not get through: `bidiway/durable` on the HTTP carrier, and on its way from one to the other.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, createChannel } from "../src/durable.js";
import { broken, fakeHttp } from "./fake-http.js";
import { bytes, fakeProxy, settle, watchRejections } from "./fake.js";

const METHOD = "/demo.v1.Chat/Talk";
const T1 = bytes(16, 1);
const T2 = bytes(16, 2);

/** What is remembered belongs to a URL, so each test has its own. */
let tests = 0;

function setup(t, { http: settings, ...options } = {}) {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  t.mock.method(Math, "random", () => 0.5);
  const proxy = fakeProxy();
  const origin = `http://proxy${++tests}.test`;
  const http = fakeHttp(proxy.peers, { origin, ...settings });
  const channel = createChannel({
    url: `${origin}/bidiway/session`, WebSocket: proxy.WebSocket, fetch: http.fetch, idleTimeoutMs: 0, ...options,
  });
  t.after(() => channel.close());
  return { channel, proxy, http, tick: (ms) => t.mock.timers.tick(ms) };
}

/** A channel on the HTTP carrier, because WebSockets are refused, with an open call. */
async function talking(t, options, welcome = { resumeToken: T1 }, pong = true) {
  const all = setup(t, options);
  const call = all.channel.open({ method: METHOD });
  call.send(bytes(1, 1));
  await settle();
  all.proxy.last.close(1006);
  await settle();
  const peer = all.proxy.last;
  peer.welcome(welcome);
  await settle();
  if (pong) peer.send({ pong: peer.take("ping")[0].ping });
  return { ...all, call, peer };
}

const BLOCKED = {
  "refused": ({ proxy }) => proxy.last.close(1006),
  "killed just after the handshake": async ({ proxy }) => {
    proxy.last.accept();
    await settle();
    proxy.last.close(1006);
  },
  "swallowed": async ({ proxy, tick }) => {
    proxy.last.accept();
    await settle();
    tick(4000);
  },
  "never answered": ({ tick }) => tick(4000),
};

for (const [how, block] of Object.entries(BLOCKED)) {
  test(`when a WebSocket is ${how}, all four kinds of calls work over HTTP`, async (t) => {
    const all = setup(t);
    const { channel, proxy, http } = all;
    const call = (count, half) => {
      const call = channel.open({ method: METHOD, metadata: { a: "1" } });
      for (let i = 1; i <= count; i++) call.send(bytes(i, i));
      if (half) call.halfClose();
      return call;
    };
    const [unary, server, client, bidi] = [call(1, true), call(1, true), call(3, true), call(2, false)];
    await settle();
    assert.equal(proxy.peers.length, 1);
    await block(all);
    await settle();
    assert.equal(proxy.peers.length, 2);
    const peer = proxy.last;
    assert.equal(peer.protocols, "http");
    assert.equal(peer.take("hello")[0].hello.resumable, true);
    peer.welcome({ resumeToken: T1 });
    await settle();
    assert.equal(channel.state, "ready");
    assert.deepEqual(peer.take("open").map(({ stream, open }) => [stream, open.method]), [1, 2, 3, 4].map((id) => [id, METHOD]));
    assert.equal(peer.take("data").length, 7);
    for (const [id, messages] of [[1, 1], [2, 3], [3, 1], [4, 2]]) {
      peer.headers(id, [{ name: "h", text: "1" }]);
      for (let i = 0; i < messages; i++) peer.data(id, bytes(i));
      peer.trailers(id);
    }
    for (const [call, messages] of [[unary, 1], [server, 3], [client, 1], [bidi, 2]]) {
      const seen = [];
      for await (const { length } of call) seen.push(length);
      assert.deepEqual(seen, Array.from({ length: messages }, (_, i) => i));
      assert.deepEqual(await call.headers, [["h", "1"]]);
      assert.equal((await call.status).code, Code.OK);
    }
    assert.deepEqual(http.log.map(({ path }) => path).slice(0, 2), ["open", "up"]);
    await channel.close();
    await settle();
    assert.deepEqual(peer.closed.code, 1000);
  });
}

test("what the proxy says itself is no reason to try HTTP, and nor is anything with `fetch: null`", async (t) => {
  const { channel, proxy, http, tick } = setup(t);
  channel.open({ method: METHOD });
  for (const code of [4014, 1012, 1013, 4003]) {
    await settle();
    proxy.last.close(code);
    await settle();
    tick(20_000);
  }
  await settle();
  assert.equal(http.log.length, 0);
  await channel.close();

  const other = fakeProxy();
  const plain = createChannel({ url: "ws://other.test/", WebSocket: other.WebSocket, fetch: null });
  plain.open({ method: METHOD });
  await settle();
  other.last.close(1006);
  await settle();
  assert.equal(other.peers.length, 2);
  await plain.close();
});

test("one request is under way at a time, numbered; what comes meanwhile leaves in one", async (t) => {
  const { http, peer, call } = await talking(t);
  await settle();
  const before = http.log.length;
  const answers = [];
  http.hook = ({ path, process }) => path === "up" && new Promise((resolve) => answers.push(() => resolve(process())));
  for (let i = 0; i < 20; i++) {
    call.send(bytes(10, i));
    await settle();
  }
  assert.equal(http.log.length, before + 1);
  answers.shift()();
  await settle();
  assert.equal(http.log.length, before + 2);
  answers.shift()();
  await settle();
  const ups = http.log.slice(before);
  assert.deepEqual(ups.map(({ message }) => message.number), [2, 3].map((n) => n + ups[0].message.number - 2));
  assert.deepEqual(peer.take("data").map(({ data }) => data[0]), [1, ...Array.from({ length: 20 }, (_, i) => i)]);
});

test("a request that gets no answer is sent again with the same number, and its packet counts once", async (t) => {
  const { http, tick, peer, call, channel } = await talking(t);
  peer.take("data");
  const outcomes = [
    // The answer is lost; the request is lost; a gateway has a bad moment.
    async ({ process }) => { await process(); throw broken(); },
    () => { throw broken(); },
    () => new Response("bad gateway", { status: 502 }),
  ];
  http.hook = (request) => request.path === "up" && outcomes.shift()?.(request);
  call.send(bytes(9, 9));
  for (let i = 0; i < 3; i++) {
    await settle();
    tick(2000);
  }
  await settle();
  assert.equal(outcomes.length, 0);
  assert.equal(peer.take("data").length, 1);
  assert.equal(http.last.repeated, 1);
  assert.equal(channel.state, "ready");
});

test("a request that never gets through loses the carrier, and the session goes on with another", async (t) => {
  const { http, tick, peer, call, proxy } = await talking(t);
  http.hook = ({ path }) => { if (path === "up") throw broken(); };
  call.send(bytes(9, 9));
  for (let i = 0; i < 4; i++) {
    await settle();
    tick(2000);
  }
  await settle();
  http.hook = undefined;
  assert.notEqual(proxy.last, peer);
  assert.equal(proxy.last.protocols, "http", "it is remembered that WebSockets do not get through");
  const { hello } = proxy.last.take("hello")[0];
  assert.deepEqual([...hello.resumeToken], [...T1]);
  proxy.last.welcome({ resumed: true, received: 2, resumeToken: T2 });
  await settle();
  assert.deepEqual(proxy.last.frames.filter(({ kind }) => kind !== "ping").map(({ kind }) => kind), ["ack", "data"]);
});

for (const [status, closeCode] of [[409, 1006], [410, 1006], [403, 1006], [429, 1006], [400, 4003], [413, 4008]]) {
  test(`status ${status} for a request up counts as ${closeCode}`, async (t) => {
    const { http, call, channel } = await talking(t);
    http.hook = ({ path }) => path === "up" && new Response("no", { status });
    call.send(bytes(1));
    await settle();
    if (closeCode === 1006) {
      assert.equal(channel.state, "reconnecting");
    } else {
      const ended = await call.status;
      assert.equal(ended.code, closeCode - 4000);
      assert.equal(ended.closeCode, closeCode);
      assert.equal(ended.message, `HTTP status ${status}`);
    }
  });
}

test("a request that is refused for good leaves no timer, which would keep a process alive", async (t) => {
  const { http, call, channel } = await talking(t);
  const { setTimeout, clearTimeout } = globalThis;
  const running = new Set();
  t.mock.method(globalThis, "setTimeout", (run, ms) => {
    const id = setTimeout(() => (running.delete(id), run()), ms);
    running.add(id);
    return id;
  });
  t.mock.method(globalThis, "clearTimeout", (id) => (running.delete(id), clearTimeout(id)));
  http.hook = ({ path }) => path === "up" && new Response("no", { status: 413 });
  call.send(bytes(1));
  await call.status;
  await channel.close();
  assert.equal(running.size, 0);
});

test("the response may come in pieces of any size, with padding between its fields", async (t) => {
  for (const size of [1, 2, 3, 7, 100]) {
    await t.test(`of ${size} bytes`, async (t) => {
      const chunk = (bytes) => Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size));
      const { http, peer, call } = await talking(t, { http: { chunk } });
      http.last.waiting.push(Uint8Array.of(0x22, 0), Uint8Array.of(0x22, 0x81, 0x01, ...bytes(129)));
      peer.data(1, bytes(300, 3));
      http.last.waiting.push(Uint8Array.of(0x22, 0));
      peer.data(1, bytes(0));
      peer.trailers(1);
      assert.equal((await call.next()).value.length, 300);
      assert.equal((await call.next()).value.length, 0);
      assert.equal((await call.next()).done, true);
    });
  }
});

test("when the response ends or breaks, the carrier is lost; with `close`, its code counts", async (t) => {
  const { http, channel, peer, call, proxy, tick } = await talking(t);
  http.last.finish();
  http.last.closed = true;
  await settle();
  assert.equal(channel.state, "reconnecting");
  assert.notEqual(proxy.last, peer);
  proxy.last.welcome({ resumed: true, received: 2, resumeToken: T2 });
  await settle();
  assert.equal(channel.state, "ready");
  http.last.break();
  await settle();
  assert.equal(channel.state, "reconnecting");
  tick(250);
  await settle();
  proxy.last.welcome({ resumed: true, received: 2, resumeToken: T1 });
  await settle();
  proxy.last.close(4008, "flood");
  assert.equal((await call.status).code, Code.RESOURCE_EXHAUSTED);
  assert.equal((await call.status).message, "flood");
});

test("without resume, a lost carrier ends the calls", async (t) => {
  const { http, call } = await talking(t, {}, {});
  http.last.break();
  assert.equal((await call.status).code, Code.UNAVAILABLE);
  assert.equal((await call.status).maybeProcessed, true);
});

test("a response that is held back is noticed in 4 s, and polls take its place", async (t) => {
  const { channel, proxy, http, tick } = setup(t, { http: { held: true } });
  const call = channel.open({ method: METHOD });
  call.send(bytes(5, 5));
  await settle();
  proxy.last.close(1006);
  await settle();
  proxy.last.welcome({ resumeToken: T1 });
  await settle();
  assert.equal(channel.state, "connecting");
  tick(4000);
  await settle();
  const peer = proxy.last;
  assert.equal(peer.protocols, "poll");
  peer.welcome({ resumeToken: T1 });
  await settle();
  assert.equal(channel.state, "ready");
  assert.equal(peer.take("data").length, 1);
  for (let i = 0; i < 5; i++) {
    peer.data(1, bytes(i));
    await settle();
    assert.equal((await call.next()).value.length, i);
  }
  peer.trailers(1);
  assert.equal((await call.status).code, Code.OK);
  const polls = http.log.filter(({ path }) => path === "down").map(({ message }) => message.number);
  assert.deepEqual(polls, Array.from(polls, (_, i) => i + 1));
});

test("a middlebox that lets Welcome through and holds back what is small is found out by a Ping, and nothing is lost", async (t) => {
  const { channel, proxy, http, peer, call, tick } = await talking(t, {}, undefined, false);
  assert.equal(peer.take("ping").length, 1);
  http.held = true;
  peer.send({ pong: 1 });
  peer.data(1, bytes(8, 8));
  await settle();
  tick(4000);
  await settle();
  const next = proxy.last;
  assert.equal(next.protocols, "poll");
  assert.equal(next.take("hello")[0].hello.received, 0);
  next.welcome({ resumed: true, received: 2, resumeToken: T2 });
  next.data(1, bytes(8, 8));
  await settle();
  assert.equal(channel.state, "ready");
  assert.equal((await call.next()).value.length, 8);
});

test("a Ping whose answer is faster than that of its request is answered", async (t) => {
  const { channel, proxy, http, peer, tick } = await talking(t, {}, undefined, false);
  let answer;
  http.hook = ({ path, process }) => path === "up" && !answer && process().then((response) => new Promise((resolve) => (answer = () => resolve(response))));
  peer.close(1006);
  await settle();
  proxy.last.welcome({ resumed: true, received: 2, resumeToken: T2 });
  await settle();
  proxy.last.send({ pong: proxy.last.take("ping")[0].ping });
  await settle();
  answer();
  tick(60_000);
  await settle();
  assert.equal(channel.state, "ready");
});

test("a poll whose answer is lost is repeated, and gets the same answer", async (t) => {
  const { channel, proxy, http, tick } = setup(t, { http: { held: true } });
  const call = channel.open({ method: METHOD });
  await settle();
  proxy.last.close(1006);
  await settle();
  tick(4000);
  await settle();
  const peer = proxy.last;
  peer.welcome({ resumeToken: T1 });
  await settle();
  const outcomes = [async ({ process }) => { await process(); throw broken(); }, () => new Response("", { status: 504 })];
  http.hook = (request) => request.path === "down" && outcomes.shift()?.(request);
  peer.data(1, bytes(1));
  await settle();
  assert.equal((await call.next()).value.length, 1);
  await settle();
  peer.data(1, bytes(2));
  for (let i = 0; i < 3; i++) {
    await settle();
    tick(2000);
  }
  await settle();
  assert.equal(outcomes.length, 0);
  assert.equal((await call.next()).value.length, 2);
  const numbers = http.log.filter(({ path }) => path === "down").map(({ message }) => message.number);
  assert.deepEqual(numbers.slice(0, 5), [1, 2, 2, 2, 3]);
});

test("the choice is remembered for 10 minutes; then a WebSocket is tried, and the session moves to it in mid-call", async (t) => {
  const { channel, proxy, http, peer, call, tick } = await talking(t, { idleTimeoutMs: 0 });
  const states = [];
  channel.on("state", (state) => states.push(state));
  await settle();
  tick(599_999);
  await settle();
  assert.equal(proxy.peers.length, 2);
  tick(1);
  await settle();
  assert.equal(proxy.peers.length, 3);
  const scout = proxy.last;
  scout.accept();
  await settle();
  assert.equal(scout.take("hello")[0].hello.resumeToken.length, 0, "the session stays where it is, until it is known");
  assert.ok(!peer.closed);
  scout.welcome();
  await settle();
  assert.equal(scout.closed.code, 1000);
  assert.equal(peer.closed.code, 4014);
  const socket = proxy.last;
  assert.notEqual(socket, scout);
  socket.accept();
  await settle();
  assert.deepEqual([...socket.take("hello")[0].hello.resumeToken], [...T1]);
  socket.welcome({ resumed: true, received: 2, resumeToken: T2 });
  socket.data(1, bytes(3));
  await settle();
  assert.equal((await call.next()).value.length, 3);
  assert.deepEqual(states, ["reconnecting", "ready"]);
  assert.ok(http.last.closed);
});

test("a WebSocket that still does not work leaves the session where it is, and is tried again later", async (t) => {
  const { channel, proxy, peer, tick } = await talking(t);
  for (let i = 0; i < 3; i++) {
    await settle();
    tick(600_000);
    await settle();
    assert.equal(proxy.peers.length, 3 + i);
    if (i === 1) {
      proxy.last.accept();
      tick(4000);
    } else {
      proxy.last.close(1006);
    }
  }
  await settle();
  assert.equal(channel.state, "ready");
  assert.equal(peer.closed, undefined);
});

test("the next channel, or the next page of the tab, begins with what has worked", async (t) => {
  const store = new Map();
  globalThis.sessionStorage = { getItem: (key) => store.get(key) ?? null, setItem: (key, value) => store.set(key, value) };
  t.after(() => delete globalThis.sessionStorage);
  const { channel, proxy, http, tick } = await talking(t);
  assert.equal(store.size, 1);
  assert.doesNotMatch([...store].join(), new RegExp(Buffer.from(T1).toString("base64")));
  await channel.close();
  const url = `http://proxy${tests}.test/bidiway/session`;
  const open = () => createChannel({ url, WebSocket: proxy.WebSocket, fetch: http.fetch });
  const second = open();
  second.open({ method: METHOD });
  await settle();
  assert.equal(proxy.last.protocols, "http");
  await second.close();
  tick(600_000);
  const third = open();
  third.open({ method: METHOD });
  await settle();
  assert.deepEqual(proxy.last.protocols, ["bidiway.v1"]);
  await third.close();
});

test("where a WebSocket has worked, its loss and one refusal are no reason to leave it; two are", async (t) => {
  const { channel, proxy, http, tick } = setup(t);
  const call = channel.open({ method: METHOD });
  await settle();
  proxy.last.accept();
  await settle();
  proxy.last.welcome({ resumeToken: T1 });
  await settle();
  tick(10_000);
  proxy.last.close(1006);
  await settle();
  assert.deepEqual(proxy.last.protocols, ["bidiway.v1"]);
  proxy.last.close(1006);
  await settle();
  assert.equal(http.log.length, 0);
  tick(250);
  await settle();
  assert.deepEqual(proxy.last.protocols, ["bidiway.v1"]);
  proxy.last.close(1006);
  await settle();
  assert.equal(proxy.last.protocols, "http");
  proxy.last.welcome({ resumed: true, received: 1, resumeToken: T2 });
  proxy.last.trailers(1);
  assert.equal((await call.status).code, Code.OK);
});

test("the choice of HTTP ends when it was to end, however often the session begins anew meanwhile", async (t) => {
  const { proxy, peer, tick } = await talking(t);
  let last = peer;
  for (let i = 0; i < 3; i++) {
    tick(190_000);
    last.close(1006);
    await settle();
    tick(250);
    await settle();
    last = proxy.last;
    assert.equal(last.protocols, "http");
    last.welcome({ resumed: true, received: 2, resumeToken: T1 });
    await settle();
    last.send({ pong: last.take("ping")[0].ping });
    await settle();
  }
  // A minute after the last Welcome, ten after the first.
  tick(600_000 - 3 * 190_250);
  await settle();
  assert.deepEqual(proxy.last.protocols, ["bidiway.v1"]);
});

test("where WebSockets have worked, one failure of each of several channels is no reason to leave them", async (t) => {
  const { channel, proxy, http } = setup(t);
  const url = `http://proxy${tests}.test/bidiway/session`;
  const channels = [channel, ...[1, 2, 3].map(() => createChannel({ url, WebSocket: proxy.WebSocket, fetch: http.fetch, idleTimeoutMs: 0 }))];
  for (const channel of channels) {
    channel.open({ method: METHOD });
    await settle();
    proxy.last.accept();
    await settle();
    proxy.last.welcome({ resumeToken: T1 });
    await settle();
  }
  // An instance goes, and takes a connection of each with it.
  for (const peer of [...proxy.peers]) peer.close(1006);
  await settle();
  assert.equal(http.log.length, 0);
  assert.deepEqual(proxy.peers.map(({ protocols }) => protocols[0]), Array(8).fill("bidiway.v1"));
  await Promise.all(channels.map((channel) => channel.close()));
});

test("WebSockets that are killed soon after each Welcome are left for HTTP at the second time, for a minute", async (t) => {
  const { channel, proxy, tick } = setup(t);
  channel.open({ method: METHOD });
  for (let i = 0; i < 2; i++) {
    await settle();
    assert.deepEqual(proxy.last.protocols, ["bidiway.v1"]);
    proxy.last.accept();
    await settle();
    proxy.last.welcome({ resumed: i > 0, received: i, resumeToken: i ? T2 : T1 });
    await settle();
    tick(200);
    proxy.last.close(1006);
    await settle();
    tick(250);
  }
  await settle();
  const peer = proxy.last;
  assert.equal(peer.protocols, "http");
  peer.welcome({ resumed: true, received: 1, resumeToken: T1 });
  await settle();
  peer.send({ pong: peer.take("ping")[0].ping });
  await settle();
  tick(60_000);
  await settle();
  assert.deepEqual(proxy.last.protocols, ["bidiway.v1"]);
});

test("when neither works, attempts go on, and a call that waits hears of it", async (t) => {
  const { channel, proxy, http, tick } = setup(t);
  http.hook = () => { throw broken(); };
  const call = channel.open({ method: METHOD });
  let status;
  call.status.then((ended) => (status = ended));
  for (let i = 0; !status && i < 1000; i++) {
    await settle();
    if (!proxy.last.refused) proxy.last.close(1006);
    proxy.last.refused = true;
    tick(100);
  }
  assert.equal(status.code, Code.UNAVAILABLE);
  assert.equal(status.maybeProcessed, false);
  assert.ok(http.log.length > 1);
});

test("a page that is left says so", async (t) => {
  const window = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) {
    globalThis[name] = window[name].bind(window);
    t.after(() => delete globalThis[name]);
  }
  const { http, peer } = await talking(t);
  window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: false }));
  await settle();
  assert.equal(peer.closed.code, 1001);
  assert.equal(http.log.at(-1).keepalive, true);
});

test("large messages go up in requests of at most 256 KiB", async (t) => {
  const { http, peer, call } = await talking(t, {}, { resumeToken: T1, limits: { streamCredit: 4 << 20 } });
  let answer;
  http.hook = ({ path, process }) => path === "up" && !answer && new Promise((resolve) => (answer = () => resolve(process())));
  for (let i = 0; i < 50; i++) {
    call.send(bytes(16_000, i));
    await settle();
  }
  answer();
  for (let i = 0; i < 10; i++) await settle();
  assert.equal(peer.take("data").length, 51);
  const sizes = http.log.filter(({ path }) => path === "up").map(({ message }) => message.packet.length);
  assert.ok(Math.max(...sizes) > 200_000, `${sizes}`);
});
