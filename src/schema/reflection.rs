//! The client of `grpc.reflection.v1.ServerReflection`, and of v1alpha where there is no v1.

use tokio::runtime::Handle;
use tower::util::BoxCloneSyncService;

/// The way to the upstream's reflection service: gRPC requests in HTTP's form.
pub type Channel = BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    tonic::codegen::StdError,
>;

/// What reflection needs to run.
#[derive(Clone, Debug)]
pub struct Reflection {
    /// To the upstream, apart from the connections that calls use.
    pub channel: Channel,
    /// Where loads and refreshes run, whoever asked for them: they go on when the caller gives up.
    pub runtime: Handle,
}
