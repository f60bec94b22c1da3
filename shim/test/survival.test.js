// Simulations in virtual time: what survives when connections are cut at random, and how clients come back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, createChannel } from "../src/durable.js";
import { broken, fakeHttp } from "./fake-http.js";
import { Packet, settle, watchRejections } from "./fake.js";
import { Keeper, Wire } from "./keeper.js";

/** Small, and the same everywhere (mulberry32). */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** The n-th message: its number, and a filling whose size and bytes follow from it. */
function message(n, rand) {
  const size = rand() < 0.02 ? 20_000 + Math.floor(rand() * 30_000) : Math.floor(rand() * 60);
  const data = Buffer.alloc(4 + size, n & 255);
  data.writeUInt32BE(n);
  return data;
}

/** Throws unless this is the n-th message. */
function check(data, n, who) {
  const buffer = Buffer.from(data.buffer, data.byteOffset, data.length);
  if (buffer.readUInt32BE() !== n) throw new Error(`${who}: message ${buffer.readUInt32BE()}, not ${n}`);
  if (buffer.length > 4 && buffer.some((byte, i) => i > 3 && byte !== (n & 255))) throw new Error(`${who}: message ${n} is damaged`);
}

/**
 * One bidirectional call with numbered messages both ways, and unary ones beside it, while the wire is cut `cuts` times.
 * @returns {Promise<Record<string, number>>} where the cuts fell
 */
