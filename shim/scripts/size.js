// Fails when an entry of the package is larger than its budget: minified by esbuild, gzip -9, without peers.

import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const BUDGETS = [
  // docs/decisions/0004 tells where they go.
  { entry: "index.js", bytes: 5 * 1024, external: [] },
  // What an adapter adds to the core.
  { entry: "connect.js", bytes: 1.6 * 1024, external: ["@connectrpc/*", "@bufbuild/*"] },
];

for (const { entry, bytes, external } of BUDGETS) {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`../src/${entry}`, import.meta.url))],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    write: false,
    external,
  });
  const minified = outputFiles[0].contents;
  const size = gzipSync(minified, { level: 9 }).length;
  console.log(`${entry}: ${minified.length} bytes minified, ${size} gzipped, budget ${bytes}`);
  if (size > bytes) process.exitCode = 1;
}
