// The demo's own page: the wire is cut while people talk, and mended again.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startBrowser, startProxy } from "./rig.js";

let proxy, browser;
before(async () => {
  proxy = await startProxy();
  browser = await startBrowser();
});
after(async () => {
  await browser?.stop();
  await proxy?.stop();
});

/** Waits until what is asked in the page is true. */
const until = (page, ask, arg) => page.waitForFunction(ask, arg, { polling: 20 });

/** What each of the two people on the page has heard: who said what, and its number. */
const heard = (page) =>
  page.evaluate(() =>
    [...document.querySelectorAll(".person")].map((person) =>
      [...person.querySelectorAll(".said")].map((said) => {
        const [who, text, small] = [...said.childNodes].map((node) => node.textContent);
        return `${small.split(" · ")[0]} ${who}: ${text}`;
      }),
    ),
  );

for (const [name, scheme] of [["HTTP/1.1", "http"], ["TLS", "https"]]) {
  test(`the wire is cut, and the conversation goes on: ${name}`, { timeout: 60_000 }, async () => {
    const page = await browser.context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(`${error}`));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    await page.goto(`${proxy[scheme]}/`);
    // A room of their own.
    await page.fill("#chat-room", `room-${scheme}`);
    await page.press("#chat-room", "Tab");
    await until(page, (room) => [...document.querySelectorAll(".person")].every((person) => person.textContent.includes(`“${room}”`)), `room-${scheme}`);
    const [ada, bob] = await page.$$eval(".person", (people) => people.map((person) => person.querySelector("header input").value));
    const expected = [];
    const say = async (person, text) => {
      const form = page.locator(".person").nth(person).locator("form");
      await form.locator("input").fill(text);
      await form.locator("button").click();
      expected.push(`${expected.length + 1} ${[ada, bob][person]}: ${text}`);
    };
    const count = (n) => until(page, (n) => [...document.querySelectorAll(".person")].every((person) => person.querySelectorAll(".said").length >= n), n);

    await say(0, "before");
    await count(1);
    for (let round = 0; round < 3; round++) {
      // What is just being said may be lost on its way, and is said again by the session.
      await say(1, `just before ${round}`);
      await page.click("#cut");
      await until(page, () => document.getElementById("badge").dataset.state === "waiting");
      assert.equal(await page.textContent("#cut"), "Mend the wire");
      // Nothing gets through.
      const before = (await heard(page)).map((texts) => texts.length);
      await say(0, `into the void ${round}`);
      await page.waitForTimeout(300);
      assert.deepEqual((await heard(page)).map((texts) => texts.length), before);
      await page.click("#cut");
      await until(page, () => document.getElementById("badge").dataset.state === "open");
      await count(expected.length);
      await say(1, `after ${round}`);
      await count(expected.length);
    }
    assert.deepEqual(await heard(page), [expected, expected]);
    assert.match(await page.textContent("#badge"), /connected, 3 times again/);
    assert.equal(await page.textContent("#cut"), "Cut the wire");
    assert.deepEqual(errors, []);
    await page.close();
  });
}
