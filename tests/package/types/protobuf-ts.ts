// protobuf-ts: the transport is an RpcTransport, and generated clients take it.

import type { RpcOptions, RpcTransport, ServiceInfo, UnaryCall } from "@protobuf-ts/runtime-rpc";
import { createChannel } from "bidiway";
import { createTransport } from "bidiway/protobuf-ts";

const options: RpcOptions = { timeout: 1000, meta: { "x-one": "1" } };
const transport: RpcTransport = createTransport(createChannel(), options);

/** As the generator writes it. */
declare class ChatClient {
  constructor(transport: RpcTransport);
  hello(input: { name: string }, options?: RpcOptions): UnaryCall<{ name: string }, { text: string }>;
}
declare const service: ServiceInfo;
export const client = new ChatClient(transport);
export const name: string = service.typeName;
// @ts-expect-error: a channel is no transport
new ChatClient(createChannel());
// @ts-expect-error: the channel is missing
createTransport();
