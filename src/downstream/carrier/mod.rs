//! Carriers: what brings a session's packets. One task owns the socket and its session, without locks.
//!
//! `upgrade` checks the handshake, `socket` is the WebSocket, `http_carrier` what stands in for it, `link` is what the
//! driver sees of a carrier, `driver` is the task, `calls` has a session's calls, `stream` joins one stream of the
//! session to its call (`json_stream`, if its messages are JSON), `ready` tells the task which of its streams can go on.
//! `peers` brings carriers to the sessions of other instances.

mod calls;
mod directory;
mod driver;
pub(super) mod http_carrier;
mod json_stream;
mod link;
mod mailbox;
mod parking;
mod patience;
mod peers;
pub(super) mod ready;
pub(super) mod socket;
mod stream;
mod token;
mod upgrade;

pub use directory::SessionDirectory;
pub(crate) use peers::answer as answer_peer;
pub use peers::{InvalidPeerAddress, PeerAddress, PeerSettings};
pub use upgrade::SUBPROTOCOL;
pub(crate) use upgrade::Subprotocol;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use tokio::time::Instant;

use super::{
    AddressPermit, ConnInfo, ConnIo, Edge, Rejection, Visitor, call_gate, grpc_websockets, json,
    upgrade_headers,
};
use crate::{
    session::{self, CloseReason, MAX_PACKET, Session, Side},
    wire::{Code, text_frame::TextFrameWriter},
};
use driver::Driver;
use link::{Carrier, Link};
use socket::{CarrierIo, Socket};

/// Answers a WebSocket upgrade (HTTP/1.1 GET or RFC 8441 CONNECT), after the guard has passed it, and starts the
/// socket's task: a session's, or that of a dialect with gRPC messages in a socket.
///
/// What a browser should learn of a refusal comes after the upgrade, as a close code: a page cannot see the HTTP
/// status of a refused WebSocket.
pub(crate) fn upgrade(
    edge: &Arc<Edge>,
    mut request: Request<Incoming>,
    conn: &ConnInfo,
) -> Result<Response<Body>, Rejection> {
    let handshake = upgrade::check(&request)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let settings = edge.settings();
    let cancels = settings.limits.cancels_per_second;
    let (edge_, conn) = (Arc::clone(edge), conn.clone().with_brake(cancels));
    match handshake.subprotocol {
        Subprotocol::Session | Subprotocol::TextSession => {
            let is_text = handshake.subprotocol == Subprotocol::TextSession;
            // Who types frames cannot keep what he has sent.
            let mut begun = begin(edge, &conn, !is_text)?;
            let visitor = Visitor::of(request.headers(), &conn);
            edge.drain.tasks.spawn(async move {
                let Ok(upgraded) = upgraded.await else { return };
                let (edge, socket) = (edge_, socket(upgraded, MAX_PACKET));
                let place = admit(&edge, &conn).map_err(|reason| begun.session.close(reason)).ok();
                let carrier = if is_text {
                    Carrier::TextSocket(socket, TextFrameWriter::default())
                } else {
                    Carrier::WebSocket(socket)
                };
                let link = Link::new(carrier, place, &edge.metrics);
                // Boxed: this future goes away when the session runs, and must not size its task.
                Box::new(Driver::new(edge, conn, visitor, link, begun)).await;
            });
        }
        Subprotocol::GrpcWebSockets | Subprotocol::GrpcWebSocketsMultiplex => {
            let path =
                (handshake.subprotocol == Subprotocol::GrpcWebSockets).then(|| request.uri().path().into());
            let headers = upgrade_headers::pick(&settings, request.headers());
            edge.drain.tasks.spawn(async move {
                let Ok(upgraded) = upgraded.await else { return };
                let socket = socket(upgraded, grpc_websockets::max_message(&edge_.settings()));
                grpc_websockets::serve(edge_, conn, socket, path, headers).await;
            });
        }
        Subprotocol::Json => {
            let uri = request.uri().clone();
            let headers = upgrade_headers::pick(&settings, request.headers());
            edge.drain.tasks.spawn(async move {
                let Ok(upgraded) = upgraded.await else { return };
                let socket = socket(upgraded, json::max_message(&edge_, &conn, uri.path()));
                json::serve(edge_, conn, socket, uri.path().into(), uri.query(), headers).await;
            });
        }
    }

    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if let Some(name) = handshake.name {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    if let Some(accept) = handshake.accept {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok(response)
}

fn socket(upgraded: Upgraded, max_message: usize) -> Socket {
    match downcast::<TokioIo<ConnIo>>(upgraded) {
        Ok(parts) => Socket::new(CarrierIo::Http1(parts.io.into_inner()), &parts.read_buf, max_message),
        Err(http2) => Socket::new(CarrierIo::Upgraded(TokioIo::new(http2)), &Bytes::new(), max_message),
    }
}

/// A place among the address's sockets, or why there is none. True: it has as many sockets as it may, and this one is
/// only for a client that comes back; the proxy may not have noticed yet that its old socket is dead.
fn admit(edge: &Edge, conn: &ConnInfo) -> Result<(AddressPermit, bool), CloseReason> {
    call_gate::upgrade(edge, conn)?;
    let settings = edge.settings();
    let (address, limit) = (conn.peer.ip(), settings.limits.sockets_per_address);
    let place = edge.addresses.enter(address, limit).map(|place| (place, false));
    place
        // Also where sessions do not wait: one that began on another port may, and can come back on any.
        .or_else(|| edge.addresses.enter(address, limit.saturating_mul(2)).map(|place| (place, true)))
        .ok_or_else(|| too_many_sockets(edge))
}

pub(super) fn too_many_sockets(edge: &Edge) -> CloseReason {
    let limit = edge.settings().limits.sockets_per_address;
    edge.metrics.refused("sockets_per_address");
    let text = format!("this address has {limit} open sockets, which is the limit");
    CloseReason::new(Code::RESOURCE_EXHAUSTED, "sockets_per_address", text)
}

/// A session that has a carrier and nothing else yet.
#[derive(Debug)]
struct Begun {
    session: Session,
    id: Arc<str>,
}

/// `resumes`: its client may ask for a session that it had, and keep this one.
fn begin(edge: &Edge, conn: &ConnInfo, resumes: bool) -> Result<Begun, Rejection> {
    let id = session_id()?;
    let mut session = Session::new(Side::Proxy, settings(edge, conn, &id), Instant::now().into_std());
    if resumes {
        session.announce_resume(edge.sessions.new_token().map_err(no_random_numbers)?);
    }
    Ok(Begun { session, id })
}

fn settings(edge: &Edge, conn: &ConnInfo, session_id: &str) -> session::Settings {
    let settings = edge.settings();
    let (s, limits) = (&settings.session, &settings.limits);
    session::Settings {
        stream_credit: s.credit,
        max_message: limits.max_message,
        max_streams: s.max_streams,
        max_metadata: limits.max_metadata,
        ping_interval: s.ping,
        hello_timeout: s.hello_timeout,
        session_id: session_id.to_owned(),
        resume_grace: conn.resume_grace(&settings),
        replay_limit: s.resume_buffer,
        ..session::Settings::default()
    }
}

/// 64 random bits in hexadecimal: names a session in logs.
fn session_id() -> Result<Arc<str>, Rejection> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(no_random_numbers)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)).into())
}

fn no_random_numbers(error: getrandom::Error) -> Rejection {
    Rejection::internal(format!("the system has no random numbers: {error}"))
}
