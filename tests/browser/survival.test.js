// Sessions that survive, in Chromium: a middlebox cuts the page's connections, the network goes and comes, the page is
// put into the browser's cache. Each time the conversation goes on: every message once, in order, both ways, and the
// service has seen one call.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { seeded, startCable } from "./cable.js";
import { openPage, startBrowser, startProxy } from "./rig.js";

const CUTS = Number(process.env.CUTS ?? 1000);
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let proxy, browser, box, tab;
before(async () => {
  proxy = await startProxy();
  browser = await startBrowser([], ["--disable-back-forward-cache"]);
  box = await startCable(proxy.http);
  tab = await openPage(browser.context, box.url, "survival");
});
after(async () => {
  await browser?.stop();
  box?.stop();
  await proxy?.stop();
});

/** Waits until the page says what is wanted of it, compared with what it said first. */
async function until(wanted) {
  for (let first; ; ) {
    const seen = await tab.run("progress");
    assert.equal(seen.error, undefined);
    first ??= seen;
    if (wanted(seen, first)) return seen;
    await sleep(20);
  }
}

/** Further messages arrive. */
async function goesOn() {
  await until((seen, first) => seen.received > first.received + 50);
}

/**
 * The page's conversations go on over this kind of carrier, and no other.
 * @param {"socket" | "http"} carrier
 */
async function over(carrier) {
  const other = carrier === "http" ? "socket" : "http";
  for (;;) {
    const before = { ...box.carried };
    await goesOn();
    if (box.carried[carrier] > before[carrier] && box.carried[other] === before[other]) return;
  }
}

/** A metric of the proxy, added up over its labels, or over those that begin like this. */
async function metric(name, labels = "") {
  const values = (await proxy.metrics()).matchAll(new RegExp(`^${name}(?:\\{${labels}[^}]*\\})? (\\d+)`, "gm"));
  return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
}

/** The conversation ends well, and the service has seen what the page has. */
async function endsWell(tag) {
  const end = await tab.run("finish");
  assert.equal(end.error, undefined);
  assert.equal(end.received, end.sent);
  assert.equal(end.headers, 1);
  const { running, completed, cancelled, received, sent } = await stats(tag);
  assert.deepEqual({ running, completed, cancelled }, { running: 0, completed: 1, cancelled: 0 }, "the service saw one call");
  assert.deepEqual([received, sent], [end.sent, end.sent]);
  return end;
}

/** The service's own count, asked for without the middlebox. */
async function stats(tag) {
  const response = await fetch(`${proxy.http}/demo.v1.Lab/Stats`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ tag }),
  });
  assert.equal(response.status, 200);
  const counts = await response.json();
  const names = ["running", "completed", "cancelled", "received", "sent"];
  return Object.fromEntries(names.map((name) => [name, Number(counts[name] ?? 0)]));
}

/** A conversation whose connections end at random points, until so many have. */
async function cutAtRandom(t, tag, wanted, options) {
  t.diagnostic(`SEED=${SEED}`);
  const random = seeded(SEED);
  box.cuts = { reset: 0, close: 0, half: 0 };
  const cuts = () => box.cuts.reset + box.cuts.close + box.cuts.half;
  box.fate = () => {
    if (cuts() >= wanted) return undefined;
    // Every fifth within the answers to upgrade and Hello; the others while messages go and come, and come again.
    const after = 1 + Math.floor(random() * (random() < 0.2 ? 600 : 60_000));
    const how = random();
    return { after, how: how < 0.5 ? "reset" : how < 0.75 ? "close" : "half" };
  };
  const start = Date.now();
  const before = await metric("bidiway_sessions_resumed_total");
  await tab.run("start", tag, { backoff: { baseMs: 1, maxMs: 4 }, ...options });
  while (cuts() < wanted) {
    const { received, error } = await tab.run("progress");
    assert.equal(error, undefined, `after ${cuts()} cuts and ${received} messages`);
    await sleep(100);
  }
  box.fate = undefined;
  await goesOn();
  const { sent } = await endsWell(tag);
  t.diagnostic(`${JSON.stringify(box.cuts)} in ${Date.now() - start} ms, ${sent} messages`);
  const resumed = (await metric("bidiway_sessions_resumed_total")) - before;
  t.diagnostic(`resumed ${resumed} times`);
  return resumed;
}

test(`${CUTS} cuts at random points of a conversation`, { timeout: 90_000 }, async (t) => {
  const resumed = await cutAtRandom(t, "cuts", CUTS, { fetch: null });
  // The others were cut before the proxy had read Hello.
  assert.ok(resumed > CUTS / 2, `resumed ${resumed} times`);
});

test("cuts of whatever carries it: WebSockets, and HTTP when they do not last", { timeout: 90_000 }, async (t) => {
  box.everything = true;
  t.after(() => (box.everything = false));
  const resumed = await cutAtRandom(t, "moves", CUTS / 5, {});
  const overHttp = await metric("bidiway_carriers_total", 'carrier="http');
  t.diagnostic(`${overHttp} carriers over HTTP`);
  assert.ok(resumed > 0 && overHttp > 0);
  // This page remembers that WebSockets do not last.
  assert.deepEqual(await tab.uncaught(), []);
  await tab.page.close();
  tab = await openPage(browser.context, box.url, "survival");
});

