// One matrix: every client × every kind of call × every scenario, in browsers and in Node. See README.md.

import "./globals.js";
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { startChromium, startFirefox, startNode, startPages, startProxy } from "./rig.js";
import { KINDS, SCENARIOS, TIMEOUT_MS, flat, scenario, summary } from "./scenarios.js";
import { startUpstream } from "./upstream.js";
import { clients } from "./.build/matrix.js";

/** How many cases run and pass, for each client where it runs. A case that disappears is a failure as well. */
const COUNTS = {
  "connect-web, gRPC-Web": 19,
  "Connect on Bidiway": 39,
  "protobuf-ts, gRPC-Web binary": 19,
  "protobuf-ts, gRPC-Web text": 19,
  "protobuf-ts on Bidiway": 39,
  "nice-grpc-web, fetch": 19,
  "nice-grpc-web, WebSocket": 39,
  "nice-grpc-web on Bidiway": 39,
  "improbable, fetch": 19,
  "improbable, XHR": 19,
  "improbable, WebSocket": 39,
  "improbable on Bidiway": 39,
  "ts-protoc-gen stubs, WebSocket": 29,
  "ts-protoc-gen stubs on Bidiway": 29,
  "ts-proto Promise on Bidiway": 39,
  "ts-proto Observable on Bidiway": 39,
  "ts-proto grpc-web, fetch": 18,
  "ts-proto grpc-web on Bidiway": 18,
  "google grpc-web, binary": 19,
  "google grpc-web, text": 19,
  "google grpc-web runtime on Bidiway": 39,
  "google grpc-web interceptors on Bidiway": 19,
  "Bidiway, bytes": 39,
};
const TOTALS = { chromium: 655, node: 636, firefox: 655 };
const PLACES = { chromium: startChromium, node: startNode, firefox: startFirefox };
const places = (process.env.PLACES ?? "chromium,node").split(",");
const only = process.env.ONLY ? new RegExp(process.env.ONLY) : undefined;
/** Cases at a time, besides those that wait for their deadline. With those a page has six connections: all that it may. */
const AT_ONCE = 4;
/** @type {Record<string, Record<string, number>>} cases that ran and passed, for each place and client */
const passed = Object.fromEntries(places.map((place) => [place, {}]));

/** The cells of a client: those that run, and those that it cannot do. */
function cells({ cannot, runs }, place) {
  const used = new Set();
  const list = KINDS.flatMap((kind) =>
    SCENARIOS.filter((name) => scenario(name, kind)).map((name) => {
      const keys = [kind, name, `${kind}, ${name}`].filter((key) => key in cannot);
      keys.forEach((key) => used.add(key));
      return { kind, scenario: name, why: runs?.[place] ?? (keys.length ? cannot[keys[0]] : undefined) };
    }),
  );
  assert.deepEqual(Object.keys(cannot).filter((key) => !used.has(key)), [], "what it cannot do names cells that there are not");
  return list;
}

/** What was hidden indeed: a client that shows more than the table says is a failure as well. */
const hidden = new Set();

/** The keys of what a client hides of a case. */
function hides(client, place, { kind, scenario }, part) {
  const keys = [[]];
  for (const word of [place, kind, scenario]) keys.push(...keys.map((key) => [...key, word]));
  return keys.map((key) => [...key, part].join(", ")).filter((key) => key in client.hides);
}

