// @improbable-eng/grpc-web: the transport is a TransportFactory.

import { grpc } from "@improbable-eng/grpc-web";
import { createChannel } from "bidiway";
import { createTransport, type ImprobableTransportOptions } from "bidiway/improbable";

const options: ImprobableTransportOptions = { maxQueuedBytes: 1024 };
const transport: grpc.TransportFactory = createTransport(createChannel(), options);
grpc.setDefaultTransport(createTransport(createChannel()));

declare const method: grpc.MethodDefinition<grpc.ProtobufMessage, grpc.ProtobufMessage>;
export const call: grpc.Client<grpc.ProtobufMessage, grpc.ProtobufMessage> = grpc.client(method, { host: "", transport });
// @ts-expect-error: a channel is no transport
grpc.setDefaultTransport(createChannel());
// @ts-expect-error: no such option
createTransport(createChannel(), { maxBytes: 1 });
