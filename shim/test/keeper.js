// A proxy that keeps sessions, for simulations: docs/protocol.md section 17 from its side, strict about everything that a
// client may do wrong. Packets lie on wires until somebody delivers them, and a wire can be cut at any packet.

import { Packet } from "./fake.js";

const decode = (data) => Packet.toObject(Packet.decode(data), { oneofs: true, longs: Number, defaults: true }).frames;

/** One connection. Packets wait in `up` and `down` until they are delivered. */
export class Wire {
  up = [];
  down = [];
  opened = false;
  /** What each side knows of its end. */
  clientClosed = false;
  proxyClosed = false;
  session;

  constructor(keeper, socket) {
    this.keeper = keeper;
    this.socket = socket;
  }

  open() {
    this.opened = true;
    this.socket.onopen?.({});
  }

  deliverUp() {
    const data = this.up.shift();
    if (this.proxyClosed) return;
    if (typeof data === "function") return data();
    this.keeper.handle(this, data);
  }

  deliverDown() {
    const data = this.down.shift();
    if (this.clientClosed) return;
    if (typeof data === "function") return data();
    this.socket.onmessage?.({ data });
  }

  send(frames) {
    if (this.proxyClosed) return;
    const bytes = new Uint8Array(Packet.encode(Packet.fromObject({ frames })).finish());
    this.down.push(bytes.buffer);
  }

  closeFromProxy(code, reason = "") {
    this.proxyClosed = true;
    this.down.push(() => this.endClient(code, reason));
  }

  endClient(code, reason = "") {
    if (this.clientClosed) return;
    this.clientClosed = true;
    this.socket.onclose?.({ code, reason });
  }

  /** Everything that is on the way is lost. The proxy may notice, or not. */
  cut(noticed) {
    this.up = [];
    this.down = [];
    if (noticed) {
      this.proxyClosed = true;
      this.keeper.detach(this);
    }
    this.endClient(1006);
  }
}

/** What the proxy knows of one stream. */
const newStream = (open, credit) => ({ method: open.method, credit, window: 65_536, partial: [], missing: 0, got: 0, half: false, outbox: [], ended: false });

export class Keeper {
  wires = [];
  sessions = [];
  byToken = new Map();
  tokens = 0;
  resumes = 0;
  replayed = 0;

  /** `app` hears of `open`, `message` and `halfClose` of each stream. */
  constructor(app, { packet = (frames) => [frames] } = {}) {
    this.app = app;
    this.packet = packet;
    const keeper = this;
    this.WebSocket = class {
      bufferedAmount = 0;
      constructor() {
        this.wire = new Wire(keeper, this);
        keeper.wires.push(this.wire);
      }
      send(data) {
        if (!this.wire.opened) throw new Error("send() before the connection is open");
        if (!this.wire.clientClosed) this.wire.up.push(new Uint8Array(data));
      }
      close(code, reason) {
        const { wire } = this;
        if (wire.clientClosed) return;
        wire.clientClosed = true;
        wire.up.push(() => {
          wire.proxyClosed = true;
          if (code === 1000 || code === 1001 || (code >= 4000 && code !== 4014)) keeper.end(wire.session, `closed with ${code} ${reason}`);
          else keeper.detach(wire);
        });
      }
    };
  }

  get wire() {
    return this.wires.at(-1);
  }

  fail(message) {
    throw new Error(`the client broke the protocol: ${message}`);
  }

  token() {
    return Uint8Array.of(++this.tokens >> 8, this.tokens & 255);
  }

  detach(wire) {
    if (wire.session?.wire === wire) wire.session.wire = undefined;
  }

  end(session, why) {
    if (session) session.over = why ?? true;
  }

  handle(wire, data) {
    for (const frame of decode(data)) {
      if (wire.proxyClosed) return;
      if (!wire.session) this.greet(wire, frame);
      else this.frame(wire.session, wire, frame);
    }
  }

