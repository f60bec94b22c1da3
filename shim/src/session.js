// One session on one carrier: the client's side of the protocol.

import { join, readPacket, writeFrame } from "./frame.js";
import { Code, clientError, clientStatus } from "./status.js";
import { INITIAL_CREDIT } from "./stream.js";

/** @typedef {import("./frame.js").InFrame} InFrame */
/** @typedef {import("./frame.js").OutFrame} OutFrame */
/** @typedef {import("./frame.js").Welcome} Welcome */
/** @typedef {import("./status.js").BidiwayError} BidiwayError */
/** @typedef {import("./stream.js").Stream} Stream */
/** @typedef {import("./websocket.js").Carrier} Carrier */

const VERSION = 1;
const AGENT = "bidiway-js/0.1.0";
/** A packet is sent when it has this many bytes, or when nothing more is ready. */
const PACKET_TARGET = 64 * 1024;
/** While the carrier holds more than this, data waits here, where streams still take turns. */
const MAX_BUFFERED = 1024 * 1024;
/** How often to look whether a full carrier has room again: there is no event for it. */
const DRAIN_POLL_MS = 10;
/** Streams that are opened before Welcome tells how many the proxy allows. */
const INITIAL_STREAMS = 32;
/** How long the answer to a Ping may take after a long silence. */
const PROBE_MS = 5000;
/** When to acknowledge received frames, in a session that can be resumed. */
const ACK_FRAMES = 64, ACK_BYTES = 64 * 1024;

/**
 * Who looks after sessions: the channel.
 * @typedef {object} SessionOwner
 * @property {(session: Session) => void} welcomed
 * @property {(session: Session) => void} freed a stream of the session has ended
 * @property {(session: Session, again: Stream[], delayMs: number) => void} goingAway
 *   the session takes no new streams; `again` were not processed and wait for another session
 * @property {(session: Session, error: BidiwayError, again: Stream[], carried: boolean) => void} closed
 *   `carried` tells whether streams were open
 */

/**
 * The error that stands for the end of a carrier. A session-level failure of the proxy closes with 4000 + the gRPC
 * code; every other code is a lost connection.
 * @param {number} closeCode
 * @param {string} reason
 */
export function closeError(closeCode, reason) {
  const byProxy = closeCode >= 4000 && closeCode < 5000;
  const known = closeCode > 4000 && closeCode <= 4000 + Code.UNAUTHENTICATED;
  const code = known ? closeCode - 4000 : byProxy ? Code.UNKNOWN : Code.UNAVAILABLE;
  return clientError(code, reason || "the connection was lost", {
    origin: byProxy ? "proxy" : "client",
    closeCode,
  });
}

export class Session {
  /** @type {Map<number, Stream>} those that are open */
  streams = new Map();
  /** @type {Welcome | undefined} */
  welcome;
  welcomedAt = 0;

  #carrier;
  #owner;
  #window;
  #debug;
  /** @type {Uint8Array[]} frames that leave with the next packet, and their size */
  #packet = [];
  #packetSize = 0;
  /** @type {Set<Stream>} streams that may have something to send, in turn */
  #ready = new Set();
  #scheduled = false;
  #closed = false;
  #draining = false;
  #lastId = 0;
  /** The last stream whose Open was handed to the carrier. */
  #lastSent = 0;
  #maxStreams = INITIAL_STREAMS;
  #initialCredit = INITIAL_CREDIT;
  #heardAt = Date.now();
  #probedAt = 0;
  #received = 0;
  #acked = 0;
  #unackedBytes = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #drainTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #silenceTimer;

  /**
   * Takes over an open carrier and introduces itself.
   * @param {Carrier} carrier
   * @param {SessionOwner} owner
   * @param {object} options
   * @param {import("./metadata.js").Metadata} options.metadata default metadata of every call
   * @param {number} options.streamCredit what each stream may send to this side
   * @param {((event: { direction: "in" | "out", frame: InFrame | OutFrame }) => void) | undefined} options.debug
   */
  constructor(carrier, owner, { metadata, streamCredit, debug }) {
    this.#carrier = carrier;
    this.#owner = owner;
    this.#window = streamCredit;
    this.#debug = debug;
    carrier.onmessage = (packet) => this.#receive(packet);
    carrier.onclose = (code, reason) => {
      // Without a Welcome, but with a code that only a proxy which has read Hello gives: it took no stream.
      this.#end(closeError(code, reason), !this.welcome && code >= 1012);
    };
    this.send({ hello: { metadata, streamCredit, agent: AGENT } });
  }

