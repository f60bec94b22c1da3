// Every client of the matrix. One file for each family; each client is one way in which an application reaches the proxy.

import { BYTES } from "./bytes.js";
import { CONNECT } from "./connect.js";
import { GOOGLE } from "./grpc-web.js";
import { IMPROBABLE } from "./improbable.js";
import { NICE_GRPC } from "./nice-grpc.js";
import { PROTOBUF_TS } from "./protobuf-ts.js";
import { TS_PROTO } from "./ts-proto.js";

/**
 * A client.
 * @typedef {object} Client
 * @property {string} name
 * @property {Record<string, string>} cannot what it has no way to do, and the reason: a kind of call, a scenario, or
 *   "kind, scenario". Such cases do not run.
 * @property {Record<string, string>} hides what an application never gets to see of an answer, and the reason: "header",
 *   "trailer", "details" and so on; or more exactly with the place, the kind and the scenario before it, in this order:
 *   "node, unary, rich error, header". Such cases run, and that part is not looked at.
 * @property {string} [keepsLast] it shows one value of trailers that have the same name, and the reason
 * @property {Partial<Record<"node" | "firefox", string>>} [runs] where it does not run, and the reason
 * @property {(url: string) => Promise<Open>} open
 */

/**
 * @typedef {object} CallOptions
 * @property {import("../scenarios.js").Metadata} metadata
 * @property {number | undefined} timeoutMs
 * @property {AbortSignal} signal when it is aborted, the application cancels the call
 * @property {import("../scenarios.js").Message} ask of calls that send one message
 * @property {AsyncIterable<import("../scenarios.js").Message>} asks of calls that send many
 * @property {(answer: import("../scenarios.js").Message) => void} onAnswer
 */

/**
 * How a call went. Metadata is flat: see `flat` in scenarios.js.
 * @typedef {object} Outcome
 * @property {number} code
 * @property {string} message
 * @property {Record<string, string>} header
 * @property {Record<string, string>} trailer
 * @property {[type: string, value: string][]} details
 */

/** @typedef {(kind: import("../scenarios.js").Kind, options: CallOptions) => Promise<Outcome>} Open */

/** @type {Client[]} */
export const CLIENTS = [...CONNECT, ...PROTOBUF_TS, ...NICE_GRPC, ...IMPROBABLE, ...TS_PROTO, ...GOOGLE, ...BYTES];
