// @improbable-eng/grpc-web: the transport is a TransportFactory.

import { grpc } from "@improbable-eng/grpc-web";
import { createChannel } from "bidiway";
import { createTransport } from "bidiway/improbable";
import type { ImprobableTransportOptions } from "bidiway/improbable";

const options: ImprobableTransportOptions = { maxQueuedBytes: 1024 };
const transport: grpc.TransportFactory = createTransport(createChannel(), options);
grpc.setDefaultTransport(transport);
// @ts-expect-error: a channel is no transport
grpc.setDefaultTransport(createChannel());