  /** Whether another stream may be opened. */
  get hasRoom() {
    return !this.#draining && this.streams.size < this.#maxStreams;
  }

  /** @param {Stream} stream */
  open(stream) {
    const id = ++this.#lastId;
    this.streams.set(id, stream);
    this.send(stream.attach(this, id, this.#initialCredit, this.#window));
  }

  /**
   * Sends a frame that waits for nothing.
   * @param {OutFrame} frame
   */
  send(frame) {
    this.#add(frame);
    this.schedule();
  }

  /** @param {OutFrame} frame */
  #add(frame) {
    this.#debug?.({ direction: "out", frame });
    const bytes = writeFrame(frame);
    this.#packet.push(bytes);
    this.#packetSize += bytes.length;
  }

  /**
   * Everything that is ready by the end of the running task leaves in one packet.
   * @param {Stream} [stream] which may have something to send
   */
  schedule(stream) {
    if (stream) this.#ready.add(stream);
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => this.#flush());
  }

  /**
   * A stream's call was ended on this side; one that the proxy ended is not in `streams` any more.
   * @param {Stream} stream
   */
  release(stream) {
    this.#ready.delete(stream);
    if (this.streams.delete(stream.id)) this.send({ stream: stream.id, cancel: true });
    this.#freed();
  }

  /**
   * Ends the session and its streams.
   * @param {BidiwayError} error
   * @param {number} [closeCode]
   */
  close(error, closeCode = 1000) {
    if (this.#closed) return;
    this.#carrier.close(closeCode, closeCode === 1000 ? "" : error.status.message);
    this.#end(error, false);
  }

  /** Asks the proxy for a sign of life, when there was none for a while: the page was asleep, or the network changed. */
  probe() {
    if (!this.welcome?.pingIntervalMs || Date.now() - this.#heardAt < this.welcome.pingIntervalMs) return;
    this.#probedAt = Date.now();
    this.send({ ping: new Uint8Array([1]) });
    this.#watch(PROBE_MS);
  }

  #flush() {
    this.#scheduled = false;
    clearTimeout(this.#drainTimer);
    if (this.#closed) return;
    for (;;) {
      if (this.#carrier.bufferedAmount <= MAX_BUFFERED) {
        // A set yields what is added to it on the way: the streams take turns, one piece each.
        for (const stream of this.#ready) {
          this.#ready.delete(stream);
          const frame = stream.nextFrame();
          if (frame) {
            this.#add(frame);
            this.#ready.add(stream);
          }
          if (this.#packetSize >= PACKET_TARGET) break;
        }
      }
      if (!this.#packetSize) break;
      this.#carrier.send(join(this.#packet));
      this.#packet = [];
      this.#packetSize = 0;
    }
    this.#lastSent = this.#lastId;
    if (this.#ready.size) this.#drainTimer = setTimeout(() => this.#flush(), DRAIN_POLL_MS);
  }

  /** @param {Uint8Array | undefined} packet */
  #receive(packet) {
    this.#heardAt = Date.now();
    try {
      if (!packet) throw new RangeError("a text message");
      this.#unackedBytes += packet.length;
      for (const frame of readPacket(packet)) {
        if (this.#closed) return;
        this.#debug?.({ direction: "in", frame });
        this.#handle(frame);
      }
      if (this.#received - this.#acked >= ACK_FRAMES || this.#unackedBytes >= ACK_BYTES) this.#ack();
    } catch (error) {
      const { message } = /** @type {Error} */ (error);
      this.close(clientError(Code.INTERNAL, `the proxy broke the protocol: ${message}`, { cause: error }), 4000 + Code.INVALID_ARGUMENT);
    }
  }

  /** @param {InFrame} frame */
  #handle(frame) {
    const { stream: id, welcome, goAway, ping } = frame;
    if (!this.welcome !== !!welcome) throw new RangeError("the first frame, and only the first, is Welcome");
    if (id) {
      this.#received++;
      if (id > this.#lastId) throw new RangeError(`stream ${id} was never opened`);
      const stream = this.streams.get(id);
      // Frames for a stream that has just been given up are normal.
      if (!stream) return;
      if (frame.trailers) this.streams.delete(id);
      stream.handle(frame);
    } else if (welcome) {
      this.#welcomed(welcome);
    } else if (ping) {
      this.send({ pong: ping });
      this.#ack();
    } else if (goAway) {
      this.#goAway(goAway);
    } else if (!frame.pong && frame.ack === undefined) {
      throw new RangeError("a frame of an unknown kind");
    }
  }

  /** @param {Welcome} welcome */
  #welcomed(welcome) {
    const { version, maxStreams, streamCredit, pingIntervalMs } = welcome;
    if (version !== VERSION) throw new RangeError(`version ${version} was not offered`);
    this.welcome = welcome;
    this.welcomedAt = Date.now();
    this.#maxStreams = maxStreams || Infinity;
    this.#initialCredit = Math.max(INITIAL_CREDIT, streamCredit);
    for (const stream of this.streams.values()) stream.addCredit(this.#initialCredit - INITIAL_CREDIT);
    this.#watch(2 * pingIntervalMs);
    this.#owner.welcomed(this);
  }

  /** @param {NonNullable<InFrame["goAway"]>} goAway */
  #goAway({ lastStream, code, message, reconnectDelayMs }) {
    this.#draining = true;
    const { again, lost } = this.#takeBack(lastStream);
    this.#owner.goingAway(this, again, reconnectDelayMs);
    const status = clientStatus(code || Code.UNAVAILABLE, message || "the proxy is going away", { origin: "proxy" });
    for (const stream of lost) stream.end({ ...status, maybeProcessed: false });
    this.#freed();
  }

  /**
   * Streams above `last` were not processed: those that still have all that was sent can go to another session.
   * @param {number} last
   */
  #takeBack(last) {
    /** @type {{ again: Stream[], lost: Stream[] }} */
    const taken = { again: [], lost: [] };
    for (const [id, stream] of this.streams) {
      if (id <= last) continue;
      this.streams.delete(id);
      this.#ready.delete(stream);
      (stream.rewind() ? taken.again : taken.lost).push(stream);
    }
    return taken;
  }

  #freed() {
    if (this.#closed) return;
    if (this.#draining && !this.streams.size) this.close(clientError(Code.UNAVAILABLE, "the session has run out"));
    else this.#owner.freed(this);
  }

  #ack() {
    if (!this.welcome?.resumeToken.length) return;
    this.#acked = this.#received;
    this.#unackedBytes = 0;
    this.send({ ack: this.#received });
  }

  /**
   * Looks later whether the proxy is still heard of; it pings, so its silence means something.
   * @param {number} delayMs
   */
  #watch(delayMs) {
    clearTimeout(this.#silenceTimer);
    if (!delayMs) return;
    this.#silenceTimer = setTimeout(() => {
      const patienceMs = 2 * /** @type {Welcome} */ (this.welcome).pingIntervalMs;
      const silentMs = Date.now() - this.#heardAt;
      if (this.#probedAt > this.#heardAt) {
        this.close(clientError(Code.UNAVAILABLE, `nothing was heard of the proxy for ${silentMs} ms`), 4000 + Code.UNAVAILABLE);
      } else if (silentMs < patienceMs) {
        this.#watch(patienceMs - silentMs);
      } else {
        // After a sleep this timer comes before the messages that wait to be read.
        this.probe();
      }
    }, delayMs);
  }

  /**
   * @param {BidiwayError} error
   * @param {boolean} refused the proxy took no stream of this session
   */
  #end(error, refused) {
    this.#closed = true;
    clearTimeout(this.#drainTimer);
    clearTimeout(this.#silenceTimer);
    const carried = this.streams.size > 0;
    const { again, lost } = this.#takeBack(refused ? 0 : this.#lastSent);
    for (const stream of lost) stream.end({ ...error.status, maybeProcessed: false });
    for (const stream of this.streams.values()) stream.end({ ...error.status, maybeProcessed: true });
    this.#owner.closed(this, error, again, carried);
  }
}
