// A channel: one session at a time, connected when a call needs it, and connected again when it is lost.

import { Call } from "./call.js";
import { deferred } from "./deferred.js";
import { toMetadata } from "./metadata.js";
import { Session, closeError } from "./session.js";
import { BidiwayError, Code, clientError, clientStatus } from "./status.js";
import { Stream } from "./stream.js";
import { openWebSocket } from "./websocket.js";

/** @typedef {import("./deferred.js").Deferred<void>} Waiter */
/** @typedef {import("./metadata.js").MetadataInit} MetadataInit */
/** @typedef {"idle" | "connecting" | "ready" | "reconnecting" | "draining" | "closed" | "failed"} ChannelState */
/** @typedef {(state: ChannelState, reason?: BidiwayError) => void} StateListener */

/**
 * @typedef {object} ChannelOptions
 * @property {string | URL | (() => string | URL | Promise<string | URL>)} [url] the proxy's session endpoint (ws, wss,
 *   http or https), or a function that is asked at each connect; `/bidiway/session` on the page's origin by default
 * @property {MetadataInit | ((lastError?: BidiwayError) => MetadataInit | undefined | Promise<MetadataInit | undefined>)} [metadata]
 *   default metadata of every call, such as a token. A function is asked at each connect, and told what ended the last
 *   connection: after UNAUTHENTICATED it is asked for a fresh token once, then the channel fails
 * @property {import("./websocket.js").WebSocketClass} [WebSocket] where the platform has none, such as that of npm's `ws` in Node 20
 * @property {number} [connectTimeoutMs] how long one attempt to connect may take, and how long a call waits before a
 *   failed attempt ends it; 10 s by default
 * @property {number} [idleTimeoutMs] a connection without calls is closed after this time; 60 s by default, 0: never
 * @property {number} [maxQueuedCalls] calls that may wait for a connection or for a free stream; 1000 by default
 * @property {number} [maxQueuedBytes] bytes of their messages; 16 MiB by default
 * @property {{ baseMs?: number, maxMs?: number }} [backoff] the delay of the n-th attempt to reconnect is a random part
 *   of `baseMs` * 2^n, at most of `maxMs`; 250 ms and 20 s by default
 * @property {number} [streamCredit] bytes that the service may send on a call ahead of what the application has read;
 *   at least 16 KiB, 256 KiB by default
 * @property {(event: { direction: "in" | "out", frame: import("./frame.js").InFrame | import("./frame.js").OutFrame }) => void} [debug] sees every frame
 */

/**
 * @typedef {object} CallOptions
 * @property {string} method `"/package.Service/Method"`
 * @property {MetadataInit} [metadata]
 * @property {number} [timeoutMs] the call ends with DEADLINE_EXCEEDED after this time; the service is told
 * @property {AbortSignal} [signal] ends the call with CANCELLED
 * @property {"json"} [codec] what the messages are: JSON text in UTF-8, which a proxy that knows the service's schema
 *   translates; protobuf by default
 */

/** A session that lived this long was healthy: reconnecting starts from the shortest delay. */
const HEALTHY_MS = 10_000;
/** Codes that do not go away by trying again. */
const FATAL = [Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED];

/**
 * @template T
 * @param {T | ((lastError?: BidiwayError) => T | Promise<T>)} source
 * @param {BidiwayError} [lastError]
 * @returns {T | Promise<T>}
 */
const ask = (source, lastError) =>
  typeof source === "function" ? /** @type {Function} */ (source)(lastError) : source;

/**
 * An attempt to connect, from the wait before it until Welcome.
 * @typedef {object} Dialing
 * @property {() => void} [begin] while it waits: begins at once
 * @property {ReturnType<typeof setTimeout>} [timer]
 * @property {import("./websocket.js").Carrier} [carrier]
 */

