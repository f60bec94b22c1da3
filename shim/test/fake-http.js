// The HTTP carrier from the proxy's side (docs/protocol.md section 20), behind a fake `fetch`, strict about what a client
// may do wrong. Each carrier is a `Peer`, as each WebSocket is. It speaks through protobufjs and the proto file.

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import protobuf from "protobufjs";
import { Peer } from "./fake.js";

const root = protobuf.loadSync(fileURLToPath(new URL("../../proto/bidiway/v1/http.proto", import.meta.url)));
const type = (name) => root.lookupType(`bidiway.v1.${name}`);
const decode = (name, body) => type(name).toObject(type(name).decode(body), { longs: Number, defaults: true, oneofs: true });
const down = (fields) => type("HttpDown").encode(type("HttpDown").fromObject(fields)).finish();

/** What the browser says when a connection breaks. */
const broken = () => new TypeError("fetch failed");

/** The proxy's end of one carrier: what a socket is to a Peer. */
class Carrier {
  listeners = [];
  name = crypto.getRandomValues(new Uint8Array(16));
  packets = 0;
  polls = 0;
  /** Fields that wait for the stream or the next poll. */
  waiting = [];
  closed = false;

  /** @param peers where the Peer goes */
  constructor(peers, poll, connect) {
    this.poll = poll;
    this.peer = connect?.(this) ?? new Peer(this, "http", poll ? "poll" : "http");
    peers.push(this.peer);
    this.waiting.push(down({ opened: { carrier: this.name } }));
  }

  onmessage({ data }) {
    this.waiting.push(down({ packet: [new Uint8Array(data)] }));
    this.flush?.();
  }

  onclose({ code, reason }) {
    // A connection that breaks says nothing.
    if (code !== 1006) this.waiting.push(down({ close: { code, reason } }));
    this.closed = true;
    this.flush?.();
    this.finish?.();
  }

  take() {
    return Buffer.concat(this.waiting.splice(0));
  }
}

/**
 * @param peers
 * @param hook may answer instead of the proxy, or see what passes:
 *   `({ path, message, process }) => Response | undefined | Promise`; `process()` gives the proxy's answer
 * @param connect makes something else than a Peer of a carrier
 */
export function fakeHttp(peers, { hook, origin = "http://proxy.test", chunk = (bytes) => [bytes], held = false, connect } = {}) {
  const carriers = [];
  const log = [];
  const http = { carriers, log, hook, held, get last() { return carriers.at(-1); } };

  const find = (name) => carriers.find((carrier) => !carrier.closed && Buffer.compare(carrier.name, name) === 0);

  const proxy = {
    open({ packet, poll }, signal) {
      const carrier = new Carrier(peers, poll, connect);
      carriers.push(carrier);
      carrier.peer.receive(packet);
      assert.deepEqual(carrier.peer.frames.map(({ kind }) => kind), ["hello"], "open carries Hello alone");
      if (poll) {
        return new Promise((resolve) => {
          carrier.flush = () => {
            carrier.flush = undefined;
            resolve(new Response(carrier.take()));
          };
        });
      }
      const body = new ReadableStream({
        start(controller) {
          const gone = () => {
            if (!carrier.closed) carrier.peer.gone = true;
            carrier.closed = true;
            carrier.flush = carrier.finish = undefined;
            try {
              controller.error(broken());
            } catch {}
          };
          carrier.break = gone;
          signal?.addEventListener("abort", gone);
          carrier.flush = () => {
            if (http.held && !carrier.closed) return;
            const bytes = carrier.take();
            if (bytes.length) for (const part of chunk(bytes)) controller.enqueue(new Uint8Array(part));
          };
          carrier.finish = () => {
            carrier.flush();
            controller.close();
          };
          carrier.flush();
        },
      });
      return new Response(body);
    },

    up({ carrier: name, number, packet, close }) {
      const carrier = find(name);
      if (!carrier) return new Response("no such carrier", { status: 410 });
      if (close) {
        carrier.peer.closed ??= close;
        carrier.closed = true;
        carrier.finish?.();
        return new Response(null, { status: 204 });
      }
      assert.ok(packet.length > 0 && packet.length <= 262_144);
      if (number === carrier.packets + 1) {
        carrier.packets++;
        carrier.body = Buffer.from(packet);
        carrier.peer.receive(packet);
      } else if (number === carrier.packets) {
        assert.deepEqual(Buffer.from(packet), carrier.body, "a repeated request has the same bytes");
        carrier.repeated = (carrier.repeated ?? 0) + 1;
      } else {
        carrier.peer.close(4014, "gap");
        return new Response("gap", { status: 409 });
      }
      return new Response(null, { status: 204 });
    },

    down({ carrier: name, number, waitMs }, signal) {
      const carrier = find(name);
      if (!carrier) return new Response("no such carrier", { status: 410 });
      assert.ok(carrier.poll, "only carriers that poll");
      assert.ok(waitMs >= 1000);
      carrier.replaced?.();
      if (number === carrier.polls && carrier.answer) return new Response(carrier.answer);
      if (number !== carrier.polls && number !== carrier.polls + 1) return new Response("gap", { status: 409 });
      carrier.polls = number;
      carrier.answer = undefined;
      return new Promise((resolve, reject) => {
        signal?.addEventListener("abort", () => reject(broken()));
        const settle = (response) => {
          carrier.flush = carrier.replaced = undefined;
          resolve(response);
        };
        carrier.replaced = () => settle(new Response(null, { status: 204 }));
        carrier.flush = () => {
          carrier.answer = carrier.take();
          settle(new Response(carrier.answer));
        };
        if (carrier.waiting.length) carrier.flush();
      });
    },
  };

  http.fetch = async (url, { method, body, headers, signal, keepalive, ...rest }) => {
    const { pathname, search } = new URL(url);
    const [, path] = /^\/bidiway\/http\/(open|up|down)$/.exec(pathname) ?? assert.fail(`path ${pathname}`);
    assert.equal(new URL(url).origin, origin);
    assert.equal(method, "POST");
    assert.equal(search, "", "no secret in a URL");
    assert.equal(headers, undefined, "no header that needs a preflight");
    assert.ok(body instanceof Uint8Array, "bytes have no content-type");
    assert.deepEqual(Object.keys(rest), ["cache"]);
    assert.ok(body.length <= 262_144 + 1024);
    const message = decode({ open: "HttpOpen", up: "HttpUp", down: "HttpPoll" }[path], body);
    const entry = { path, message, keepalive };
    log.push(entry);
    const aborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(broken())));
    aborted.catch(() => {});
    const process = async () => proxy[path](message, signal);
    const response = await Promise.race([Promise.resolve(http.hook?.({ ...entry, process })).then((answer) => answer || process()), aborted]);
    if (signal?.aborted) throw broken();
    return response;
  };
  return http;
}

export { broken };
