// What TypeScript must say about the adapters: generated clients of every layout take them as they are.

import type { Transport } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";
import type { DuplexStreamingCall, RpcTransport } from "@protobuf-ts/runtime-rpc";
import { Observable, of } from "rxjs";
import { createChannel } from "bidiway";
import { createTransport as createConnectTransport } from "bidiway/connect";
import { createJsonCodec } from "bidiway/connect-json";
import { createTransport as createProtobufTsTransport } from "bidiway/protobuf-ts";
import type { CallOptions, Rpc } from "bidiway/ts-proto";
import { createRpc } from "bidiway/ts-proto";
import { Lab as ConnectLab } from "../.gen/connect/demo/v1/demo_pb.js";
import type { Payload } from "../.gen/protobuf-ts/demo/v1/demo_pb.js";
import { LabClient } from "../.gen/protobuf-ts/demo/v1/demo_pb.client.js";
import { LabClientImpl as BothLab } from "../.gen/ts-proto-both/demo/v1/demo.js";
import { LabClientImpl as ContextLab } from "../.gen/ts-proto-context/demo/v1/demo.js";
import { LabClientImpl as IterableLab } from "../.gen/ts-proto-iterable/demo/v1/demo.js";
import { LabClientImpl as OptionsLab } from "../.gen/ts-proto-options/demo/v1/demo.js";
import { LabClientImpl as ObservableLab } from "../.gen/ts-proto/demo/v1/demo.js";

/** Exactly the same type, not merely assignable. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

const channel = createChannel();

// Connect
same<ReturnType<typeof createConnectTransport>, Transport>(true);
createConnectTransport(channel, {
  interceptors: [(next) => async (request) => next(request)],
  defaultTimeoutMs: 1000,
  useBinaryFormat: true,
  binaryOptions: { readUnknownFields: false },
});
createConnectTransport(channel, { codec: createJsonCodec({ ignoreUnknownFields: false, alwaysEmitImplicit: true }) });
// @ts-expect-error a codec is not a name
createConnectTransport(channel, { codec: "json" });
// @ts-expect-error a transport needs a channel
createConnectTransport({});
const connect = createClient(ConnectLab, createConnectTransport(channel));
same<Awaited<ReturnType<typeof connect.unary>>["number"], bigint>(true);

// protobuf-ts
same<ReturnType<typeof createProtobufTsTransport>, RpcTransport>(true);
const lab = new LabClient(createProtobufTsTransport(channel, { meta: { x: ["1"] }, timeout: new Date() }));
same<(typeof lab.bidi extends (options?: any) => infer Call ? Call : never), DuplexStreamingCall<Payload, Payload>>(true);
// @ts-expect-error metadata is text
createProtobufTsTransport(channel, { meta: { x: 1 } });

// ts-proto
const iterables = createRpc(channel);
same<typeof iterables, Rpc<AsyncIterable<Uint8Array>>>(true);
new IterableLab(iterables);
new BothLab(iterables);
new ContextLab(iterables);
const observables = createRpc(channel, { Observable, timeoutMs: 1000, onTrailers: (trailers, method) => trailers.map(([name]) => name + method) });
same<typeof observables, Rpc<Observable<Uint8Array>>>(true);
new ObservableLab(observables);
const options: CallOptions = { timeoutMs: 1, metadata: { x: "1" }, signal: new AbortController().signal };
new OptionsLab(observables).Unary({ number: 1, text: "", data: new Uint8Array(), timeMs: 0 }, options);
new ObservableLab(observables).Bidi(of()).subscribe(({ number }) => number);
// @ts-expect-error these clients want Observables
new ObservableLab(iterables);
// @ts-expect-error these clients want async iterables
new IterableLab(observables);
