// Starts the real proxy in front of the service, and the places where clients run: pages of another origin, and Node.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const BINARY = resolve(here, process.env.BIDIWAY_BIN ?? "../../target/debug/bidiway");
const CHROMIUM = process.env.CHROMIUM_BIN ?? "/usr/bin/chromium";
const FIREFOX = process.env.FIREFOX_BIN ?? "/usr/bin/firefox-esr";

/** A folder that is gone afterwards. */
function scratch() {
  const path = mkdtempSync(join(tmpdir(), "bidiway-clients-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true, maxRetries: 5 }) };
}

/**
 * Runs `bidiway serve` in front of one service.
 * @param {string} endpoint
 * @param {string} origin whose pages may call
 */
export async function startProxy(endpoint, origin) {
  const folder = scratch();
  const config = join(folder.path, "edge.yaml");
  writeFileSync(
    config,
    [
      `listeners: [{ address: "127.0.0.1:0" }]`,
      `admin: { address: "127.0.0.1:0" }`,
      `origins: ["${origin}"]`,
      `upstreams: { matrix: { endpoints: ["${endpoint}"] } }`,
      `drain: 0s`,
      `limits: { connections_per_address: 100000, upgrades_per_minute: 1000000 }`,
      `log: { level: "warn,call=off" }`,
    ].join("\n"),
  );
  const child = spawn(BINARY, ["serve", "--config", config], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  const urls = await new Promise((resolve, reject) => {
    const look = (chunk) => {
      output += chunk;
      const [url] = output.match(/(?<=listening on )http:\S+/) ?? [];
      const [admin] = output.match(/(?<=admin on )http:\S+/) ?? [];
      if (url && admin) resolve({ url, admin });
    };
    child.stdout.on("data", look);
    child.stderr.on("data", look);
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`${BINARY} serve ended with ${code}:\n${output}`)));
  });
  return {
    ...urls,
    log: () => output,
    metrics: async () => (await fetch(`${urls.admin}/metrics`)).text(),
    async stop() {
      child.removeAllListeners("exit");
      if (child.exitCode === null && !child.signalCode) {
        const ended = new Promise((resolve) => child.on("exit", resolve));
        child.kill("SIGTERM");
        await ended;
      }
      folder.remove();
    },
  };
}

/** Serves the bundle on an origin of its own. */
export async function startPages() {
  const files = {
    "/": ["text/html", `<!doctype html><meta charset="utf-8"><title>matrix</title>`],
    "/matrix.js": ["text/javascript", readFileSync(join(here, ".build/matrix.js"))],
  };
  const server = createServer((request, response) => {
    const [type, body] = files[request.url] ?? [];
    response.writeHead(body ? 200 : 404, { "content-type": type ?? "text/plain" }).end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    stop: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

/**
 * Where clients run.
 * @typedef {object} Place
 * @property {(name: string, ...args: unknown[]) => Promise<any>} call a function of the bundle
 * @property {() => Promise<string[]>} uncaught errors that nobody caught
 * @property {() => Promise<void>} stop
 */

/** Runs in pages, by either driver: both have the same `evaluate`. */
async function inPage(page, origin, stop) {
  const errors = [];
  page.on("pageerror", (error) => errors.push(`${error}`));
  await page.goto(origin);
  await page.evaluate(async () => {
    globalThis.unhandled = [];
    addEventListener("unhandledrejection", ({ reason }) => unhandled.push(`${reason?.stack ?? reason}`));
    globalThis.matrix = await import("/matrix.js");
  });
  return {
    // As JSON: WebDriver BiDi tells an object that occurs twice only once.
    call: async (name, ...args) =>
      JSON.parse(await page.evaluate(async ([name, args]) => JSON.stringify((await matrix[name](...args)) ?? null), [name, args])),
    uncaught: async () => [...errors, ...(await page.evaluate(() => unhandled))],
    stop,
  };
}

/** @returns {Promise<Place>} */
export async function startChromium(origin) {
  const { chromium } = await import("playwright-core");
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
  });
  const page = await (await browser.newContext()).newPage();
  return inPage(page, origin, () => browser.close());
}

/** @returns {Promise<Place>} */
export async function startFirefox(origin) {
  const { launch } = await import("puppeteer-core");
  const browser = await launch({ browser: "firefox", executablePath: FIREFOX, headless: true });
  return inPage(await browser.newPage(), origin, () => browser.close());
}

/** @returns {Promise<Place>} */
export async function startNode() {
  const errors = [];
  const caught = (reason) => errors.push(`${reason?.stack ?? reason}`);
  process.on("unhandledRejection", caught);
  const matrix = await import("./.build/matrix.js");
  return {
    call: async (name, ...args) => matrix[name](...args),
    uncaught: async () => errors,
    stop: async () => {
      process.off("unhandledRejection", caught);
    },
  };
}