  greet(wire, { hello }) {
    if (!hello) this.fail("the first frame is no Hello");
    const key = hello.resumeToken.join();
    if (!key) {
      const session = { wire, streams: new Map(), last: 0, received: 0, acked: 0, base: 0, kept: [], credit: hello.streamCredit, confirmed: true };
      session.token = this.token();
      this.byToken.set(session.token.join(), session);
      this.sessions.push(session);
      wire.session = session;
      return wire.send([{ welcome: { version: 1, limits: { maxStreams: 100, streamCredit: 65_536 }, resumeToken: session.token, resumeGraceMs: 30_000 } }]);
    }
    const session = this.byToken.get(key);
    if (!session || session.over) this.fail(`an unknown token, or of an ended session: ${session?.over}`);
    if (hello.received < session.base) this.fail("received_backwards");
    if (hello.received > session.base + session.kept.length) this.fail("received_beyond_sent");
    this.resumes++;
    const old = session.wire;
    if (old) {
      old.up = [];
      old.closeFromProxy(4014, "another carrier");
    }
    if (key === session.token.join()) {
      if (session.previous) this.byToken.delete(session.previous.join());
      session.previous = session.token;
      session.token = this.token();
      this.byToken.set(session.token.join(), session);
    }
    session.confirmed = false;
    session.wire = wire;
    wire.session = session;
    session.kept.splice(0, hello.received - session.base);
    session.base = hello.received;
    this.replayed += session.kept.length;
    wire.send([{ welcome: { version: 1, limits: { maxStreams: 100, streamCredit: 65_536 }, resumeToken: session.token, resumeGraceMs: 30_000, resumed: true, received: session.received } }]);
    for (const frames of this.packet(session.kept)) if (frames.length) wire.send(frames);
    session.acked = session.received;
  }

  frame(session, wire, frame) {
    if (!session.confirmed) {
      if (frame.kind !== "ack") this.fail(`the first frame after Welcome is ${frame.kind}, not Ack`);
      session.confirmed = true;
      if (session.previous) this.byToken.delete(session.previous.join());
      session.previous = undefined;
    }
    if (frame.kind === "ack") {
      if (frame.ack < session.base) this.fail("ack_backwards");
      if (frame.ack > session.base + session.kept.length) this.fail("ack_beyond_sent");
      session.kept.splice(0, frame.ack - session.base);
      session.base = frame.ack;
      return;
    }
    if (frame.kind === "pong" || frame.kind === "refresh") return;
    if (frame.kind === "ping") return wire.send([{ pong: frame.ping }]);
    if (!frame.stream) this.fail(`${frame.kind} on the session`);
    session.received++;
    this.streamFrame(session, frame);
    if (session.received - session.acked >= 64) {
      session.acked = session.received;
      wire.send([{ ack: session.received }]);
    }
  }

  streamFrame(session, { stream: id, kind, open, data, remaining, last, credit }) {
    if (kind === "open") {
      if (id !== ++session.last) this.fail(`stream ${id}, not ${session.last}`);
      session.streams.set(id, newStream(open, session.credit));
      this.app.open?.(session, id, open.method);
      return;
    }
    const stream = session.streams.get(id) ?? this.fail(`a frame for stream ${id}, which was never opened`);
    if (stream.ended) return;
    if (kind === "data") {
      if (stream.half) this.fail("data after the end");
      stream.window -= data.length + 32;
      if (stream.window < 0) this.fail("data_beyond_credit");
      if (stream.missing && stream.missing !== data.length + remaining) this.fail("wrong_remaining");
      stream.missing = remaining;
      stream.partial.push(data);
      stream.got += data.length + 32;
      if (stream.got > 30_000) {
        this.send(session, { stream: id, credit: stream.got });
        stream.window += stream.got;
        stream.got = 0;
      }
      if (!remaining) this.app.message?.(session, id, Buffer.concat(stream.partial.splice(0)));
    } else if (kind === "credit") {
      stream.credit += credit;
      this.pump(session, id);
    } else if (kind === "cancel") {
      stream.ended = true;
      this.app.cancelled?.(session, id);
    } else if (kind !== "halfClose") this.fail(kind);
    if (last || kind === "halfClose") {
      stream.half = true;
      this.app.halfClose?.(session, id);
    }
  }

  /** Sends a sequenced frame, and keeps it. */
  send(session, frame) {
    session.kept.push(frame);
    session.wire?.send([frame]);
  }

  message(session, id, data) {
    session.streams.get(id).outbox.push(data);
    this.pump(session, id);
  }

  trailers(session, id, code = 0) {
    session.streams.get(id).outbox.push(code);
    this.pump(session, id);
  }

  pump(session, id) {
    const stream = session.streams.get(id);
    while (stream.outbox.length && !stream.ended) {
      const next = stream.outbox[0];
      if (typeof next === "number") {
        stream.ended = true;
        this.send(session, { stream: id, trailers: { code: next } });
        return;
      }
      const size = Math.min(next.length, 16_384, stream.credit - 32);
      if (size < Math.min(next.length, 1024)) return;
      stream.credit -= size + 32;
      const rest = next.subarray(size);
      if (rest.length) stream.outbox[0] = rest;
      else stream.outbox.shift();
      this.send(session, { stream: id, data: next.subarray(0, size), remaining: rest.length });
    }
  }
}
