// A call of the channel that shows itself on the timeline, with messages instead of bytes.

import { codec, read, write } from "./mode.js";
import { codeName, ok } from "./result.js";

/** Totals over all calls of this page, for the wire facts. */
export const totals = { open: 0, calls: 0, messagesUp: 0, messagesDown: 0, payloadUp: 0, payloadDown: 0 };

export class DemoCall {
  #call;
  #types;
  #trace;
  #quiet;

  /**
   * @param {object} channel from `createChannel`
   * @param {object} timeline
   * @param {object} options `method`, `request` and `response` (message types), `metadata`, `timeoutMs`, `name` and
   *   `hue` for the timeline, `describe(message)` for its rows, `quiet` to leave messages out of it
   */
  constructor(channel, timeline, options) {
    const { method, request, response, metadata = {}, timeoutMs, name, hue, describe, quiet = false } = options;
    this.#types = { request, response, describe };
    this.#trace = timeline.trace(name, hue);
    this.#quiet = quiet;
    const extra = timeoutMs ? `, deadline ${timeoutMs} ms` : "";
    this.#trace("up", "open", method.slice(1) + extra, undefined, { opens: true });
    totals.calls += 1;
    totals.open += 1;
    this.began = performance.now();
    this.#call = channel.open({ method, metadata, timeoutMs, codec });
    /** Initial metadata; never rejects. */
    this.headers = this.#call.headers.then((headers) => {
      if (headers.length) this.#trace("down", "headers", names(headers));
      return headers;
    });
    /** How it ended; never rejects. */
    this.status = this.#call.status.then((status) => {
      totals.open -= 1;
      this.took = performance.now() - this.began;
      return status;
    });
  }

  /** Resolves when the session's credit admits the message. */
  async send(message) {
    const bytes = write(this.#types.request, message);
    totals.messagesUp += 1;
    totals.payloadUp += bytes.length;
    if (!this.#quiet) this.#trace("up", "", this.#describe(message), bytes.length);
    await this.#call.send(bytes);
  }

  /** Half-close: no more messages from here. */
  finish() {
    this.#trace("up", "half-close");
    this.#call.halfClose();
  }

  cancel() {
    this.#trace("up", "cancel", "", undefined, { bad: true });
    this.#call.cancel("cancelled on the page");
  }

  /** The answers. Throws at the end unless the status is OK. */
  async *[Symbol.asyncIterator]() {
    for await (const bytes of this.#call) {
      await this.headers;
      const message = read(this.#types.response, bytes);
      totals.messagesDown += 1;
      totals.payloadDown += bytes.length;
      if (!this.#quiet) this.#trace("down", "", this.#describe(message), bytes.length);
      yield message;
    }
  }

  /** Reads to the end, whatever it is, and gives every answer to `take`. */
  async read(take) {
    try {
      for await (const message of this) await take(message);
    } catch {
      // The status tells it.
    }
    const status = await this.status;
    this.#trace(status.origin === "client" ? "up" : "down", codeName(status), status.message, undefined, { bad: !ok(status) });
    return status;
  }

  #describe(message) {
    return this.#types.describe(message) || "(empty)";
  }
}

const names = (headers) => headers.map(([name, value]) => `${name}: ${typeof value === "string" ? value : "(bytes)"}`).join(", ");
