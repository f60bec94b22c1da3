// Text sessions: a WebSocket class for the channel, over the platform's own or another.

import { createChannel } from "bidiway";
import type { Channel } from "bidiway";
import { createJsonClient } from "bidiway/json";
import { textFrames } from "bidiway/text";
import { WebSocket } from "ws";

const channel: Channel = createChannel({ WebSocket: textFrames() });
export const json = createJsonClient(channel);
export const inNode: Channel = createChannel({ url: "https://edge.example.com", WebSocket: textFrames(WebSocket) });
// @ts-expect-error: a class, not a URL
textFrames("wss://edge.example.com");
