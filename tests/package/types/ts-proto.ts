// ts-proto: the `Rpc` fits the interface that generated files declare, for each variant of them.

import { createChannel } from "bidiway";
import { createRpc } from "bidiway/ts-proto";
import type { CallOptions, Rpc as BidiwayRpc } from "bidiway/ts-proto";
import { Observable } from "rxjs";

/** By default, with streams. */
interface ObservableRpc {
  request(service: string, method: string, data: Uint8Array): Promise<Uint8Array>;
  clientStreamingRequest(service: string, method: string, data: Observable<Uint8Array>): Promise<Uint8Array>;
  serverStreamingRequest(service: string, method: string, data: Uint8Array): Observable<Uint8Array>;
  bidirectionalStreamingRequest(service: string, method: string, data: Observable<Uint8Array>): Observable<Uint8Array>;
}
/** With useAsyncIterable and useAbortSignal. */
interface IterableRpc {
  request(service: string, method: string, data: Uint8Array, abortSignal?: AbortSignal): Promise<Uint8Array>;
  clientStreamingRequest(service: string, method: string, data: AsyncIterable<Uint8Array>, abortSignal?: AbortSignal): Promise<Uint8Array>;
  serverStreamingRequest(service: string, method: string, data: Uint8Array, abortSignal?: AbortSignal): AsyncIterable<Uint8Array>;
  bidirectionalStreamingRequest(service: string, method: string, data: AsyncIterable<Uint8Array>, abortSignal?: AbortSignal): AsyncIterable<Uint8Array>;
}
/** With addGrpcMetadata and metadataType=CallOptions@bidiway/ts-proto. */
interface MetadataRpc {
  request(service: string, method: string, data: Uint8Array, metadata?: CallOptions): Promise<Uint8Array>;
}

const channel = createChannel();
export const observable: ObservableRpc = createRpc(channel, { Observable });
export const iterable: IterableRpc = createRpc(channel);
export const metadata: MetadataRpc = createRpc(channel, { timeoutMs: 1000, onTrailers: (trailers, method) => console.log(method, trailers.length) });
export const same: BidiwayRpc<AsyncIterable<Uint8Array>> = createRpc(channel);
// @ts-expect-error: without rxjs's Observable it answers with async iterables
export const wrong: ObservableRpc = createRpc(channel);
