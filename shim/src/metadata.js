// gRPC metadata: what applications hand in, and its two shapes inside.

/**
 * Metadata in order: lower-case names, a string for each, or bytes when the name ends in `-bin`.
 * @typedef {[name: string, value: string | Uint8Array][]} Metadata
 */

/** @typedef {string | Uint8Array} MetadataValue */

/**
 * What is accepted as metadata: a plain object (a value may be an array), `Headers`, a `Map`, or any entries.
 * For a name that ends in `-bin`, a string is taken for base64 (several values joined by commas, as `Headers`
 * does it), a `Uint8Array` for the bytes themselves.
 * @typedef {Record<string, MetadataValue | readonly MetadataValue[] | undefined>
 *   | readonly (readonly [string, MetadataValue])[] | Iterable<readonly [string, MetadataValue]> | Headers} MetadataInit
 */

/**
 * Checks metadata and puts it in order.
 * @param {MetadataInit | null} [init]
 * @returns {Metadata}
 * @throws {TypeError} naming the entry that gRPC does not allow
 */
export function toMetadata(init) {
  /** @type {Metadata} */
  const entries = [];
  const pairs = /** @type {Iterable<[string, any]>} */ (
    Symbol.iterator in (init ??= {}) ? init : Object.entries(init)
  );
  for (const [key, values] of pairs) {
    const name = key.toLowerCase();
    const refuse = (/** @type {string} */ problem) => {
      throw new TypeError(`metadata ${name}: ${problem}`);
    };
    if (!/^[-\w.]+$/.test(name)) refuse("not a gRPC name");
    for (const value of [values].flat()) {
      if (value === undefined) continue;
      if (!/-bin$/.test(name)) {
        if (!/^[ -~]*$/.test(value)) refuse('not printable ASCII; bytes need a "-bin" name');
        entries.push([name, `${value}`]);
      } else if (value instanceof Uint8Array) {
        entries.push([name, value]);
      } else {
        try {
          for (const text of `${value}`.split(",")) {
            entries.push([name, Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0))]);
          }
        } catch {
          refuse("not base64; bytes need a Uint8Array");
        }
      }
    }
  }
  return entries;
}
