// A page without npm: the package comes from the proxy, and calls are bytes.

import { codeName, createChannel } from "/bidiway/index.js";
import { Payload } from "./payload.js";

const channel = createChannel();
const form = document.querySelector("form");
const end = document.querySelector("#end");

let call;

form.onsubmit = async (event) => {
  event.preventDefault();
  const text = form.elements.text.value;
  form.elements.text.select();
  call ??= open();
  write("up", text);
  await call.send(Payload.encode({ text })).catch(() => {}); // how the call ends is said below
};

end.onclick = () => call.halfClose();

function open() {
  const call = channel.open({ method: "/demo.v1.Lab/Bidi" });
  end.disabled = false;
  listen(call);
  return call;
}

async function listen(opened) {
  try {
    for await (const message of opened) write("down", Payload.decode(message).text);
  } catch {
    // The status tells.
  }
  const { code, message } = await opened.status;
  write(code ? "bad" : "end", `${codeName(code)} ${message}`);
  end.disabled = true;
  call = undefined;
}

function write(className, textContent) {
  document.querySelector("ol").append(Object.assign(document.createElement("li"), { className, textContent }));
}
