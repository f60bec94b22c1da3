// The documentation: its code compiles against what the real generators make, its configurations are accepted by
// `bidiway check`, and its links lead somewhere.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { build, here, install, root, run } from "./rig.js";

const modules = join(here, "node_modules");
const documents = ["README.md", "shim/README.md", ...["docs", "examples"].flatMap(markdown)];

/** The Markdown files under a folder of the repository. */
function markdown(folder) {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return entry.name === "node_modules" ? [] : markdown(path);
    return entry.name.endsWith(".md") ? [path] : [];
  });
}

const read = (document) => readFileSync(join(root, document), "utf8");

/** As GitHub makes an anchor of a heading. */
const slug = (heading) => heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-");

/** The fenced blocks of a text: the heading above, the language, the code. */
function blocks(text) {
  const found = [];
  let heading = "";
  for (const [, title, indent, language, code] of text.matchAll(/^## ([^\n]+)$|^( *)```(\w*)\n(.*?)^\2```$/gms)) {
    if (title) heading = title;
    else found.push({ heading, language, code: code.replaceAll(new RegExp(`^${indent}`, "gm"), "") });
  }
  return found;
}

const es = { plugin: ".bin/protoc-gen-es", options: ["target=ts"] };
const protobufTs = { plugin: "@protobuf-ts/plugin/bin/protoc-gen-ts", options: [] };
const tsProto = { plugin: ".bin/protoc-gen-ts_proto", options: ["esModuleInterop=true"] };
const niceGrpc = { plugin: ".bin/protoc-gen-ts_proto", options: ["esModuleInterop=true", "outputServices=nice-grpc", "outputServices=generic-definitions", "useExactTypes=false"] };
const improbable = { plugin: "ts-protoc-gen/bin/protoc-gen-ts", options: ["service=grpc-web"] };

/** Generates code for the demo's services. */
function generate({ plugin, options: opt }, out) {
  const template = { version: "v2", plugins: [{ local: join(modules, plugin), out, opt }] };
  execFileSync(join(modules, ".bin/buf"), ["generate", ".", "--path", "demo", "--template", JSON.stringify(template)], { cwd: join(root, "proto") });
}

/** The sections of docs/clients.md that have code, how many blocks, and the generator that their code is about. */
const SECTIONS = {
  "One channel": [1],
  "Connect-ES": [2, es],
  "protobuf-ts": [2, protobufTs],
  "nice-grpc-web": [2, niceGrpc],
  "@improbable-eng/grpc-web": [2, improbable],
  "ts-proto": [1, tsProto],
  "google's grpc-web": [2, improbable],
  "connect-web over gRPC-Web, unchanged": [1, es],
  "JSON, without generated code": [2],
  "Connect clients, without generated code": [1],
  "Seeing what passes": [3],
  "Plain calls": [1],
};

/** The other code in the documentation, and the names that it leaves to its reader. */
const OTHERS = {
  "README.md": ['import { Chat } from "./gen/demo/v1/demo_pb"; declare const messages: AsyncIterable<{ text: string }>;'],
  "shim/README.md": [
    'import { Chat } from "./gen/demo/v1/demo_pb"; declare const outgoing: AsyncIterable<{ text: string }>, signal: AbortSignal, show: (message: unknown) => void;',
    "declare function login(): Promise<{ token: string, expiresAt: number }>;",
    'import type { Channel } from "bidiway"; declare const channel: Channel, show: (message: unknown) => void;',
    'import type { Channel } from "bidiway"; declare const channel: Channel, bytes: Uint8Array, signal: AbortSignal, show: (message: unknown) => void;',
    "",
  ],
  "examples/connect-vite/README.md": ['import { createChannel } from "bidiway";'],
  "examples/python-grpcio/README.md": [""],
};

test("the code of docs/clients.md compiles, and that of the READMEs", { timeout: 60_000 }, async () => {
  const folder = join(build, "docs");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  install(folder);
  const code = blocks(read("docs/clients.md")).filter(({ language }) => ["ts", "js"].includes(language));
  const counts = {};
  for (const block of code) (counts[block.heading] ??= []).push(block);
  assert.deepEqual(
    Object.entries(counts).map(([heading, { length }]) => [heading, length]),
    Object.entries(SECTIONS).map(([heading, [length]]) => [heading, length]),
  );

  const files = [];
  for (const [i, [heading, [, generator]]] of Object.entries(SECTIONS).entries()) {
    const section = join(folder, `${i}`);
    mkdirSync(section);
    if (generator) generate(generator, join(section, "gen"));
    if (heading.startsWith("google")) cpSync(join(here, "docs/DemoServiceClientPb.d.ts"), join(section, "gen/demo/v1/DemoServiceClientPb.d.ts"));
    writeFileSync(join(section, "channel.ts"), code[0].code);
    for (const [n, { code }] of counts[heading].entries()) {
      files.push(join(section, `block-${n + 1}.ts`));
      // A module, even where nothing is imported; its names are used by whoever reads on.
      writeFileSync(files.at(-1), `${code}\nexport {};\n`);
    }
  }

  const readmes = join(folder, "readmes");
  mkdirSync(readmes);
  generate(es, join(readmes, "gen"));
  const found = {};
  for (const document of documents.filter((document) => document !== "docs/clients.md")) {
    for (const { language, code } of blocks(read(document))) {
      if (!["ts", "js"].includes(language)) continue;
      const n = (found[document] = (found[document] ?? 0) + 1);
      files.push(join(readmes, `${document.replaceAll("/", "-")}-${n}.ts`));
      // A page may import from a proxy; the compiler cannot.
      const local = code.replace(/"https?:\/\/[^"]+\/bidiway\/index\.js"/, '"bidiway"');
      writeFileSync(files.at(-1), `${OTHERS[document]?.[n - 1] ?? ""}\n${local}\nexport {};\n`);
    }
  }
  assert.deepEqual(found, Object.fromEntries(Object.entries(OTHERS).map(([document, { length }]) => [document, length])));

  const compilerOptions = { target: "ES2022", module: "ESNext", moduleResolution: "Bundler", lib: ["ES2022", "DOM"], types: ["node"], strict: true, noEmit: true, skipLibCheck: true };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
  await run(process.execPath, [join(modules, "typescript/bin/tsc"), "--pretty", "false", "--project", join(folder, "tsconfig.json")], { cwd: folder });
});

/** What is not there in a piece of a configuration, as whoever reads it has it elsewhere. */
function rest(code) {
  // With several upstreams there have to be routes.
  const upstreams = /^routes:/m.test(code) ? ["chat", "chat-next", "files"] : ["services"];
  return {
    listeners: "listeners: [{ address: 127.0.0.1:0 }]",
    upstreams: `upstreams: { ${upstreams.map((name) => `${name}: { endpoints: ["http://127.0.0.1:1"] }`).join(", ")} }`,
  };
}

/** Of other programs: Kubernetes, Prometheus. */
const FOREIGN = /^(apiVersion|kind|metadata|spec|scrape_configs):/m;

test("every configuration in the documentation is accepted, pieces of one too", async (t) => {
  const folder = join(build, "configurations");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  // The files that the configurations name.
  const subject = ["-subj", "/CN=localhost", "-addext", "basicConstraints=critical,CA:true"];
  execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "edge.key", "-out", "edge.pem", ...subject], { cwd: folder, stdio: "ignore" });
  for (const name of ["clients.pem", "backend-ca.pem", "client.pem", "peers-ca.pem", "peers.pem"]) cpSync(join(folder, "edge.pem"), join(folder, name));
  for (const name of ["client.key", "peers.key"]) cpSync(join(folder, "edge.key"), join(folder, name));

  const binary = resolve(here, process.env.BIDIWAY_BIN ?? "../../target/debug/bidiway");
  let checked = 0;
  for (const document of documents) {
    for (const { language, code } of blocks(read(document))) {
      if (language !== "yaml" || FOREIGN.test(code)) continue;
      const file = join(folder, `${++checked}.yaml`);
      const missing = Object.entries(rest(code)).filter(([key]) => !new RegExp(`^${key}:`, "m").test(code));
      writeFileSync(file, [code, ...missing.map(([, text]) => text), ""].join("\n"));
      const checking = run(binary, ["check", file]);
      // The only thing that this program may lack.
      if (code.includes("acme:")) await assert.rejects(checking, /built without ACME[^]*\n1 problem/);
      else await checking;
    }
  }
  t.diagnostic(`${checked} configurations`);
  assert.equal(checked, 11);
});

test("every relative link leads to a file, and to a heading in it", () => {
  const broken = [];
  for (const document of documents) {
    const text = read(document).replaceAll(/^```.*?^```$/gms, "");
    for (const [, target] of text.matchAll(/\]\((?!https?:|#?\))([^)\s]+)\)/g)) {
      const [path, anchor] = target.split("#");
      const file = path ? resolve(root, dirname(document), path) : join(root, document);
      if (!existsSync(file)) broken.push(`${document}: ${target}`);
      else if (anchor) {
        const headings = [...readFileSync(file, "utf8").matchAll(/^#+ (.+)$/gm)].map(([, heading]) => slug(heading));
        if (!headings.includes(anchor)) broken.push(`${document}: ${target}: there is no heading for it in ${relative(root, file)}`);
      }
    }
  }
  assert.deepEqual(broken, []);
});
