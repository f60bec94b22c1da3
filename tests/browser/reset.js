// How a connection is reset.

/**
 * Ends a connection with a reset; with what it has said already, if it is just saying goodbye. For a socket whose shutdown
 * is under way libuv refuses the reset (EINVAL), and Node then takes the handle for closed and never closes it: the peer
 * hears of nothing, and at its end the process waits for that handle for ever, at full speed.
 * @param {import("node:net").Socket} socket
 */
export function reset(socket) {
  if (socket.writableEnded && !socket.writableFinished) socket.destroy();
  else socket.resetAndDestroy();
}
