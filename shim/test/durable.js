// What the tests of `bidiway/durable` share: channels over fake WebSockets whose sessions go on.

import assert from "node:assert/strict";
import { createChannel } from "../src/durable.js";
import { bytes, connected as connectedTo, pair as pairOf, settle, watchRejections } from "./fake.js";

export const METHOD = "/demo.v1.Chat/Talk";
export const pair = (options) => pairOf({ create: createChannel, fetch: null, ...options });
export const T1 = bytes(16, 1);
export const T2 = bytes(16, 2);
export const connected = (options, welcome) => connectedTo({ create: createChannel, fetch: null, ...options }, { resumeToken: T1, ...welcome });

export function setup(t) {
  watchRejections(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  t.mock.method(Math, "random", () => 0.5);
  return (ms) => t.mock.timers.tick(ms);
}

/** A channel with one open call, on stream 1, of which the proxy has seen Open and a message. */
export async function talking(options, welcome) {
  const all = await connected(options, welcome);
  const call = all.channel.open({ method: METHOD });
  call.send(bytes(1, 1));
  await settle();
  return { ...all, call };
}

/** The next connection, on which the proxy goes on with the session. */
export async function resume(proxy, received, more = {}) {
  await settle();
  const peer = proxy.last;
  peer.accept();
  await settle();
  const [{ hello }] = peer.take("hello");
  assert.equal(peer.frames.length, 0, "nothing follows Hello before Welcome");
  peer.welcome({ resumed: true, received, resumeToken: T2, ...more });
  await settle();
  return { peer, hello };
}

export const isOpen = async (call) => (await Promise.race([call.status, settle()])) === undefined;
