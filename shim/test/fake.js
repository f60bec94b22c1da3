// A scripted proxy behind a fake WebSocket. It speaks through protobufjs and the proto file, not through the package's
// own codec, so that the two hold each other.

import { fileURLToPath } from "node:url";
import protobuf from "protobufjs";
import { createChannel } from "../src/index.js";

const root = protobuf.loadSync(fileURLToPath(new URL("../../proto/bidiway/v1/session.proto", import.meta.url)));
export const Packet = root.lookupType("bidiway.v1.Packet");

/** Lets everything run that is ready: promises, microtasks, and what they start. */
export const settle = async () => {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
};

/** The bytes of a message. */
export const bytes = (length, fill = 7) => new Uint8Array(length).fill(fill);

/** The proxy's end of one socket. */
export class Peer {
  /** Frames that came from the client and were not taken yet. */
  frames = [];
  packets = 0;
  closed = undefined;

  constructor(socket, url, protocols) {
    this.socket = socket;
    this.url = url;
    this.protocols = protocols;
  }

  accept() {
    this.socket.readyState = 1;
    this.socket.onopen?.({});
  }

  receive(data) {
    this.packets++;
    const packet = Packet.toObject(Packet.decode(data), { oneofs: true, longs: Number, defaults: true });
    this.frames.push(...packet.frames);
  }

  send(...frames) {
    this.sendBytes(Packet.encode(Packet.fromObject({ frames })).finish());
  }

  sendBytes(data) {
    const copy = new Uint8Array(data);
    for (const listener of this.socket.listeners) listener({ data: copy.buffer });
    this.socket.onmessage?.({ data: copy.buffer });
  }

  welcome(more = {}) {
    this.send({
      welcome: {
        version: 1,
        sessionId: "s",
        limits: { maxMessage: 4 << 20, maxStreams: 100, streamCredit: 65536, maxMetadata: 16384, ...more.limits },
        pingIntervalMs: more.pingIntervalMs ?? 0,
        resumeToken: more.resumeToken,
        resumeGraceMs: more.resumeGraceMs ?? (more.resumeToken ? 30_000 : 0),
        resumed: more.resumed,
        received: more.received,
        resumeFailure: more.resumeFailure,
      },
    });
  }

  headers(stream, metadata = []) {
    this.send({ stream, headers: { metadata } });
  }

  data(stream, data, remaining = 0) {
    this.send({ stream, data, remaining });
  }

  trailers(stream, code = 0, message = "", more = {}) {
    this.send({ stream, trailers: { code, message, ...more } });
  }

  /** Takes the frames of a kind, and leaves the others. */
  take(kind, stream) {
    const match = (frame) => frame.kind === kind && (stream === undefined || frame.stream === stream);
    const taken = this.frames.filter(match);
    this.frames = this.frames.filter((frame) => !match(frame));
    return taken;
  }

  /** The connection ends from the proxy's side. */
  close(code, reason = "") {
    this.socket.readyState = 3;
    this.socket.onclose?.({ code, reason, wasClean: code !== 1006 });
  }
}

/** A proxy that a channel can connect to. */
export function fakeProxy() {
  const peers = [];
  class FakeWebSocket {
    readyState = 0;
    bufferedAmount = 0;
    onopen = null;
    onmessage = null;
    onclose = null;
    onerror = null;
    listeners = [];
    constructor(url, protocols) {
      this.peer = new Peer(this, url, protocols);
      peers.push(this.peer);
    }
    addEventListener(type, listener) {
      if (type === "message") this.listeners.push(listener);
    }
    send(data) {
      if (this.readyState === 0) throw new Error("send() while connecting");
      this.peer.receive(data);
    }
    close(code, reason) {
      if (code !== undefined && code !== 1000 && !(code >= 3000 && code < 5000)) throw new Error(`close code ${code} is not allowed`);
      if (new TextEncoder().encode(reason ?? "").length > 123) throw new Error("close reason too long");
      this.peer.closed ??= { code, reason };
      this.readyState = 2;
    }
  }
  return { peers, WebSocket: FakeWebSocket, get last() { return peers.at(-1); } };
}

/** A channel and the proxy it will connect to. */
export function pair({ create = createChannel, ...options } = {}) {
  const proxy = fakeProxy();
  const channel = create({ url: "ws://proxy.test/bidiway/session", WebSocket: proxy.WebSocket, idleTimeoutMs: 0, ...options });
  return { channel, proxy };
}

/** A channel that is connected already. */
export async function connected(options = {}, welcome = {}) {
  const { channel, proxy } = pair(options);
  const ready = channel.connect();
  await settle();
  proxy.last.accept();
  proxy.last.welcome(welcome);
  await ready;
  await settle();
  return { channel, proxy, peer: proxy.last };
}

/** Makes a test fail when a promise is rejected and nobody looks. */
export function watchRejections(t) {
  const seen = [];
  const listener = (reason) => seen.push(reason);
  process.on("unhandledRejection", listener);
  t.after(async () => {
    await settle();
    process.off("unhandledRejection", listener);
    if (seen.length) throw new Error(`unhandled rejection: ${seen[0]?.stack ?? seen[0]}`);
  });
}
