// A chat in the terminal: what you type goes up, what others say comes down, in one bidirectional call.
//
//   node chat.js NAME [ROOM] [URL]

import { createInterface } from "node:readline";
import { ConnectError, createClient } from "@connectrpc/connect";
import { createChannel } from "bidiway";
import { createTransport } from "bidiway/connect";
import { Chat, ChatMessage_Kind as Kind } from "./gen/demo/v1/demo_pb.js";

const [user, room = "lobby", url = "http://127.0.0.1:8080/bidiway/session"] = process.argv.slice(2);
if (!user) {
  console.error("usage: node chat.js NAME [ROOM] [URL]");
  process.exit(64);
}

// Node has a WebSocket of its own since version 22.
const { WebSocket } = globalThis.WebSocket ? globalThis : await import("ws");
const channel = createChannel({ url, WebSocket });
const chat = createClient(Chat, createTransport(channel));

/** The first message joins; the end of the input, Ctrl-D, half-closes and so leaves the room. */
async function* lines() {
  yield { room, user };
  for await (const text of createInterface({ input: process.stdin })) {
    if (text) yield { text };
  }
}

try {
  for await (const { kind, user: who, text, members } of chat.talk(lines())) {
    if (kind === Kind.TEXT) console.log(`${who}: ${text}`);
    else if (kind === Kind.JOINED) console.log(`* ${who} has come in, ${members} here`);
    else if (kind === Kind.LEFT) console.log(`* ${who} has gone, ${members} here`);
    else console.log(`* ${text}`);
  }
} catch (error) {
  console.error(ConnectError.from(error).message);
  process.exitCode = 1;
  process.stdin.destroy();
} finally {
  await channel.close();
}
