// A channel: one session at a time, connected when a call needs it, and connected again when it is lost.

import { createCall } from "./call.js";
import { toMetadata } from "./metadata.js";
import { backoff, quiet, timer } from "./promise.js";
import {
  CANCELLED, CLOSE_CODES, DEADLINE_EXCEEDED, FAILED_PRECONDITION, INITIAL_STREAMS, INVALID_ARGUMENT, PERMISSION_DENIED,
  RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED,
} from "./protocol.js";
import { createSession } from "./session.js";
import { BidiwayError, clientError } from "./status.js";
import { openWebSocket } from "./websocket.js";

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./call.js").InnerCall} InnerCall */
/** @typedef {import("./metadata.js").MetadataInit} MetadataInit */
/** @typedef {"idle" | "connecting" | "ready" | "reconnecting" | "draining" | "closed" | "failed"} ChannelState */
/** @typedef {Pick<InnerCall, "queue" | "enter"> & { end: (error: BidiwayError) => void }} Waiter a call or a pending `connect()` */
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
 */

/**
 * @typedef {object} CallOptions
 * @property {string} method `"/package.Service/Method"`
 * @property {MetadataInit} [metadata]
 * @property {number} [timeoutMs] the call ends with DEADLINE_EXCEEDED after this time; the service is told
 * @property {AbortSignal} [signal] ends the call with CANCELLED
 * @property {"proto" | "json"} [codec] what the messages are: protobuf, which is passed through, by default; or proto3
 *   JSON, which the proxy translates
 */

/** @typedef {ChannelMethods & AsyncDisposable} Channel */

/**
 * @typedef {object} ChannelMethods
 * @property {ChannelState} state what it is doing
 * @property {(event: "state", listener: StateListener) => () => void} on
 *   Calls `listener` after each change of state, with the reason when something went wrong. Returns what unsubscribes.
 * @property {(options: CallOptions) => Call} open starts a call. It connects when necessary; what is sent meanwhile waits.
 * @property {() => Promise<void>} connect
 *   Connects without a call. Rejects with a `BidiwayError` when there is no connection after `connectTimeoutMs`, or when
 *   trying again would not help.
 * @property {() => Promise<void>} close ends the open calls with CANCELLED, and the channel with them
 */

/**
 * @typedef {(url: string | URL, WebSocket: import("./websocket.js").WebSocketClass, session: import("./session.js").Session) =>
 *   import("./websocket.js").Carrier} OpenCarrier
 */

/**
 * A channel to a Bidiway proxy. It connects when the first call needs it.
 * @param {ChannelOptions} [options]
 * @param {OpenCarrier} [openCarrier] for `bidiway/durable`, as what follows
 * @param {number} [streams] how many may be opened before Welcome
 * @returns {Channel}
 */
