// The examples, as their READMEs run them, against `bidiway demo`.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { startBrowser, startProxy } from "../browser/rig.js";
import { install, root, run } from "./rig.js";

const example = (name) => join(root, "examples", name);
/** Where pictures of the pages go, when somebody wants to look at them. */
const pictures = process.env.PICTURES;
let proxy, browser;

before(async () => {
  for (const name of ["connect-vite", "node"]) install(example(name));
  // Vite keeps what it made of dependencies as long as the lock file is the same.
  rmSync(join(example("connect-vite"), "node_modules/.vite"), { recursive: true, force: true });
  [proxy, browser] = await Promise.all([startProxy(), startBrowser()]);
});
after(async () => {
  await Promise.all([browser?.stop(), proxy?.stop()]);
});

const leftovers = new WeakMap();

/** Does this after the test, last things first: pages go before the servers that they talk to. */
function later(t, clean) {
  if (!leftovers.has(t)) {
    const stack = [];
    leftovers.set(t, stack);
    t.after(async () => {
      const failures = [];
      while (stack.length) await Promise.resolve(stack.pop()()).catch((error) => failures.push(error));
      if (failures.length) throw failures[0];
    });
  }
  leftovers.get(t).push(clean);
}

/** Starts a program in a process group of its own; `until` waits for what it prints. */
function start(t, command, args, options) {
  const child = spawn(command, args, { detached: true, stdio: ["pipe", "pipe", "pipe"], ...options });
  let output = "";
  let look = () => {};
  const gone = new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve(code));
  });
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => ((output += chunk), look()));
  later(t, async () => {
    if (child.exitCode === null && !child.signalCode) process.kill(-child.pid, "SIGKILL");
    await gone;
  });
  return {
    type: (line) => child.stdin.write(`${line}\n`),
    endInput: () => child.stdin.end(),
    gone,
    until: (pattern) =>
      Promise.race([
        new Promise((resolve) => {
          look = () => {
            const found = pattern.exec(output.replaceAll(/\x1b\[[0-9;]*m/g, ""));
            if (found) resolve(found);
          };
          look();
        }),
        gone.then((code) => assert.fail(`${command} ended with ${code} before ${pattern}:\n${output}`)),
      ]),
  };
}

/** Opens a page that has to get along without errors. */
async function open(t, url) {
  const page = await browser.context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  later(t, async () => {
    await page.close();
    assert.deepEqual(problems, []);
  });
  await page.setViewportSize({ width: 760, height: 560 });
  await page.goto(url);
  return page;
}

async function picture(page, name) {
  if (!pictures) return;
  mkdirSync(pictures, { recursive: true });
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(pictures, `${name}-${colorScheme}.png`) });
  }
}

/** Waits for a line of the page's log. */
const line = (page, text) => page.locator("ol > li", { hasText: text }).first().waitFor({ timeout: 10_000 });
const lines = (page) => page.locator("ol > li").evaluateAll((all) => all.map(({ className, textContent }) => [className, textContent]));

test("connect-vite and node: three people in a room, two in pages and one in a terminal", { timeout: 60_000 }, async (t) => {
  const vite = start(t, "npm", ["run", "dev", "--", "--port", "0"], { cwd: example("connect-vite"), env: { ...process.env, BIDIWAY: proxy.http } });
  const [url] = await vite.until(/http:\/\/localhost:\d+\//);
  const enter = async (name) => {
    const page = await open(t, url);
    await page.fill("[name=user]", name);
    await page.click("#join button");
    await line(page, `${name} has come in`);
    return page;
  };
  const say = async (page, text) => {
    await page.fill("[name=text]", text);
    await page.press("[name=text]", "Enter");
  };

  const ada = await enter("Ada");
  const bob = await enter("Bob");
  await say(ada, "hello Bob");
  await line(bob, "hello Bob");
  await say(bob, "hello Ada");
  await line(ada, "hello Ada");

  const carol = start(t, "npm", ["run", "chat", "--", "Carol", "lobby", `${proxy.http}/bidiway/session`], { cwd: example("node") });
  await carol.until(/\* Carol has come in, 3 here/);
  await line(ada, "Carol has come in, 3 here");
  carol.type("hello from a terminal");
  await line(ada, "hello from a terminal");
  await say(ada, "hello Carol");
  await carol.until(/Ada: hello Carol/);
  carol.endInput();
  assert.equal(await carol.gone, 0);
  await line(ada, "Carol has gone, 2 here");
  await picture(ada, "connect-vite");

  assert.deepEqual(await lines(ada), [
    ["notice", "Hello, Ada!"],
    ["notice", "Ada has come in, 1 here"],
    ["notice", "Bob has come in, 2 here"],
    ["mine", "hello Bob"],
    ["theirs", "hello Ada"],
    ["notice", "Carol has come in, 3 here"],
    ["theirs", "hello from a terminal"],
    ["mine", "hello Carol"],
    ["notice", "Carol has gone, 2 here"],
  ]);
  assert.equal(await ada.textContent("#state"), "ready");
  await bob.click("#leave");
  await line(bob, "You have left.");
  await line(ada, "Bob has gone, 1 here");

  // A name twice is the service's own refusal, in the page as it was said.
  const impostor = await open(t, url);
  await impostor.fill("[name=user]", "Ada");
  await impostor.click("#join button");
  await line(impostor, "[already_exists]");
  await picture(impostor, "connect-vite-refused");
});

test("connect-vite: type-checks, and builds", { timeout: 60_000 }, async () => {
  await run("npm", ["run", "build"], { cwd: example("connect-vite") });
  await run("npm", ["run", "check"], { cwd: example("connect-vite") });
});

test("plain-page: what is sent comes back, until half-close", { timeout: 60_000 }, async (t) => {
  const server = start(t, process.execPath, [join(example("plain-page"), "serve.js"), "0", proxy.http]);
  const [, url] = await server.until(/open (http:\S+)/);
  const page = await open(t, url);
  const sent = ["hello", "nö 😀", "x".repeat(300)];
  for (const text of sent) {
    await page.fill("[name=text]", text);
    await page.press("[name=text]", "Enter");
    await page.locator("li.down", { hasText: text }).waitFor();
  }
  await page.fill("[name=text]", "hello again");
  await picture(page, "plain-page");
  await page.click("#end");
  await line(page, "OK");
  assert.deepEqual(await lines(page), [...sent.flatMap((text) => [["up", text], ["down", text]]), ["end", "OK "]]);
});