/** What is wrong with a case, in words. */
function* complaints(client, place, cell, outcome, seen) {
  const { kind, scenario: name } = cell;
  const { metadata, header, trailer, asks, answers, status, early, hangs } = scenario(name, kind);
  const same = function* (part, actual, expected) {
    if (JSON.stringify(actual) === JSON.stringify(expected)) return;
    const keys = hides(client, place, cell, part);
    for (const key of keys) hidden.add(`${client.name}: ${key}`);
    if (!keys.length) yield `${part}: ${JSON.stringify(actual)?.slice(0, 300)} instead of ${JSON.stringify(expected)?.slice(0, 300)}`;
  };
  const pick = (from, names) => Object.fromEntries(Object.keys(names).filter((key) => key in from).map((key) => [key, from[key]]));

  // For the application.
  yield* same("code", outcome.code, status.code);
  if (status.message) yield* same("message", outcome.message, status.message);
  // A deadline may overtake what came before it.
  const came = hangs === "deadline" ? answers.slice(0, outcome.answers.length) : answers;
  yield* same("answers", outcome.answers, came.map(summary));
  if (!hangs) {
    const headers = early ? {} : flat(header);
    yield* same("header", pick(outcome.header, headers), headers);
    const trailers = client.keepsLast && !early ? Object.fromEntries(trailer.map((entry) => Object.entries(flat([entry]))[0])) : flat(trailer);
    yield* same("trailer", pick(outcome.trailer, trailers), trailers);
    yield* same("details", outcome.details, status.details.map(([type, value]) => [type, Buffer.from(value).toString("base64").replace(/=+$/, "")]));
    if (status.code === 0) {
      const foreign = (from, names, own) => Object.keys(pick(from, flat(names))).filter((key) => !(key in flat(own)));
      yield* same("trailers among the headers", foreign(outcome.header, trailer, header), []);
      yield* same("headers among the trailers", foreign(outcome.trailer, header, trailer), []);
    }
  }

  // For the service.
  yield* same("metadata at the service", pick(seen.metadata, flat(metadata)), flat(metadata));
  // A bidirectional call fails when its answers are used up.
  const midway = kind === "bidi" && status.code !== 0;
  const taken = midway ? asks.slice(0, answers.length + 1) : asks;
  if (!early) yield* same("asks at the service", seen.asks, taken.map(summary));
  if (name === "empty message") yield* same("size at the service", seen.sizes, [0]);
  if (!early && !hangs && !midway) yield* same("half-close at the service", seen.halfClosed, true);
  if (hangs === "deadline") {
    const given = seen.timeoutMs > 0 && seen.timeoutMs <= TIMEOUT_MS;
    yield* same("deadline at the service", given, true);
  } else {
    yield* same("deadline at the service", seen.timeoutMs, Infinity);
  }
  if (hangs) yield* same("cancelled at the service", seen.cancelled, true);
}

