// The plain calls. Each line is something that an application writes; what must not compile says so.

import { BidiwayError, Code, codeName, createChannel } from "bidiway";
import type { Call, CallOptions, Channel, ChannelOptions, ChannelState, Metadata, MetadataInit, Status } from "bidiway";

const options: ChannelOptions = {
  url: async () => new URL("wss://edge.example.com/bidiway/session"),
  metadata: async (lastError?: BidiwayError): Promise<MetadataInit> => [["authorization", lastError ? "fresh" : "usual"]],
  connectTimeoutMs: 5000,
  backoff: { baseMs: 100 },
};
const channel: Channel = createChannel(options);
createChannel();
// @ts-expect-error: the name of the option is wrong
createChannel({ adress: "wss://edge.example.com" });
const unsubscribe: () => void = channel.on("state", (state: ChannelState, reason?: BidiwayError) => console.log(state, reason?.code));
// @ts-expect-error: there is no such event
channel.on("mood", () => {});

const wanted: CallOptions = {
  method: "/demo.v1.Chat/Talk",
  metadata: { "x-one": "1", "x-two-bin": new Uint8Array([1, 2]) },
  timeoutMs: 1000,
  signal: new AbortController().signal,
};

export async function talk(): Promise<Uint8Array[]> {
  const call: Call = channel.open(wanted);
  await call.send(new Uint8Array([8, 1]));
  // @ts-expect-error: a message is bytes
  call.send("text").catch(() => {});
  call.halfClose();
  const messages: Uint8Array[] = [];
  for await (const message of call) messages.push(message);
  const headers: Metadata = await call.headers;
  for (const [name, value] of headers) console.log(name.toUpperCase(), typeof value === "string" ? value.length : value.byteLength);
  const status: Status = await call.status;
  if (status.code !== Code.OK) throw new BidiwayError(status);
  unsubscribe();
  await channel.close();
  return messages;
}

export async function failed(error: unknown): Promise<string> {
  if (!(error instanceof BidiwayError)) throw error;
  const details: Uint8Array = error.details;
  return `${codeName(error.code)}: ${error.message} ${details.length}`;
}
