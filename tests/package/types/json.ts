// Calls in JSON: any message by default, the application's own types where it has them.

import { createChannel } from "bidiway";
import type { Metadata, Status } from "bidiway";
import { createJsonClient } from "bidiway/json";
import type { JsonCall, JsonCallOptions, JsonClient } from "bidiway/json";

type Payload = { number?: string; text?: string };

const json: JsonClient = createJsonClient(createChannel());
const options: JsonCallOptions = {
  metadata: { "x-one": "1" },
  timeoutMs: 1000,
  signal: new AbortController().signal,
  onHeaders: (headers: Metadata) => headers.length,
  onTrailers: (trailers: Metadata) => trailers.length,
};

async function* payloads(): AsyncGenerator<Payload> {
  yield { text: "x" };
}

export async function all(): Promise<string[]> {
  const { text } = await json.call("demo.v1.Greeter/Hello", { name: "Ada" });
  const typed = await json.call<Payload, Payload>("demo.v1.Lab/Unary", { number: "1" }, options);
  // @ts-expect-error: there is no such field
  typed.nothing;
  // @ts-expect-error: the request is of another type
  json.call<Payload, Payload>("demo.v1.Lab/Unary", { name: "Ada" }).catch(() => {});
  // @ts-expect-error: the codec is not for the application to say
  json.call("demo.v1.Lab/Unary", {}, { codec: "proto" }).catch(() => {});
  const { messages }: { messages: string } = await json.call("demo.v1.Lab/ClientStream", payloads());
  const seen: string[] = [text, typed.text ?? "", messages];
  for await (const { number } of json.stream<Payload>("demo.v1.Lab/ServerStream", { count: 3 })) seen.push(number ?? "0");
  const talk: JsonCall<Payload, Payload> = json.duplex<Payload, Payload>("demo.v1.Lab/Bidi", options);
  await talk.send({ text: "x" });
  // @ts-expect-error: not what this call sends
  talk.send({ name: "Ada" }).catch(() => {});
  talk.halfClose();
  const headers: Metadata = await talk.headers;
  const status: Status = await talk.status;
  for await (const message of json.duplex("demo.v1.Lab/Bidi", payloads(), options)) seen.push(message.text);
  talk.cancel(headers.length + status.code);
  return seen;
}
