// One call inside a session: its messages and its credit, both ways.

import { deferred } from "./deferred.js";
import { join } from "./frame.js";
import { BidiwayError, Code, clientError, clientStatus } from "./status.js";

/** @typedef {import("./deferred.js").Deferred<any>} AnyDeferred */
/** @typedef {import("./frame.js").InFrame} InFrame */
/** @typedef {import("./frame.js").OutFrame} OutFrame */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./status.js").Status} Status */

/** What a data frame costs besides its length. */
const FRAME_OVERHEAD = 32;
/** The largest piece of a message. */
const MAX_PIECE = 16 * 1024;
/** Unless it ends a message, a piece is not smaller than this: it waits for more credit. */
const MIN_PIECE = 1024;
/** The credit on each stream until Welcome tells the real one. */
export const INITIAL_CREDIT = 64 * 1024;

/**
 * Who looks after streams: the channel.
 * @typedef {object} StreamOwner
 * @property {(bytes: number) => boolean} overflows whether so many more bytes are too many to wait for a connection
 * @property {(stream: Stream) => void} ended
 */

export class Stream {
  /** The number within the session; 0 while waiting for one. */
  id = 0;
  /** @type {Session | undefined} */
  session;
  /** @type {Status | undefined} how the call ended */
  status;
  /** @type {import("./deferred.js").Deferred<Metadata>} */
  headers = deferred();
  /** @type {import("./deferred.js").Deferred<Status>} */
  ended = deferred();

  #owner;
  #method;
  #metadata;
  #deadline;
  #codec;

  // Sending. Messages before `#next` are on the wire already, and kept while the proxy may still say that it has
  // not looked at this stream: then all of it is sent again on another session.
  /** @type {{ bytes: Uint8Array, sent: AnyDeferred }[]} */
  #outgoing = [];
  #next = 0;
  #offset = 0;
  #kept = 0;
  #untouched = true;
  #credit = 0;
  #halfClosed = false;
  #halfCloseSent = false;

  // Receiving.
  /** @type {{ bytes: Uint8Array, cost: number }[]} */
  #incoming = [];
  /** @type {{ pieces: Uint8Array[], missing: number, cost: number } | undefined} */
  #partial;
  /** @type {AnyDeferred[]} */
  #readers = [];
  #raised = false;
  #window = 0;
  #allowance = 0;
  #consumed = 0;

  /**
   * @param {StreamOwner} owner
   * @param {string} method
   * @param {Metadata} metadata
   * @param {number | undefined} deadline in milliseconds as of `Date.now()`
   * @param {"json"} [codec]
   */
  constructor(owner, method, metadata, deadline, codec) {
    this.#owner = owner;
    this.#method = method;
    this.#metadata = metadata;
    this.#deadline = deadline;
    this.#codec = codec;
  }

  /** Bytes that wait to be sent. */
  get queuedBytes() {
    return this.#outgoing.slice(this.#next).reduce((sum, { bytes }) => sum + bytes.length, -this.#offset);
  }

  // What the application does.

