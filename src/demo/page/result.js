// How a call ended, for people: status, details, metadata.

import { count, duration, element } from "./format.js";
import { decodeDetails } from "./messages.js";
import { readable } from "./mode.js";

export const CODES = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
  "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
];

export const ok = (status) => status.code === 0;
export const codeName = (status) => CODES[status.code] ?? `code ${status.code}`;

const ORIGINS = {
  upstream: "said by the service",
  proxy: "said by the proxy",
  client: "made on this page",
};

/**
 * @param {object} status of the call
 * @param {object} more `answer` (a line to show big), `headers`, `took` in ms
 */
export function resultCard(status, { answer, headers = [], took } = {}) {
  const card = element("div", { class: `status ${ok(status) ? "ok" : "bad"}` });
  const origin = ORIGINS[status.origin] ?? "";
  const facts = [origin, took === undefined ? "" : `after ${duration(took)}`].filter(Boolean).join(", ");
  card.append(element("h3", {}, element("b", {}, codeName(status)), element("span", {}, facts)));
  if (answer) card.append(element("p", { class: "answer" }, answer));
  if (status.message) card.append(element("p", {}, status.message));
  for (const { type, value } of details(status)) card.append(...table(type, rows(value)));
  card.append(...table("Initial metadata", headers), ...table("Trailing metadata", status.metadata ?? []));
  return card;
}

/** A titled list of name and value. */
export function table(title, entries) {
  if (!entries.length) return [];
  const list = element("dl");
  for (const [name, value] of entries) {
    list.append(element("dt", {}, name), element("dd", {}, typeof value === "string" ? value : hex(value)));
  }
  return [element("h4", {}, title), list];
}

function details(status) {
  try {
    if (!status.details?.length) return [];
    if (!readable) return decodeDetails(status.details);
    // In a text session the proxy has read them.
    return JSON.parse(new TextDecoder().decode(status.details)).map(({ "@type": type, ...value }) => ({ type: type.replace(/.*\//, ""), value }));
  } catch {
    return [{ type: "details that are no google.rpc.Status", value: status.details }];
  }
}

// A message of google.rpc as rows: maps and lists one level deep.
function rows(value) {
  if (value instanceof Uint8Array) return [["bytes", value]];
  return Object.entries(value).flatMap(([name, inner]) => {
    if (Array.isArray(inner)) return inner.map((item) => [item.field ?? name, item.description ?? JSON.stringify(item)]);
    if (typeof inner === "object") return Object.entries(inner).map(([key, text]) => [`${name}.${key}`, text]);
    return inner === "" ? [] : [[name, String(inner)]];
  });
}

function hex(bytes) {
  const shown = [...bytes.slice(0, 24)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return bytes.length > 24 ? `${shown} … (${count(bytes.length)} bytes)` : shown;
}
