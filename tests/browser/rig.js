// Starts the real proxy with its demo services, and real Chromium pages on it.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const BINARY = resolve(here, process.env.BIDIWAY_BIN ?? "../../target/debug/bidiway");
const CHROMIUM = process.env.CHROMIUM_BIN ?? "/usr/bin/chromium";
/** Where the test pages live on the proxy's origin; the browser never asks the proxy for them. */
const PREFIX = "/browser-test/";

/** The three ways in which a page's WebSocket reaches the proxy. */
export const CARRIERS = [
  { name: "plain HTTP/1.1", scheme: "http", args: [], handshake: 101 },
  { name: "TLS with HTTP/1.1 upgrade", scheme: "https", args: ["--disable-http2"], handshake: 101 },
  { name: "TLS with RFC 8441", scheme: "https", args: [], handshake: 200 },
];

/** Runs `bidiway demo` on free ports. */
export function startProxy() {
  const free = "127.0.0.1:0";
  return run(["demo", "--http", free, "--https", free, "--admin", free, "--services", free], {
    http: /http:\/\/[^/\s]+(?=\/\s)/,
    https: /https:\/\/[^/\s]+(?=\/\s)/,
    services: /(?<=services +)http:\/\/[^/\s]+/,
    admin: /http:\/\/[^/\s]+(?=\/metrics)/,
  });
}

/** Runs `bidiway serve` with these lines of configuration, on free ports. */
export async function serveEdge(...lines) {
  const folder = mkdtempSync(join(tmpdir(), "bidiway-edge-"));
  const config = join(folder, "edge.yaml");
  const free = `{ address: "127.0.0.1:0" }`;
  writeFileSync(config, [`listeners: [${free}]`, `admin: ${free}`, `drain: 0s`, ...lines].join("\n"));
  const edge = await run(["serve", "--config", config], {
    url: /(?<=listening on )http:[^\s"]+/,
    admin: /(?<=admin on )http:[^\s"]+/,
  });
  const stop = async () => {
    await edge.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  return { ...edge, stop };
}

/** Runs the binary until it has printed all these. */
async function run(args, wanted) {
  const child = spawn(BINARY, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  const found = await new Promise((resolve, reject) => {
    const look = (chunk) => {
      output += chunk;
      const found = Object.entries(wanted).map(([name, pattern]) => [name, pattern.exec(output)?.[0]]);
      if (found.every(([, text]) => text)) resolve(Object.fromEntries(found));
    };
    child.stdout.on("data", look);
    child.stderr.on("data", look);
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`${BINARY} ${args[0]} ended with ${code}:\n${output}`)));
  });
  return {
    ...found,
    pid: child.pid,
    /** What it has printed. */
    log: () => output,
    metrics: async () => (await fetch(`${found.admin}/metrics`)).text(),
    stop: () =>
      new Promise((resolve) => {
        if (child.exitCode !== null || child.signalCode) return resolve();
        child.removeAllListeners("exit");
        child.on("exit", resolve);
        child.kill("SIGTERM");
        setTimeout(() => child.kill("SIGKILL"), 5000).unref();
      }),
  };
}

/** Starts Chromium with a profile of its own; with these arguments, and without those that the driver would give it. */
export async function startBrowser(args = [], ignoreDefaultArgs = []) {
  const profile = mkdtempSync(join(tmpdir(), "bidiway-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    ignoreHTTPSErrors: true,
    ignoreDefaultArgs,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...args,
    ],
  });
  return {
    context,
    async stop() {
      await context.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}

/**
 * Opens a page of the proxy's and runs one of our bundles in it. The bundle comes from here; everything else, /bidiway/
 * above all, comes from the proxy. The document itself does, too: it makes the HTTP/2 session that RFC 8441 needs, and
 * Chromium lets a page that came from the network open sockets into it.
 */
export async function openPage(context, origin, script) {
  const imports = Object.fromEntries(
    [["@connectrpc/connect", "connect"], ["@bufbuild/protobuf", "protobuf"], ["@bufbuild/protobuf/wire", "protobuf-wire"], ["@bufbuild/protobuf/wkt", "protobuf-wkt"]]
      .map(([name, file]) => [name, `${PREFIX}${file}.js`]),
  );
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error));
  await page.route(`${origin}${PREFIX}**`, (route) => {
    const name = new URL(route.request().url()).pathname.slice(PREFIX.length);
    const file = join(here, ".build/page", name);
    return existsSync(file)
      ? route.fulfill({ contentType: "text/javascript", body: readFileSync(file) })
      : route.fulfill({ status: 404 });
  });
  const cdp = await context.newCDPSession(page);
  const sockets = [];
  cdp.on("Network.webSocketHandshakeResponseReceived", ({ response }) => sockets.push(response));
  await cdp.send("Network.enable");
  // A plain document: the demo's own page has a policy that lets no other script in.
  await page.goto(`${origin}/bidiway/index.js`);
  await page.evaluate(
    ([imports, source]) => {
      addEventListener("unhandledrejection", ({ reason }) => (window.unhandled ??= []).push(String(reason)));
      return new Promise((resolve, reject) => {
        const add = (type, properties) => document.head.append(Object.assign(document.createElement("script"), { type, ...properties }));
        add("importmap", { text: JSON.stringify({ imports }) });
        add("module", { src: source, onload: resolve, onerror: () => reject(new Error(`${source} did not load`)) });
      });
    },
    [imports, `${PREFIX}${script}.js`],
  );
  return {
    page,
    /** Handshake responses of the page's WebSockets so far. */
    sockets,
    /** Errors that nobody caught. */
    uncaught: async () => [...errors.map(String), ...((await page.evaluate(() => window.unhandled)) ?? [])],
    run: (name, ...args) => page.evaluate(([name, args]) => window.cases[name](...args), [name, args]),
  };
}
