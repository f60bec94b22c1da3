// The packed package in every environment: all four kinds of calls, with generated clients, against the real proxy.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build as esbuild } from "esbuild";
import { build as vite } from "vite";
import webpack from "webpack";
import { startBrowser } from "../browser/rig.js";
import { build, here, prepareApp, run, serveFolder, startProxyFor } from "./rig.js";

/** What the calls come to when all is well. */
const EXPECTED = { unary: "Hello, Ada!", serverStream: 50, clientStream: 50, bidi: 20, state: "closed" };

let app, browser, pages, proxy;
let ran = 0;
const skipped = [];

before(async () => {
  const prepared = prepareApp();
  app = prepared.app;
  EXPECTED.loaded = prepared.entries.sort();
  assert.ok(EXPECTED.loaded.length >= 8);
  pages = await serveFolder(build);
  [proxy, browser] = await Promise.all([startProxyFor(pages.origin), startBrowser()]);
});
after(async () => {
  pages?.stop();
  await Promise.all([browser?.stop(), proxy?.stop()]);
});

/** Opens a page of `.build`, whose origin is not the proxy's, and waits for what its calls and its worker's came to. */
async function open(path) {
  const page = await browser.context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  // Calls go by the socket; nothing falls back to gRPC-Web.
  page.on("request", (request) => request.method() !== "GET" && problems.push(`${request.method()} ${request.url()}`));
  await page.goto(`${pages.origin}/${path}?proxy=${encodeURIComponent(proxy.url)}`);
  const results = await page.evaluate(() => window.results);
  assert.deepEqual(problems, []);
  await page.close();
  return results;
}

/** Each makes a bundle of the page in a folder of the app, and of its worker where there is one. */
const BUNDLERS = {
  vite: (root, outDir, alias) =>
    vite({ root, base: "./", logLevel: "error", configFile: false, resolve: { alias }, worker: { format: "es" }, build: { outDir, emptyOutDir: true } }),

  esbuild: (root, outdir, alias) =>
    esbuild({
      entryPoints: ["page.js", "worker.js", "index.html"].map((name) => join(root, name)).filter(existsSync),
      absWorkingDir: root,
      loader: { ".html": "copy" },
      alias,
      bundle: true,
      splitting: true,
      minify: true,
      format: "esm",
      outdir,
      logLevel: "error",
    }),

  webpack: async (root, path, alias) => {
    await esbuild({ entryPoints: [join(root, "index.html")], loader: { ".html": "copy" }, outdir: path });
    // Not minified: that takes most of the time, and says nothing about the package.
    const compiler = webpack({
      mode: "production",
      optimization: { minimize: false },
      performance: false,
      entry: join(root, "page.js"),
      output: { path, filename: "page.js" },
      resolve: { alias },
    });
    const stats = await new Promise((resolve, reject) => compiler.run((error, stats) => (error ? reject(error) : resolve(stats))));
    assert.ok(!stats.hasErrors() && !stats.hasWarnings(), stats.toString("errors-warnings"));
  },
};

for (const [name, bundle] of Object.entries(BUNDLERS)) {
  test(`bundled by ${name}: in a page of another origin, and in its worker`, { timeout: 60_000 }, async () => {
    await bundle(app, join(build, name), {});
    assert.deepEqual(await open(`${name}/index.html`), { page: EXPECTED, worker: EXPECTED });
    ran += 2;
  });

  test(`bundled by ${name}: in the place of google's runtime, by an alias`, { timeout: 60_000 }, async () => {
    await bundle(join(app, "google"), join(build, `${name}-google`), { "grpc-web": "bidiway/grpc-web" });
    assert.deepEqual(await open(`${name}-google/index.html`), { promised: "Hello, Ada!", called: "Hello, Bob!", rounds: 20 });
    ran += 1;
  });
}

test("without npm or a bundler: from the proxy into a page of another origin, and into its worker", { timeout: 60_000 }, async () => {
  const wanted = { answers: 20, last: 20, code: 0 };
  assert.deepEqual(await open("app/plain.html"), { page: wanted, worker: wanted });
  ran += 2;
});

const bin = (name) => join(here, "node_modules/.bin", name);
const RUNTIMES = {
  "this Node": [process.execPath],
  "the newest Node": [join(here, "node_modules/node-26/bin/node")],
  "Deno": [bin("deno"), "run", "--allow-all", "--node-modules-dir=manual", "--no-lock"],
  "Bun": [bin("bun"), "run"],
};

for (const [name, [command, ...args]] of Object.entries(RUNTIMES)) {
  test(`in ${name}`, { timeout: 60_000 }, async (t) => {
    if (!existsSync(command)) {
      assert.ok(!process.env.CI, `${name}: npm has no binary of it for this platform (CI skips nothing)`);
      skipped.push(name);
      t.diagnostic(`!! SKIPPED ${name}: npm has no binary of it for this platform`);
      return;
    }
    const version = (await run(command, ["--version"])).split("\n")[0];
    t.diagnostic(`${name}: ${version}`);
    assert.deepEqual(JSON.parse(await run(command, [...args, join(app, "server.js"), proxy.url])), EXPECTED);
    ran += 1;
  });
}

test("from CommonJS: by import() in every Node, by require() in the newest", { timeout: 60_000 }, async () => {
  const names = (load) => `(async () => console.log(Object.keys(${load}).join()))()`;
  const wanted = "BidiwayError,Code,codeName,createChannel\n";
  const [[node], [newest]] = [RUNTIMES["this Node"], RUNTIMES["the newest Node"]];
  assert.equal(await run(node, ["--input-type=commonjs", "--eval", names('await import("bidiway")')], { cwd: app }), wanted);
  if (existsSync(newest)) {
    assert.equal(await run(newest, ["--input-type=commonjs", "--eval", names('require("bidiway")')], { cwd: app }), wanted);
  }
});

test("every environment ran", () => assert.equal(ran + skipped.length, 15));