for (const place of places) {
  describe(place, () => {
    let pages, upstream, proxy, runner;
    before(async () => {
      upstream = await startUpstream();
      pages = await startPages();
      proxy = await startProxy(upstream.endpoint, pages.origin);
      runner = await PLACES[place](pages.origin);
    });
    after(async () => {
      await runner?.stop();
      await proxy?.stop();
      pages?.stop();
      upstream?.stop();
    });

    for (const client of clients) {
      if (only && !only.test(client.name)) continue;
      const todo = cells(client, place).filter(({ why }) => !why);
      if (client.runs?.[place]) continue;
      test(client.name, { timeout: 120_000 }, async () => {
        const failures = [];
        const waits = todo.filter(({ scenario: name, kind }) => scenario(name, kind).hangs === "deadline");
        const rest = todo.filter((cell) => !waits.includes(cell));
        const work = async (queue) => {
          for (let cell; (cell = queue.shift()); ) {
            const { kind, scenario: name } = cell;
            const id = `${client.name}, ${kind}, ${name}`;
            try {
              const { hangs, asks } = scenario(name, kind);
              let timer;
              const late = new Promise((_, reject) => (timer = setTimeout(reject, 15_000, new Error("no end within 15 s"))));
              const running = runner.call("run", {
                client: client.name,
                kind,
                scenario: name,
                id,
                url: proxy.url,
                timeoutMs: TIMEOUT_MS,
                atEnd: hides(client, place, cell, "answers").length > 0,
              });
              running.catch(() => {});
              late.catch(() => {});
              if (hangs === "cancel") {
                await upstream.until(id, "the message", (seen) => seen.asks.length === asks.length);
                await runner.call("cancel", id);
              }
              const outcome = await Promise.race([running, late]).finally(() => clearTimeout(timer));
              await upstream.until(id, `the call; the client: ${JSON.stringify(outcome)}`);
              if (hangs) await upstream.until(id, "the cancellation", ({ cancelled }) => cancelled);
              const wrong = [...complaints(client, place, cell, outcome, upstream.seen(id))];
              if (wrong.length) failures.push(`${kind}, ${name}: ${wrong.join("; ")}`);
            } catch (error) {
              failures.push(`${kind}, ${name}: ${error}`);
            }
          }
        };
        await Promise.all([...waits.map((cell) => work([cell])), ...Array.from({ length: AT_ONCE }, () => work(rest))]);
        passed[place][client.name] = todo.length - failures.length;
        if (failures.length) assert.fail(`${failures.length} of ${todo.length} cases:\n${failures.join("\n")}`);
      });
    }

    test("nothing was left uncaught", async () => assert.deepEqual(await runner.uncaught(), []));

    test("the clients on Bidiway shared one socket, and no call was left", { skip: only && "ONLY leaves some out" }, async () => {
      const sum = (text, name) =>
        [...text.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\d+)$`, "gm"))].reduce((sum, [, value]) => sum + Number(value), 0);
      const before = await proxy.metrics();
      assert.deepEqual([sum(before, "bidiway_sessions_open"), sum(before, "bidiway_sessions_total")], [1, 0]);
      await runner.call("close");
      let now;
      for (const end = Date.now() + 10_000; Date.now() < end; ) {
        const text = await proxy.metrics();
        now = ["sessions_open", "calls_started_total", "calls_total"].map((name) => sum(text, `bidiway_${name}`));
        if (now[0] === 0 && now[1] === now[2]) break;
      }
      assert.deepEqual(now, [0, now[1], now[1]], "sessions open, calls that began, calls that ended");
      assert.ok(now[1] >= TOTALS[place]);
    });

    test("every case ran", { skip: only && "ONLY leaves some out" }, () => {
      const expected = clients.map(({ name, runs }) => [name, runs?.[place] ? 0 : COUNTS[name]]);
      assert.deepEqual(clients.map(({ name }) => [name, passed[place][name] ?? 0]), expected);
      assert.equal(Object.values(passed[place]).reduce((sum, count) => sum + count), TOTALS[place]);
    });
  });
}

const some = only || places.join() === "node";
test("what clients are said to hide is hidden", { skip: some && "some cases are left out" }, () => {
  const said = clients.flatMap(({ name, hides }) => Object.keys(hides).map((key) => `${name}: ${key}`));
  const idle = said.filter((key) => !hidden.has(key) && places.some((place) => !/: (chromium|firefox|node), /.test(key) || key.includes(`: ${place}, `)));
  assert.deepEqual(idle, []);
});

after(() => console.log(report()));

/** What ran, and what clients cannot do or show, with the reasons. */
function report() {
  const lines = [`${places.map((place) => place.padStart(9)).join("")}`];
  const gap = (key, why) => lines.push(`${" ".repeat(9 * places.length + 4)}${key}: ${why}`);
  for (const { name, cannot, hides, keepsLast, runs } of clients) {
    lines.push(`${places.map((place) => String(passed[place][name] ?? "-").padStart(9)).join("")}  ${name}`);
    for (const place of places) if (runs?.[place]) gap(`not in ${place}`, runs[place]);
    for (const [key, why] of Object.entries(cannot)) gap(`cannot: ${key}`, why);
    for (const [key, why] of Object.entries(hides)) gap(`hides: ${key}`, why);
    if (keepsLast) gap("hides: repeated trailers", keepsLast);
  }
  return lines.join("\n");
}
