// Pages of other origins in Chromium, which have their visitor's cookies for the proxy, try whatever a page can: none of
// it reaches a service, and nothing of the answers can be read. A page that may call does.

import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createServer as createPages } from "node:http";
import { connect, createServer } from "node:net";
import { after, before, test } from "node:test";
import { serveEdge, startBrowser, startProxy } from "./rig.js";

const COOKIE = "sid=of-the-visitor";

let demo, browser, wire, edge;
/** Pages' servers: one whose origin the proxy is told of, and strangers. */
const pages = {};

before(async () => {
  demo = await startProxy();
  for (const name of ["friend", "neighbour", "foreigner"]) pages[name] = await servePages();
  wire = await startWire();
  edge = await serveEdge(
    `origins: ["http://127.0.0.1:${pages.friend.port}"]`,
    `hosts: ["127.0.0.1:${wire.port}"]`,
    `upgrade_headers: [cookie]`,
    `upstreams: { demo: { endpoints: ["${demo.services}"], schema: reflection } }`,
    `schema_endpoint: true`,
  );
  wire.target = edge.url;
  browser = await startBrowser(["--host-resolver-rules=MAP rebound.test 127.0.0.1"]);
  // Cookies know no ports: every page on 127.0.0.1 is of the proxy's site, and its requests bring them, SameSite or not.
  const [name, value] = COOKIE.split("=");
  await browser.context.addCookies([{ name, value, domain: "127.0.0.1", path: "/", sameSite: "Strict" }]);
});
after(async () => {
  await browser?.stop();
  await edge?.stop();
  wire?.stop();
  for (const { stop } of Object.values(pages)) stop();
  await demo?.stop();
});

/** Of the page and the shim. */
function file(path) {
  if (path === "/") return { type: "text/html", body: "<!doctype html><body><script type=module src=/stranger.js></script>" };
  const name = path.startsWith("/bidiway/") ? `../../shim/src/${path.slice(9)}` : `.build/page${path}`;
  const source = new URL(name, import.meta.url);
  return existsSync(source) ? { type: "text/javascript", body: readFileSync(source) } : undefined;
}

