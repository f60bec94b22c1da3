// Runs generated code as applications do: through a bundler, which may put another module in the place of a package.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));

/** Where the generated code is. */
const FIXTURES = path("../../tests/clients/fixtures/google-protobuf");

/**
 * @param {string} source a module next to the generated code
 * @param {Record<string, string>} [alias] files under `src` for packages
 * @returns {Promise<any>} what the module exports as its default
 */
export async function bundle(source, alias = {}) {
  const { outputFiles } = await build({
    stdin: { contents: source, resolveDir: FIXTURES },
    bundle: true,
    write: false,
    format: "esm",
    platform: "browser",
    target: "es2022",
    // Where google-protobuf's messages look for globals in a module.
    define: { window: "globalThis" },
    alias: Object.fromEntries(Object.entries(alias).map(([name, file]) => [name, path(`../src/${file}`)])),
    nodePaths: [path("../node_modules")],
  });
  const folder = mkdtempSync(join(tmpdir(), "bidiway-bundle-"));
  try {
    const file = join(folder, "bundle.mjs");
    writeFileSync(file, outputFiles[0].contents);
    return (await import(pathToFileURL(file).href)).default;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