export function createChannel({
  url = "/bidiway/session",
  metadata,
  WebSocket = globalThis.WebSocket,
  connectTimeoutMs = 10_000,
  idleTimeoutMs = 60_000,
  maxQueuedCalls = 1000,
  maxQueuedBytes = 2 ** 24,
  backoff: { baseMs = 250, maxMs = 20_000 } = {},
  streamCredit = 2 ** 18,
} = {}, openCarrier = openWebSocket, streams = INITIAL_STREAMS) {
  const { document } = globalThis;
  /** @type {ChannelState} */
  let state = "idle";
  /** @type {Set<StateListener>} */
  const listeners = new Set();
  /** @type {Map<Waiter, number>} calls without a session and pending `connect()` calls, in order, and since when */
  let waiting = new Map();
  /** @type {Set<import("./session.js").Session>} those that live: one takes new calls, the others run out */
  const sessions = new Set();
  /** @type {import("./session.js").Session | undefined} the one that takes new calls, from the attempt to connect it */
  let session;
  /** For what comes next: an attempt to connect, its timeout, or the end of an idle connection. */
  const next = timer();
  /** Whether an attempt to connect is put off; for good when the channel is closed. */
  let delayed = false;
  /** Failed attempts since the last healthy session. */
  let attempts = 0;
  /** No connecting before this time: the proxy asked for it, or backoff. */
  let notBefore = 0;
  let refreshed = false;
  /** @type {BidiwayError | undefined} */
  let lastError;

  /**
   * @param {ChannelState} to
   * @param {BidiwayError} [reason]
   */
  const setState = (to, reason) => {
    if (to === state) return;
    state = to;
    // A listener that throws must not harm what runs here.
    for (const listener of listeners) queueMicrotask(() => listener(to, reason));
  };

  /** Gives waiting calls to the session, or gets one. */
  const admit = () => {
    for (const waiter of waiting.keys()) if (session && waiter.enter(session)) waiting.delete(waiter);
    if (waiting.size) dial();
  };

  /**
   * Ends what waits for a connection.
   * @param {BidiwayError} error
   * @param {number} since only what waits since then or longer
   */
  const abandon = (error, since) => {
    for (const [waiter, start] of waiting) if (start <= since) waiter.end(error);
  };

  /** Connects, when it is time. */
  const dial = () => {
    if (session || delayed) return;
    setState(attempts ? "reconnecting" : "connecting", lastError);
    const delayMs = notBefore - Date.now();
    if ((delayed = delayMs > 0)) next(delayMs, attempt);
    else attempt();
  };

  const attempt = async () => {
    delayed = false;
    let code = UNAVAILABLE;
    const mine = (session = createSession(
      streamCredit,
      streams,
      (error) => {
        if (mine !== session) return;
        if (error) {
          leave(mine);
          session = mine;
          attempts++;
          setState("reconnecting", error);
        } else if (mine.healthyAt) {
          lastError = undefined;
          setState("ready");
          next(idleTimeoutMs, () => {
            if (mine.calls.size) return;
            leave(mine);
            mine.close();
            setState(sessions.size ? "draining" : "idle");
          });
        }
        admit();
      },
      (delayMs, error, carried, again) => {
        waiting = new Map([...again.map((call) => /** @type {const} */ ([call, Date.now()])), ...waiting]);
        if (error) sessions.delete(mine);
        if (mine === session) {
          leave(mine);
          if (error) return lost(error, carried);
          setState("draining");
        }
        // Also when it had left before: the proxy is about to end its calls, and those of many others.
        if (!session) notBefore = Math.max(notBefore, Date.now() + delayMs);
        admit();
        if (!sessions.size && state === "draining") setState("idle");
      },
    ));
    sessions.add(mine);
    next(connectTimeoutMs, () =>
      mine.close(clientError(UNAVAILABLE, `no connection within ${connectTimeoutMs} ms`), CLOSE_CODES + DEADLINE_EXCEEDED),
    );
    try {
      const target = await (typeof url === "function" ? url() : url);
      const entries = await (typeof metadata === "function" ? metadata(lastError) : metadata);
      if (mine !== session) return;
      code = INVALID_ARGUMENT;
      if (!WebSocket) throw new TypeError("no WebSocket: hand one in, createChannel({ WebSocket })");
      mine.start(toMetadata(entries), openCarrier(target, WebSocket, mine));
    } catch (cause) {
      mine.close(cause instanceof BidiwayError ? cause : clientError(code, `${cause}`, { cause }));
    }
  };

  /**
   * The session takes no new calls any more, or for a while. If it was healthy, what failed before it is forgiven.
   * @param {import("./session.js").Session} old
   */
  const leave = (old) => {
    next();
    session = undefined;
    if (Date.now() >= old.healthyAt) {
      attempts = 0;
      refreshed = false;
    }
  };

  /**
   * There is no connection, against our will.
   * @param {BidiwayError} error
   * @param {number} carried calls that ran on it, which are likely to come back
   */
  const lost = (error, carried) => {
    lastError = error;
    if (error.code === UNAUTHENTICATED && typeof metadata === "function" && !refreshed) {
      refreshed = true;
    } else if ([INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAUTHENTICATED].includes(error.code)) {
      // These do not go away by trying again.
      abandon(error, Infinity);
      return setState("failed", error);
    } else if (attempts || /** @type {number} */ (error.closeCode) >= 1012) {
      // The first attempt follows at once, unless the proxy has said to stay away. A call that comes later keeps the
      // distance, too.
      notBefore = Math.max(notBefore, Date.now() + backoff(attempts, baseMs, maxMs));
    }
    abandon(error, Date.now() - connectTimeoutMs);
    attempts++;
    if (waiting.size || carried) dial();
    else setState("idle", error);
  };

  /** The network is back, or somebody looks at the page again. */
  const nudge = () => {
    if (document?.hidden) return;
    for (const session of sessions) session.probe();
    notBefore = 0;
    if (delayed) attempt();
  };

  const close = async () => {
    setState("closed");
    listen("removeEventListener");
    next();
    delayed = true;
    session = undefined;
    lastError = clientError(CANCELLED, "the channel was closed");
    for (const session of sessions) session.close(lastError);
    abandon(lastError, Infinity);
  };

  /** @param {"addEventListener" | "removeEventListener"} verb */
  const listen = (verb) => {
    globalThis[verb]?.("online", nudge);
    document?.[verb]("visibilitychange", nudge);
  };
  listen("addEventListener");

  return {
    get state() {
      return state;
    },
    on(event, listener) {
      if (event !== "state") throw new TypeError(`no event ${event}, only "state"`);
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    open(options) {
      const call = createCall(
        options,
        (bytes) => {
          for (const { queue } of waiting.keys()) for (const message of queue) bytes += message[0].length;
          return bytes > maxQueuedBytes;
        },
        (call) => waiting.delete(call),
      );
      waiting.set(call, Date.now());
      call.start();
      if (state === "closed" || state === "failed") call.end(/** @type {BidiwayError} */ (lastError));
      admit();
      if (waiting.size > maxQueuedCalls) call.end(clientError(RESOURCE_EXHAUSTED, "too much waits for a connection"));
      return call.call;
    },
    connect: () =>
      quiet(
        new Promise((resolve, reject) => {
          if (state === "closed") throw lastError;
          /** @type {Waiter} */
          const waiter = {
            queue: [],
            enter: ({ healthyAt }) => healthyAt && !(/** @type {any} */ (resolve)()),
            end(error) {
              waiting.delete(waiter);
              reject(error);
            },
          };
          waiting.set(waiter, Date.now());
          admit();
        }),
      ),
    close,
    [Symbol.asyncDispose]: close,
  };
}
