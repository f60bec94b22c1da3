// A TCP middlebox between clients and the proxy: it cuts connections, and treats WebSockets as bad company does.

import { once } from "node:events";
import { connect, createServer } from "node:net";
import { reset } from "./reset.js";

/**
 * @param {string} origin the proxy's
 * @returns what stands before it, and what can be done to it:
 *   - `origin`: for the clients;
 *   - `cut(how)`: ends every connection: `"reset"`, or `"end"` in an orderly way; how many of them were in use;
 *   - `sockets`: `"pass"`, or what happens to WebSockets: `"refuse"` (a 403 of its own), `"kill"` (just after the 101),
 *     `"swallow"` (nothing passes after the handshake);
 *   - `hold`: responses with bodies that stream are held back until they are complete;
 *   - `drop`: new connections are reset.
 */
export async function startMiddlebox(origin) {
  const { hostname, port } = new URL(origin);
  const open = new Set();
  const box = { sockets: "pass", hold: false, drop: false, requests: [] };
  const server = createServer((client) => {
    if (box.drop) return void reset(client);
    const upstream = connect(Number(port), hostname);
    const pair = { client, upstream, used: false };
    open.add(pair);
    let upgrade = false;
    let swallowed = false;
    /** What is held back of a response, and whether one streams. */
    let held;
    const done = () => {
      open.delete(pair);
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true);
      socket.on("error", done);
      socket.on("close", done);
    }
    client.on("data", (data) => {
      const [line] = data.toString("latin1").split("\r\n", 1);
      if (/ HTTP\/1\.1$/.test(line)) box.requests.push(line.replace(/ HTTP.*/, ""));
      if (/\r\nupgrade: *websocket/i.test(data.toString("latin1"))) {
        upgrade = true;
        if (box.sockets === "refuse") return void client.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
      }
      if (!swallowed) upstream.write(data);
    });
    upstream.on("data", (data) => {
      if (swallowed) return;
      pair.used = true;
      const head = data.toString("latin1");
      if (box.hold && /^HTTP\/1\.1 200[^]*\r\ntransfer-encoding: *chunked/i.test(head)) held = [];
      if (held) return void held.push(data);
      if (upgrade && box.sockets === "swallow") swallowed = true;
      if (upgrade && box.sockets === "kill") {
        swallowed = true;
        return void client.end(data, done);
      }
      client.write(data);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return Object.assign(box, {
    origin: `http://127.0.0.1:${server.address().port}`,
    cut(how = "reset") {
      const used = [...open].filter((pair) => pair.used).length;
      for (const pair of open) {
        const { client, upstream } = pair;
        pair.used = false;
        if (how === "end") {
          client.end();
          upstream.end();
        } else {
          reset(client);
          reset(upstream);
        }
      }
      return used;
    },
    stop() {
      box.cut();
      server.close();
    },
  });
}
