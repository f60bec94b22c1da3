// The package's types, compiled by those who use them: with the oldest and the newest of each library and of TypeScript.

import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { here, install, run } from "./rig.js";

const DOM = { lib: ["ES2022", "DOM"], types: [] };
const DISPOSABLE = { lib: ["ES2022", "DOM", "ESNext.Disposable"], types: [] };
/** A program for Node: no DOM, but Node's own types. */
const NODE = { lib: ["ES2022"], types: ["node"] };
const BUNDLER = { module: "ESNext", moduleResolution: "Bundler" };
const NODE16 = { module: "Node16", moduleResolution: "Node16" };
const NODENEXT = { module: "NodeNext", moduleResolution: "NodeNext" };

const PROJECTS = { oldest: join(here, "oldest"), newest: here };
const CASES = [
  { libraries: "oldest", compiler: "oldest", name: "bundler", options: { ...BUNDLER, ...DOM } },
  { libraries: "oldest", compiler: "oldest", name: "node16", options: { ...NODE16, ...DOM } },
  { libraries: "oldest", compiler: "newest", name: "nodenext", options: { ...NODENEXT, ...DOM } },
  { libraries: "newest", compiler: "oldest", name: "node16", options: { ...NODE16, ...DOM } },
  { libraries: "newest", compiler: "newest", name: "bundler", options: { ...BUNDLER, ...DOM } },
  { libraries: "newest", compiler: "newest", name: "node16", options: { ...NODE16, ...DOM } },
  { libraries: "newest", compiler: "newest", name: "nodenext", options: { ...NODENEXT, ...DOM } },
  { libraries: "newest", compiler: "newest", name: "nodenext, in Node", options: { ...NODENEXT, ...NODE } },
  { libraries: "newest", compiler: "newest", name: "bundler, with disposables", options: { ...BUNDLER, ...DISPOSABLE } },
];

const project = (libraries) => join(PROJECTS[libraries], ".build/types");
const consumers = readdirSync(join(here, "types")).filter((name) => name.endsWith(".ts"));
/** What is written for google's grpc-web, on the runtime that takes its place. */
const ALIASED = "grpc-web-aliased.ts";
/** `await using` is not for every program. */
const files = ({ lib }) => [...consumers.filter((name) => name !== "using.ts" || lib.includes("ESNext.Disposable")), ALIASED];

before(() => {
  for (const libraries of Object.keys(PROJECTS)) {
    rmSync(project(libraries), { recursive: true, force: true });
    mkdirSync(project(libraries), { recursive: true });
    for (const name of consumers) cpSync(join(here, "types", name), join(project(libraries), name));
    const application = readFileSync(join(here, "types/grpc-web.ts"), "utf8");
    writeFileSync(join(project(libraries), ALIASED), application.replaceAll(' from "grpc-web"', ' from "bidiway/grpc-web"'));
    writeFileSync(join(project(libraries), "package.json"), '{ "type": "module" }');
    install(project(libraries));
  }
});

for (const { libraries, compiler, name, options } of CASES) {
  test(`${libraries} libraries, ${compiler} TypeScript, ${name}`, { timeout: 60_000 }, async (t) => {
    const folder = project(libraries);
    const tsc = join(PROJECTS[compiler], "node_modules/typescript/bin/tsc");
    const config = join(folder, `tsconfig.${CASES.findIndex((each) => each.options === options)}.json`);
    // Not skipping the check of declaration files: that of the package's own is the point. What is wrong in others'
    // is none of ours; applications skip it.
    const compilerOptions = { ...options, target: "ES2022", strict: true, noEmit: true, skipLibCheck: false, exactOptionalPropertyTypes: true };
    writeFileSync(config, JSON.stringify({ compilerOptions, files: files(options).map((file) => join(folder, file)) }));
    t.diagnostic((await run(process.execPath, [tsc, "--version"])).trim());
    const said = await run(process.execPath, [tsc, "--pretty", "false", "--project", config], { cwd: folder }).catch(({ message }) => message);
    const errors = said.split("\n").filter((line) => /error TS\d+/.test(line));
    const ours = errors.filter((line) => !/node_modules\/(?!bidiway\/)/.test(line.split(/[(:]/)[0]));
    assert.deepEqual(ours, []);
    const others = new Set(errors.map((line) => /node_modules\/((@[^/]+\/)?[^/]+)/.exec(line)?.[1]));
    if (others.size) t.diagnostic(`errors in the types of ${[...others].join(", ")}`);
  });
}

test("each entry of the package has a consumer", () => {
  const packed = join(project("newest"), "node_modules/bidiway");
  const { exports } = JSON.parse(readFileSync(join(packed, "package.json"), "utf8"));
  for (const [entry, { types }] of Object.entries(exports)) {
    const consumer = entry === "." ? "core.ts" : `${entry.slice(2)}.ts`;
    // That each entry exists is another test's business.
    if (types && existsSync(join(packed, types))) assert.ok(consumers.includes(consumer), `types/${consumer} is missing: write down what uses bidiway${entry.slice(1)}`);
  }
});
