// The parts of a deployment: services, two instances of the proxy, a TCP balancer before them.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
export const BINARY = resolve(here, process.env.BIDIWAY_BIN ?? "../../target/debug/bidiway");

/** Why the tests of a balancer are skipped: what is missing for them. With CI=true nothing is skipped. */
export function maySkip(missing) {
  if (missing && process.env.CI === "true") throw new Error(`${missing} (CI=true skips nothing)`);
  return missing;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until the answer is true. What it waits for is another process; the test's own timeout ends it. */
export async function until(ask) {
  while (!(await ask().catch(() => false))) await sleep(20);
}

/**
 * Where ports for others are looked for: below those that systems give to whoever connects (32768 and up on Linux), or a
 * connection of somebody else may have the port before the process that it is meant for.
 */
const FIRST_PORT = 10_000;
const PORTS = 20_000;
let nextPort = Math.floor(Math.random() * PORTS);

/** Ports that are free, each given out once. */
export async function freePorts(count) {
  const ports = [];
  while (ports.length < count) {
    const port = FIRST_PORT + (nextPort++ % PORTS);
    if (await isFree(port)) ports.push(port);
  }
  return ports;
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.on("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** A folder that is gone afterwards. */
export function scratch() {
  const path = mkdtempSync(join(tmpdir(), "bidiway-rolling-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true, maxRetries: 5 }) };
}

/** A process with its output. `ended` is its exit status or signal. */
export function start(command, args) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (chunk) => (output += chunk));
  child.stderr.on("data", (chunk) => (output += chunk));
  const ended = new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => resolve(code ?? signal));
  });
  const log = () => output;
  /** Waits until its output has what is looked for. */
  const says = async (pattern) => {
    const early = ended.then((end) => Promise.reject(new Error(`${command} ended with ${end}:\n${output}`)));
    early.catch(() => {});
    for (;;) {
      const found = output.match(pattern);
      if (found) return found;
      await Promise.race([sleep(10), early]);
    }
  };
  return { child, ended, log, says };
}

/** The demo's services, which both instances have behind them. */
export async function startServices() {
  const free = "127.0.0.1:0";
  const { child, ended, says } = start(BINARY, ["demo", "--http", free, "--https", free, "--admin", free, "--services", free]);
  const [, url] = await says(/services\s+(http:\/\/[^/\s]+)/);
  return {
    url,
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** `bidiway serve` on a port of its own, started and stopped as often as one likes. */
export function instance(folder, name, { port, admin, upstream, drain }) {
  const config = join(folder, `${name}.yaml`);
  writeFileSync(
    config,
    [
      `listeners: [{ address: "127.0.0.1:${port}" }]`,
      `admin: { address: "127.0.0.1:${admin}" }`,
      `upstreams: { services: { endpoints: ["${upstream}"] } }`,
      `limits: { sockets_per_address: 100000, connections_per_address: 100000, upgrades_per_minute: 1000000 }`,
      `drain: ${drain}`,
      `log: { level: "info,call=off" }`,
    ].join("\n"),
  );
  let run;
  return {
    name,
    port,
    admin,
    log: () => run?.log(),
    /** The status of `/readyz`; false: nobody answers. */
    ready: () => fetch(`http://127.0.0.1:${admin}/readyz`).then(({ status }) => status, () => false),
    metrics: async () => (await fetch(`http://127.0.0.1:${admin}/metrics`)).text(),
    async start() {
      run = start(BINARY, ["serve", "--config", config]);
      await run.says(/admin on/);
      await until(async () => (await this.ready()) === 200);
    },
    terminate: () => run.child.kill("SIGTERM"),
    ended: () => run.ended,
    async kill() {
      if (run?.child.exitCode === null) run.child.kill("SIGKILL");
      await run?.ended;
    },
  };
}

/** Debian's HAProxy: TCP, health by `/readyz` of the admin ports. */
export async function haproxy(folder, port, instances) {
  const config = join(folder, "haproxy.cfg");
  const server = ({ name, port, admin }) => `  server ${name} 127.0.0.1:${port} check port ${admin}`;
  writeFileSync(
    config,
    `defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  option redispatch
  retries 3
listen bidiway
  bind 127.0.0.1:${port}
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  default-server inter 200ms fall 2 rise 1
${instances.map(server).join("\n")}
`,
  );
  return balancer(start("haproxy", ["-db", "-f", config]), port);
}

/** Debian's nginx: TCP, no health checks of its own; it notices what refuses connections. */
export async function nginx(folder, port, instances) {
  const config = join(folder, "nginx.conf");
  const server = ({ port }) => `    server 127.0.0.1:${port} max_fails=1 fail_timeout=1s;`;
  writeFileSync(
    config,
    `load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid ${folder}/nginx.pid;
error_log stderr warn;
events {}
stream {
  upstream bidiway {
${instances.map(server).join("\n")}
  }
  server {
    listen 127.0.0.1:${port};
    proxy_pass bidiway;
    proxy_connect_timeout 1s;
    proxy_timeout 1h;
  }
}
`,
  );
  return balancer(start("nginx", ["-e", "stderr", "-p", folder, "-c", config]), port);
}

async function balancer(run, port) {
  const url = `http://127.0.0.1:${port}`;
  const early = run.ended.then((end) => Promise.reject(new Error(`the balancer ended with ${end}:\n${run.log()}`)));
  early.catch(() => {});
  await Promise.race([early, until(async () => (await fetch(`${url}/bidiway/index.js`)).ok)]);
  return {
    url,
    log: run.log,
    async stop() {
      run.child.kill("SIGTERM");
      await run.ended;
    },
  };
}
