// The bundle: every client of the matrix, and how to run one case of one. The same in a page and in Node.

import { closeChannel } from "./clients/channel.js";
import { CLIENTS } from "./clients/index.js";
import { scenario, summary } from "./scenarios.js";

/** @type {Map<string, () => void>} */
const running = new Map();
/** @type {Map<string, Promise<import("./clients/index.js").Open>>} */
const open = new Map();

const client = (name) => CLIENTS.find((client) => client.name === name);

/** What the runner needs to know of the clients. */
export const clients = CLIENTS.map(({ open, ...rest }) => rest);

/**
 * Makes a call, and tells how it went for the application.
 * @param {object} what
 * @param {string} what.client
 * @param {import("./scenarios.js").Kind} what.kind
 * @param {string} what.scenario
 * @param {string} what.id
 * @param {string} what.url
 * @param {number} what.timeoutMs
 * @param {boolean} what.atEnd the client shows no answer before the call has ended
 */
export async function run({ client: name, kind, scenario: scene, id, url, timeoutMs, atEnd }) {
  const { metadata, asks, answers: expected, hangs, pingPong } = scenario(scene, kind);
  const aborter = new AbortController();
  const answers = [];
  let cancelled = false;
  // The application cancels when it has got what comes before the silence, if its client gives messages at once.
  const look = () => cancelled && (answers.length >= expected.length || atEnd) && aborter.abort();
  running.set(id, () => {
    cancelled = true;
    look();
  });

  let wake = () => {};
  let over = false;
  // What the application sends. After the last ask it half-closes, unless the call is one that hangs.
  async function* produce() {
    for (const [i, ask] of asks.entries()) {
      yield ask;
      while (kind === "bidi" && pingPong && answers.length <= i && !over) await new Promise((resolve) => (wake = resolve));
      if (over) return;
    }
    while (hangs && !over) await new Promise((resolve) => (wake = resolve));
  }

  if (!open.has(name)) open.set(name, client(name).open(url));
  const call = await open.get(name);
  const outcome = await call(kind, {
    metadata: [["case", id], ["scenario", scene], ...metadata],
    timeoutMs: hangs === "deadline" ? timeoutMs : undefined,
    signal: aborter.signal,
    ask: asks[0],
    asks: kind === "unary" || kind === "serverStream" ? undefined : produce(),
    onAnswer: (answer) => {
      answers.push(summary(answer));
      wake();
      look();
    },
  });
  over = true;
  wake();
  running.delete(id);
  return { ...outcome, answers };
}

/** Cancels a running call, as the application would. */
export const cancel = (id) => running.get(id)?.();

/** Closes the channel that the clients on Bidiway share. */
export const close = () => closeChannel();
