// The channel that all clients on Bidiway share, as those of a page do: one socket.

import { createChannel } from "bidiway";

/** @type {ReturnType<typeof createChannel> | undefined} */
let shared;

/** @param {string} url */
export const channel = (url) => (shared ??= createChannel({ url: `${url}/bidiway/session` }));

export const closeChannel = () => shared?.close();
