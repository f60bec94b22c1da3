//! Every metric, named once.

use std::sync::Arc;

/// How a client speaks; the label `dialect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// gRPC-Web with binary bodies.
    GrpcWeb,
    /// gRPC-Web with base64 bodies.
    GrpcWebText,
    /// Native gRPC over HTTP/2, passed through.
    Grpc,
    /// A stream of a Bidiway session.
    Session,
}

impl Dialect {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::GrpcWeb => "grpc-web",
            Dialect::GrpcWebText => "grpc-web-text",
            Dialect::Grpc => "grpc",
            Dialect::Session => "session",
        }
    }
}

/// All metrics of a process, shared by its workers through atomics.
#[derive(Debug)]
pub struct Metrics {
    _todo: (),
}

/// The handles of one route and dialect, looked up once and cached: counting costs an atomic add.
#[derive(Debug)]
pub struct CallMetrics {
    _todo: (),
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Arc<Self> {
        todo!()
    }

    /// The handles for calls of a route (its configured name, never a client's text) in a dialect.
    pub fn calls(&self, _route: &str, _dialect: Dialect) -> Arc<CallMetrics> {
        todo!()
    }

    /// The Prometheus text exposition (OpenMetrics).
    pub fn encode(&self) -> String {
        todo!()
    }

    /// A session's carrier was opened (+1) or closed (-1).
    pub fn session_opened(&self) {
        todo!()
    }

    /// The session ended; `label` is `CloseReason::label`.
    pub fn session_closed(&self, _label: &'static str) {
        todo!()
    }

    /// A request or socket was refused before it became a call; `reason` is a stable word.
    pub fn refused(&self, _reason: &'static str) {
        todo!()
    }
}
