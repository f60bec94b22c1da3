// All four kinds of calls by generated Connect clients: what every environment has to be able to do.

import { createClient } from "@connectrpc/connect";
import { createChannel } from "bidiway";
import { createTransport } from "bidiway/connect";
import * as entries from "./entries.js";
import { Greeter, Lab } from "./gen/demo/v1/demo_pb.js";

const ROUNDS = 20;

/** @param {import("bidiway").ChannelOptions} options */
export async function makeCalls(options) {
  const channel = createChannel(options);
  const transport = createTransport(channel);
  const lab = createClient(Lab, transport);

  const { text: unary } = await createClient(Greeter, transport).hello({ name: "Ada" });

  let serverStream = 0;
  for await (const { number } of lab.serverStream({ count: 50, size: 1000 })) {
    if (number !== BigInt(++serverStream)) throw new Error(`message ${number} instead of ${serverStream}`);
  }

  const { messages } = await lab.clientStream(numbers(50));

  // The next number goes out only after the answer to the last one: no trick with half-duplex can pass this.
  let bidi = 0;
  let answered = () => {};
  const rounds = async function* () {
    for (let i = 1; i <= ROUNDS; i++) {
      const answer = new Promise((resolve) => (answered = resolve));
      yield { number: BigInt(i) };
      await answer;
    }
  };
  for await (const { number } of lab.bidi(rounds())) {
    if (number !== BigInt(++bidi)) throw new Error(`answer ${number} instead of ${bidi}`);
    answered();
  }

  await channel.close();
  return { unary, serverStream, clientStream: Number(messages), bidi, state: channel.state, loaded: loaded() };
}

/** The package's entries, as far as they have loaded and have something in them. */
const loaded = () => Object.keys(entries).filter((name) => Object.keys(entries[name]).length > 0).sort();

/** @param {number} count */
async function* numbers(count) {
  for (let i = 1; i <= count; i++) yield { number: BigInt(i) };
}
