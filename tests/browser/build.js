// Generates clients for the demo services with the unmodified generator, and bundles what the test pages load.
//
// The shim itself is not bundled: pages import it from the proxy, under /bidiway/. So the libraries that its Connect
// transport imports by name are entries of their own, for the page's import map, and shared with the page's bundle:
// there is one instance of each.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, ".build");
const bin = join(here, "node_modules/.bin");

rmSync(out, { recursive: true, force: true });
mkdirSync(join(out, "gen"), { recursive: true });
writeFileSync(
  join(out, "buf.gen.yaml"),
  JSON.stringify({
    version: "v2",
    plugins: [{ local: join(bin, "protoc-gen-es"), out: join(out, "gen"), opt: ["target=js", "import_extension=js"] }],
  }),
);
for (const protos of ["../../proto", "proto"]) {
  const input = resolve(here, protos);
  const only = existsSync(join(input, "demo")) ? ["--path", join(input, "demo")] : [];
  execFileSync(join(bin, "buf"), ["generate", input, ...only, "--template", join(out, "buf.gen.yaml")], {
    cwd: input,
    stdio: "inherit",
  });
}

const entries = {
  "connect": "@connectrpc/connect",
  "protobuf": "@bufbuild/protobuf",
  "protobuf-wire": "@bufbuild/protobuf/wire",
  "protobuf-wkt": "@bufbuild/protobuf/wkt",
};
for (const name of readdirSync(join(here, "page"))) {
  if (name.endsWith(".js")) entries[name.slice(0, -3)] = join(here, "page", name);
}
await build({
  entryPoints: entries,
  outdir: join(out, "page"),
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  external: ["/bidiway/*"],
  alias: { "#gen": join(out, "gen"), "#talk": join(here, "talk.js") },
  logLevel: "warning",
});
