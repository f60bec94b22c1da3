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

test("every entry exists, and the core imports nothing from outside", () => {
  for (const { default: entry } of Object.values(manifest.exports).filter((entry) => entry.default)) {
    assert.ok(existsSync(file(entry)), entry);
  }
  for (const name of readdirSync(file("src/"))) {
    const imports = [...readFileSync(file(`src/${name}`), "utf8").matchAll(/^(?:import|export) .*from "([^"]+)"/gm)];
    for (const [, source] of imports) {
      if (name !== "connect.js") assert.match(source, /^\.\/[a-z]+\.js$/, name);
      else assert.match(source, /^(\.\/|@connectrpc\/connect$|@bufbuild\/protobuf)/);
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
