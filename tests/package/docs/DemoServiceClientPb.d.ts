// What protoc-gen-grpc-web declares with import_style=typescript, as far as docs/clients.md uses it. The generator
// comes as a binary that npm does not have.

import type * as grpcWeb from "grpc-web";
import type { HelloReply, HelloRequest } from "./demo_pb";

export class GreeterClient {
  client_: grpcWeb.AbstractClientBase;
  constructor(hostname: string, credentials?: null | { [index: string]: string }, options?: null | { [index: string]: any });
  hello(request: HelloRequest, metadata?: grpcWeb.Metadata | null): Promise<HelloReply>;
}
