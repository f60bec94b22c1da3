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
 *   | Iterable<readonly [string, MetadataValue]> | Headers} MetadataInit
 */

/** @typedef {{ name: string, text?: string, binary?: Uint8Array }} WireEntry */

/**
 * Checks metadata and brings it into the shape of the protocol's frames.
 * @param {MetadataInit | null} [init]
 * @returns {WireEntry[]}
 * @throws {TypeError} naming the entry that gRPC does not allow
 */
export function toWire(init) {
  /** @type {WireEntry[]} */
  const entries = [];
  const pairs = /** @type {Iterable<[string, any]>} */ (
    init && Symbol.iterator in init ? init : Object.entries(init ?? {})
  );
  for (const [key, values] of pairs) {
    const name = key.toLowerCase();
    if (!/^[-\w.]+$/.test(name)) {
      throw new TypeError(`metadata name ${JSON.stringify(key)}: only letters, digits, "-", "_" and "." are allowed`);
    }
    for (const value of Array.isArray(values) ? values : values === undefined ? [] : [values]) {
      if (!name.endsWith("-bin")) {
        if (!/^[ -~]*$/.test(value)) {
          throw new TypeError(`metadata ${name}: only printable ASCII is allowed; use a name that ends in "-bin" for bytes`);
        }
        entries.push({ name, text: `${value}` });
      } else if (value instanceof Uint8Array) {
        entries.push({ name, binary: value });
      } else {
        for (const text of `${value}`.split(",")) entries.push({ name, binary: fromBase64(name, text) });
      }
    }
  }
  return entries;
}

/**
 * @param {WireEntry[]} entries
 * @returns {Metadata}
 */
export const fromWire = (entries) => entries.map(({ name, text, binary }) => [name, binary ?? text ?? ""]);

/**
 * @param {string} name
 * @param {string} text
 */
function fromBase64(name, text) {
  try {
    return Uint8Array.from(atob(text.trim().replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));
  } catch {
    throw new TypeError(`metadata ${name}: the value is not base64; hand in a Uint8Array for raw bytes`);
  }
}
