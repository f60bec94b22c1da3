//! How a call ended, and who said so.

use bytes::Bytes;
use http::HeaderMap;

use super::Code;

/// The trailer that marks a status which the proxy made itself: `bidiway-origin: proxy`.
pub const ORIGIN_HEADER: &str = "bidiway-origin";

/// A gRPC status: code, message and details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// Text for people, decoded (not percent-encoded).
    pub message: String,
    /// The bytes of a `google.rpc.Status`; empty when there are none.
    pub details: Bytes,
}

impl Status {
    /// A status without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Bytes::new() }
    }

    /// Takes `grpc-status`, `grpc-message` and `grpc-status-details-bin` out of trailers (or out of the headers of
    /// a trailers-only answer). `None` without `grpc-status`. A `grpc-status` that is no number is UNKNOWN with a
    /// message that says so; an undecodable `grpc-message` is kept as lossy text; broken base64 in the details is
    /// dropped.
    pub fn take_from(_trailers: &mut HeaderMap) -> Option<Self> {
        todo!()
    }

    /// Writes `grpc-status`, `grpc-message` (percent-encoded, absent when empty) and `grpc-status-details-bin`
    /// (absent when empty), replacing what was there.
    pub fn write_to(&self, _trailers: &mut HeaderMap) {
        todo!()
    }
}

/// Who made a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client: it cancelled or went away.
    Client,
    /// Bidiway itself.
    Proxy,
    /// The gRPC service.
    Upstream,
}

impl Origin {
    /// The word for logs and metrics: `client`, `proxy`, `upstream`.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Client => "client",
            Origin::Proxy => "proxy",
            Origin::Upstream => "upstream",
        }
    }
}

/// The end of a call: one true status, who made it, and the trailing metadata.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The status.
    pub status: Status,
    /// Who made it.
    pub origin: Origin,
    /// Trailing metadata without the status headers, already filtered for the client.
    pub trailers: HeaderMap,
}

impl Outcome {
    /// An outcome that the proxy made. Its trailers carry `bidiway-origin: proxy`.
    pub fn proxy(_code: Code, _message: impl Into<String>) -> Self {
        todo!()
    }

    /// The client cancelled, or its connection was lost. Nobody is left to read it; it is for logs and metrics.
    pub fn cancelled(_message: impl Into<String>) -> Self {
        todo!()
    }

    /// All trailers as gRPC writes them: the metadata and the status headers.
    pub fn into_trailers(self) -> HeaderMap {
        todo!()
    }
}
