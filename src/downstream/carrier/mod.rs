//! Carriers: what brings a session's packets. One task owns the socket and its session, without locks.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{ConnInfo, Edge};

/// Answers a WebSocket upgrade (HTTP/1.1 GET or RFC 8441 CONNECT) that offers `bidiway.v1`, after the guard has
/// passed it, and starts the session's task.
pub fn upgrade(_edge: &Arc<Edge>, _request: Request<Incoming>, _conn: &ConnInfo) -> Response<Body> {
    todo!()
}
