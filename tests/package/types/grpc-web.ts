// google's grpc-web: an application in all that its types promise. It is compiled twice, on google's package and, as
// `grpc-web-aliased.ts`, on the runtime that takes the package's place.

import * as grpcWeb from "grpc-web";
import { type ClientReadableStream, type Metadata, type Request, RpcError, type Status, StatusCode, type UnaryResponse } from "grpc-web";

declare class Echo {
  getText(): string;
  serializeBinary(): Uint8Array;
  static deserializeBinary(bytes: Uint8Array): Echo;
}

/** As the generator writes it in TypeScript. */
export class EchoServiceClient {
  client_: grpcWeb.AbstractClientBase;
  hostname_: string;
  credentials_: null | { [index: string]: string };
  options_: null | { [index: string]: any };

  constructor(hostname: string, credentials?: null | { [index: string]: string }, options?: null | { [index: string]: any }) {
    if (!options) options = {};
    if (!credentials) credentials = {};
    options["format"] = "text";
    this.client_ = new grpcWeb.GrpcWebClientBase(options);
    this.hostname_ = hostname.replace(/\/+$/, "");
    this.credentials_ = credentials;
    this.options_ = options;
  }

  methodDescriptorEcho = new grpcWeb.MethodDescriptor(
    "/echo.Echo/Echo",
    grpcWeb.MethodType.UNARY,
    Echo,
    Echo,
    (request: Echo) => {
      return request.serializeBinary();
    },
    Echo.deserializeBinary,
  );

  echo(request: Echo, metadata?: grpcWeb.Metadata | null): Promise<Echo>;
  echo(request: Echo, metadata: grpcWeb.Metadata | null, callback: (err: grpcWeb.RpcError, response: Echo) => void): grpcWeb.ClientReadableStream<Echo>;
  echo(request: Echo, metadata?: grpcWeb.Metadata | null, callback?: (err: grpcWeb.RpcError, response: Echo) => void) {
    if (callback !== undefined) {
      return this.client_.rpcCall(this.hostname_ + "/echo.Echo/Echo", request, metadata || {}, this.methodDescriptorEcho, callback);
    }
    return this.client_.thenableCall(this.hostname_ + "/echo.Echo/Echo", request, metadata || {}, this.methodDescriptorEcho);
  }

  repeat(request: Echo, metadata?: grpcWeb.Metadata) {
    return this.client_.serverStreaming(this.hostname_ + "/echo.Echo/Repeat", request, metadata || {}, this.methodDescriptorEcho);
  }
}

class StreamLog implements grpcWeb.StreamInterceptor<Echo, Echo> {
  intercept(request: Request<Echo, Echo>, invoker: (request: Request<Echo, Echo>) => ClientReadableStream<Echo>) {
    request.getMetadata()["x-text"] = request.getRequestMessage().getText() + request.getMethodDescriptor().getName();
    return new LoggedStream(invoker(request));
  }
}

class LoggedStream<T> implements ClientReadableStream<T> {
  constructor(private stream: ClientReadableStream<T>) {}
  on(eventType: any, callback: any): ClientReadableStream<T> {
    this.stream.on(eventType, callback);
    return this;
  }
  removeListener(eventType: any, callback: any) {
    this.stream.removeListener(eventType, callback);
  }
  cancel() {
    this.stream.cancel();
  }
}

class UnaryLog implements grpcWeb.UnaryInterceptor<Echo, Echo> {
  async intercept(request: Request<Echo, Echo>, invoker: (request: Request<Echo, Echo>) => Promise<UnaryResponse<Echo, Echo>>) {
    const response: UnaryResponse<Echo, Echo> = await invoker(request);
    const status: Status = response.getStatus();
    const metadata: Metadata = response.getMetadata();
    console.log(status.code, status.details, status.metadata?.["x"], metadata["x"], response.getResponseMessage().getText(), response.getMethodDescriptor().getName());
    return response;
  }
}

const options: grpcWeb.GrpcWebClientBaseOptions = {
  format: "binary",
  suppressCorsPreflight: true,
  withCredentials: true,
  unaryInterceptors: [new UnaryLog()],
  streamInterceptors: [new StreamLog()],
};
export const base: grpcWeb.AbstractClientBase = new grpcWeb.GrpcWebClientBase(options);

const names: Record<number, string> = { [StatusCode.NOT_FOUND]: "nothing there" };
export function explain(error: unknown): string {
  if (!(error instanceof RpcError)) throw new RpcError(StatusCode.UNKNOWN, "odd", {});
  const code: StatusCode = error.code;
  switch (code) {
    case StatusCode.OK:
      return "fine";
    case grpcWeb.StatusCode.UNAUTHENTICATED:
      return error.metadata["www-authenticate"] ?? "";
  }
  return `${names[code] ?? StatusCode[code]}: ${error.message}`;
}

export async function use(client: EchoServiceClient, message: Echo) {
  const stream = client.repeat(message, { deadline: `${Date.now() + 1000}` });
  const onEnd = () => {};
  stream
    .on("metadata", (metadata) => console.log(metadata["x"]))
    .on("data", (response) => console.log(response.getText()))
    .on("status", (status: grpcWeb.Status) => console.log(status.code, status.details, status.metadata))
    .on("error", (error: grpcWeb.RpcError) => console.log(error.code, error.message, error.metadata))
    .on("end", onEnd);
  stream.removeListener("end", onEnd);
  stream.cancel();
  const call: ClientReadableStream<Echo> = client.echo(message, {}, (error, response) => console.log(error ? error.code : response.getText()));
  call.cancel();
  return (await client.echo(message)).getText();
}
