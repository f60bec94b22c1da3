// What the tests run in a page whose connection does not last: a numbered conversation over a durable channel.

import { createClient } from "@connectrpc/connect";
import { createChannel } from "/bidiway/durable.js";
import { createTransport } from "/bidiway/connect.js";
import { Lab } from "#gen/demo/v1/demo_pb.js";

/** So many messages are on their way at most. */
const AHEAD = 32;

/** Its content follows from its number, so that a mix-up is seen. */
const filling = (number) => new Uint8Array(Number((number * 2654435761n) % 1500n)).fill(Number(number % 251n));

let state;
/** Whether the browser kept the page, each time that it was left, and each time that it came back. */
const left = [];
const back = [];
addEventListener("pagehide", ({ persisted }) => left.push(persisted));
addEventListener("pageshow", ({ persisted }) => back.push(persisted));

export const cases = {
  /** Begins the conversation; it goes on by itself until `finish`. */
  start(tag, options) {
    const channel = createChannel(options);
    const states = [];
    channel.on("state", (to) => states.push(to));
    const mine = (state = { channel, states, sent: 0, received: 0, error: undefined, finish: false, ended: undefined, headers: 0 });
    let room = () => {};
    const input = async function* () {
      while (!mine.finish) {
        if (mine.sent - mine.received >= AHEAD) await new Promise((resolve) => (room = resolve));
        const number = BigInt(++mine.sent);
        yield { number, data: filling(number) };
      }
    };
    mine.ended = (async () => {
      const lab = createClient(Lab, createTransport(channel));
      const options = { headers: { "demo-tag": tag }, onHeader: () => mine.headers++ };
      for await (const { number, data } of lab.bidi(input(), options)) {
        const expected = BigInt(mine.received + 1);
        if (number !== expected) throw new Error(`message ${number} instead of ${expected}`);
        const { length } = filling(number);
        if (data.length !== length || data.some((byte) => byte !== Number(number % 251n))) {
          throw new Error(`message ${number} has ${data.length} bytes instead of ${length}, or others`);
        }
        mine.received++;
        room();
      }
      if (!mine.finish) throw new Error("it ended by itself");
    })().catch((error) => {
      mine.error = `${error}`;
    });
  },

  progress: () => ({ sent: state.sent, received: state.received, error: state.error, headers: state.headers, state: state.channel.state }),

  /** Half-closes, waits for the end, and tells how it was. */
  async finish() {
    state.finish = true;
    await state.ended;
    const { states, ...progress } = state;
    await state.channel.close();
    return { sent: progress.sent, received: progress.received, error: progress.error, headers: progress.headers, states };
  },

  /** How it was left and how it came back, and why it was not kept, if the browser says so. */
  kept: () => ({ left, back, why: JSON.stringify(performance.getEntriesByType("navigation")[0].notRestoredReasons ?? null) }),
};

window.cases = cases;
