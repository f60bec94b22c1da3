//! Bytes and words: everything that is written on a wire, and nothing else.
//!
//! This floor is pure: no tokio, no async, no clock, no I/O, no locks. Each file turns one thing into bytes and
//! back: the session's frames, gRPC's length prefix, gRPC-Web's bodies and trailers, metadata, status, timeouts.

pub mod base64_text;
pub mod code;
pub mod content_type;
pub mod envelope;
pub mod frame;
pub mod grpc_web;
pub mod grpc_websockets;
pub mod http_carrier;
pub mod metadata;
pub mod metadata_rules;
pub mod proxy_header;
pub mod status;
pub mod text_frame;
pub mod timeout;
pub mod trace_context;
pub mod websocket;

/// The session protocol's messages, generated from `proto/bidiway/v1/session.proto` and `http.proto`.
#[expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated code; the proto file documents it")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/bidiway.v1.rs"));
}

pub use code::Code;
pub use status::{Origin, Outcome, Status};
pub use trace_context::TraceContext;
