// The lines of JavaScript behind each kind of call: what this page itself does, without the decoration.

import { readable } from "./mode.js";

const OPENING = `import { createChannel } from "/bidiway/durable.js";
const channel = createChannel({});`;

const BINARY = {
  chat: `${OPENING}
const call = channel.open({ method: "/demo.v1.Chat/Talk" });
call.send(ChatMessage.encode({ room: "lobby", user: "Ada" }));
for await (const bytes of call) show(ChatMessage.decode(bytes));
// meanwhile: call.send(…), call.halfClose(), call.cancel()`,
  hello: `${OPENING}
const call = channel.open({ method: "/demo.v1.Greeter/Hello", timeoutMs: 500 });
call.send(HelloRequest.encode({ name: "Ada" })), call.halfClose();
for await (const bytes of call) show(HelloReply.decode(bytes));
// await call.headers; await call.status → { code, message, details, metadata }`,
  download: `${OPENING}
const call = channel.open({ method: "/demo.v1.Lab/ServerStream" });
call.send(StreamRequest.encode({ count: 40, size: 64 })), call.halfClose();
for await (const bytes of call) await show(Payload.decode(bytes));
// reading slowly slows the service: each read message gives credit for more`,
  upload: `${OPENING}
const call = channel.open({ method: "/demo.v1.Lab/ClientStream" });
for (const text of lines) await call.send(Payload.encode({ text }));
call.halfClose();
for await (const bytes of call) show(Summary.decode(bytes));`,
  echo: `${OPENING}
const call = channel.open({ method: "/demo.v1.Lab/Bidi" });
call.send(Payload.encode({ number: 1 }));
for await (const bytes of call)
  call.send(Payload.encode({ number: Payload.decode(bytes).number + 1 }));`,
  failure: `${OPENING}
const call = channel.open({ method: "/demo.v1.Lab/Fail" });
call.send(FailRequest.encode({ code: 9, reason: "TOO_EARLY" })), call.halfClose();
try { for await (const bytes of call); }
catch (error) { show(error.code, error.message, error.details, error.metadata); }`,
};

const TEXT_OPENING = `import { createChannel } from "/bidiway/index.js";
import { createJsonClient } from "/bidiway/json.js";
import { textFrames } from "/bidiway/text.js";
const json = createJsonClient(createChannel({ WebSocket: textFrames() }));`;

const TEXT = {
  chat: `${TEXT_OPENING}
const call = json.duplex("demo.v1.Chat/Talk");
call.send({ room: "lobby", user: "Ada" });
for await (const message of call) show(message);
// meanwhile: call.send(…), call.halfClose(), call.cancel()`,
  hello: `${TEXT_OPENING}
const options = { timeoutMs: 500, onHeaders, onTrailers };
const { text } = await json.call("demo.v1.Greeter/Hello", { name: "Ada" }, options);`,
  download: `${TEXT_OPENING}
const call = json.stream("demo.v1.Lab/ServerStream", { count: 40, size: 64 });
for await (const { number } of call) await show(number);
// reading slowly slows the service: each read message gives credit for more`,
  upload: `${TEXT_OPENING}
const summary = await json.call("demo.v1.Lab/ClientStream", (async function* () {
  for (const text of lines) yield { text };
})());`,
  echo: `${TEXT_OPENING}
const call = json.duplex("demo.v1.Lab/Bidi");
call.send({ number: 1 });
for await (const { number } of call) call.send({ number: Number(number) + 1 });`,
  failure: `${TEXT_OPENING}
try { await json.call("demo.v1.Lab/Fail", { code: 9, reason: "TOO_EARLY" }); }
catch (error) { show(error.code, error.message, error.details, error.metadata); }`,
};

export const CODE = readable ? TEXT : BINARY;

const TOKENS = /(\/\/.*)|("[^"]*")|\b(import|from|const|for|await|of|try|catch)\b/g;

/** Shows code with keywords, strings and comments marked. */
export function showCode(pre, code) {
  const nodes = [];
  let at = 0;
  for (const match of code.matchAll(TOKENS)) {
    nodes.push(code.slice(at, match.index));
    const mark = document.createElement("span");
    mark.className = match[1] ? "c" : match[2] ? "s" : "k";
    mark.textContent = match[0];
    nodes.push(mark);
    at = match.index + match[0].length;
  }
  pre.replaceChildren(...nodes, code.slice(at));
}
