// The WebSocket carrier: one binary WebSocket message is one packet.

/**
 * What carries a session's packets, in the shape of a WebSocket. The session sets the three handlers. `onclose` comes
 * at most once, and nothing after it; after the session's own `close`, what comes is ignored,
 * and what is sent, too.
 * @typedef {object} Carrier
 * @property {(packet: Uint8Array<ArrayBuffer>) => void} send
 * @property {(code: number, reason: string) => unknown} close with a WebSocket close code. Truthy if the session goes on
 *   nevertheless, on another connection
 * @property {number} bufferedAmount bytes handed to `send` that have not left yet, as far as the platform tells
 * @property {(() => void) | null} [onopen] packets can be sent from now on
 * @property {((event: { data: unknown }) => void) | null} [onmessage] a packet as an `ArrayBuffer`
 * @property {((event: { code: number, reason: string }) => void) | null} [onclose]
 */

/**
 * What is used of a WebSocket class: the platform's own fits, and that of npm's `ws`, whose types are not the same.
 * @typedef {new (url: string, protocols: string[]) => WebSocketLike} WebSocketClass
 */

/**
 * @typedef {object} WebSocketLike
 * @property {any} binaryType
 * @property {number} bufferedAmount
 * @property {(data: any) => void} send
 * @property {(code: number, reason: string) => void} close
 * @property {any} onopen
 * @property {any} onmessage
 * @property {any} onclose
 * @property {any} onerror
 */

/**
 * @param {string | URL} url ws, wss, http or https; relative to the page where there is one
 * @param {WebSocketClass} Socket
 * @returns {Carrier}
 */
export function openWebSocket(url, Socket) {
  const target = new URL(url, globalThis.location?.href);
  target.protocol = target.protocol.replace("http", "ws");
  const socket = new Socket(target.href, ["bidiway.v1"]);
  socket.binaryType = "arraybuffer";
  // Every error is followed by a close, which tells more; Node's `ws` throws when nobody listens.
  socket.onerror = () => {};
  return /** @type {any} */ (socket);
}

/**
 * Nothing of the carrier is handled any more.
 * @param {Carrier | undefined} carrier
 * @param {number} [code] closes it
 * @param {string} [reason]
 */
export const drop = (carrier, code, reason = "") => {
  if (!carrier) return;
  carrier.onopen = carrier.onmessage = carrier.onclose = null;
  if (code) carrier.close(code, reason);
};
