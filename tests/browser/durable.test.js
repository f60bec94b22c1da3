// `bidiway/durable` against the real proxy, through a middlebox that cuts, and treats WebSockets as bad company does: in
// Node, and in a page.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { WebSocket as Ws } from "ws";
import { createChannel } from "../../shim/src/durable.js";
import { startMiddlebox } from "./middlebox.js";
import { openPage, startBrowser, startProxy } from "./rig.js";
import { KINDS, carry, kinds } from "./talk.js";

let proxy;
before(async () => (proxy = await startProxy()));
after(() => proxy?.stop());

const WebSocket = globalThis.WebSocket ?? Ws;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
/** Cuts come closer than in life: delays do, too. */
const backoff = { baseMs: 2, maxMs: 10 };

const metric = async (name) =>
  (await proxy.metrics()).split("\n").filter((line) => line.startsWith(name)).reduce((sum, line) => sum + Number(line.split(" ").pop()), 0);

async function behind(t, settings) {
  const box = Object.assign(await startMiddlebox(proxy.http), settings);
  t.after(box.stop);
  return box;
}

/**
 * Cuts connections until so many that were in use have been cut; with `count`, each time after further messages: where a
 * page's WebSockets fail, Chromium makes further ones wait for seconds, and a carrier that is cut before its Welcome makes
 * the page try one.
 */
async function cutting(box, times, count) {
  for (let cuts = 0; cuts < times && !box.stopped; cuts += box.cut(Math.random() < 0.7 ? "reset" : "end")) {
    if (count) for (const before = await count(); !box.stopped && (await count()) === before; ) await pause(5);
    await pause(Math.random() * 40);
  }
}

/** How each kind of bad company is kept. */
const COMPANY = {
  "WebSockets are refused": { sockets: "refuse" },
  "WebSockets are killed just after the handshake": { sockets: "kill" },
  "WebSockets are swallowed": { sockets: "swallow" },
  "WebSockets are refused, and responses held back": { sockets: "refuse", hold: true },
};

test("in Node, a conversation is cut 300 times, and no message is lost or comes twice", { timeout: 120_000 }, async (t) => {
  const box = await behind(t);
  const resumed = await metric("bidiway_sessions_resumed_total");
  const channel = createChannel({ url: `${box.origin}/bidiway/session`, WebSocket, backoff, fetch: null });
  t.after(() => channel.close());
  const conversation = carry(channel);
  await cutting(box, 300);
  const { sent, read, code } = await conversation.end();
  assert.equal(code, 0);
  assert.equal(read, sent);
  const resumes = (await metric("bidiway_sessions_resumed_total")) - resumed;
  assert.ok(resumes > 100, `${resumes} resumes`);
  t.diagnostic(`${sent} messages each way, ${resumes} resumes`);
});

for (const [name, settings] of Object.entries(COMPANY)) {
  test(`in Node, when ${name}, all four kinds of calls work`, { timeout: 30_000 }, async (t) => {
    const box = await behind(t, settings);
    const channel = createChannel({ url: `${box.origin}/bidiway/session`, WebSocket, backoff });
    t.after(() => channel.close());
    const begun = Date.now();
    assert.deepEqual(await kinds(channel), KINDS);
    const took = Date.now() - begun;
    assert.ok(took < (settings.hold ? 10_000 : 5500), `${took} ms`);
    assert.ok(box.requests.some((line) => line === "POST /bidiway/http/open"), `${box.requests}`);
  });
}

test("in Node, a conversation over HTTP is cut 50 times, and no message is lost or comes twice", { timeout: 120_000 }, async (t) => {
  const box = await behind(t, { sockets: "refuse" });
  const channel = createChannel({ url: `${box.origin}/bidiway/session`, WebSocket, backoff });
  t.after(() => channel.close());
  const conversation = carry(channel);
  await cutting(box, 50);
  const { sent, read, code } = await conversation.end();
  assert.equal(code, 0);
  assert.equal(read, sent);
});

test("in Node, a conversation moves from a WebSocket to HTTP when WebSockets are blocked in the middle", { timeout: 60_000 }, async (t) => {
  const box = await behind(t);
  const channel = createChannel({ url: `${box.origin}/bidiway/session`, WebSocket, backoff });
  t.after(() => channel.close());
  const conversation = carry(channel);
  while (conversation.count() < 1000) await pause(5);
  assert.ok(!box.requests.some((line) => line.startsWith("POST")));
  box.sockets = "refuse";
  box.cut();
  const count = conversation.count();
  while (conversation.count() < count + 1000) await pause(5);
  assert.ok(box.requests.some((line) => line === "POST /bidiway/http/up"));
  const { sent, read, code } = await conversation.end();
  assert.equal(code, 0);
  assert.equal(read, sent);
});

test("in Chromium", { timeout: 300_000 }, async (t) => {
  const browser = await startBrowser();
  t.after(() => browser.stop());
  const visit = async (t, settings, options) => {
    const box = await behind(t);
    const tab = await openPage(browser.context, box.origin, "durable");
    Object.assign(box, settings);
    await tab.run("start", { backoff, ...options });
    t.after(async () => {
      assert.deepEqual(await tab.uncaught(), []);
      await tab.page.close();
    });
    return { box, ...tab };
  };

  for (const [name, settings] of Object.entries(COMPANY)) {
    await t.test(`when ${name}, all four kinds of calls work`, { timeout: 30_000 }, async (t) => {
      const { box, run } = await visit(t, settings);
      const begun = Date.now();
      assert.deepEqual(await run("kinds"), KINDS);
      const took = Date.now() - begun;
      assert.ok(took < (settings.hold ? 10_000 : 5500), `${took} ms`);
      assert.ok(box.requests.some((line) => line === "POST /bidiway/http/open"), `${box.requests}`);
      assert.ok(!box.requests.some((line) => line.startsWith("OPTIONS")), "no preflight");
      t.diagnostic(`${took} ms`);
    });
  }

  await t.test("a conversation over HTTP is cut 50 times, and no message is lost or comes twice", { timeout: 60_000 }, async (t) => {
    const { box, run } = await visit(t, { sockets: "refuse" });
    await run("begin");
    await cutting(box, 50, () => run("count"));
    const { sent, read, code } = await run("end");
    assert.equal(code, 0);
    assert.equal(read, sent);
  });

  await t.test("a network that goes and comes back stops no conversation", { timeout: 60_000 }, async (t) => {
    const { box, run } = await visit(t);
    await run("begin");
    while ((await run("count")) < 100) await pause(20);
    // While it emulates a lost network, Chromium may keep from the page that its sockets are gone.
    await browser.context.setOffline(true);
    box.drop = true;
    box.cut();
    box.drop = false;
    await browser.context.setOffline(false);
    const count = await run("count");
    while ((await run("count")) < count + 100) await pause(20);
    const { sent, read, code } = await run("end");
    assert.equal(code, 0);
    assert.equal(read, sent);
  });

  // The last one: Chromium makes pages wait whose WebSockets have failed so often, others of the same site, too.
  await t.test("a conversation is cut 1,000 times, and no message is lost or comes twice", { timeout: 200_000 }, async (t) => {
    const { box, run } = await visit(t, {}, { fetch: null });
    await run("begin");
    await cutting(box, 1000);
    const { sent, read, code } = await run("end");
    assert.equal(code, 0);
    assert.equal(read, sent);
    t.diagnostic(`${sent} messages each way`);
  });
});
