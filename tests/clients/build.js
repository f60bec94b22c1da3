// Generates a client for each library with its unmodified generator, and bundles them all: one bundle, which runs in
// browsers and in Node. The shim is bundled from a copy, as if it were installed: beside the shim's own folder are the
// libraries of its own tests, and a library must be there only once.

import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, ".build");
const shim = join(here, "../../shim");

rmSync(out, { recursive: true, force: true });
execFileSync("node_modules/.bin/buf", ["generate", "proto"], { cwd: here, stdio: "inherit" });

const google = join(out, "gen/google/matrix/v1");
writeFileSync(join(out, "gen/google/package.json"), JSON.stringify({ type: "commonjs" }));
cpSync(join(here, "fixtures/matrix/v1"), google, { recursive: true });
const text = readFileSync(join(google, "matrix_grpc_web_pb.js"), "utf8");
const binary = text.replaceAll("options.format = 'text'", "options.format = 'binary'");
writeFileSync(join(google, "matrix_grpc_web_binary_pb.js"), binary);

// The same code once more: in that folder, its runtime is Bidiway's.
const onBidiway = join(out, "gen/google-on-bidiway");
cpSync(join(out, "gen/google"), onBidiway, { recursive: true });
const runtime = {
  name: "bidiway/grpc-web in place of grpc-web",
  setup: ({ onResolve, resolve }) =>
    onResolve({ filter: /^grpc-web$/ }, ({ importer, kind, resolveDir }) =>
      importer.startsWith(onBidiway) ? resolve("bidiway/grpc-web", { kind, resolveDir }) : undefined,
    ),
};

for (const part of ["package.json", "src"]) cpSync(join(shim, part), join(out, "node_modules/bidiway", part), { recursive: true });

await build({
  entryPoints: { matrix: join(here, "matrix.js") },
  outdir: out,
  bundle: true,
  format: "esm",
  target: "es2022",
  platform: "browser",
  nodePaths: [join(out, "node_modules")],
  plugins: [runtime],
  alias: { "#gen": join(out, "gen") },
  // protoc's JavaScript asks for `window`, which Node does not have.
  define: { window: "globalThis" },
  logLevel: "warning",
});
