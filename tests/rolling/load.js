// What goes on while instances are replaced: unary calls in four ways, and conversations.

import { connect } from "node:http2";
import { WebSocket } from "ws";
import { createChannel as createDurable } from "../../shim/src/durable.js";
import { createChannel } from "../../shim/src/index.js";
import { sleep } from "./rig.js";

const UNARY = "/demo.v1.Lab/Unary";
const BIDI = "/demo.v1.Lab/Bidi";

/** A `demo.v1.Payload` with this number. */
function payload(number) {
  const bytes = [0x08];
  for (; number > 127; number = Math.floor(number / 128)) bytes.push((number % 128) | 128);
  return new Uint8Array([...bytes, number]);
}

/** The number of a `demo.v1.Payload`. */
function numberOf(bytes) {
  let number = 0;
  for (let i = 1, scale = 1; ; i++, scale *= 128) {
    number += (bytes[i] & 127) * scale;
    if (bytes[i] < 128) return number;
  }
}

/** A gRPC-Web body with one message. */
function framed(message) {
  const body = new Uint8Array(5 + message.length);
  new DataView(body.buffer).setUint32(1, message.length);
  body.set(message, 5);
  return body;
}

/** The message of a gRPC-Web answer; throws unless it ended with OK. */
function unframed(body) {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  let message;
  for (let at = 0; at + 5 <= body.length; ) {
    const end = at + 5 + view.getUint32(at + 1);
    const part = body.subarray(at + 5, end);
    if (!(body[at] & 0x80)) message = part;
    else if (message && /^grpc-status: ?0\r?$/m.test(new TextDecoder().decode(part))) return message;
    else throw new Error(new TextDecoder().decode(part));
    at = end;
  }
  throw new Error("the answer has no end");
}

const HEADERS = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };

/** gRPC-Web over HTTP/1.1 with connections that are kept: what `fetch` does. */
async function overFetch(url, message) {
  const response = await fetch(url + UNARY, { method: "POST", headers: HEADERS, body: framed(message) });
  const status = response.headers.get("grpc-status");
  if (response.status !== 200 || (status && status !== "0")) {
    throw new Error(`HTTP ${response.status}, grpc-status ${status}: ${response.headers.get("grpc-message")}`);
  }
  return unframed(new Uint8Array(await response.arrayBuffer()));
}

/** gRPC-Web over HTTP/2: one connection, another one after its GOAWAY, as browsers do. */
function http2Caller(url) {
  let session;
  const fresh = () => {
    const mine = (session = connect(url));
    const forget = () => session === mine && (session = undefined);
    mine.on("goaway", forget).on("close", forget).on("error", forget);
    return mine;
  };
  const call = (message) =>
    new Promise((resolve, reject) => {
      const request = (session ?? fresh()).request({ ":method": "POST", ":path": UNARY, ...HEADERS });
      const chunks = [];
      request.on("response", (headers) => {
        if (headers[":status"] !== 200 || (headers["grpc-status"] ?? "0") !== "0") reject(new Error(JSON.stringify(headers)));
      });
      request.on("data", (chunk) => chunks.push(chunk));
      // Node found the GOAWAY before it had sent this request: it takes another connection, as in any HTTP/2 client.
      let unsent = false;
      request.on("frameError", () => (unsent = true));
      request.on("error", (error) => (unsent ? resolve(call(message)) : reject(error)));
      request.on("end", () => {
        try {
          resolve(unframed(Buffer.concat(chunks)));
        } catch (error) {
          reject(error);
        }
      });
      request.end(framed(message));
    });
  return { call, stop: () => session?.destroy() };
}

async function overChannel(channel, message) {
  const call = channel.open({ method: UNARY, timeoutMs: 20_000 });
  call.send(message).catch(() => {});
  call.halfClose();
  const { value } = await call.next();
  const { code, message: text } = await call.status;
  if (code !== 0) throw new Error(`${code}: ${text}`);
  return value;
}

