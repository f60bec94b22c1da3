// Fails when an entry of the package is larger than its budget: minified by esbuild, gzip -9, without peers.

import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** As adapters import it. */
const CORE = "./index.js";

const BUDGETS = [
  // docs/decisions/0004 tells where they go.
  { entry: "index.js", bytes: 5 * 1024, external: [] },
  // The core, and what keeps sessions and gets through.
  { entry: "durable.js", bytes: 8.5 * 1024, external: [] },
  // What an adapter adds to the core.
  { entry: "connect.js", bytes: 1.6 * 1024, external: ["@connectrpc/*", "@bufbuild/*"] },
  { entry: "connect-json.js", bytes: 0.3 * 1024, external: ["@bufbuild/*"] },
  { entry: "json.js", bytes: 1.6 * 1024, external: ["./status.js"] },
  // Besides the two that it joins.
  { entry: "reflect.js", bytes: 1.6 * 1024, external: ["@connectrpc/*", "@bufbuild/*", CORE, "./status.js", "./connect.js", "./json.js"] },
  // No adapter, and for debugging.
  { entry: "text.js", bytes: 1.75 * 1024, external: ["./frame.js"] },
  { entry: "protobuf-ts.js", bytes: 1.6 * 1024, external: ["@protobuf-ts/*", CORE] },
  { entry: "ts-proto.js", bytes: 1.6 * 1024, external: [CORE] },
  { entry: "nice-grpc.js", bytes: 1.6 * 1024, external: ["nice-grpc-web"] },
  { entry: "improbable.js", bytes: 1.6 * 1024, external: ["./status.js"] },
  { entry: "grpc-web.js", bytes: 2.5 * 1024, external: ["./index.js"] },
];

/**
 * @param {string} path
 * @param {string[]} external
 * @returns {Promise<{ minified: number, gzipped: number }>}
 */
async function weigh(path, external) {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(path, import.meta.url))],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    write: false,
    external,
  });
  const minified = outputFiles[0].contents;
  return { minified: minified.length, gzipped: gzipSync(minified, { level: 9 }).length };
}

for (const { entry, bytes, external } of BUDGETS) {
  const { minified, gzipped } = await weigh(`../src/${entry}`, external);
  console.log(`${entry}: ${minified} bytes minified, ${gzipped} gzipped, budget ${bytes}`);
  if (gzipped > bytes) process.exitCode = 1;
}

// One application with generated Connect clients, libraries and all, on each transport. It has all four kinds of calls
// on Bidiway, and two of them on connect-web.
const ours = await weigh("app/bidiway.js", []);
console.log(`an app with four methods on bidiway/connect: ${ours.minified} bytes minified, ${ours.gzipped} gzipped`);
for (const [name, file] of [["connect-web", "connect"], ["connect-web, gRPC-Web", "grpc-web"]]) {
  const { minified, gzipped } = await weigh(`app/${file}.js`, []);
  console.log(`the same app on ${name}: ${minified} bytes minified, ${gzipped} gzipped`);
  if (ours.gzipped >= gzipped) {
    console.log(`the app on bidiway/connect must be smaller than on ${name}`);
    process.exitCode = 1;
  }
}
