// google's grpc-web: generated code written for the package `grpc-web` takes `bidiway/grpc-web` in its place, and
// applications that use the package's names may go on using them.

import * as original from "grpc-web";
import { createChannel } from "bidiway";
import * as grpcWeb from "bidiway/grpc-web";
import type { BidiCall } from "bidiway/grpc-web";

class Message {
  serializeBinary(): Uint8Array {
    return new Uint8Array();
  }
  static deserializeBinary(_bytes: Uint8Array): Message {
    return new Message();
  }
}

/** As the generator writes it, with import_style=typescript. */
class EchoClient {
  client_: grpcWeb.AbstractClientBase;
  methodDescriptorEcho = new grpcWeb.MethodDescriptor(
    "/echo.Echo/Echo",
    grpcWeb.MethodType.UNARY,
    Message,
    Message,
    (request: Message) => request.serializeBinary(),
    Message.deserializeBinary,
  );

  constructor(readonly hostname: string, options?: null | { [index: string]: any }) {
    this.client_ = new grpcWeb.GrpcWebClientBase(options ?? {});
  }

  echo(request: Message, metadata: grpcWeb.Metadata = {}): Promise<Message> {
    return this.client_.unaryCall(this.hostname + "/echo.Echo/Echo", request, metadata, this.methodDescriptorEcho);
  }

  echoes(request: Message, metadata: grpcWeb.Metadata = {}): grpcWeb.ClientReadableStream<Message> {
    return this.client_.serverStreaming(this.hostname + "/echo.Echo/Echoes", request, metadata, this.methodDescriptorEcho);
  }
}

const channel = createChannel();
grpcWeb.setChannel(channel);
const client = new EchoClient("https://edge.example.com");
client.echoes(new Message()).on("data", (message: Message) => console.log(message)).on("error", (error: grpcWeb.RpcError) => console.log(error.code)).cancel();
client.echo(new Message()).catch((error: unknown) => error instanceof grpcWeb.RpcError && error.code === grpcWeb.StatusCode.NOT_FOUND);

export const talk: BidiCall<Message, Message> = grpcWeb.bidi(channel, "/echo.Echo/Talk", Message, Message);
// @ts-expect-error: a message of another kind
talk.send("text").catch(() => {});

const { unaryInterceptors, streamInterceptors } = grpcWeb.createInterceptors(channel);
export const unchanged = new original.GrpcWebClientBase({ format: "binary", unaryInterceptors, streamInterceptors });
