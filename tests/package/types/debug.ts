// What passes, for people: calls on the console, and frames.

import { createChannel } from "bidiway";
import type { Channel } from "bidiway";
import { logCalls, readPacket, watchFrames } from "bidiway/debug";
import type { Frame } from "bidiway/debug";
import { reflect } from "bidiway/reflect";

const channel: Channel = logCalls(createChannel());

export async function decoded(): Promise<Channel> {
  const { decode } = await reflect(channel);
  // @ts-expect-error: a decoder is a function
  logCalls(channel, { decode: "json" });
  return logCalls(createChannel(), { decode, mask: /secret/, patienceMs: 200, console });
}

export const watched: Channel = createChannel({
  WebSocket: watchFrames(({ direction, frame }: { direction: "in" | "out"; frame: Frame }) => console.log(direction, frame["stream"])),
});
export const frames: Frame[] = readPacket(new Uint8Array());
