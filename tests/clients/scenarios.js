// What happens in the calls of the matrix. The service plays it, the client's outcome is held against it.

/** @typedef {"unary" | "serverStream" | "clientStream" | "bidi"} Kind */
/** @typedef {[name: string, value: string | Uint8Array][]} Metadata */
/** @typedef {{ number: number, payload: Uint8Array }} Message what an Ask and an Answer hold */

/**
 * One scenario for one kind of call.
 * @typedef {object} Scenario
 * @property {Metadata} metadata of the request
 * @property {Metadata} header
 * @property {Metadata} trailer
 * @property {Message[]} asks
 * @property {Message[]} answers
 * @property {{ code: number, message: string, details: [type: string, value: Uint8Array][] }} status
 * @property {boolean} early the status comes at once, without headers: "trailers-only"
 * @property {"deadline" | "cancel" | undefined} hangs the service never ends the call: who does?
 * @property {boolean} pingPong in a bidirectional call, an ask waits for the answer to the one before it
 */

export const KINDS = /** @type {const} */ (["unary", "serverStream", "clientStream", "bidi"]);
export const sendsMany = (/** @type {Kind} */ kind) => kind === "clientStream" || kind === "bidi";
export const receivesMany = (/** @type {Kind} */ kind) => kind === "serverStream" || kind === "bidi";

export const TIMEOUT_MS = 1000;

const MEGABYTE = 1024 * 1024;
const bytes = (...values) => Uint8Array.of(...values);
const pattern = (length, seed) => {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = i * 31 + (i >> 8) + seed;
  return bytes;
};
const messages = (count, length, seed) =>
  Array.from({ length: count }, (_, i) => ({ number: i + 1, payload: pattern(length, seed + i) }));
const EMPTY = { number: 0, payload: bytes() };
const OK = { code: 0, message: "", details: [] };

/** Every length modulo 3 (padding), bytes that base64 writes as + and /, and a name with two values. */
const binary = (who) => [
  [`${who}-one-bin`, bytes(255)],
  [`${who}-two-bin`, bytes(0, 251)],
  [`${who}-three-bin`, bytes(0, 128, 255)],
  [`${who}-four-bin`, bytes(1, 2, 3, 254)],
  [`${who}-many-bin`, bytes(1, 2)],
  [`${who}-many-bin`, bytes(3, 4)],
];
/** A name with two values, and one that looks like no other. */
const text = (who) => [[`${who}-text`, "one"], [`${who}-text`, "two"], [`${who}-odd`, "a=b; c: 'd' 100%"]];

/** Of each scenario, what differs from a plain success with three messages each way. */
const DIFFERENT = {
  "success": () => ({
    header: [...text("answer"), ["both-text", "in the headers"]],
    trailer: [...text("end"), ["both-text", "in the trailers"]],
  }),
  "rich error": (kind) => ({
    answers: receivesMany(kind) ? 2 : 0,
    status: {
      code: 9,
      message: "not now",
      details: [
        // google.rpc.ErrorInfo { reason: "R", domain: "d" }, google.rpc.RequestInfo { request_id: "42" }
        ["google.rpc.ErrorInfo", bytes(10, 1, 82, 18, 1, 100)],
        ["google.rpc.RequestInfo", bytes(10, 2, 52, 50)],
      ],
    },
  }),
  "trailers only": () => ({ early: true, answers: 0, status: { code: 7, message: "no entry", details: [] } }),
  "deadline": (kind) => ({
    hangs: "deadline",
    asks: 1,
    answers: receivesMany(kind) ? 1 : 0,
    status: { code: 4, message: undefined, details: [] },
  }),
  "cancel": (kind) => ({
    hangs: "cancel",
    asks: 1,
    answers: receivesMany(kind) ? 1 : 0,
    status: { code: 1, message: undefined, details: [] },
  }),
  "empty message": () => ({ asks: [EMPTY], answers: [EMPTY] }),
  "1 MiB message": () => ({ asks: messages(2, MEGABYTE, 3), answers: messages(2, MEGABYTE, 7), pingPong: false }),
  "binary metadata": () => ({ metadata: binary("ask"), header: binary("answer"), trailer: binary("end") }),
  "UTF-8 status message": () => ({ answers: 0, status: { code: 5, message: "nö: 100 % 😀", details: [] } }),
  "1,000 empty messages": (kind) =>
    kind === "unary"
      ? undefined
      : { asks: Array(1000).fill(EMPTY), answers: Array(1000).fill(EMPTY), pingPong: false },
};

export const SCENARIOS = Object.keys(DIFFERENT);

/** @type {Map<string, Scenario | undefined>} large ones are made once */
const made = new Map();

/**
 * @param {string} name
 * @param {Kind} kind
 * @returns {Scenario | undefined} undefined: there is no such thing with this kind
 */
export function scenario(name, kind) {
  const key = `${kind}, ${name}`;
  if (!made.has(key)) made.set(key, make(name, kind));
  return made.get(key);
}

function make(name, kind) {
  const different = DIFFERENT[name](kind);
  if (!different) return undefined;
  const asks = { list: messages(3, 100, 1), most: sendsMany(kind) ? Infinity : 1 };
  const answers = { list: messages(3, 100, 5), most: receivesMany(kind) ? Infinity : 1 };
  const take = ({ list, most }, wanted) => (Array.isArray(wanted) ? wanted : list.slice(0, wanted)).slice(0, most);
  return {
    metadata: text("ask"),
    header: text("answer"),
    trailer: text("end"),
    status: OK,
    early: false,
    hangs: undefined,
    pingPong: true,
    ...different,
    asks: take(asks, different.asks),
    answers: take(answers, different.answers),
  };
}

/** What is left of a message in an outcome: its number, its length, and a hash of its bytes (FNV-1a). */
export function summary({ number, payload }) {
  let hash = 0x811c9dc5;
  for (const byte of payload) hash = Math.imul(hash ^ byte, 0x01000193);
  return `${number}: ${payload.length} B ${(hash >>> 0).toString(16)}`;
}

/** Metadata as an object: values of a name joined as HTTP joins them, bytes as base64 without padding. */
export function flat(metadata) {
  const object = {};
  for (const [name, value] of metadata) {
    const text = typeof value === "string" ? value : base64(value);
    object[name] = name in object ? `${object[name]}, ${text}` : text;
  }
  return object;
}

/** Base64 without padding. */
export const base64 = (value) => btoa(String.fromCharCode(...value)).replace(/=+$/, "");

/**
 * Fields of a google.rpc.Status: a list of [type, base64] for its details.
 * @param {Uint8Array} status
 */
export function details(status) {
  return fields(status, 3).map((any) => [
    new TextDecoder().decode(fields(any, 1)[0]).replace(/.*\//, ""),
    base64(fields(any, 2)[0] ?? bytes()),
  ]);
}

/** The occurrences of a field that has a length. Short messages alone: lengths below 16384, fields below 16. */
function fields(message, wanted) {
  const found = [];
  for (let at = 0; at < message.length; ) {
    const tag = message[at++];
    let length = message[at++];
    if ((tag & 7) === 0) continue;
    if (length >= 128) length = (length & 127) | (message[at++] << 7);
    if (tag >> 3 === wanted) found.push(message.subarray(at, at + length));
    at += length;
  }
  return found;
}
