// Packs the package as `npm publish` would, lays it beside the libraries, and runs programs on it.

import { execFile, execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startProxy } from "../browser/rig.js";

export const root = fileURLToPath(new URL("../..", import.meta.url));
export const here = join(root, "tests/package");
export const build = join(here, ".build");
const bin = join(here, "node_modules/.bin");

let tarball;

/** The path of the packed package, made once for each test file. */
export function pack() {
  if (!tarball) {
    const folder = mkdtempSync(join(tmpdir(), "bidiway-pack-"));
    process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
    const output = execFileSync("npm", ["pack", "--json", "--silent", "--pack-destination", folder], {
      cwd: join(root, "shim"),
      encoding: "utf8",
    });
    tarball = join(folder, JSON.parse(output.slice(output.indexOf("[\n")))[0].filename);
  }
  return tarball;
}

/** Puts the packed package into a project's `node_modules`, as installing it would. It has no dependencies. */
export function install(project) {
  const folder = join(project, "node_modules/bidiway");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  execFileSync("tar", ["-xzf", pack(), "-C", folder, "--strip-components=1"]);
  return folder;
}

/** The app, with its generated code and the packed package, as a project of its own in `.build`. */
export function prepareApp() {
  const app = join(build, "app");
  rmSync(app, { recursive: true, force: true });
  cpSync(join(here, "app"), app, { recursive: true });
  const packed = install(app);
  // Every entry that there is, to be loaded everywhere.
  const { exports } = JSON.parse(readFileSync(join(packed, "package.json"), "utf8"));
  const entries = Object.entries(exports)
    .filter(([, target]) => target.default && existsSync(join(packed, target.default)))
    .map(([entry]) => `bidiway${entry.slice(1)}`);
  writeFileSync(join(app, "entries.js"), entries.map((entry) => `export * as ${JSON.stringify(entry)} from ${JSON.stringify(entry)};\n`).join(""));
  execFileSync(
    join(bin, "buf"),
    [
      "generate",
      ".",
      "--path",
      "demo",
      "--template",
      JSON.stringify({
        version: "v2",
        plugins: [{ local: join(bin, "protoc-gen-es"), out: join(app, "gen"), opt: ["target=js", "import_extension=js"] }],
      }),
    ],
    { cwd: join(root, "proto"), stdio: "inherit" },
  );
  return { app, entries };
}

/** Runs a program and returns what it printed; fails with everything that it said. */
export async function run(command, args, options = {}) {
  try {
    const { stdout } = await promisify(execFile)(command, args, { encoding: "utf8", timeout: 60_000, ...options });
    return stdout;
  } catch (error) {
    throw new Error(`${command} ${args.join(" ")}: ${error.message}\n${error.stdout}\n${error.stderr}`);
  }
}

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

/** Serves a folder on a free port of this machine. */
export async function serveFolder(folder) {
  const server = createServer((request, response) => {
    const path = resolve(folder, `.${new URL(request.url, "http://x").pathname}`.replace(/\/$/, "/index.html"));
    try {
      const body = readFileSync(path.startsWith(folder) ? path : "");
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { origin: `http://127.0.0.1:${server.address().port}`, stop: () => (server.closeAllConnections(), server.close()) };
}

/** Runs the demo's services, and before them a proxy that lets pages of `origin` call. */
export async function startProxyFor(origin) {
  const demo = await startProxy();
  const [services] = /http:\/\/\S+(?=\/ +\(Greeter)/.exec(demo.log());
  const binary = resolve(here, process.env.BIDIWAY_BIN ?? "../../target/debug/bidiway");
  const child = spawn(binary, ["serve", "--upstream", services, "--listen", "127.0.0.1:0", "--origin", origin], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  const address = await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`bidiway serve ended with ${code}:\n${log}`)));
    const look = (chunk) => {
      const [, address] = /listening on (http:\S+)/.exec((log += chunk)) ?? [];
      if (address) resolve(address);
    };
    child.stdout.on("data", look);
    child.stderr.on("data", look);
  });
  child.removeAllListeners("exit");
  return {
    url: `${address}/bidiway/session`,
    demo,
    stop: async () => {
      child.kill("SIGKILL");
      await demo.stop();
    },
  };
}
