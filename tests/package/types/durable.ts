// The channel for applications: what the core has, and what only this one has. What must not compile says so.

import { BidiwayError, Code, codeName, createChannel } from "bidiway/durable";
import type {
  Call, CallOptions, Channel, ChannelOptions, ChannelState, ExpiringMetadata, Metadata, MetadataInit, Status,
} from "bidiway/durable";
import type { Channel as CoreChannel, ChannelOptions as CoreOptions } from "bidiway";
import { createTransport } from "bidiway/connect";

const token = async (): Promise<{ text: string; expiresAt: Date }> => ({ text: "t", expiresAt: new Date() });
const options: ChannelOptions = {
  url: () => "wss://edge.example.com/bidiway/session",
  metadata: async (lastError?: BidiwayError): Promise<ExpiringMetadata> => {
    const { text, expiresAt } = await token();
    return { metadata: { authorization: `Bearer ${text}`, "x-last": lastError ? codeName(lastError.code) : "none" }, expiresAt };
  },
  fetch: (input, init) => fetch(input, { ...init, credentials: "include" }),
};
const channel: Channel = createChannel(options);
createChannel();
createChannel({ fetch: null, metadata: { authorization: "t" } });
createChannel({ metadata: (): MetadataInit => [["authorization", "t"]] });
createChannel({ metadata: () => ({ authorization: "t" }) });
// @ts-expect-error: a time is needed
createChannel({ metadata: () => ({ metadata: { authorization: "t" }, expiresAt: "soon" }) });
// @ts-expect-error: the name of the option is wrong
createChannel({ adress: "wss://edge.example.com" });

// It fits wherever a channel does.
const plain: CoreChannel = channel;
createTransport(channel);
const usual: CoreOptions = { connectTimeoutMs: 5000 };
createChannel(usual);
// @ts-expect-error: a channel of the core cannot be told
plain.refresh();

export async function talk(wanted: CallOptions): Promise<string | undefined> {
  channel.on("state", (state: ChannelState, reason?: BidiwayError) => console.log(state, reason?.reason));
  await channel.refresh();
  await channel.refresh({ authorization: "fresh" });
  // @ts-expect-error: metadata has no numbers
  await channel.refresh({ authorization: 5 }).catch(() => {});
  const call: Call = channel.open(wanted);
  const headers: Metadata = await call.headers;
  const status: Status = await call.status;
  if (status.code === Code.UNAVAILABLE && status.maybeProcessed) return status.reason;
  return headers[0]?.[0];
}
