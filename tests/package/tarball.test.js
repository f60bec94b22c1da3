// What the package's tarball holds, and what the tools that judge packages say about it.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { pack, root, run } from "./rig.js";

const bin = (name) => join(root, "shim/node_modules/.bin", name);
const manifest = JSON.parse(readFileSync(join(root, "shim/package.json"), "utf8"));
const entries = Object.entries(manifest.exports).filter(([, target]) => target.default);

test("each entry is packed with its types, and nothing but sources, types and papers", async () => {
  const files = (await run("tar", ["-tzf", pack()])).trim().split("\n").map((file) => file.replace("package/", "./"));
  for (const [entry, target] of entries) {
    for (const file of Object.values(target)) assert.ok(files.includes(file), `${entry}: ${file} is not packed`);
  }
  const papers = ["./LICENSE-APACHE", "./LICENSE-MIT", "./README.md", "./package.json"];
  assert.deepEqual(files.filter((file) => !/^\.\/(src\/[a-z-]+\.js|types\/[a-z-]+\.d\.ts)$/.test(file)).sort(), papers);
});

test("the optional peers are the libraries that the sources and their types name, and no others", () => {
  const sources = readdirSync(join(root, "shim/src")).map((name) => readFileSync(join(root, "shim/src", name), "utf8"));
  const named = sources.flatMap((text) => [...text.matchAll(/(?:\bfrom |\bimport\()"((?:@[^/"]+\/)?[^./"][^/"]*)/g)].map(([, name]) => name));
  assert.deepEqual(Object.keys(manifest.peerDependencies).sort(), [...new Set(named)].sort());
  for (const name of named) assert.equal(manifest.peerDependenciesMeta[name]?.optional, true, name);
  assert.equal(manifest.dependencies, undefined);
});

test("publint finds nothing", async () => {
  const said = await run(bin("publint"), ["run", pack(), "--strict"]);
  assert.match(said, /All good!/);
});

// The package is ESM only, and says so: CommonJS callers use import(), or require() in Node 22.12 and later. The
// profile leaves those columns out; for `node10`, which knows no "exports", there are no subpaths.
test("attw finds nothing: types and code agree, for node16 from ESM and for bundlers", async () => {
  const said = JSON.parse(await run(bin("attw"), [pack(), "--profile", "esm-only", "--format", "json"]));
  assert.deepEqual(Object.keys(said.analysis.entrypoints).sort(), [...entries.map(([entry]) => entry), "./package.json"].sort());
});