/** Serves the page and the shim on a port of its own, to anybody. */
async function servePages() {
  const server = createPages(({ url }, response) => {
    const { type, body } = file(url) ?? {};
    response.writeHead(body ? 200 : 404, { "content-type": type ?? "text/plain", "access-control-allow-origin": "*" }).end(body);
  });
  server.listen(0);
  await once(server, "listening");
  return {
    port: server.address().port,
    stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** Passes bytes between browser and proxy, and notes requests and answers. What is called rebound.test has the page, too. */
async function startWire() {
  const wire = { target: "", port: 0, requests: [], answers: [] };
  const open = new Set();
  const server = createServer((client) => {
    const { hostname, port } = new URL(wire.target);
    const proxy = connect(Number(port), hostname);
    for (const side of [client, proxy]) {
      open.add(side.on("error", () => {}));
      side.on("close", () => {
        open.delete(side);
        client.destroy();
        proxy.destroy();
      });
    }
    client.on("data", (data) => {
      const head = data.toString("latin1").split("\r\n\r\n", 1)[0];
      const [, method, path] = /^([A-Z]+) (\S+) HTTP\/1\.1\r\n/.exec(head) ?? [];
      const header = (name) => new RegExp(`\r\n${name}: *([^\r]*)`, "i").exec(head)?.[1];
      // Before its name was pointed to the proxy, the page came from its own server.
      const { type, body } = (header("host") === `rebound.test:${wire.port}` && method === "GET" && !header("upgrade") && file(path)) || {};
      if (body) {
        client.write(`HTTP/1.1 200 OK\r\ncontent-type: ${type}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n`);
        return void client.write(body);
      }
      if (method) wire.requests.push({ method, path, origin: header("origin"), cookie: header("cookie"), upgrade: header("upgrade") });
      proxy.write(data);
    });
    proxy.on("data", (data) => {
      const [, status] = /^HTTP\/1\.1 (\d+)/.exec(data.toString("latin1", 0, 20)) ?? [];
      if (status) wire.answers.push(Number(status));
      client.write(data);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return Object.assign(wire, {
    port: server.address().port,
    /** All that was asked has been answered. */
    async quiet() {
      while (wire.answers.length < wire.requests.length) await new Promise((resolve) => setTimeout(resolve, 10));
    },
    stop() {
      server.close();
      for (const side of open) side.destroy();
    },
  });
}

/** Calls that the service has seen, by its own count, and calls that the proxy has begun. */
async function calls() {
  const values = (await edge.metrics()).matchAll(/^bidiway_calls_started_total\{[^}]*\} (\d+)/gm);
  const begun = [...values].reduce((sum, [, value]) => sum + Number(value), 0);
  const response = await fetch(`${demo.http}/demo.v1.Lab/Stats`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: "{}",
  });
  return { begun, seen: await response.json() };
}

/** Tries everything in a frame: what came of it, by name. */
async function attempts(frame, target) {
  await frame.waitForFunction(() => window.cases);
  const results = {};
  for (const name of await frame.evaluate(() => window.cases.names())) {
    results[name] = await frame.evaluate(([name, target]) => window.cases.attempt(name, target), [name, target]);
    await wire.quiet();
  }
  return results;
}

async function visit(url) {
  const page = await browser.context.newPage();
  await page.goto(url);
  return page.mainFrame();
}

/** All calls of the service, and those that the proxy has begun, must be as before; and what was asked, and answered, is given. */
async function nothingReached(work) {
  const before = await calls();
  wire.requests.length = wire.answers.length = 0;
  const results = await work();
  assert.deepEqual(await calls(), before);
  assert.ok(wire.requests.length > 15, `${wire.requests.length} requests came to the proxy`);
  return results;
}

const proxied = () => `http://127.0.0.1:${wire.port}`;

test("a page whose origin the proxy has been told of calls in every way, with its visitor's cookies", { timeout: 60_000 }, async () => {
  const before = await calls();
  const results = await attempts(await visit(`http://127.0.0.1:${pages.friend.port}/`), proxied());
  const read = (name) => results[name].read ?? "";
  for (const carrier of ["on a WebSocket", "over HTTP"]) {
    assert.equal(results[`a session ${carrier}`].code, 0);
    assert.ok(read(`a session ${carrier}`).includes(COOKIE), `the service is told the cookie of a session ${carrier}`);
  }
  assert.match(read("a session in JSON"), /"welcome"/);
  assert.match(read("grpc-websockets"), /grpc-web\+proto/);
  assert.equal(results["grpc-websockets-multiplex"].opened, true);
  assert.equal(read("a JSON socket"), '{"number":"7"}');
  assert.match(read("gRPC-Web"), /grpc-status: ?0/);
  assert.equal(results["gRPC-Web as text"].status, 200);
  assert.equal(read("JSON"), '{"number":"7"}\n');
  assert.match(read("JSON as events"), /"number":"1"/);
  assert.match(read("the schemas"), /demo\.v1\.Lab/);
  // What needs no preflight is no call, not even from here.
  assert.equal(results["JSON as plain text, which asks nobody first"].status, 415);
  assert.equal(results["JSON without a type"].status, 415);
  assert.equal(results["an EventSource"].opened, false);
  assert.equal(results["a script"].ran, false);
  const { begun, seen } = await calls();
  assert.ok(begun - before.begun >= 8 && Number(seen.completed) >= 6, "and this is where calls are counted");
});

/** @type {{ [name: string]: { open: () => Promise<import("playwright-core").Frame>, origin: () => string, cookies: boolean }}} */
const STRANGERS = {
  "of another port on the same host, to which the browser gives its cookies": {
    open: () => visit(`http://127.0.0.1:${pages.neighbour.port}/`),
    origin: () => `http://127.0.0.1:${pages.neighbour.port}`,
    cookies: true,
  },
  "of another name of the same host": {
    open: () => visit(`http://localhost:${pages.foreigner.port}/`),
    origin: () => `http://localhost:${pages.foreigner.port}`,
    cookies: false,
  },
  "in a sandbox, without an origin": {
    async open() {
      const frame = await visit(`http://127.0.0.1:${pages.neighbour.port}/`);
      await frame.evaluate(() => {
        const inner = Object.assign(document.createElement("iframe"), { src: "/" });
        inner.sandbox = "allow-scripts allow-forms";
        document.body.append(inner);
        return new Promise((resolve) => (inner.onload = resolve));
      });
      return frame.childFrames()[0];
    },
    origin: () => "null",
    cookies: false,
  },
};

for (const [name, { open, origin, cookies }] of Object.entries(STRANGERS)) {
  test(`a page ${name}, reaches no service and reads nothing`, { timeout: 60_000 }, async (t) => {
    const refused = async () => Number(/^bidiway_refused_total\{reason="origin"\} (\d+)/m.exec(await edge.metrics())?.[1] ?? 0);
    const before = await refused();
    const results = await nothingReached(async () => attempts(await open(), proxied()));
    for (const [attempt, { opened, ran, status, code, read }] of Object.entries(results)) {
      assert.ok(!opened && !ran, `${attempt}: opened, or ran`);
      assert.ok(!status && !read, `${attempt}: read ${status} ${read}`);
      assert.ok(code === undefined || code === 14, `${attempt}: ended with ${code}`);
    }
    const said = wire.requests.map((request, i) => [request.method, request.path, wire.answers[i]].join(" "));
    t.diagnostic(`${said.join(", ")}`);
    // A script's GET has no Origin, and is no call; forms of its own port have one.
    assert.ok(wire.answers.every((status) => [403, 404, 415].includes(status)), `${wire.answers}`);
    assert.ok((await refused()) - before >= 10, "refused for their origin");
    // What stands between is the origin, and nothing else: the browser has sent the cookies along.
    const sockets = wire.requests.filter(({ upgrade }) => upgrade);
    assert.ok(sockets.length >= 5);
    for (const socket of sockets) {
      assert.equal(socket.origin, origin());
      assert.equal(socket.cookie, cookies ? COOKIE : undefined);
    }
    // Browsers ask first where the content type is gRPC-Web's or JSON's, and do not go on.
    const types = wire.requests.filter(({ method }) => method === "OPTIONS").length;
    assert.ok(types >= 3, `${types} preflights`);
  });
}

test("a page that has its own name point to the proxy is told that this is not its host", { timeout: 60_000 }, async () => {
  const own = `http://rebound.test:${wire.port}`;
  const results = await nothingReached(async () => attempts(await visit(`${own}/`), own));
  assert.deepEqual([...new Set(wire.answers)], [421]);
  assert.ok(Object.values(results).every(({ opened, ran }) => !opened && !ran));
});
