//! Sockets that carry gRPC messages as browsers' gRPC libraries write them: `grpc-websockets`, one call on a socket, and
//! `grpc-websockets-multiplex`, many. One task owns the socket and its calls. `docs/grpc-websockets.md` describes both.
//!
//! `driver` is the task, `stream` joins a call to it. The handshake and the WebSocket are the session carrier's.

mod driver;
mod stream;

use std::sync::Arc;

use http::HeaderMap;

use super::{ConnInfo, Edge, Settings, carrier::socket::Socket};
use driver::Driver;

/// Room in a WebSocket message for what comes with a gRPC message: a stream number, its prefix, and the first bytes of
/// the next one.
const MESSAGE_ROOM: u64 = 64 * 1024;

/// The largest WebSocket message that is read at all. Clients put at least one gRPC message into each, and which limit
/// that has is known when it is here: the message's own prefix decides, if the largest of the limits lets it come.
pub(crate) fn max_message(settings: &Settings) -> usize {
    let largest = settings.routes.iter().map(|route| route.max_message).max().unwrap_or_default();
    usize::try_from(largest.saturating_add(MESSAGE_ROOM)).unwrap_or(usize::MAX)
}

/// Serves a socket until it is closed. `path` is the method of its only call; `None`: every call names its own.
/// `upgrade_headers` is what each call gets of the request that opened the socket.
pub(crate) async fn serve(
    edge: Arc<Edge>,
    conn: ConnInfo,
    socket: Socket,
    path: Option<Box<str>>,
    upgrade_headers: HeaderMap,
) {
    // Boxed: the future that calls this goes away, and must not size its task.
    Box::new(Driver::new(edge, conn, socket, path, upgrade_headers)).await;
}
