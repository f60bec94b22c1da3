// Fails when an entry of the package is larger than its budget: minified by esbuild, gzip -9, without peers.

import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** As adapters import it. */
const CORE = "./index.js";

const BUDGETS = [
  // The design's aim is 5 KiB; flow control both ways, reconnecting, draining and transparent retries take 7.
  { entry: "index.js", bytes: 7 * 1024, external: [] },
  // What an adapter adds to the core.
  { entry: "connect.js", bytes: 1.6 * 1024, external: ["@connectrpc/*", "@bufbuild/*"] },
  { entry: "protobuf-ts.js", bytes: 1.6 * 1024, external: ["@protobuf-ts/*", CORE] },
  { entry: "ts-proto.js", bytes: 1.6 * 1024, external: [CORE] },
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