async function survive(t, seed, cuts, blocked = 0) {
  const rand = random(seed);
  const chance = (p) => rand() < p;
  t.mock.method(Math, "random", rand);
  let opened = 0;
  let up = 0;
  let down = 0;
  let unaryOpened = 0;
  let unaryDone = 0;
  let finished = false;
  let talk;
  const keeper = new Keeper(
    {
      open(session, id, method) {
        if (method.endsWith("Talk")) {
          opened++;
          talk = { session, id };
        } else unaryOpened++;
      },
      message(session, id, data) {
        if (session === talk?.session && id === talk.id) check(data, up++, "up");
        else {
          keeper.message(session, id, data);
          keeper.trailers(session, id);
        }
      },
      halfClose(session, id) {
        if (session === talk?.session && id === talk.id) {
          finished = true;
          keeper.message(session, id, message(down++, rand));
          keeper.trailers(session, id);
        }
      },
    },
    {
      packet(frames) {
        const packets = [];
        for (let i = 0; i < frames.length; ) packets.push(frames.slice(i, (i += 1 + Math.floor(rand() * 8))));
        return packets;
      },
    },
  );
  // A carrier over HTTP is a wire like others; but its requests get lost, and so do their answers.
  const http = fakeHttp([], {
    origin: `http://proxy${seed}.test`,
    connect(carrier) {
      const wire = new Wire(keeper, carrier);
      wire.opened = true;
      keeper.wires.push(wire);
      const peer = {
        frames: [],
        receive(packet) {
          peer.frames = Packet.toObject(Packet.decode(packet), { oneofs: true }).frames;
          wire.up.push(new Uint8Array(packet));
        },
        close: (code, reason) => wire.closeFromProxy(code, reason),
        get closed() {},
        set closed({ code }) {
          wire.clientClosed = true;
          wire.up.push(() => (code === 4014 ? keeper.detach(wire) : keeper.end(wire.session, `closed with ${code}`)));
        },
        set gone(_) {
          wire.clientClosed = true;
          keeper.detach(wire);
        },
      };
      return peer;
    },
    async hook({ path, process }) {
      if (path === "open") return;
      if (chance(0.03)) throw broken();
      const answer = await process();
      if (chance(0.03)) throw broken();
      return answer;
    },
  });
  let requests = 0;
  const channel = createChannel({
    url: `http://proxy${seed}.test/bidiway/session`,
    WebSocket: keeper.WebSocket,
    fetch: blocked ? (...args) => (requests++, http.fetch(...args)) : null,
    idleTimeoutMs: 0,
    streamCredit: 32_768,
  });
  const call = channel.open({ method: "/demo.v1.Chat/Talk" });
  let stopped = false;
  let resume = () => {};
  let sent = 0;
  let read = 0;
  const writing = (async () => {
    while (!stopped) {
      await call.send(message(sent++, rand));
      if (rand() < 0.01) await new Promise((resolve) => (resume = resolve));
    }
    call.halfClose();
  })();
  const reading = (async () => {
    for await (const data of call) check(data, read++, "down");
  })();
  const failed = [];
  writing.catch((error) => failed.push(error));
  reading.catch((error) => failed.push(error));
  const where = { handshake: 0, hello: 0, welcome: 0, replay: 0, idle: 0, busy: 0, unnoticed: 0 };

  for (let left = cuts, quiet = 0; quiet < 3000; ) {
    if (failed.length) throw failed[0];
    const { wire } = keeper;
    if (left > 0 && wire && !wire.clientClosed && chance(wire.session?.confirmed ? 0.03 : 0.15)) {
      const noticed = chance(0.6);
      const place =
        !wire.opened ? "handshake"
        : !wire.session ? "hello"
        : !wire.session.confirmed ? (wire.down.length ? "welcome" : "replay")
        : wire.up.length || wire.down.length ? "busy"
        : "idle";
      where[place]++;
      if (!noticed) where.unnoticed++;
      wire.cut(noticed);
      if (!--left) stopped = true;
    } else if (!wire || wire.clientClosed) {
      t.mock.timers.tick(1 + Math.floor(rand() * 400));
    } else if (!wire.opened) {
      if (chance(blocked)) wire.cut(true);
      else wire.open();
    } else if (wire.up.length && chance(0.5)) {
      wire.deliverUp();
    } else if (wire.down.length) {
      wire.deliverDown();
    } else if (wire.up.length) {
      wire.deliverUp();
    } else if (!left) {
      quiet = read >= down && finished && unaryDone === unaryOpened ? 3000 : quiet + 1;
      t.mock.timers.tick(10);
    } else {
      // A wake-up of the drain.
      t.mock.timers.tick(10);
    }
    if (stopped || chance(0.02)) resume();
    if (talk && !finished && chance(0.7) && down - read < 200 && chance(0.3)) keeper.message(talk.session, talk.id, message(down++, rand));
    if (left && chance(0.01)) {
      const unary = channel.open({ method: "/demo.v1.Greeter/Hello" });
      unary.send(message(7, rand));
      unary.halfClose();
      unary.next().then(({ value }) => { check(value, 7, "unary"); unaryDone++; }).catch((error) => failed.push(error));
    }
    // A wire that was given up goes on, too, for a while: what is on it must do no harm.
    for (const old of keeper.wires.slice(-4, -1)) {
      if (old.up.length && chance(0.3)) old.deliverUp();
      if (old.down.length && chance(0.3)) old.deliverDown();
    }
    await turn();
  }
  await settle();
  if (failed.length) throw failed[0];
  assert.equal((await call.status).code, Code.OK);
  assert.equal(opened, 1, "the service saw one call");
  assert.equal(up, sent, "every message up, once");
  assert.equal(read, down, "every message down, once");
  assert.equal(unaryDone, unaryOpened);
  assert.equal(keeper.sessions.filter(({ last }) => last).length, 1);
  await channel.close();
  return { ...where, sent, read, unary: unaryDone, resumes: keeper.resumes, requests };
}

test("a conversation is cut 2,000 times, and each message arrives once and in order, both ways", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  const where = await survive(t, 1, 2000);
  t.diagnostic(JSON.stringify(where));
  for (const [place, count] of Object.entries(where)) assert.ok(count > 0 || place === "requests", `no cut at ${place}`);
});

test("20 conversations are cut 40 times each where WebSockets are blocked now and then, and requests and answers get lost", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  const total = {};
  for (let seed = 200; seed < 220; seed++) {
    try {
      for (const [place, count] of Object.entries(await survive(t, seed, 40, 0.6))) total[place] = (total[place] ?? 0) + count;
    } catch (cause) {
      throw new Error(`seed ${seed}: ${cause.message}`, { cause });
    } finally {
      Math.random.mock?.restore();
    }
  }
  t.diagnostic(JSON.stringify(total));
  assert.ok(total.requests > 1000);
});

