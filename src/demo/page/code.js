// The lines of JavaScript behind each kind of call: what this page itself does, without the decoration.

const OPENING = `import { createChannel } from "/bidiway/durable.js";
const channel = createChannel({});`;

export const CODE = {
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
