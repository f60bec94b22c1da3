// The HTTP carrier (docs/protocol.md, section 20): packets come down in a response that streams, or in polls, and go up in
// numbered requests, one after the other.

import { join, number, read, text, write } from "./frame.js";
import { timer } from "./promise.js";
import { CLOSE_CODES, FRAME, INVALID_ARGUMENT, PING, RESOURCE_EXHAUSTED } from "./protocol.js";

/** @typedef {import("./frame.js").Fields} Fields */
/** @typedef {import("./websocket.js").Carrier} Carrier */

/** The most bytes of one packet. */
const MAX_PACKET = 262_144;
/** How long an answer to a request up may take, and to a poll. */
const ANSWER_MS = 30_000;
/** How long a poll waits. */
const POLL_MS = 15_000;
/** How long the first packet, and the answer to the first Ping, may take before they count as held back. */
const HELD_BACK_MS = 4000;
/** How often a request is sent that gets no answer, and the delay before the second time. */
const TRIES = 4;
const RETRY_MS = 200;

/** What the path says when a request fails on the way: the next one may get through. */
const PASSING = [0, 408, 502, 503, 504];
/** Refusals that another attempt would get, too, as close codes. */
const DEFECTS = { 400: CLOSE_CODES + INVALID_ARGUMENT, 413: CLOSE_CODES + RESOURCE_EXHAUSTED };

/**
 * @param {string | URL} url the session endpoint
 * @param {typeof globalThis.fetch} fetch
 * @param {boolean} poll whether each response is complete
 * @param {() => void} [heldBack] called when something on the way holds back a response that streams
 * @returns {Carrier}
 */
export function openHttp(url, fetch, poll, heldBack) {
  const target = new URL(url, globalThis.location?.href);
  target.protocol = target.protocol.replace("ws", "http");
  const patience = timer();
  /** @type {{ [path: string]: AbortController }} for the request under way on each path */
  const requests = {};
  /** @type {Uint8Array | undefined} the name of the carrier */
  let name;
  let closed = false;
  /** @type {Uint8Array[]} packets that wait */
  let queue = [];
  let sending = false;
  let started = false;
  /** Packets that have come. */
  let packets = 0;

  /**
   * @param {"open" | "up" | "down"} path
   * @param {Fields} body
   * @param {boolean} [keepalive]
   */
  const post = (path, body, keepalive) => {
    // One that got no answer.
    requests[path]?.abort();
    const { signal } = (requests[path] = new AbortController());
    return fetch(new URL(`http/${path}`, target).href, { method: "POST", body: write(body), cache: "no-store", signal, keepalive });
  };

  const abort = () => {
    for (const request of Object.values(requests)) request.abort();
  };

  /**
   * @param {number} code
   * @param {string} reason
   */
  const end = (code, reason) => {
    if (closed) return;
    stop();
    abort();
    carrier.onclose?.({ code, reason });
  };

  const stop = () => {
    closed = true;
    patience();
    globalThis.removeEventListener?.("pagehide", leave);
  };

  /** @param {number} status */
  const refused = (status) => {
    end(/** @type {{ [status: number]: number }} */ (DEFECTS)[status] ?? 1006, status ? `HTTP status ${status}` : "");
  };

  const tooLong = () => {
    heldBack?.();
    end(1006, "the response is held back");
  };

  /**
   * Handles the complete fields at the beginning.
   * @param {Uint8Array<ArrayBuffer>} bytes
   * @returns {Uint8Array<ArrayBuffer>} the rest
   */
  const handle = (bytes) => {
    while (!closed) {
      let at = 1;
      while (bytes[at] & 128) at++;
      const size = number(bytes.subarray(1, ++at));
      if (!(bytes.length >= at + size)) break;
      const [tag] = bytes;
      const value = bytes.slice(at, at + size);
      bytes = bytes.subarray(at + size);
      if (tag === 0x0a) {
        patience();
        carrier.onmessage?.({ data: value.buffer });
        // Something may hold back what is small: does a Pong come through?
        if (!packets++ && !poll) carrier.send(write([FRAME, [PING, 1]]));
      } else if (tag === 0x12) {
        name = read(value)[0x0a];
        pump();
      } else if (tag === 0x1a) {
        const { 0x08: code, 0x12: reason } = read(value);
        end(number(code) || 1005, text(reason));
      }
    }
    return bytes;
  };

  /** @param {Response} response that is complete */
  const take = async (response) => void handle(new Uint8Array(await response.arrayBuffer()));

  /** @param {Uint8Array} packet with Hello */
  const open = async (packet) => {
    started = true;
    patience(poll ? ANSWER_MS : HELD_BACK_MS, tooLong);
    try {
      const response = await post("open", [0x0a, packet, 0x10, +poll]);
      if (response.status !== 200) return refused(response.status);
      if (poll) await take(response);
      else {
        const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body).getReader();
        /** @type {Uint8Array<ArrayBuffer>} */
        let rest = new Uint8Array();
        for (let read; !(read = await reader.read()).done; ) rest = handle(join([rest, read.value]));
      }
      for (let i = 1; poll && name && !closed; i++) {
        await attempt("down", [0x0a, name, 0x10, i, 0x18, POLL_MS], take);
      }
    } catch {
      // Told by the end.
    }
    end(1006, "");
  };

  /**
   * Sends a request until it has an answer.
   * @param {"up" | "down"} path
   * @param {Fields} body
   * @param {(response: Response) => Promise<void> | void} use
   */
  const attempt = async (path, body, use) => {
    const clock = timer();
    const wait = (/** @type {number} */ delayMs) => new Promise((resolve) => clock(delayMs, () => resolve(0)));
    for (let i = 0, status; !closed; await wait(RETRY_MS * 2 ** i)) {
      status = await Promise.race([
        wait(ANSWER_MS),
        post(path, body)
          .then(async (response) => (response.ok ? use(response) : response.status))
          .catch(() => 0),
      ]);
      clock();
      // An answer that comes too late is not handled beside the next one.
      requests[path]?.abort();
      if (status === undefined) return;
      if (!PASSING.includes(status) || ++i === TRIES) return refused(status);
    }
  };

  let count = 0;
  /** Sends what waits, one packet at a time. */
  const pump = async () => {
    if (sending || !name) return;
    sending = true;
    // What comes in the same task leaves in the same request.
    await undefined;
    while (queue.length && !closed) {
      let size = 0;
      const fits = queue.findIndex(({ length }) => (size += length) > MAX_PACKET);
      const packet = join(queue.splice(0, fits < 0 ? queue.length : fits));
      await attempt("up", [0x0a, name, 0x10, ++count, 0x1a, packet], () => {
        carrier.bufferedAmount -= packet.length;
        // The proxy has the Ping, and has answered it.
        if (packets === 1 && !poll) patience(HELD_BACK_MS, tooLong);
      });
    }
    sending = false;
  };

  const leave = (/** @type {any} */ { persisted }) => {
    if (!persisted) carrier.close(1001, "");
  };

  /** @type {Carrier} */
  const carrier = {
    bufferedAmount: 0,
    send(packet) {
      if (closed) return;
      if (!started) return void open(packet);
      carrier.bufferedAmount += packet.length;
      queue.push(packet);
      pump();
    },
    close(code, reason) {
      if (closed) return;
      stop();
      // First the word, then the rest: a response that just breaks would be a lost carrier.
      if (name) post("up", [0x0a, name, 0x22, [0x08, code, 0x12, reason]], true).then(abort, abort);
      else abort();
    },
  };
  globalThis.addEventListener?.("pagehide", leave);
  queueMicrotask(() => closed || carrier.onopen?.());
  return carrier;
}
