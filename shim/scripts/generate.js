// Generates clients of the demo services for the tests, with the unmodified generators of each library.

import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const path = (/** @type {string} */ name) => fileURLToPath(new URL(name, import.meta.url));
const out = path("../test/.gen");

const plugin = (/** @type {string} */ name, /** @type {string} */ folder, /** @type {string[]} */ ...opt) => ({
  local: path(`../node_modules/.bin/${name}`),
  out: `${out}/${folder}`,
  opt,
});
const tsProto = (/** @type {string} */ folder, /** @type {string[]} */ ...opt) =>
  plugin("protoc-gen-ts_proto", folder, "esModuleInterop=true", "importSuffix=.js", ...opt);

rmSync(out, { recursive: true, force: true });
const template = JSON.stringify({
  version: "v2",
  plugins: [
    plugin("protoc-gen-es", "connect", "target=ts", "import_extension=js"),
    plugin("protoc-gen-ts", "protobuf-ts", "add_pb_suffix"),
    tsProto("ts-proto"),
    tsProto("ts-proto-iterable", "useAsyncIterable=true", "addGrpcMetadata=true"),
    tsProto("ts-proto-both", "useAsyncIterable=true", "addGrpcMetadata=true", "useAbortSignal=true"),
    // This generator hands the signal on in the place of the metadata, and drops the metadata.
    tsProto("ts-proto-signal", "useAbortSignal=true", "metadataType=Metadata@@grpc/grpc-js"),
    tsProto("ts-proto-options", "addGrpcMetadata=true", "metadataType=CallOptions@bidiway/ts-proto"),
    tsProto("ts-proto-context", "useAsyncIterable=true", "context=true"),
  ],
});
const proto = path("../../proto");
execFileSync(path("../node_modules/.bin/buf"), ["generate", proto, "--path", `${proto}/demo`, "--template", template], { stdio: "inherit" });
// Descriptors, as a proxy serves them.
for (const [name, source] of [["features", path("../test/proto")], ["demo", proto]]) {
  execFileSync(path("../node_modules/.bin/buf"), ["build", source, "--as-file-descriptor-set", "-o", `${out}/${name}.binpb`], { stdio: "inherit" });
}

const sources = ["connect", "protobuf-ts", "ts-proto", "ts-proto-iterable", "ts-proto-both", "ts-proto-signal", "ts-proto-options", "ts-proto-context"];
await build({
  entryPoints: {
    ...Object.fromEntries(sources.map((name) => [name, `${out}/${name}/demo/v1/demo${/^ts-proto/.test(name) ? "" : "_pb"}.ts`])),
    "protobuf-ts.client": `${out}/protobuf-ts/demo/v1/demo_pb.client.ts`,
  },
  outdir: out,
  bundle: true,
  splitting: true,
  packages: "external",
  format: "esm",
  target: "es2022",
  logLevel: "warning",
});
