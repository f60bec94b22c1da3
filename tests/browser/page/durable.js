// What the tests run in the page: `bidiway/durable` as the proxy serves it, and calls of bytes.

import { createChannel } from "/bidiway/durable.js";
import { carry, kinds } from "#talk";

let channel;
let conversation;
const seen = [];

export const cases = {
  start(options) {
    channel = createChannel(options);
    channel.on("state", (state, reason) => seen.push([state, reason?.message]));
  },
  state: () => channel.state,
  seen: () => seen.splice(0),
  kinds: () => kinds(channel),
  /** Begins a conversation that goes on until `end`. */
  begin() {
    conversation = carry(channel);
  },
  count: () => conversation.count(),
  end: () => conversation.end(),
  close: () => channel.close(),
};
window.cases = cases;
