// The shape in which every client tells how a call went.

import { base64, details } from "../scenarios.js";

/** @returns {import("./index.js").Outcome} */
export const outcome = () => ({ code: 0, message: "", header: {}, trailer: {}, details: [] });

/**
 * Metadata as an application gets it: names with one value or several, bytes or (in "-bin") base64.
 * @param {Iterable<[string, string | Uint8Array | readonly (string | Uint8Array)[]]>} entries
 * @returns {Record<string, string>}
 */
export function collect(entries) {
  const object = {};
  for (const [name, values] of entries) {
    for (const value of Array.isArray(values) ? values : [values]) {
      const text = typeof value === "string" ? (name.endsWith("-bin") ? value.replace(/=+(?=,|$)/g, "") : value) : base64(value);
      object[name] = name in object ? `${object[name]}, ${text}` : text;
    }
  }
  return object;
}

/** @param {Record<string, string>} trailer */
export function richDetails(trailer) {
  const text = trailer["grpc-status-details-bin"];
  return text === undefined ? [] : details(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)));
}

/** Metadata with one string for each name, for interfaces that take no more. */
export const strings = (metadata) => collect(metadata);

/** Metadata with a list of strings for each name. */
export function lists(metadata) {
  const object = {};
  for (const [name, value] of metadata) (object[name] ??= []).push(typeof value === "string" ? value : base64(value));
  return object;
}
