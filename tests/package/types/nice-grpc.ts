// nice-grpc-web: the transport goes into the library's own channels.

import { createChannel } from "bidiway";
import { createTransport } from "bidiway/nice-grpc";
import * as nice from "nice-grpc-web";

const channel = createChannel();
const transport: nice.Channel["transport"] = createTransport(channel);

type Message = { text: string };
declare const service: {
  talk: {
    path: string;
    requestStream: true;
    responseStream: true;
    requestSerialize(value: Message): Uint8Array;
    requestDeserialize(bytes: Uint8Array): Message;
    responseSerialize(value: Message): Uint8Array;
    responseDeserialize(bytes: Uint8Array): Message;
    options: {};
  };
};
const client = nice.createClient(service, nice.createChannel("https://edge.example.com", createTransport(channel)));
export const answers: AsyncIterable<Message> = client.talk((async function* () {})());
export const custom = transport;
// @ts-expect-error: a channel of Bidiway's is none of the library's
nice.createClient(service, channel);
// @ts-expect-error: the channel is missing
createTransport();
