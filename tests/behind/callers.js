// Conversations that fall silent, by every way into the proxy that there is.

import { connect } from "node:http2";
import { request } from "node:https";
import { WebSocket } from "ws";
import { createChannel as createDurable } from "../../shim/src/durable.js";
import { createChannel } from "../../shim/src/index.js";
import { sleep } from "../rolling/rig.js";

export const ORIGIN = "https://app.example.com";
const LAB = "/demo.v1.Lab/";

/** A `demo.v1.Payload` with this number, below 128. */
export const payload = (number) => Uint8Array.of(0x08, number);

/** gRPC's length prefix and the message. */
export function framed(message) {
  const bytes = new Uint8Array(5 + message.length);
  new DataView(bytes.buffer).setUint32(1, message.length);
  bytes.set(message, 5);
  return bytes;
}

/** A page's WebSocket: with its origin. */
export class PageSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin: ORIGIN });
  }
}

/** A page's `fetch`: with its origin. */
export const pageFetch = (url, init = {}) => fetch(url, { ...init, headers: { ...init.headers, origin: ORIGIN } });

// What the shim remembers about a URL is what a test wants it to begin with: here it is the query.
globalThis.sessionStorage = {
  getItem: (key) => JSON.stringify({ kind: key.split("?")[1] ?? "websocket", until: Date.now() + 1e8 }),
  setItem: () => {},
};

/** A message there, its echo back. */
async function echo(number, send, next) {
  await send(number);
  const answer = await next();
  if (answer !== number) throw new Error(`the answer to ${number} is ${answer}`);
}

/** The session: two messages with silence between. Resolves to the status and how often it had to connect. */
async function overChannel(create, url, query, silenceMs) {
  let connects = 0;
  const channel = create({ url: `${url.replace("http", "ws")}/bidiway/session${query}`, WebSocket: PageSocket, fetch: pageFetch });
  channel.on("state", (state) => (connects += state === "ready"));
  try {
    const call = channel.open({ method: `${LAB}Bidi` });
    const send = (number) => call.send(payload(number));
    const next = async () => (await call.next()).value?.[1];
    await echo(1, send, next);
    await sleep(silenceMs);
    await echo(2, send, next);
    call.halfClose();
    if (!(await call.next()).done) throw new Error("one answer too many");
    return { ...(await call.status), connects };
  } finally {
    await channel.close();
  }
}

export const session = (url, silenceMs) => overChannel(createDurable, url, "", silenceMs);
export const streaming = (url, silenceMs) => overChannel(createDurable, url, "?http", silenceMs);
export const polling = (url, silenceMs) => overChannel(createDurable, url, "?poll", silenceMs);
/** One that is not resumed. */
export const plain = (url, silenceMs) => overChannel(createChannel, url, "", silenceMs);

/** A raw WebSocket with its messages, and what it is closed with. */
async function opened(url, protocols) {
  const socket = new PageSocket(url.replace("http", "ws"), protocols);
  const messages = [];
  let wake = () => {};
  let closed;
  socket.on("message", (data, binary) => (messages.push(binary ? data : data.toString()), wake()));
  socket.on("close", (code) => ((closed = code), wake()));
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  const next = async () => {
    while (messages.length === 0) {
      if (closed !== undefined) throw new Error(`closed with ${closed}`);
      await new Promise((resolve) => (wake = resolve));
    }
    return messages.shift();
  };
  return { socket, next };
}

/** A call of `@improbable-eng/grpc-web`: one on a WebSocket of its own. */
export async function improbable(url, silenceMs) {
  const { socket, next } = await opened(`${url}${LAB}Bidi`, "grpc-websockets");
  socket.send(Buffer.from("content-type: application/grpc-web+proto\r\n"));
  const send = (number) => socket.send(Buffer.concat([Uint8Array.of(0), framed(payload(number))]));
  const data = async () => {
    for (;;) {
      const message = await next();
      if (!(message[0] & 0x80)) return message[6];
    }
  };
  await echo(1, send, data);
  await sleep(silenceMs);
  await echo(2, send, data);
  socket.send(Uint8Array.of(1));
  return { code: Number(/grpc-status: ?(\d+)/.exec((await next()).toString())[1]) };
}

/** What `wscat` does: each line is a message. */
export async function jsonSocket(url, silenceMs) {
  const { socket, next } = await opened(`${url}${LAB}Bidi`);
  const send = (number) => socket.send(JSON.stringify({ number: `${number}` }));
  const data = async () => Number(JSON.parse(await next()).number);
  await echo(1, send, data);
  await sleep(silenceMs);
  await echo(2, send, data);
  socket.close();
  return { code: 0 };
}

