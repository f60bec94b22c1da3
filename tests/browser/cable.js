// The cable between browser and proxy: it is cut at any byte, and can fall silent.

import { connect, createServer } from "node:net";
import { reset } from "./reset.js";

/** Random numbers from a seed (mulberry32), so that a failure can be seen again. */
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * How a WebSocket's connection ends: after so many bytes beyond the request that opened it, counted in both directions
 * together. `reset` and `close` reach both sides; after `half` the proxy's side stays open and silent, as when a phone
 * has changed its network.
 * @typedef {{ after: number, how: "reset" | "close" | "half" }} Fate
 */

/**
 * Listens on a port of its own and passes everything to `target`.
 * @param {string} target
 */
export async function startCable(target) {
  const { hostname, port } = new URL(target);
  /** @type {Set<{ client: import("node:net").Socket, proxy: import("node:net").Socket, socket: boolean, kill: (how: Fate["how"]) => void, silence: () => void }>} */
  const links = new Set();
  /** Sides of the proxy that were left open. */
  const left = new Set();
  const refusals = [];
  const box = {
    url: "",
    /** Whether `fate` and `cut` concern all connections, and not only those of WebSockets. */
    everything: false,
    /** WebSockets that were begun, and that `fate` has ended, by how. */
    sockets: 0,
    cuts: { reset: 0, close: 0, half: 0 },
    /** Whether WebSockets are refused, with a 403. */
    blocked: false,
    /** Bytes that clients have sent on WebSockets, and on other connections. */
    carried: { socket: 0, http: 0 },
    /** @type {(() => Fate | undefined) | undefined} what becomes of each WebSocket to come */
    fate: undefined,
    /** Whether connections are closed as they come; and what waits until so many were, from now on. */
    refuse: false,
    async refused(count) {
      for (let i = 0; i < count; i++) await new Promise((resolve) => refusals.push(resolve));
    },
    /** Cuts the WebSockets that are open. */
    cut(how = "reset") {
      for (const link of links) if (link.socket) link.kill(how);
    },
    /** Lets nothing pass any more on the WebSockets that are open, and tells nobody. */
    silence() {
      for (const link of links) if (link.socket) link.silence();
    },
    stop() {
      server.close();
      for (const link of links) link.kill("reset");
      for (const proxy of left) proxy.destroy();
    },
  };

  const server = createServer({ noDelay: true }, (client) => {
    if (box.refuse) {
      reset(client);
      for (const resolve of refusals.splice(0)) resolve();
      return;
    }
    const proxy = connect({ host: hostname, port: Number(port), noDelay: true });
    /** @type {Fate | undefined} */
    let fate;
    let begun = false;
    let upgrade = false;
    let silent = false;
    const link = {
      client,
      proxy,
      socket: false,
      silence: () => (silent = true),
      kill(how) {
        if (!links.delete(link)) return;
        const end = how === "reset" ? reset : (side) => side.destroySoon();
        end(client);
        if (how === "half") {
          silent = true;
          left.add(proxy.on("close", () => left.delete(proxy)));
        } else end(proxy);
      },
    };
    links.add(link);

    /** Passes bytes on, as far as the connection's fate lets them. */
    const pass = (from, to, up) => (chunk) => {
      if (silent || !links.has(link)) return;
      if (!begun && up) {
        begun = true;
        upgrade = /\r\nupgrade: websocket\r\n/i.test(chunk.toString("latin1"));
        link.socket = box.everything || upgrade;
        if (upgrade && box.blocked) {
          links.delete(link);
          proxy.destroy();
          client.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
          return;
        }
        if (link.socket) {
          box.sockets++;
          fate = box.fate?.();
          if (fate) fate.after += chunk.length;
        }
      }
      if (up) box.carried[upgrade ? "socket" : "http"] += chunk.length;
      if (fate && chunk.length >= fate.after) {
        // The rest is lost; what came before still arrives, unless the reset is quicker.
        to.write(chunk.subarray(0, fate.after));
        box.cuts[fate.how]++;
        link.kill(fate.how);
        return;
      }
      if (fate) fate.after -= chunk.length;
      if (!to.write(chunk)) {
        from.pause();
        to.once("drain", () => from.resume());
      }
    };
    client.on("data", pass(client, proxy, true));
    proxy.on("data", pass(proxy, client, false));
    for (const side of [client, proxy]) {
      side.on("error", () => {});
      side.on("close", () => silent || link.kill("close"));
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  box.url = `http://127.0.0.1:${server.address().port}`;
  return box;
}
