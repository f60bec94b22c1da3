// Connect-ES: the transport is a Transport, and clients take it.

import { createClient } from "@connectrpc/connect";
import type { Interceptor, Transport } from "@connectrpc/connect";
import type { DescService } from "@bufbuild/protobuf";
import { createChannel } from "bidiway";
import { createTransport } from "bidiway/connect";
import type { ConnectTransportOptions } from "bidiway/connect";

declare const Service: DescService;
const log: Interceptor = (next) => (request) => next(request);
const options: ConnectTransportOptions = { interceptors: [log], defaultTimeoutMs: 1000 };
const transport: Transport = createTransport(createChannel(), options);
export const client = createClient(Service, transport);
// @ts-expect-error: a channel is no transport
createClient(Service, createChannel());
// @ts-expect-error: the channel is missing
createTransport();