test("40 conversations are cut 40 times each", async (t) => {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  const total = {};
  for (let seed = 100; seed < 140; seed++) {
    try {
      for (const [place, count] of Object.entries(await survive(t, seed, 40))) total[place] = (total[place] ?? 0) + count;
    } catch (cause) {
      throw new Error(`seed ${seed}: ${cause.message}`, { cause });
    } finally {
      Math.random.mock?.restore();
    }
  }
  t.diagnostic(JSON.stringify(total));
});

/**
 * Clients with an open call that are cut at once, while the proxy is away for `awayMs`: when they are back, in seconds
 * after that. Who loses the call begins it again.
 */
async function returning(t, clients, awayMs, graceMs) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  t.mock.method(Math, "random", random(7));
  const channels = [];
  let away = false;
  let back = 0;
  let resumed = 0;
  const buckets = [];
  const attempts = [];
  const second = (from) => Math.floor((Date.now() - from) / 1000);
  const welcome = (socket, resumed) => {
    const packet = Packet.encode(Packet.fromObject({ frames: [{ welcome: {
      version: 1, limits: { maxStreams: 100, streamCredit: 65_536 }, resumeToken: Uint8Array.of(1), resumeGraceMs: graceMs, resumed, received: 0,
    } }] })).finish();
    socket.onmessage({ data: new Uint8Array(packet).buffer });
  };
  const sockets = new Set();
  const cutAt = Date.now();
  class Socket {
    bufferedAmount = 0;
    constructor() {
      if (away) attempts[second(cutAt)] = (attempts[second(cutAt)] ?? 0) + 1;
      queueMicrotask(() => {
        if (away) return this.onclose({ code: 1006, reason: "" });
        this.onopen();
      });
    }
    send(data) {
      if (sockets.has(this)) return;
      sockets.add(this);
      if (back) {
        const at = second(back);
        buckets[at] = (buckets[at] ?? 0) + 1;
      }
      const { frames: [{ hello: { resumeToken } }] } = Packet.toObject(Packet.decode(data), { defaults: true });
      if (resumeToken.length) resumed++;
      welcome(this, resumeToken.length > 0);
    }
    close() {}
  }
  for (let i = 0; i < clients; i++) {
    const channel = createChannel({ url: "ws://proxy.test/", WebSocket: Socket, fetch: null });
    const talk = () => channel.open({ method: "/demo.v1.Chat/Talk" }).status.then(({ code }) => code === Code.UNAVAILABLE && talk());
    talk();
    channels.push(channel);
  }
  await settle();
  assert.equal(channels.filter(({ state }) => state === "ready").length, clients);
  away = true;
  const old = [...sockets];
  for (const socket of old) socket.onclose({ code: 1006, reason: "" });
  for (let elapsed = 0; channels.some(({ state }) => state !== "ready"); elapsed += 50) {
    assert.ok(elapsed < awayMs + 60_000);
    if (elapsed >= awayMs && away) {
      away = false;
      back = Date.now();
    }
    await turn();
    t.mock.timers.tick(50);
    await turn();
  }
  await Promise.all(channels.map((channel) => channel.close()));
  return { buckets: Array.from(buckets, (count) => count ?? 0), attempts: Array.from(attempts, (count) => count ?? 0), resumed };
}

for (const [what, awayMs, graceMs] of [
  ["that are cut at once", 60_000, 300_000],
  ["whose sessions are just given up, all at once,", 31_000, 30_000],
  ["whose sessions were given up long ago, all at once,", 90_000, 30_000],
]) {
  test(`10,000 clients ${what} come back spread out: no second has more than twice the mean`, async (t) => {
    const { buckets, attempts, resumed } = await returning(t, 10_000, awayMs, graceMs);
    t.diagnostic(`back, by seconds: ${buckets}; attempts before: ${attempts}`);
    assert.equal(resumed, awayMs < graceMs ? 10_000 : 0);
    const mean = 10_000 / buckets.length;
    assert.equal(buckets.reduce((sum, count) => sum + count), 10_000);
    assert.ok(Math.max(...buckets) <= 2 * mean, `${Math.max(...buckets)} in a second, ${mean} in the mean`);
    // Nor do they crowd while it is away, also when their time is nearly over.
    const crowd = Math.max(...attempts.slice(5));
    assert.ok(crowd <= 12_000, `${crowd} attempts in a second`);
  });
}
