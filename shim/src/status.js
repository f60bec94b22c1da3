// gRPC status codes, the status that ends a call, and the error that carries one.

const NAMES = (
  "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED " +
  "FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split(" ");

/**
 * @typedef {{ OK: 0, CANCELLED: 1, UNKNOWN: 2, INVALID_ARGUMENT: 3, DEADLINE_EXCEEDED: 4, NOT_FOUND: 5, ALREADY_EXISTS: 6,
 *   PERMISSION_DENIED: 7, RESOURCE_EXHAUSTED: 8, FAILED_PRECONDITION: 9, ABORTED: 10, OUT_OF_RANGE: 11, UNIMPLEMENTED: 12,
 *   INTERNAL: 13, UNAVAILABLE: 14, DATA_LOSS: 15, UNAUTHENTICATED: 16 }} Codes
 */

/** The gRPC status codes (gRPC `doc/statuscodes.md`). */
export const Code = /** @type {Readonly<Codes>} */ (
  Object.freeze(/** @type {unknown} */ (Object.fromEntries(NAMES.map((name, code) => [name, code]))))
);

/**
 * The name of a code in the gRPC documents, such as `"NOT_FOUND"`; `"CODE_99"` for an unknown one.
 * @param {number} code
 * @returns {string}
 */
export const codeName = (code) => NAMES[code] ?? `CODE_${code}`;

/**
 * How a call ended.
 * @typedef {object} Status
 * @property {number} code the gRPC status code; 0 is OK
 * @property {string} message text for people; may be empty
 * @property {Uint8Array} details the bytes of a `google.rpc.Status`; empty when the service sent none
 * @property {import("./metadata.js").Metadata} metadata trailing metadata
 * @property {"upstream" | "proxy" | "client"} origin who made the status: the gRPC service, the proxy, or this client
 * @property {boolean} [maybeProcessed] on a status made here: whether the service may have seen the call
 * @property {number} [closeCode] on a lost connection: the WebSocket close code
 * @property {string} [reason] when a session did not go on (`bidiway/durable`): why, such as `"expired"`
 * @property {unknown} [cause] what led to a status made here, such as `signal.reason`
 */

/**
 * What an error says besides its message, which names the code and, for a call, the method.
 * @typedef {object} ErrorFields
 * @property {Status} status the whole status; its other fields stand in the error, too
 * @property {string} [method] of the call that failed
 */

/** @typedef {Error & Omit<Status, "message"> & ErrorFields} BidiwayError a call or a connection failed */

export const BidiwayError = /** @type {new (status: Status, method?: string) => BidiwayError} */ (
  /** @type {unknown} */ (
    class extends Error {
      /**
       * @param {Status} status
       * @param {string} [method] of the call that failed
       */
      constructor(status, method) {
        const { message, cause, ...fields } = status;
        super(
          `${codeName(fields.code)}: ${message}` + (method ? ` [${method}]` : "") + (fields.closeCode ? ` [close code ${fields.closeCode}]` : ""),
          { cause },
        );
        Object.assign(this, fields, { name: "BidiwayError", status, method });
      }
    }
  )
);

/**
 * A failure made by this client, or told by the end of a connection.
 * @param {number} code
 * @param {string} message
 * @param {Partial<Status>} [more]
 */
export const clientError = (code, message, more) =>
  new BidiwayError({ code, message: message || "the connection was lost", details: new Uint8Array(), metadata: [], origin: "client", ...more });

/**
 * The same as a status, for adapters.
 * @param {Parameters<typeof clientError>} failure
 */
export const clientStatus = (...failure) => clientError(...failure).status;
