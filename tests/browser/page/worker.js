// The same package in a worker, by its raw calls.

import { createChannel } from "/bidiway/index.js";

onmessage = async ({ data }) => {
  const channel = createChannel({ url: `${data}/bidiway/session` });
  const call = channel.open({ method: "/demo.v1.Greeter/Hello" });
  call.send(new Uint8Array([0x0a, 3, 0x41, 0x64, 0x61]));
  call.halfClose();
  const messages = [];
  for await (const message of call) messages.push(new TextDecoder().decode(message.subarray(2)));
  postMessage({ messages, code: (await call.status).code });
  await channel.close();
};
