//! The link's end at the owner: a carrier that another instance brings for a session of this one.

use std::{future::poll_fn, net::SocketAddr, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{self, USER_AGENT},
};
use hyper::body::Incoming as RequestBody;
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use tokio::time::timeout;

use super::{CLIENT, CLIENT_HOST, CLIENT_SCHEME, FAILURE, INSTANCE, PATH, PROTOCOL, TOKEN};
use crate::{
    downstream::{
        ConnInfo, ConnIo, Edge, Visitor,
        carrier::{
            http_carrier::{self, Errand, ErrandKind, Owner, read},
            link::{Carrier, Link},
            mailbox::{Answer, Arrival},
            socket::{CarrierIo, Incoming, Socket},
        },
        identity::Shown,
    },
    session::{MAX_PACKET, Refusal, Verdict},
    telemetry::ClientNames,
    wire::{
        Code,
        frame::{FrameKind, PacketReader},
        v1::{self, ResumeFailure},
    },
};

/// Answers a request on the peer port: who we are, a link to one of our sessions, or a request for an HTTP carrier.
pub(crate) async fn answer(edge: &Arc<Edge>, request: Request<RequestBody>) -> Response<Body> {
    let own = edge.sessions.instance().to_string();
    let mut response = match ErrandKind::of(request.uri().path()) {
        Some(kind) => run(edge, kind, request, &own).await,
        None => link(edge, request, &own),
    };
    if let Ok(own) = own.parse() {
        response.headers_mut().insert(INSTANCE, own);
    }
    response
}

/// Does what is asked of an HTTP carrier of ours. The other instance has checked everything but whose carrier it is.
async fn run(edge: &Edge, kind: ErrandKind, request: Request<RequestBody>, own: &str) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    let mut response = Response::new(Body::empty());
    if head.headers.get(INSTANCE).is_none_or(|id| id != own) {
        *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        return response;
    }
    let Ok(body) = read(&mut body).await else {
        *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
        return response;
    };
    match http_carrier::serve(edge, Errand { kind, owner: Owner::relayed(&head.headers), body }).await {
        Ok(response) => response,
        Err(rejection) => {
            *response.status_mut() = rejection.http;
            *response.body_mut() = Body::from(rejection.message);
            response
        }
    }
}

/// Who we are, or a link to one of our sessions.
fn link(edge: &Arc<Edge>, mut request: Request<RequestBody>, own: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = match check(&request, own) {
        Ok(Asked::Who) => StatusCode::OK,
        Ok(Asked::Link(conn)) => {
            // The relaying instance has checked the origin, and is believed what the client is and has.
            let visitor = Visitor::relayed(request.headers());
            let upgraded = hyper::upgrade::on(&mut request);
            let edge_ = Arc::clone(edge);
            edge.drain.tasks.spawn(async move {
                let Ok(upgraded) = upgraded.await else { return };
                let Ok(parts) = downcast::<TokioIo<ConnIo>>(upgraded) else { return };
                let io = CarrierIo::Http1(parts.io.into_inner());
                receive(edge_, conn, visitor, Socket::to_instance(io, &parts.read_buf, MAX_PACKET)).await;
            });
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
            StatusCode::SWITCHING_PROTOCOLS
        }
        Err(status) => status,
    };
    response
}

/// What another instance wants.
enum Asked {
    Who,
    Link(ConnInfo),
}

fn check(request: &Request<RequestBody>, own: &str) -> Result<Asked, StatusCode> {
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    let headers = request.headers();
    match headers.get(header::UPGRADE) {
        None => return Ok(Asked::Who),
        Some(protocol) if protocol == PROTOCOL => {}
        Some(_) => return Err(StatusCode::UPGRADE_REQUIRED),
    }
    if headers.get(INSTANCE).is_none_or(|id| id != own) {
        return Err(StatusCode::MISDIRECTED_REQUEST);
    }
    client(headers).map(Asked::Link).ok_or(StatusCode::BAD_REQUEST)
}

/// The client's connection, as the other instance tells it.
fn client(headers: &HeaderMap) -> Option<ConnInfo> {
    let address: SocketAddr = headers.get(CLIENT)?.to_str().ok()?.parse().ok()?;
    let tls = match headers.get(CLIENT_SCHEME)?.as_bytes() {
        b"https" => true,
        b"http" => false,
        _ => return None,
    };
    let mut conn = ConnInfo::new(address, tls);
    conn.shown = Shown::from_header(headers.get(TOKEN));
    conn.host = headers.get(CLIENT_HOST).and_then(|host| host.to_str().ok()).map(Into::into);
    conn.user_agent = headers.get(USER_AGENT).and_then(ClientNames::printable).map(Into::into);
    Some(conn)
}

/// Brings the carrier to the session that its Hello asks for: one of our own, or none.
async fn receive(edge: Arc<Edge>, conn: ConnInfo, visitor: Visitor, mut socket: Socket) {
    let first = timeout(edge.settings().session.hello_timeout, poll_fn(|cx| socket.poll_read(cx))).await;
    let Ok(Incoming::Packet(packet)) = first else { return };
    let mut link = Link::new(Carrier::WebSocket(socket), None, &edge.metrics);
    // The client has its place at the instance it came to.
    link.crowded = false;
    let Some(hello) = hello(packet) else {
        let (code, text) = (Code::INVALID_ARGUMENT.to_close(), "the first packet must be one Hello");
        return link.farewell(code, text).await;
    };
    let (arrival, answered) = Arrival::new(hello, conn, visitor, link);
    edge.sessions.deliver(arrival);
    let (link, code, text) = match answered.await {
        Ok(Answer::Taken) | Err(_) => return,
        Ok(Answer::Refused(link, Refusal::Failure(failure))) => {
            (link, FAILURE + number(failure), String::new())
        }
        Ok(Answer::Refused(link, Refusal::Violation(violation))) => {
            edge.metrics.resume_failed(violation.label());
            let (Verdict::Close(code) | Verdict::Reset(code)) = violation.verdict();
            (link, code.to_close(), violation.to_string())
        }
        Ok(Answer::Busy(link)) => {
            edge.metrics.resume_failed("busy");
            let text = "several carriers ask for this session at once; connect again".to_owned();
            (link, Code::UNAVAILABLE.to_close(), text)
        }
    };
    link.farewell(code, &text).await;
}

fn hello(packet: Bytes) -> Option<v1::Hello> {
    let mut reader = PacketReader::new(packet);
    match (reader.next(), reader.next()) {
        (Ok(Some(frame)), Ok(None)) => match frame.kind {
            FrameKind::Hello(hello) if frame.stream == 0 => Some(*hello),
            _ => None,
        },
        _ => None,
    }
}

fn number(failure: ResumeFailure) -> u16 {
    i32::from(failure).try_into().unwrap_or_default()
}
