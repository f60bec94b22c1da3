// nice-grpc-web: the transport is one for its own createChannel.

import { createChannel as createNiceChannel } from "nice-grpc-web";
import { createChannel } from "bidiway";
import { createTransport } from "bidiway/nice-grpc";

export const channel = createNiceChannel("https://edge.example.com", createTransport(createChannel()));
// @ts-expect-error: a channel is no transport
createNiceChannel("https://edge.example.com", createChannel());
