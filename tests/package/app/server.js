// The calls, outside browsers: Node, Deno, Bun. Node 20 has no WebSocket of its own; there npm's `ws` takes its place.

import { makeCalls } from "./calls.js";

const [url] = globalThis.Deno?.args ?? process.argv.slice(2);
const WebSocket = globalThis.WebSocket ?? (await import("ws")).WebSocket;
console.log(JSON.stringify(await makeCalls({ url, WebSocket })));