test("the browser goes offline and comes back", { timeout: 60_000 }, async () => {
  await tab.run("start", "offline", {});
  await over("socket");
  // Chromium lets nothing pass now, and does not tell the page that its connection is gone, before it is online again.
  await browser.context.setOffline(true);
  box.cut();
  await sleep(1500);
  const start = Date.now();
  await browser.context.setOffline(false);
  await goesOn();
  assert.ok(Date.now() - start < 5000, `it took ${Date.now() - start} ms`);
  const { states } = await endsWell("offline");
  assert.deepEqual(states.slice(0, 4), ["connecting", "ready", "reconnecting", "ready"]);
});

test("who cannot connect tries ever more rarely, and at once when the browser says that it is online", { timeout: 60_000 }, async () => {
  await tab.run("start", "refused", { backoff: { baseMs: 5000, maxMs: 20_000 } });
  await over("socket");
  box.refuse = true;
  box.cut();
  await until(({ state }) => state === "reconnecting");
  await box.refused(2);
  box.refuse = false;
  // The next attempt is at least 1.25 s away: a quarter of the base.
  const start = Date.now();
  await browser.context.setOffline(true);
  await browser.context.setOffline(false);
  await goesOn();
  assert.ok(Date.now() - start < 1250, `it took ${Date.now() - start} ms`);
  await endsWell("refused");
});

test("another network: the connection is dead, and nobody says so", { timeout: 60_000 }, async () => {
  await tab.run("start", "silent", {});
  await over("socket");
  box.silence();
  // The network's change is all that the page hears. It asks for a sign of life, and waits 5 s for it.
  await browser.context.setOffline(true);
  await browser.context.setOffline(false);
  await goesOn();
  await endsWell("silent");
});

for (const [carrier, blocked] of [["a WebSocket", false], ["HTTP", true]]) {
  test(`the page is left and comes back from the browser's cache, three times, with its call over ${carrier}`, { timeout: 60_000 }, async (t) => {
    box.blocked = blocked;
    t.after(() => (box.blocked = false));
    const tag = `back over ${carrier}`;
    const kept = await tab.run("kept");
    const resumed = await metric("bidiway_sessions_resumed_total");
    await tab.run("start", tag, {});
    for (let times = 1; times <= 3; times++) {
      await over(blocked ? "http" : "socket");
      await tab.page.goto(`${box.url}/bidiway/frame.js`);
      // The browser keeps no page whose connections are open: this one has left its session without a carrier.
      while ((await metric("bidiway_sessions_parked")) < 1) await sleep(20);
      assert.equal((await stats(tag)).running, 1, "the service has not been told");
      await tab.page.goBack({ waitUntil: "commit" });
      const { left, back, why } = await tab.run("kept");
      assert.deepEqual(left, [...kept.left, ...Array(times).fill(true)]);
      assert.deepEqual(back, [...kept.back, ...Array(times).fill(true)], `from the cache, and not loaded anew: ${why}`);
    }
    await goesOn();
    await endsWell(tag);
    const resumes = (await metric("bidiway_sessions_resumed_total")) - resumed;
    t.diagnostic(`resumed ${resumes} times`);
    assert.ok(resumes >= 3);
  });
}

for (const [name, worked, minutes] of [
  ["moves from a WebSocket to HTTP when WebSockets are blocked, and back when they have not been for a minute", true, 1],
  ["moves from HTTP to a WebSocket, where none has ever got through, when one does after ten minutes", false, 10],
]) {
  test(`in the middle of a call, a session ${name}`, { timeout: 60_000 }, async (t) => {
    const { context, stop } = await startBrowser();
    const page = tab;
    t.after(async () => {
      tab = page;
      box.blocked = false;
      await stop();
    });
    // Its minutes pass in a moment.
    await context.clock.install();
    tab = await openPage(context, box.url, "survival");
    const resumed = await metric("bidiway_sessions_resumed_total");
    box.blocked = !worked;
    await tab.run("start", name, {});
    if (worked) {
      await over("socket");
      box.blocked = true;
      box.cut();
    }
    await over("http");
    box.blocked = false;
    // In steps, between which messages come: the page never sleeps for so long that it would doubt its connection.
    for (let passed = 0; passed < minutes * 60; passed += 15) {
      await tab.page.clock.fastForward(15_000);
      await until(({ received }, last) => received > last.received);
    }
    await over("socket");
    const { states } = await endsWell(name);
    const again = ["reconnecting", "ready"];
    assert.deepEqual(states, ["connecting", "ready", ...again, ...(worked ? again : []), "closed"].slice(0, states.length));
    assert.equal((await metric("bidiway_sessions_resumed_total")) - resumed, worked ? 2 : 1);
    assert.deepEqual(await tab.uncaught(), []);
  });
}

test("nothing was thrown that nobody caught", async () => assert.deepEqual(await tab.uncaught(), []));
