// `bidiway/durable`: the channel for applications. Sessions survive their connections, and tokens are renewed in time.

import { createChannel as createCore } from "./channel.js";
import { openEither } from "./fallback.js";
import { toMetadata } from "./metadata.js";
import { timer } from "./promise.js";
import { createLink } from "./resume.js";

export { BidiwayError, Code, codeName } from "./status.js";

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").CallOptions} CallOptions */
/** @typedef {import("./channel.js").ChannelState} ChannelState */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./metadata.js").MetadataInit} MetadataInit */
/** @typedef {import("./status.js").Status} Status */
/** @typedef {import("./resume.js").Link} Link */
/** @typedef {import("./websocket.js").Carrier} Carrier */

/**
 * Default metadata until a time.
 * @typedef {object} ExpiringMetadata
 * @property {MetadataInit} [metadata]
 * @property {number | Date} expiresAt in milliseconds, as `Date.now()` counts them, or a `Date`
 */

/** @typedef {MetadataInit | ExpiringMetadata | undefined} ProvidedMetadata */

/**
 * @typedef {object} DurableOptions
 * @property {MetadataInit | ((lastError?: import("./status.js").BidiwayError) => ProvidedMetadata | Promise<ProvidedMetadata>)} [metadata]
 *   default metadata of every call, such as a token. A function is asked at each connect, and told what ended the last
 *   connection. If it answers `{ metadata, expiresAt }`, it is asked again when nine tenths of the time are over, and the
 *   proxy gets the new metadata without another connection
 * @property {typeof globalThis.fetch | null} [fetch] what makes the requests where WebSockets are blocked: wrap it to send
 *   cookies to another origin, for instance. `null`: WebSockets only
 */

/** @typedef {Omit<import("./channel.js").ChannelOptions, "metadata"> & DurableOptions} ChannelOptions those of `bidiway`, and more */

/**
 * @typedef {object} Refreshing
 * @property {(metadata?: MetadataInit) => Promise<void>} refresh
 *   Other default metadata for the calls to come, without another connection. Without an argument, the function that was
 *   given as `metadata` is asked. Rejects when that fails, or with a `TypeError` for what gRPC does not allow.
 */

/** @typedef {import("./channel.js").Channel & Refreshing} Channel fits wherever a channel of `bidiway` does */

/**
 * A channel whose calls survive a lost connection: they go on, on another one, and no message is lost or comes twice.
 * @param {ChannelOptions} [options]
 * @returns {Channel}
 */
export function createChannel({ url = "/bidiway/session", metadata, ...options } = {}) {
  const { WebSocket = globalThis.WebSocket, fetch = globalThis.fetch, connectTimeoutMs = 10_000, backoff: { baseMs = 250, maxMs = 20_000 } = {} } = options;
  const { document } = globalThis;
  /** @type {Set<Link>} */
  const links = new Set();
  const failures = { count: 0 };
  const expiry = timer();
  const unused = timer();
  /** @type {(() => Carrier) | undefined} gives a carrier on which the proxy has already begun a session */
  let spare;

  /** @param {import("./status.js").BidiwayError} [lastError] */
  const provide = async (lastError) => {
    const provided = await (typeof metadata === "function" ? metadata(lastError) : metadata);
    if (!provided || !("expiresAt" in provided)) return /** @type {MetadataInit | undefined} */ (provided);
    const { metadata: entries, expiresAt } = /** @type {ExpiringMetadata} */ (provided);
    renew(+expiresAt);
    return entries;
  };

  /** @param {number} expiresAt */
  const renew = (expiresAt) =>
    // When nine tenths of the time are over; and again, if that fails.
    expiry(Math.max(1000, (expiresAt - Date.now()) * 0.9), () => {
      if ([...links].some((link) => link.live())) refresh().catch(() => renew(expiresAt));
    })?.unref?.();

  /** @param {MetadataInit} [next] */
  const refresh = async (next) => {
    if (next) metadata = next;
    const entries = toMetadata(await provide());
    for (const link of links) link.refresh(entries);
  };

  /** @type {import("./resume.js").Dialling} */
  const dialling = {
    ask: async (lastError) => [await (typeof url === "function" ? url() : url), toMetadata(await provide(lastError))],
    open: (target) => openEither(target, WebSocket, fetch, failures),
    spare(carrier, welcome) {
      const messages = [welcome];
      const { send } = carrier;
      const drop = () => (spare = undefined);
      carrier.onmessage = ({ data }) => messages.push(/** @type {ArrayBuffer} */ (data));
      carrier.onclose = drop;
      const discard = () => {
        drop();
        carrier.close(1000, "");
      };
      unused(connectTimeoutMs, discard);
      // Nobody connects who could take it.
      queueMicrotask(() => /connecting/.test(channel.state) || discard());
      spare = () => {
        drop();
        unused();
        // The proxy has had its Hello, and has answered.
        carrier.send = () => {
          carrier.send = send;
          queueMicrotask(() => messages.forEach((data) => carrier.onmessage?.({ data })));
        };
        queueMicrotask(() => carrier.onopen?.());
        return carrier;
      };
    },
    connectTimeoutMs,
    baseMs,
    maxMs,
  };

  const channel = createCore(
    { ...options, url, WebSocket, metadata: provide },
    (target, _, session) => {
      for (const link of links) if (!link.live()) links.delete(link);
      const link = createLink(session, spare?.() ?? dialling.open(target), dialling);
      links.add(link);
      return link;
    },
    // Calls wait for the first Welcome: only what can be resumed is sent.
    0,
  );

  const wake = (/** @type {Event} */ { type }) => {
    if (type !== "visibilitychange" || !document.hidden) for (const link of links) link.wake();
  };
  const park = (/** @type {PageTransitionEvent} */ { persisted }) => {
    if (persisted) for (const link of links) link.park();
  };
  /** @param {"addEventListener" | "removeEventListener"} verb */
  const listen = (verb) => {
    globalThis[verb]?.("online", wake);
    globalThis[verb]?.("pageshow", wake);
    globalThis[verb]?.("pagehide", /** @type {EventListener} */ (park));
    document?.[verb]("visibilitychange", wake);
    // A page that was frozen.
    document?.[verb]("resume", wake);
  };
  listen("addEventListener");

  const { close: closeCore } = channel;
  const close = () => {
    listen("removeEventListener");
    expiry();
    return closeCore();
  };
  return Object.assign(channel, { refresh, close, [Symbol.asyncDispose]: close });
}