/** Native gRPC over HTTP/2. */
export async function native(url, silenceMs) {
  const connection = connect(url);
  try {
    const headers = { ":method": "POST", ":path": `${LAB}Bidi`, "content-type": "application/grpc", te: "trailers" };
    const request = connection.request(headers);
    const failed = new Promise((_, reject) => (connection.on("error", reject), request.on("error", reject)));
    failed.catch(() => {});
    const trailers = new Promise((resolve) => request.on("trailers", resolve));
    const bytes = [];
    let wake = () => {};
    request.on("data", (chunk) => (bytes.push(...chunk), wake())).on("close", () => wake());
    const data = async () => {
      while (bytes.length < 7) {
        if (request.closed) throw new Error(`the stream was closed with ${request.rstCode}`);
        await Promise.race([failed, new Promise((resolve) => (wake = resolve))]);
      }
      return bytes.splice(0, 7)[6];
    };
    const send = (number) => request.write(framed(payload(number)));
    await echo(1, send, data);
    await sleep(silenceMs);
    await echo(2, send, data);
    request.end();
    return { code: Number((await Promise.race([failed, trailers]))["grpc-status"]) };
  } finally {
    connection.destroy();
  }
}

const GRPC_WEB = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };

/** A silent server stream over gRPC-Web. Resolves when its body has ended, one way or the other. */
export async function grpcWebStream(url) {
  const begun = performance.now();
  const response = await pageFetch(`${url}${LAB}WaitStream`, { method: "POST", headers: GRPC_WEB, body: framed(new Uint8Array()) });
  const chunks = [];
  let broken = false;
  try {
    for await (const chunk of response.body) chunks.push(chunk);
  } catch {
    broken = true;
  }
  return { broken, lastedMs: performance.now() - begun, text: Buffer.concat(chunks).toString("latin1") };
}

/** A unary call over gRPC-Web; rejects unless it ends with OK. */
export async function grpcWebUnary(url) {
  const response = await pageFetch(`${url}${LAB}Unary`, { method: "POST", headers: GRPC_WEB, body: framed(payload(7)) });
  const text = Buffer.from(await response.arrayBuffer()).toString("latin1");
  if (response.status !== 200 || !/grpc-status: ?0\r/.test(text)) throw new Error(`HTTP ${response.status}: ${text}`);
}

/**
 * A WebSocket over HTTP/2 (RFC 8441), as browsers open one where the other side offers it: the status, 200 if it is taken;
 * undefined where it is not offered, and browsers take HTTP/1.1.
 */
export async function upgradeOverHttp2(url) {
  const connection = connect(url);
  try {
    await new Promise((resolve, reject) => connection.on("remoteSettings", resolve).on("error", reject));
    if (!connection.remoteSettings.enableConnectProtocol) return undefined;
    const request = connection.request({
      ":method": "CONNECT", ":protocol": "websocket", ":path": "/bidiway/session", "sec-websocket-version": "13",
      "sec-websocket-protocol": "bidiway.v1", origin: ORIGIN,
    });
    return await new Promise((resolve, reject) => {
      request.on("response", (headers) => resolve(headers[":status"])).on("error", reject);
    });
  } finally {
    connection.destroy();
  }
}

/** The address of a client that is not the balancer's. */
export const CLIENT = "127.0.0.2";

/** What a service is told of a client that lies about its address: the HTTP status, and `x-forwarded-for`. */
export function told(url) {
  const headers = { "content-type": "application/json", origin: url, "x-forwarded-for": "192.0.2.66", "x-forwarded-proto": "http" };
  return new Promise((resolve, reject) => {
    const call = request(`${url}${LAB}Metadata`, { method: "POST", localAddress: CLIENT, headers }, async (response) => {
      let text = "";
      for await (const chunk of response) text += chunk;
      const { entries = [] } = JSON.parse(text);
      resolve({ status: response.statusCode, forwarded: entries.find(({ name }) => name === "x-forwarded-for")?.text });
    });
    call.on("error", reject).end("{}");
  });
}

/** The HTTP status of an upgrade from a page of this origin; 101 if it is taken. */
export function upgradeFrom(origin, url) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/bidiway/session`, "bidiway.v1", { origin });
    socket.on("open", () => (socket.terminate(), resolve(101)));
    socket.on("unexpected-response", (_, response) => (response.resume(), resolve(response.statusCode)));
    socket.on("error", reject);
  });
}
