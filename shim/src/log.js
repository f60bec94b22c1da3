// Calls on the console, for people. `bidiway/debug` exports it.

import { read, text } from "./frame.js";
import { toMetadata } from "./metadata.js";
import { quiet, timer } from "./promise.js";
import { codeName } from "./status.js";

/** @typedef {import("./call.js").Call} Call */
/** @typedef {import("./channel.js").CallOptions} CallOptions */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./metadata.js").Metadata} Metadata */

/**
 * @typedef {object} LogOptions
 * @property {(method: string, direction: "in" | "out", bytes: Uint8Array) => unknown} [decode] makes something readable of
 *   a message, or `undefined`: the `decode` of `bidiway/reflect`, or its `createDecoder(createRegistry(Greeter))`. JSON
 *   is read without; other messages are shown as bytes
 * @property {RegExp} [mask] names of metadata whose values are not shown; by default what sounds like credentials
 * @property {number} [patienceMs] a call with at most one message each way is shown as one group when it ends, but not
 *   later than after this time; 1 s by default
 * @property {Pick<Console, "log" | "groupCollapsed" | "groupEnd">} [console]
 */

/** In place of what is not for everybody's eyes. */
const MASKED = "•••";
const CREDENTIALS = /auth|cookie|token|secret|key|passw|session|signature|credential/i;
/** Bytes of a message that are shown when nobody can read it. */
const SHOWN_BYTES = 32;
/** How long the end of a call waits for the application to read what came before it. */
const READ_MS = 50;

/**
 * The same channel, whose calls show themselves on the console: method, metadata, messages as the application sends and
 * reads them, status and duration.
 * @example const channel = logCalls(createChannel());
 * @param {Channel} channel
 * @param {LogOptions} [options]
 * @returns {Channel}
 */
export function logCalls(channel, { decode, mask = CREDENTIALS, patienceMs = 1000, console = globalThis.console } = {}) {
  let count = 0;

  channel.on("state", (state, reason) => console.log(`%cbidiway: ${state}`, "color: gray", ...(reason ? [reason.message] : [])));

  /** @param {Metadata} metadata */
  const visible = (metadata) => {
    /** @type {Record<string, unknown>} */
    const shown = {};
    for (const [name, value] of metadata) {
      const one = mask.test(name) ? MASKED : value;
      shown[name] = Object.hasOwn(shown, name) ? [shown[name], one].flat() : one;
    }
    return shown;
  };

  /**
   * @param {CallOptions} options
   * @returns {Call}
   */
  const open = (options) => {
    const { method, metadata, timeoutMs, codec } = options;
    const call = channel.open(options);
    const id = `#${++count}`;
    // Calls run at the same time: each has a colour.
    const colour = `color: hsl(${(count * 67) % 360} 65% 45%)`;
    const name = method.replace(/^\//, "");
    const began = performance.now();
    const passed = () => `${Math.round(performance.now() - began)} ms`;
    const messages = { out: 0, in: 0 };
    const patience = timer();
    /** @type {unknown[][] | undefined} the lines of a call that is not shown yet */
    let held = [];

    /** @param {unknown[]} line */
    const print = ([what, ...values]) => console.log(`%c${id} ${what}`, colour, ...values);
    /**
     * @param {string} what
     * @param {unknown[]} [values]
     * @param {string} [size]
     */
    const add = (what, values = [], size = "") => {
      const line = [what, ...values, `${size}+${passed()}`];
      if (held) held.push(line);
      else print(line);
    };
    /**
     * @param {string} title
     * @param {unknown[][]} lines
     */
    const group = (title, lines) => {
      // A status message may have what the console takes for a format.
      const safe = `%c${id} ${title.replace(/%/g, "%%")}`;
      if (!lines.length) return console.log(safe, colour);
      console.groupCollapsed(safe, colour);
      lines.forEach(print);
      console.groupEnd();
    };
    /** From now on each line is printed when it happens. */
    const showNow = () => {
      if (!held) return;
      const [opening, ...lines] = held;
      held = undefined;
      group(`${name} …`, [opening]);
      lines.forEach(print);
    };
    /**
     * @param {"out" | "in"} direction
     * @param {Uint8Array} bytes
     */
    const show = (direction, bytes) => {
      add(direction === "out" ? "↑" : "↓", [readMessage(direction, bytes)], `${bytes.length} B, `);
      // A stream.
      if (++messages[direction] > 1) showNow();
    };
    /**
     * @param {"out" | "in"} direction
     * @param {Uint8Array} bytes
     */
    const readMessage = (direction, bytes) => {
      let problem = "";
      try {
        const message = codec === "json" ? JSON.parse(text(bytes)) : decode?.(method, direction, bytes);
        if (message !== undefined) return message;
      } catch (error) {
        problem = `unreadable: ${error}; `;
      }
      const hex = Array.from(bytes.subarray(0, SHOWN_BYTES), (byte) => byte.toString(16).padStart(2, "0"));
      return problem + hex.join(" ") + (bytes.length > SHOWN_BYTES ? " …" : "");
    };

    /** @type {Metadata} */
    let entries = [];
    try {
      entries = toMetadata(metadata);
    } catch {
      // The call ends with what is wrong.
    }
    const extras = [entries.length && visible(entries), timeoutMs !== undefined && `deadline ${timeoutMs} ms`, codec === "json" && "JSON"];
    add("open", extras.filter(Boolean));
    patience(patienceMs, showNow);
    call.headers.then((headers) => headers.length && add("↓ headers", [visible(headers)]));

    /** @type {() => void} once the status is known */
    let finish = () => {};
    call.status.then(({ code, message, metadata, details, origin, cause }) => {
      patience();
      const took = passed();
      const ending = timer();
      finish = () => {
        finish = () => {};
        ending();
        const by = code && origin !== "upstream" ? ` (by the ${origin})` : "";
        const title = `${code ? "✗" : "✓"} ${name} ${codeName(code)}${message && `: ${message}`}${by} · ${took} · ↑${messages.out} ↓${messages.in}`;
        const trailers = [...(held ?? [])];
        if (metadata.length) trailers.push(["↓ trailers", visible(metadata)]);
        if (details.length) trailers.push(["↓ details", ...detailTypes(details), `${details.length} B`]);
        if (cause !== undefined) trailers.push(["because", cause]);
        held = undefined;
        group(title, trailers);
      };
      // The application may still be reading what came before.
      ending(READ_MS, () => finish());
    });

    return {
      ...call,
      send(bytes) {
        const sent = call.send(bytes);
        if (bytes instanceof Uint8Array) show("out", bytes);
        return sent;
      },
      halfClose() {
        add("↑ half-close");
        call.halfClose();
      },
      next: () =>
        quiet(
          (async () => {
            try {
              const result = await call.next();
              if (result.value) show("in", result.value);
              else finish();
              return result;
            } catch (error) {
              finish();
              throw error;
            }
          })(),
        ),
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  };

  return Object.create(channel, { open: { value: open, enumerable: true } });
}

/**
 * The types of a status' details: field 3 of google.rpc.Status, each a google.protobuf.Any with its type in field 1.
 * @param {Uint8Array} details
 */
function detailTypes(details) {
  try {
    return read(details, 0x1a).list.map((any) => text(read(any)[0x0a]).replace(/.*\//, ""));
  } catch {
    return ["(malformed)"];
  }
}
