// bidiway/grpc-web beside google's package: the interceptors, the channels, and calls with a stream of requests.

import { createChannel } from "bidiway";
import { type BidiCall, bidi, clientStream, createInterceptors, setChannel, type Status } from "bidiway/grpc-web";
import * as grpcWeb from "grpc-web";

declare class Text {
  getText(): string;
  serializeBinary(): Uint8Array;
  static deserializeBinary(bytes: Uint8Array): Text;
}
declare class Sum {
  getCount(): number;
  serializeBinary(): Uint8Array;
  static deserializeBinary(bytes: Uint8Array): Sum;
}

const channel = createChannel();
setChannel(channel);
setChannel(channel, "https://edge.example.com");
setChannel(undefined);

const options: grpcWeb.GrpcWebClientBaseOptions = createInterceptors(channel);
export const client = new grpcWeb.GrpcWebClientBase({ ...options, withCredentials: true });

export async function talk(signal: AbortSignal): Promise<number> {
  const call: BidiCall<Text, Sum> = bidi(channel, "/t.S/Talk", Text, Sum, { metadata: { x: "1" }, signal });
  await call.send(new Text());
  // @ts-expect-error: this method takes Text
  call.send(new Sum());
  call.halfClose();
  let count = 0;
  for await (const sum of call) count += sum.getCount();
  const status: Status = await call.status;

  const counting = clientStream(channel, "/t.S/Count", Text, Sum);
  await counting.send(new Text());
  const sum: Sum = await counting.finish();
  return count + sum.getCount() + status.code;
}
// @ts-expect-error: a message class is missing
bidi(channel, "/t.S/Talk", Text);
