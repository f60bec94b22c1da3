// Makes what a packed package has and the repository has not: the types, and the licences.

import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const file = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));

for (const name of ["LICENSE-APACHE", "LICENSE-MIT"]) copyFileSync(file(`../${name}`), file(name));

rmSync(file("types"), { recursive: true, force: true });
execFileSync(process.execPath, [file("node_modules/typescript/bin/tsc"), "--project", file("tsconfig.types.json")], { stdio: "inherit" });

// The compiler writes types as it knows them today. TypeScript 5.0 does not know that arrays of bytes and iterators may
// have more than one parameter, and only from 5.2 on, with `lib: ["ESNext.Disposable"]`, is there `Symbol.asyncDispose`, and
// what has a method of that name.
for (const name of readdirSync(file("types"))) {
  const text = readFileSync(file(`types/${name}`), "utf8")
    .replace(/\bUint8Array<ArrayBuffer(Like)?>/g, "Uint8Array")
    .replace(/\b(AsyncIterator|AsyncIterable|AsyncIterableIterator|AsyncGenerator)<(\w+), undefined>/g, "$1<$2>");
  const disposable = /\b[aA]syncDispos(e|able)\b/.test(text) ? '/// <reference path="./dispose.d.ts" />\n' : "";
  writeFileSync(file(`types/${name}`), disposable + text);
}
writeFileSync(
  file("types/dispose.d.ts"),
  "/** As the library of TypeScript 5.2 has it, for programs that do not include it. */\ninterface SymbolConstructor {\n    readonly asyncDispose: unique symbol;\n}\ninterface AsyncDisposable {\n    [Symbol.asyncDispose](): PromiseLike<void>;\n}\n",
);
