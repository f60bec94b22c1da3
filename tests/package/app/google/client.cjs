// The same as protoc-gen-grpc-web writes it with import_style=commonjs: it requires `grpc-web`.

const grpc = {};
grpc.web = require("grpc-web");
const { HelloReply, HelloRequest } = require("./messages.js");

const methodDescriptor_Greeter_Hello = new grpc.web.MethodDescriptor(
  "/demo.v1.Greeter/Hello",
  grpc.web.MethodType.UNARY,
  HelloRequest,
  HelloReply,
  (request) => request.serializeBinary(),
  HelloReply.deserializeBinary,
);

module.exports.GreeterClient = function (hostname, credentials, options) {
  if (!options) options = {};
  options.format = "text";
  this.client_ = new grpc.web.GrpcWebClientBase(options);
  this.hostname_ = hostname.replace(/\/+$/, "");
};

module.exports.GreeterClient.prototype.hello = function (request, metadata, callback) {
  return this.client_.rpcCall(this.hostname_ + "/demo.v1.Greeter/Hello", request, metadata || {}, methodDescriptor_Greeter_Hello, callback);
};
