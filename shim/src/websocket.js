// The WebSocket carrier: one binary WebSocket message is one packet.

/**
 * What carries a session's packets. The owner sets the three handlers; `onclose` comes exactly once, unless the
 * owner has called `close` itself.
 * @typedef {object} Carrier
 * @property {(packet: Uint8Array) => void} send
 * @property {(code: number, reason: string) => void} close with a WebSocket close code
 * @property {number} bufferedAmount bytes handed to `send` that have not left yet, as far as the platform tells
 * @property {() => void} onopen packets can be sent from now on
 * @property {(packet: Uint8Array | undefined) => void} onmessage a packet; `undefined` for something that is none
 * @property {(code: number, reason: string) => void} onclose
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

const SUBPROTOCOL = "bidiway.v1";

/**
 * @param {string | URL} url ws, wss, http or https; relative to the page where there is one
 * @param {WebSocketClass} Socket
 * @returns {Carrier}
 */
export function openWebSocket(url, Socket) {
  const target = new URL(url, globalThis.location?.href);
  target.protocol = target.protocol.replace("http", "ws");
  const socket = new Socket(target.href, [SUBPROTOCOL]);
  socket.binaryType = "arraybuffer";
  const ignore = () => {};
  /** @type {Carrier} */
  const carrier = {
    send: (packet) => socket.send(packet),
    close(code, reason) {
      carrier.onopen = carrier.onmessage = carrier.onclose = ignore;
      // A close reason has at most 123 bytes; ours are ASCII.
      socket.close(code, reason.slice(0, 123));
    },
    get bufferedAmount() {
      return socket.bufferedAmount;
    },
    onopen: ignore,
    onmessage: ignore,
    onclose: ignore,
  };
  socket.onopen = () => carrier.onopen();
  socket.onmessage = (/** @type {{ data: unknown }} */ { data }) => carrier.onmessage(data instanceof ArrayBuffer ? new Uint8Array(data) : undefined);
  socket.onclose = (/** @type {{ code: number, reason: string }} */ { code, reason }) => carrier.onclose(code, reason);
  // Every error is followed by a close, which tells more; Node's `ws` throws when nobody listens.
  socket.onerror = ignore;
  return carrier;
}
