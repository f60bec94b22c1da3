//! The client of `grpc.reflection.v1.ServerReflection`, and of v1alpha where there is no v1.

use tower::util::BoxCloneSyncService;

/// The way to the upstream's reflection service: gRPC requests in HTTP's form.
pub type Channel = BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    tonic::codegen::StdError,
>;