/**
 * Starts the load. `stop` waits until it has ended and tells what happened.
 * @param {string} url
 * @param {{ channels: number, fetchers: number, http2: number, visitors: number }} sizes
 */
export function startLoad(url, { channels, fetchers, http2, visitors }) {
  const seen = {
    /** Unary calls that ended well, by the way that they went. */
    calls: { channel: 0, fetch: 0, http2: 0, visitor: 0 },
    /** Those that did not. */
    failed: [],
    /** The longest that a call took, likewise. */
    slowest: { channel: 0, fetch: 0, http2: 0, visitor: 0 },
    /** Answers that conversations had. */
    answers: 0,
    /** Conversations that were ended when their channel was told to move. */
    finished: 0,
    /** The ends of the others. */
    ends: [],
    /** When channels had another session after they were told to move, in milliseconds since 1970. */
    moves: [],
  };
  let running = true;
  const work = [];
  const stops = [];

  /** Calls again and again, until the end. */
  const repeat = async (way, call) => {
    for (let number = 1; running; number++) {
      const start = performance.now();
      try {
        const answer = numberOf(await call(payload(number)));
        if (answer !== number) throw new Error(`the answer to ${number} is ${answer}`);
        seen.calls[way]++;
      } catch (error) {
        seen.failed.push(`${new Date().toISOString()} ${way}: ${error.message} (${error.cause?.message ?? error.cause ?? "no cause"})`);
      }
      seen.slowest[way] = Math.max(seen.slowest[way], performance.now() - start);
      await sleep(Math.random() * 50);
    }
  };

  /** A numbered conversation: k + 1 follows answer k. Begun again when the proxy has ended it. */
  const converse = async (channel, short) => {
    while (running) {
      const call = channel.open({ method: BIDI });
      let finish = !running;
      const off = channel.on("state", (state) => (finish ||= short && state === "draining"));
      let number = 1;
      try {
        for (;;) {
          await call.send(payload(number));
          const { value, done } = await call.next();
          if (done) throw new Error("the conversation ended by itself");
          if (numberOf(value) !== number) throw new Error(`the answer to ${number} is ${numberOf(value)}`);
          seen.answers++;
          number++;
          if (finish || !running) {
            call.halfClose();
            if (!(await call.next()).done) throw new Error("one answer too many");
            seen.finished++;
            break;
          }
          await sleep(20 + Math.random() * 60);
        }
      } catch (error) {
        if (error.code === undefined) seen.failed.push(`conversation: ${error.message}`);
        else seen.ends.push({ code: error.code, origin: error.origin, message: error.message });
      }
      off();
    }
  };

  for (let i = 0; i < channels; i++) {
    const channel = (i % 8 < 4 ? createChannel : createDurable)({ url: `${url}/bidiway/session`, WebSocket });
    let draining = false;
    channel.on("state", (state) => {
      if (state === "draining") draining = true;
      if (state === "ready" && draining) {
        draining = false;
        seen.moves.push(Date.now());
      }
    });
    work.push(repeat("channel", (message) => overChannel(channel, message)));
    if (i % 4 < 3) work.push(converse(channel, i % 4 === 0));
    stops.push(() => channel.close());
  }
  for (let i = 0; i < fetchers; i++) work.push(repeat("fetch", (message) => overFetch(url, message)));
  for (let i = 0; i < http2; i++) {
    const { call, stop } = http2Caller(url);
    work.push(repeat("http2", call));
    stops.push(stop);
  }
  // Each call is a page that was just opened.
  const visit = async (message) => {
    const channel = createDurable({ url: `${url}/bidiway/session`, WebSocket });
    try {
      return await overChannel(channel, message);
    } finally {
      await channel.close();
    }
  };
  for (let i = 0; i < visitors; i++) work.push(repeat("visitor", visit));

  return {
    seen,
    async stop() {
      running = false;
      await Promise.all(work);
      await Promise.all(stops.map((stop) => stop()));
      return seen;
    },
  };
}
