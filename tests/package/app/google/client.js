// A client as protoc-gen-grpc-web writes it with import_style=typescript, without its types: it imports `grpc-web`.

import * as grpcWeb from "grpc-web";
import { HelloReply, HelloRequest } from "./messages.js";

export class GreeterClient {
  methodDescriptorHello = new grpcWeb.MethodDescriptor(
    "/demo.v1.Greeter/Hello",
    grpcWeb.MethodType.UNARY,
    HelloRequest,
    HelloReply,
    (request) => request.serializeBinary(),
    HelloReply.deserializeBinary,
  );

  constructor(hostname, credentials, options) {
    if (!options) options = {};
    options["format"] = "text";
    this.client_ = new grpcWeb.GrpcWebClientBase(options);
    this.hostname_ = hostname.replace(/\/+$/, "");
  }

  hello(request, metadata) {
    return this.client_.unaryCall(`${this.hostname_}/demo.v1.Greeter/Hello`, request, metadata || {}, this.methodDescriptorHello);
  }
}
