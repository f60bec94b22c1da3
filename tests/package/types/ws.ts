// Node 20 has no WebSocket: npm's `ws` is handed in.

import { createChannel } from "bidiway";
import { WebSocket } from "ws";

export const channel = createChannel({ url: "wss://edge.example.com/bidiway/session", WebSocket });
export class Insecure extends WebSocket {
  constructor(url: string | URL, protocols?: string | string[]) {
    super(url, protocols, { rejectUnauthorized: false });
  }
}
createChannel({ WebSocket: Insecure });
