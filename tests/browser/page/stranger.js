// What a page may try on a proxy of another origin, with its visitor's cookies: each in the way that a browser allows.

import { createChannel } from "/bidiway/durable.js";

const UNARY = "/demo.v1.Lab/Unary";
/** A Payload with the number 7, alone and behind gRPC's length. */
const PAYLOAD = Uint8Array.of(0x08, 7);
const FRAME = Uint8Array.of(0, 0, 0, 0, 2, ...PAYLOAD);
/** A packet with a Hello that knows version 1. */
const HELLO = Uint8Array.of(0x0a, 5, 0x72, 3, 0x0a, 1, 1);
const text = (bytes) => new TextDecoder().decode(bytes);
const bytes = (text) => new TextEncoder().encode(text);

/** A socket that says all of this as soon as it is open: what came of it until its end, or its first message. */
const socket = (url, protocols, messages) =>
  new Promise((resolve) => {
    const ws = new WebSocket(url.replace(/^http/, "ws"), protocols);
    ws.binaryType = "arraybuffer";
    let opened = false;
    ws.onopen = () => {
      opened = true;
      for (const message of messages) ws.send(message);
      if (!messages.length) ws.close();
    };
    ws.onmessage = ({ data }) => {
      ws.close();
      resolve({ opened, read: typeof data === "string" ? data : text(data) });
    };
    ws.onclose = () => resolve({ opened, read: null });
  });

/** A request: its status and body if the page may read them; 0 for an answer that it may not look into. */
const request = async (url, options) => {
  try {
    const response = await fetch(url, { credentials: "include", method: "POST", ...options });
    return { status: response.status, read: (response.status && (await response.text())) || null };
  } catch {
    return { status: null, read: null };
  }
};

/** A unary call in a session: what came, and how it ended. */
const call = async (url, options) => {
  const channel = createChannel({ url: `${url}/bidiway/session`, connectTimeoutMs: 1000, ...options });
  const call = channel.open({ method: "/demo.v1.Lab/Metadata", timeoutMs: 4000 });
  call.send(new Uint8Array()).catch(() => {});
  call.halfClose();
  let read = null;
  try {
    for await (const message of call) read = text(message);
  } catch {
    // The status says why.
  }
  const { code } = await call.status;
  channel.close();
  return { code, read };
};

/** A WebSocket as it is where there is none. */
class Blocked {
  constructor() {
    setTimeout(() => this.onclose({ code: 1006, reason: "" }));
  }
  close() {}
}

/** A form sends what it likes to a frame of the page. */
const form = (url, enctype) =>
  new Promise((resolve) => {
    const frame = document.body.appendChild(Object.assign(document.createElement("iframe"), { name: `f${Math.random()}` }));
    const form = document.createElement("form");
    Object.assign(form, { action: url, method: "POST", enctype, target: frame.name });
    form.append(Object.assign(document.createElement("input"), { name: '{"number":"7","text":"', value: '"}' }));
    document.body.append(form);
    frame.onload = () => {
      let read = null;
      try {
        read = frame.contentDocument?.body.textContent ?? null;
      } catch {
        // Another origin's.
      }
      frame.remove();
      resolve({ read });
    };
    form.submit();
  });

const CASES = {
  "a session on a WebSocket": (edge) => call(edge, { fetch: null }),
  "a session over HTTP": (edge) => call(edge, { WebSocket: Blocked, fetch: (url, options) => fetch(url, { ...options, credentials: "include" }) }),
  "a session in JSON": (edge) =>
    socket(`${edge}/bidiway/session`, "bidiway.v1+json", [
      '{"hello":{}}',
      JSON.stringify({ stream: 1, open: { method: UNARY } }),
      '{"stream":1,"message":{"number":"7"}}',
    ]),
  "grpc-websockets": (edge) => socket(edge + UNARY, "grpc-websockets", [bytes("\r\n"), Uint8Array.of(0, ...FRAME), Uint8Array.of(1)]),
  "grpc-websockets-multiplex": (edge) => socket(edge, "grpc-websockets-multiplex", []),
  "a JSON socket": (edge) => socket(edge + UNARY, [], ['{"number":"7"}']),
  "gRPC-Web": (edge) => request(edge + UNARY, { headers: { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" }, body: FRAME }),
  "gRPC-Web as text": (edge) => request(edge + UNARY, { headers: { "content-type": "application/grpc-web-text" }, body: "AAAAAAIIBw==" }),
  "JSON": (edge) => request(edge + UNARY, { headers: { "content-type": "application/json" }, body: '{"number":"7"}' }),
  "JSON as events": (edge) =>
    request(`${edge}/demo.v1.Lab/ServerStream`, {
      headers: { "content-type": "application/json", "accept": "text/event-stream" },
      body: '{"count":1}',
    }),
  "JSON as plain text, which asks nobody first": (edge) => request(edge + UNARY, { headers: { "content-type": "text/plain" }, body: '{"number":"7"}' }),
  "JSON without a type": (edge) => request(edge + UNARY, { body: bytes('{"number":"7"}') }),
  "JSON as plain text, unread": (edge) => request(edge + UNARY, { mode: "no-cors", headers: { "content-type": "text/plain" }, body: '{"number":"7"}' }),
  "gRPC-Web without a type, unread": (edge) => request(edge + UNARY, { mode: "no-cors", body: FRAME }),
  "the opening of a session over HTTP, unread": (edge) => request(`${edge}/bidiway/http/open`, { mode: "no-cors", body: HELLO, signal: AbortSignal.timeout(1000) }),
  "a beacon": async (edge) => ({ sent: navigator.sendBeacon(edge + UNARY, new Blob(['{"number":"7"}'], { type: "text/plain" })) }),
  "a form of plain text": (edge) => form(edge + UNARY, "text/plain"),
  "a form": (edge) => form(edge + UNARY, "application/x-www-form-urlencoded"),
  "a form with parts": (edge) => form(edge + UNARY, "multipart/form-data"),
  "an EventSource": (edge) =>
    new Promise((resolve) => {
      const source = new EventSource(`${edge}/demo.v1.Lab/ServerStream?count=1`, { withCredentials: true });
      const end = (opened) => {
        source.close();
        resolve({ opened });
      };
      source.onopen = () => end(true);
      source.onerror = () => end(false);
    }),
  "a script": (edge) =>
    new Promise((resolve) => {
      const script = Object.assign(document.createElement("script"), { src: edge + UNARY });
      script.onload = () => resolve({ ran: true });
      script.onerror = () => resolve({ ran: false });
      document.head.append(script);
    }),
  "the schemas": (edge) => request(`${edge}/bidiway/schema`, { method: "GET" }),
};

window.cases = {
  names: () => Object.keys(CASES),
  attempt: (name, edge) => CASES[name](edge),
};