  /**
   * @param {Uint8Array} bytes
   * @returns {Promise<void>}
   */
  send(bytes) {
    /** @type {AnyDeferred} */
    const sent = deferred();
    if (!(bytes instanceof Uint8Array)) {
      sent.reject(new TypeError("send() takes the bytes of a message as a Uint8Array"));
    } else if (this.#halfClosed) {
      sent.reject(clientError(Code.FAILED_PRECONDITION, "send() was called after halfClose()"));
    } else {
      if (!this.session && this.#owner.overflows(bytes.length)) {
        this.end(clientStatus(Code.RESOURCE_EXHAUSTED, "too many bytes wait for a connection", { maybeProcessed: false }));
      }
      if (this.status) {
        sent.reject(this.#over());
      } else {
        this.#outgoing.push({ bytes, sent });
        this.session?.schedule(this);
      }
    }
    return sent.promise;
  }

  halfClose() {
    this.#halfClosed = true;
    this.session?.schedule(this);
  }

  /** @returns {Promise<IteratorResult<Uint8Array, undefined>>} */
  read() {
    const reader = deferred();
    const message = this.#incoming.shift();
    if (message) {
      this.#grant(message.cost);
      reader.resolve({ value: message.bytes, done: false });
    } else if (this.status) {
      this.#finish(reader);
    } else {
      // Somebody waits for the rest of this message: what has come of it counts as consumed.
      this.#grantPartial();
      this.#readers.push(reader);
    }
    return reader.promise;
  }

  /**
   * Ends the call, once; later ends are ignored.
   * @param {Status} status
   * @param {boolean} [discard] forget what was received and not read yet
   */
  end(status, discard) {
    if (this.status) return;
    this.status = status;
    this.session?.release(this);
    if (discard) this.#incoming = [];
    this.#partial = undefined;
    for (const { sent } of this.#outgoing.slice(this.#next)) sent.reject(this.#over());
    this.#outgoing = [];
    for (const reader of this.#readers) this.#finish(reader);
    this.#readers = [];
    this.headers.resolve([]);
    this.ended.resolve(status);
    this.#owner.ended(this);
  }

  /** The error for a message that came too late. */
  #over() {
    const status = /** @type {Status} */ (this.status);
    return status.code === Code.OK
      ? clientError(Code.FAILED_PRECONDITION, "the call has ended with OK already")
      : new BidiwayError(status, this.#method);
  }

  /** @param {AnyDeferred} reader */
  #finish(reader) {
    const status = /** @type {Status} */ (this.status);
    if (status.code === Code.OK || this.#raised) {
      reader.resolve({ value: undefined, done: true });
    } else {
      this.#raised = true;
      reader.reject(new BidiwayError(status, this.#method));
    }
  }

  // What the session does.

  /**
   * The stream has got its number.
   * @param {Session} session
   * @param {number} id
   * @param {number} credit what may be sent
   * @param {number} window what may be received
   * @returns {OutFrame} the first frame
   */
  attach(session, id, credit, window) {
    this.session = session;
    this.id = id;
    this.#credit = credit;
    this.#window = this.#allowance = window;
    if (this.#outgoing.length || this.#halfClosed) session.schedule(this);
    const timeoutMs = this.#deadline && Math.max(1, Math.min(Math.ceil(this.#deadline - Date.now()), Number.MAX_SAFE_INTEGER));
    return { stream: id, open: { method: this.#method, metadata: this.#metadata, timeoutMs, codec: this.#codec } };
  }

  /**
   * Makes the stream ready for another session, if nothing that was sent has been forgotten.
   * @returns {boolean}
   */
  rewind() {
    if (!this.#untouched) return false;
    this.session = undefined;
    this.id = this.#next = this.#offset = this.#kept = 0;
    this.#halfCloseSent = false;
    return true;
  }

  /**
   * The next frame to send, if there is one and credit allows it.
   * @returns {OutFrame | undefined}
   */
  nextFrame() {
    const message = this.#outgoing[this.#next];
    if (!message) {
      if (!this.#halfClosed || this.#halfCloseSent) return;
      this.#halfCloseSent = true;
      return { stream: this.id, halfClose: true };
    }
    const { bytes, sent } = message;
    const start = this.#offset;
    const rest = bytes.length - start;
    const size = Math.min(rest, MAX_PIECE, this.#credit - FRAME_OVERHEAD);
    if (size < Math.min(rest, MIN_PIECE)) return;
    const remaining = rest - size;
    const last = !remaining && this.#halfClosed && this.#next + 1 === this.#outgoing.length;
    this.#halfCloseSent = last;
    this.#credit -= size + FRAME_OVERHEAD;
    this.#offset += size;
    if (!remaining) {
      this.#offset = 0;
      this.#next++;
      this.#kept += bytes.length + FRAME_OVERHEAD;
      if (this.#kept > INITIAL_CREDIT) this.#untouched = false;
      if (!this.#untouched) this.#forget();
      sent.resolve(undefined);
    }
    return { stream: this.id, remaining, last, data: bytes.subarray(start, start + size) };
  }

  /** @param {number} bytes */
  addCredit(bytes) {
    this.#credit += bytes;
    this.session?.schedule(this);
  }

  /**
   * @param {InFrame} frame from the proxy
   * @throws {RangeError} when the frame breaks the protocol
   */
  handle({ headers, data, remaining, trailers, credit }) {
    this.#untouched = false;
    this.#forget();
    if (data) {
      // Headers come before data, or not at all.
      this.headers.resolve([]);
      this.#receive(data, remaining);
    } else if (credit) {
      this.addCredit(credit);
    } else if (headers) {
      this.headers.resolve(headers.metadata);
    } else if (trailers) {
      const has = (/** @type {string} */ wanted) => trailers.metadata.some(([name]) => name === wanted);
      this.end(
        this.#partial && trailers.code === Code.OK
          ? clientStatus(Code.INTERNAL, "the call ended with OK in the middle of a message")
          : {
              ...trailers,
              origin: has("bidiway-origin") ? "proxy" : "upstream",
              ...(has("bidiway-unprocessed") && { maybeProcessed: false }),
            },
      );
    } else {
      throw new RangeError("a frame of an unknown kind");
    }
  }

  /** Lets go of messages that will not be sent again. */
  #forget() {
    this.#outgoing.splice(0, this.#next);
    this.#next = 0;
  }

  /**
   * @param {Uint8Array} piece
   * @param {number} remaining
   */
  #receive(piece, remaining) {
    let cost = piece.length + FRAME_OVERHEAD;
    let bytes = piece;
    this.#allowance -= cost;
    if (this.#allowance < 0) throw new RangeError("more data than the credit allows");
    const partial = this.#partial;
    if (partial || remaining) {
      const { pieces, missing } = (this.#partial = partial ?? { pieces: [], missing: piece.length + remaining, cost: 0 });
      if (missing !== piece.length + remaining) throw new RangeError("the pieces of a message do not add up");
      pieces.push(piece);
      this.#partial.missing = remaining;
      cost = this.#partial.cost += cost;
      if (remaining) {
        if (this.#readers.length) this.#grantPartial();
        return;
      }
      this.#partial = undefined;
      bytes = join(pieces);
    }
    const reader = this.#readers.shift();
    if (reader) {
      this.#grant(cost);
      reader.resolve({ value: bytes, done: false });
    } else {
      this.#incoming.push({ bytes, cost });
    }
  }

  #grantPartial() {
    if (!this.#partial) return;
    this.#grant(this.#partial.cost);
    this.#partial.cost = 0;
  }

  /**
   * The application has consumed so much; it goes back to the sender in halves of the window.
   * @param {number} cost
   */
  #grant(cost) {
    this.#consumed += cost;
    if (this.#consumed * 2 >= this.#window && !this.status) {
      this.#allowance += this.#consumed;
      this.session?.send({ stream: this.id, credit: this.#consumed });
      this.#consumed = 0;
    }
  }
}
