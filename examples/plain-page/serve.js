// Serves this folder, and hands what begins with /bidiway/ on to the proxy: one origin for both, as a web server in
// front of both would make it. Node alone, no packages.
//
//   node serve.js [PORT] [PROXY]      8000 and http://127.0.0.1:8080 if not said

import { readFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { extname, join, normalize } from "node:path";

const [port = "8000", proxy = process.env.BIDIWAY ?? "http://127.0.0.1:8080"] = process.argv.slice(2);
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8" };

const server = createServer(async ({ method, url, headers }, response) => {
  const { pathname } = new URL(url, "http://localhost");
  if (pathname.startsWith("/bidiway/")) {
    const onward = request(new URL(url, proxy), { method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.writeHead(502).end(`no proxy at ${proxy}: is \`cargo run -- demo\` running?\n`));
    return onward.end();
  }
  const name = pathname === "/" ? "/index.html" : normalize(pathname);
  try {
    const content = await readFile(join(import.meta.dirname, name));
    response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" }).end(content);
  } catch {
    response.writeHead(404).end("not found\n");
  }
});

// A WebSocket: the request goes to the proxy as it is, then bytes go both ways.
server.on("upgrade", ({ method, url, headers }, socket, head) => {
  const onward = request(new URL(url, proxy), { method, headers });
  onward.on("upgrade", (answer, upstream, first) => {
    const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join("")}\r\n`);
    socket.write(first);
    upstream.write(head);
    upstream.pipe(socket).pipe(upstream);
    for (const [one, other] of [[socket, upstream], [upstream, socket]]) one.on("close", () => other.destroy()).on("error", () => other.destroy());
  });
  onward.on("response", () => socket.destroy());
  onward.on("error", () => socket.destroy());
  onward.end();
});

server.listen(Number(port), "127.0.0.1", () => console.log(`open http://localhost:${server.address().port}/`));
