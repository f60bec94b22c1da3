// A carrier that gets through: a WebSocket, or where that is blocked HTTP requests. Which of them works is known when the
// first packet has come, not before: something on the way may refuse a WebSocket, kill it, or swallow what it carries.

import { join, write } from "./frame.js";
import { openHttp } from "./http.js";
import { timer } from "./promise.js";
import { CLOSE_CODES, FRAME, HEALTHY_MS, HELLO, LOST, VERSION } from "./protocol.js";
import { drop, openWebSocket } from "./websocket.js";

/** @typedef {import("./websocket.js").Carrier} Carrier */
/** @typedef {"websocket" | "http" | "poll"} Kind */
/** @typedef {Carrier & { onbetter?: () => void }} Movable a carrier that may learn that a WebSocket would work now */

/** How long a WebSocket may take until the first packet. */
const WELCOME_MS = 4000;
/** How long it is remembered that WebSockets do not get through; shorter if they did before, on the same page. */
const REMEMBER_MS = 600_000;
const DOUBT_MS = 60_000;

/** @type {{ [url: string]: { kind: Kind, until: number } | undefined }} what to begin with, where there is no sessionStorage */
const choices = {};
/** @type {{ [url: string]: boolean }} where one has worked, on this page */
const worked = {};

/** @param {string} url */
const recall = (url) => {
  try {
    return JSON.parse(/** @type {string} */ (sessionStorage.getItem(`bidiway ${url}`)));
  } catch {
    return choices[url];
  }
};

/**
 * @param {string} url
 * @param {Kind} kind
 */
const remember = (url, kind) => {
  const choice = { kind, until: kind === "websocket" ? 0 : Date.now() + (url in worked ? DOUBT_MS : REMEMBER_MS) };
  choices[url] = choice;
  try {
    sessionStorage.setItem(`bidiway ${url}`, JSON.stringify(choice));
  } catch {
    // A page may have none.
  }
  return choice.until;
};

/**
 * @param {string | URL} target
 * @param {import("./websocket.js").WebSocketClass} Socket
 * @param {typeof globalThis.fetch | null} fetch none: only WebSockets
 * @param {{ count: number }} failures of the channel's WebSockets, which failed or died early since one was healthy. Those
 *   of others say nothing: an instance that goes may take a connection of each with it
 * @returns {Movable}
 */
export function openEither(target, Socket, fetch, failures) {
  const url = `${target}`;
  const patience = timer();
  /** @type {Carrier} */
  let inner;
  /** @type {Carrier | undefined} a WebSocket that is tried out meanwhile */
  let scout;
  /** @type {Uint8Array<ArrayBuffer> | undefined} what was sent, until it is known which carrier works */
  let first;
  let decided = false;
  let held = false;
  let healthyAt = Infinity;
  const known = recall(url);
  /** @type {Kind[]} what to try */
  const kinds = fetch && known?.until > Date.now() ? [known.kind] : ["websocket"];

  const open = () => {
    const kind = kinds[0];
    const socket = kind === "websocket";
    inner = socket
      ? openWebSocket(url, Socket)
      : openHttp(url, /** @type {typeof globalThis.fetch} */ (fetch), kind === "poll", () => (held = true));
    if (socket && fetch) {
      patience(WELCOME_MS, () => {
        drop(inner, LOST);
        failed({ code: 1006, reason: "the WebSocket is silent" });
      });
    }
    inner.onopen = () => {
      if (first) inner.send(first);
      else carrier.onopen?.();
    };
    inner.onmessage = (event) => {
      if (!decided) {
        decided = true;
        first = undefined;
        patience();
        if (socket) healthyAt = Date.now() + HEALTHY_MS;
        if (socket) worked[url] = true;
        // What is remembered ends when it was to end, however often it is of use: then a WebSocket is tried.
        const choice = recall(url);
        const until = choice?.kind === kind && choice.until > Date.now() ? choice.until : remember(url, kind);
        if (!socket) patience(until - Date.now(), probe);
      }
      carrier.onmessage?.(event);
    };
    inner.onclose = failed;
  };

  /** Whether the carrier was healthy: then what failed before it says nothing any more. */
  const lived = () => Date.now() >= healthyAt && !(failures.count = 0);

  const failed = (/** @type {{ code: number, reason: string }} */ event) => {
    const [kind] = kinds;
    patience();
    drop(scout, 1000);
    if (held) remember(url, "poll");
    let blocked = false;
    // What the proxy says itself is an answer.
    if (kind === "websocket" && fetch && event.code > 1001 && event.code < 1012) {
      // Where WebSockets have worked, one failure says little. But some are let live for a moment only, again and again.
      blocked = !lived() && !(worked[url] && ++failures.count < 2);
    }
    if (!decided) {
      if (blocked || (held && kind === "http")) {
        kinds[0] = blocked ? "http" : "poll";
        held = false;
        return open();
      }
      remember(url, "websocket");
    } else if (blocked) remember(url, "http");
    carrier.onclose?.(event);
  };

  /** Does a WebSocket work now? One of its own is asked, with a session that nobody needs. */
  const probe = () => {
    const later = () => {
      drop(scout, 1000);
      scout = undefined;
      patience(remember(url, kinds[0]) - Date.now(), probe);
    };
    try {
      scout = openWebSocket(url, Socket);
    } catch {
      return;
    }
    patience(WELCOME_MS, later);
    const works = () => {
      drop(scout, 1000);
      scout = undefined;
      patience();
      remember(url, "websocket");
      carrier.onbetter?.();
    };
    scout.onopen = () => scout?.send(write([FRAME, [HELLO, [0x0a, Uint8Array.of(VERSION)]]]));
    scout.onmessage = works;
    // A word of the proxy's has come through, too.
    scout.onclose = ({ code }) => (code < CLOSE_CODES ? later() : works());
  };

  /** @type {Movable} */
  const carrier = {
    get bufferedAmount() {
      return inner.bufferedAmount;
    },
    send(packet) {
      if (!decided) first = first ? join([first, packet]) : packet;
      inner.send(packet);
    },
    close(code, reason) {
      lived();
      patience();
      drop(scout, 1000);
      // Its end, which comes later, is no failure of the network.
      inner.onclose = null;
      inner.close(code, reason);
    },
  };
  open();
  return carrier;
}
