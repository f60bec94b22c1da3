// An application of google's generated clients. The bundler puts `bidiway/grpc-web` in the place of their runtime.

import { createChannel } from "bidiway";
import { bidi, setChannel } from "bidiway/grpc-web";
import { GreeterClient } from "./client.js";
import { GreeterClient as CommonJsClient } from "./client.cjs";
import { HelloRequest } from "./messages.js";

const url = new URL(location.href).searchParams.get("proxy");
const channel = createChannel({ url });
setChannel(channel);

const message = (text) => Object.assign(new HelloRequest(), { text });

async function makeCalls() {
  const { origin } = new URL(url);
  const { text: promised } = await new GreeterClient(origin).hello(message("Ada"));
  const called = await new Promise((resolve, reject) =>
    new CommonJsClient(origin).hello(message("Bob"), {}, (error, reply) => (error ? reject(error) : resolve(reply.text))),
  );

  // Messages of Lab/Bidi, as far as they are needed here: field 1 is a number.
  const talk = bidi(channel, "/demo.v1.Lab/Bidi", HelloRequest, { deserializeBinary: (bytes) => bytes[1] });
  let rounds = 0;
  const number = (value) => ({ text: "", serializeBinary: () => Uint8Array.of(0x08, value) });
  await talk.send(number(1));
  for await (const answer of talk) {
    if (answer !== ++rounds) throw new Error(`answer ${answer} instead of ${rounds}`);
    if (rounds === 20) talk.halfClose();
    else await talk.send(number(rounds + 1));
  }
  await channel.close();
  return { promised, called, rounds };
}

window.results = makeCalls().catch(String);
