// The package as others get it.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import * as core from "../src/index.js";
import { connected } from "./fake.js";

const file = (path) => new URL(`../${path}`, import.meta.url);
const manifest = JSON.parse(readFileSync(file("package.json"), "utf8"));

test("the version that Hello names is the package's", async () => {
  const { peer } = await connected();
  assert.equal(peer.take("hello")[0].hello.agent, `bidiway-js/${manifest.version}`);
});

const imports = (name) =>
  [...readFileSync(file(`src/${name}`), "utf8").matchAll(/^(?:import|export)\b[^;]* from "([^"]+)"/gm)].map(([, source]) => source);

test("what the core imports comes from the core, and what an adapter imports from there or from its peers", () => {
  const peers = Object.keys(manifest.peerDependencies);
  for (const name of readdirSync(file("src/"))) {
    for (const source of imports(name)) {
      if (source.startsWith("./")) assert.ok(existsSync(file(`src/${source}`)), `${name}: ${source}`);
      else assert.ok(peers.some((peer) => source === peer || source.startsWith(`${peer}/`)), `${name}: ${source}`);
    }
  }
  const core = new Set(["index.js"]);
  for (const name of core) {
    for (const source of imports(name)) {
      assert.match(source, /^\.\/[a-z]+\.js$/, name);
      core.add(source.slice(2));
    }
  }
});

test("the public names are these", () => {
  assert.deepEqual(Object.keys(core).sort(), ["BidiwayError", "Code", "codeName", "createChannel"]);
});

test("no lock file names a registry", () => {
  for (const folder of ["", "tests/browser/", "tests/package/", "tests/package/oldest/", "examples/connect-vite/", "examples/node/"]) {
    const lock = file(folder ? `../${folder}package-lock.json` : "package-lock.json");
    if (existsSync(lock)) assert.doesNotMatch(readFileSync(lock, "utf8"), /"resolved": "(?!file:)|https?:\/\/registry/, folder);
  }
});