export class Channel {
  #options;
  /** @type {ChannelState} */
  #state = "idle";
  /** @type {Set<StateListener>} */
  #listeners = new Set();
  /** @type {Map<Stream, number>} calls without a session, in order, and since when */
  #waiting = new Map();
  /** @type {Map<Waiter, number>} pending `connect()` calls, and since when */
  #waiters = new Map();
  /** @type {Session | undefined} the one that takes new calls */
  #session;
  /** @type {Set<Session>} those that were told to go away and run out */
  #draining = new Set();
  /** @type {Dialing | undefined} */
  #dialing;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #idleTimer;
  /** Failed attempts since the last healthy session. */
  #attempts = 0;
  /** No connecting before this time: the proxy asked for it. */
  #notBefore = 0;
  #refreshed = false;
  /** @type {BidiwayError | undefined} */
  #lastError;

  /** @param {ChannelOptions} [options] */
  constructor({
    url = "/bidiway/session",
    metadata,
    WebSocket = globalThis.WebSocket,
    connectTimeoutMs = 10_000,
    idleTimeoutMs = 60_000,
    maxQueuedCalls = 1000,
    maxQueuedBytes = 16 * 1024 * 1024,
    backoff: { baseMs = 250, maxMs = 20_000 } = {},
    streamCredit = 256 * 1024,
    debug,
  } = {}) {
    this.#options = { url, metadata, WebSocket, connectTimeoutMs, idleTimeoutMs, maxQueuedCalls, maxQueuedBytes, baseMs, maxMs, streamCredit, debug };
    globalThis.addEventListener?.("online", this.#nudge);
    globalThis.document?.addEventListener("visibilitychange", this.#nudge);
  }

  /** What the channel is doing. */
  get state() {
    return this.#state;
  }

  /**
   * Calls `listener` after each change of state, with the reason when something went wrong.
   * @param {"state"} event
   * @param {StateListener} listener
   * @returns {() => void} unsubscribes
   */
  on(event, listener) {
    if (event !== "state") throw new TypeError(`a channel has no event ${JSON.stringify(event)}, only "state"`);
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Starts a call. It connects when necessary; what is sent meanwhile waits.
   * @param {CallOptions} options
   * @returns {Call}
   */
  open({ method, metadata, timeoutMs, signal, codec }) {
    if (timeoutMs === Infinity) timeoutMs = undefined;
    /** @type {import("./metadata.js").Metadata} */
    let entries = [];
    let invalid;
    try {
      if (!/^\/[^/]+\/[^/]+$/.test(method)) throw new TypeError(`method ${JSON.stringify(method)}: must look like "/package.Service/Method"`);
      entries = toMetadata(metadata);
    } catch (cause) {
      invalid = clientStatus(Code.INVALID_ARGUMENT, /** @type {Error} */ (cause).message, { cause, maybeProcessed: false });
    }
    const stream = new Stream(this.#streamOwner, method, entries, timeoutMs && Date.now() + timeoutMs, codec);
    const call = new Call(stream, timeoutMs, signal);
    const over = invalid ?? (this.#state === "closed" || this.#state === "failed" ? this.#refusal() : undefined);
    if (over) stream.end(over);
    if (!stream.status) {
      this.#waiting.set(stream, Date.now());
      this.#admit();
      if (this.#waiting.size > this.#options.maxQueuedCalls) {
        stream.end(clientStatus(Code.RESOURCE_EXHAUSTED, "too many calls wait for a connection", { maybeProcessed: false }));
      }
    }
    return call;
  }

  /**
   * Connects without a call.
   * @returns {Promise<void>} rejects with a `BidiwayError` when there is no connection after `connectTimeoutMs`, or
   *   when trying again would not help
   */
  connect() {
    const waiter = deferred();
    if (this.#state === "closed") {
      waiter.reject(new BidiwayError(this.#refusal()));
    } else if (this.#session?.welcome) {
      waiter.resolve(undefined);
    } else {
      this.#waiters.set(waiter, Date.now());
      this.#dial(0);
    }
    return waiter.promise;
  }

  /** Ends the open calls with CANCELLED, and the channel with them. */
  async close() {
    if (this.#state === "closed") return;
    this.#lastError = undefined;
    this.#setState("closed");
    globalThis.removeEventListener?.("online", this.#nudge);
    globalThis.document?.removeEventListener("visibilitychange", this.#nudge);
    this.#hangUp();
    const error = new BidiwayError(this.#refusal());
    const sessions = [this.#session, ...this.#draining];
    this.#session = undefined;
    for (const session of sessions) session?.close(error);
    this.#abandon(error);
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }

  #refusal() {
    return {
      ...(this.#lastError?.status ?? clientStatus(Code.CANCELLED, "the channel was closed")),
      maybeProcessed: false,
    };
  }

  // Calls.

  /** @type {import("./stream.js").StreamOwner} */
  #streamOwner = {
    overflows: (bytes) => {
      for (const stream of this.#waiting.keys()) bytes += stream.queuedBytes;
      return bytes > this.#options.maxQueuedBytes;
    },
    ended: (stream) => this.#waiting.delete(stream),
  };

  /** Gives waiting calls to the session, or gets one. */
  #admit() {
    for (const stream of this.#waiting.keys()) {
      if (!this.#session?.hasRoom) break;
      this.#waiting.delete(stream);
      clearTimeout(this.#idleTimer);
      this.#session.open(stream);
    }
    if (this.#waiting.size && !this.#session) this.#dial(0);
  }

  /** @param {Stream[]} streams that an old session did not process; first in, first out */
  #wait(streams) {
    this.#waiting = new Map([...streams.map((stream) => /** @type {const} */ ([stream, Date.now()])), ...this.#waiting]);
  }

  /**
   * Ends what waits for a connection.
   * @param {BidiwayError} error
   * @param {number} [since] only what waits since then or longer
   */
  #abandon(error, since = Infinity) {
    for (const [stream, start] of this.#waiting) {
      if (start <= since) stream.end({ ...error.status, maybeProcessed: false });
    }
    for (const [waiter, start] of this.#waiters) {
      if (start > since) continue;
      this.#waiters.delete(waiter);
      waiter.reject(error);
    }
  }

  // Connecting.

  /** @param {number} delayMs */
  #dial(delayMs) {
    if (this.#dialing || this.#session || this.#state === "closed") return;
    /** @type {Dialing} */
    const dialing = (this.#dialing = {});
    this.#setState(this.#attempts ? "reconnecting" : "connecting", this.#lastError);
    const begin = () => {
      dialing.begin = undefined;
      this.#attempt(dialing);
    };
    const waitMs = Math.max(delayMs, this.#notBefore - Date.now());
    if (waitMs > 0) {
      dialing.begin = begin;
      dialing.timer = setTimeout(begin, waitMs);
    } else {
      begin();
    }
  }

  /** @param {Dialing} dialing */
  async #attempt(dialing) {
    const { url, metadata, WebSocket, connectTimeoutMs, streamCredit, debug } = this.#options;
    clearTimeout(dialing.timer);
    dialing.timer = setTimeout(() => {
      const error = clientError(Code.UNAVAILABLE, `no connection within ${connectTimeoutMs} ms`);
      if (this.#session) this.#session.close(error, 4000 + Code.DEADLINE_EXCEEDED);
      else this.#lost(error);
    }, connectTimeoutMs);
    try {
      const target = await ask(url);
      const entries = await ask(metadata, this.#lastError);
      if (dialing !== this.#dialing) return;
      try {
        const options = { metadata: toMetadata(entries), streamCredit, debug };
        if (!WebSocket) throw new TypeError("there is no WebSocket here; hand one in with createChannel({ WebSocket })");
        const carrier = (dialing.carrier = openWebSocket(target, WebSocket));
        carrier.onopen = () => {
          this.#session = new Session(carrier, this.#sessionOwner, options);
          this.#admit();
        };
        carrier.onclose = (code, reason) => this.#lost(closeError(code, reason));
      } catch (cause) {
        throw clientError(Code.INVALID_ARGUMENT, /** @type {Error} */ (cause).message, { cause });
      }
    } catch (cause) {
      if (dialing !== this.#dialing) return;
      this.#lost(cause instanceof BidiwayError ? cause : clientError(Code.UNAVAILABLE, `${cause}`, { cause }));
    }
  }

  /** Stops connecting. */
  #hangUp() {
    clearTimeout(this.#idleTimer);
    clearTimeout(this.#dialing?.timer);
    if (!this.#session) this.#dialing?.carrier?.close(1000, "");
    this.#dialing = undefined;
  }

  /**
   * There is no connection, against our will.
   * @param {BidiwayError} error
   * @param {Session} [session] that was lost, when it had come so far
   * @param {boolean} [wanted] whether calls ran on it, which are likely to come back
   */
  #lost(error, session, wanted) {
    this.#hangUp();
    this.#session = undefined;
    this.#lastError = error;
    const now = Date.now();
    const { baseMs, maxMs, metadata, connectTimeoutMs } = this.#options;
    this.#rate(session);

    const refresh = error.code === Code.UNAUTHENTICATED && typeof metadata === "function" && !this.#refreshed;
    if (FATAL.includes(/** @type {any} */ (error.code)) || (error.code === Code.UNAUTHENTICATED && !refresh)) {
      this.#abandon(error);
      this.#setState("failed", error);
      return;
    }
    this.#refreshed ||= refresh;

    this.#abandon(error, now - connectTimeoutMs);
    // The first attempt follows at once, unless the proxy has said to stay away.
    const soon = refresh || (!this.#attempts && !(error.closeCode && error.closeCode >= 1012));
    const delayMs = soon ? 0 : Math.random() * Math.min(maxMs, baseMs * 2 ** Math.max(0, this.#attempts - 1));
    this.#attempts++;
    // A call that comes later keeps the distance, too.
    this.#notBefore = Math.max(this.#notBefore, now + delayMs);
    if (this.#waiting.size || this.#waiters.size || wanted) this.#dial(delayMs);
    else this.#setState("idle", error);
  }

  /**
   * A session has ended: forgives what failed before it, if it was healthy.
   * @param {Session} [session]
   */
  #rate(session) {
    if (!session?.welcome || Date.now() - session.welcomedAt < HEALTHY_MS) return;
    this.#attempts = 0;
    this.#refreshed = false;
  }

  /** The network is back, or somebody looks at the page again. */
  #nudge = () => {
    if (globalThis.document?.hidden) return;
    for (const session of [this.#session, ...this.#draining]) session?.probe();
    this.#notBefore = 0;
    this.#dialing?.begin?.();
  };

  // Sessions.

  /** @type {import("./session.js").SessionOwner} */
  #sessionOwner = {
    welcomed: (session) => {
      if (session !== this.#session) return;
      clearTimeout(this.#dialing?.timer);
      this.#dialing = undefined;
      this.#setState("ready");
      for (const waiter of this.#waiters.keys()) waiter.resolve(undefined);
      this.#waiters.clear();
      this.#sessionOwner.freed(session);
    },
    freed: (session) => {
      if (session !== this.#session) return;
      this.#admit();
      clearTimeout(this.#idleTimer);
      const { idleTimeoutMs } = this.#options;
      if (!session.streams.size && session.welcome && idleTimeoutMs > 0 && idleTimeoutMs < 2 ** 31) {
        this.#idleTimer = setTimeout(() => {
          this.#session = undefined;
          this.#rate(session);
          session.close(clientError(Code.UNAVAILABLE, "the connection was idle"));
          this.#setState(this.#draining.size ? "draining" : "idle");
        }, idleTimeoutMs);
      }
    },
    goingAway: (session, again, delayMs) => {
      if (session !== this.#session) return;
      this.#hangUp();
      this.#session = undefined;
      this.#rate(session);
      this.#draining.add(session);
      this.#setState("draining");
      this.#notBefore = Date.now() + delayMs;
      this.#wait(again);
      this.#admit();
    },
    closed: (session, error, again, carried) => {
      this.#wait(again);
      if (session === this.#session) {
        this.#lost(error, session, carried);
      } else if (this.#draining.delete(session)) {
        this.#admit();
        if (!this.#draining.size && this.#state === "draining") this.#setState("idle");
      }
    },
  };

  /**
   * @param {ChannelState} state
   * @param {BidiwayError} [reason]
   */
  #setState(state, reason) {
    if (state === this.#state || this.#state === "closed") return;
    this.#state = state;
    // A listener that throws must not harm what runs here.
    for (const listener of this.#listeners) queueMicrotask(() => listener(state, reason));
  }
}

/**
 * A channel to a Bidiway proxy. It connects when the first call needs it.
 * @param {ChannelOptions} [options]
 * @returns {Channel}
 */
export const createChannel = (options) => new Channel(options);
