//! The HTTP carrier, where WebSockets do not get through: packets in a response that streams down, or in the answers to
//! polls, and in the bodies of requests up (docs/protocol.md, section 20).
//!
//! Requests come on any worker. `table` leads them to their carrier's `line`, at the other end of which the session's
//! task has the `carrier`; `body` has what is read and written. An `errand` is a request for a carrier that is there
//! already: here, or in another instance, to which it is passed on.

mod body;
mod carrier;
mod errand;
mod line;
mod table;

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use prost::{DecodeError, Message};
use tokio::time::timeout;

use super::{
    driver::Driver,
    link::{Carrier, Link, packet_too_large},
};
use crate::{
    downstream::{ConnInfo, Edge, Rejection, Visitor, linger::linger, request_kind::HttpCarrierRequest},
    session::{CloseReason, MAX_PACKET},
    wire::{
        Code,
        frame::{Frame, FrameKind, PacketReader},
        http_carrier::leading_carrier,
        v1::{HttpOpen, HttpPoll, HttpUp},
    },
};
use body::DownBody;
pub(super) use body::{Unread, read};
pub(super) use carrier::HttpCarrier;
pub(super) use errand::{Errand, ErrandKind, Owner};
use line::{Asked, Line, Put, SHORTEST_WAIT};
pub(super) use table::HttpCarriers;

/// Answers a request of an HTTP carrier, after the guard has passed it.
pub(crate) async fn answer(
    edge: &Arc<Edge>,
    head: Parts,
    body: Incoming,
    conn: &ConnInfo,
    request: HttpCarrierRequest,
) -> Result<Response<Body>, Rejection> {
    // Carriers that are there already go on.
    if request == HttpCarrierRequest::Open && !edge.settings().session.fallback {
        return Err(switched_off());
    }
    if request == HttpCarrierRequest::Unknown {
        return Err(not_here("the HTTP carrier has the paths /bidiway/http/open, …/up and …/down"));
    }
    if head.method != Method::POST {
        let message = "the requests of an HTTP carrier are made with POST".to_owned();
        return Err(Rejection { message, ..Rejection::method() });
    }
    let owner = Owner::of(&head, conn);
    let body = whole(edge, &head, body, &owner).await?;
    let mut response = match request {
        HttpCarrierRequest::Open => open(edge, &head, owner, body, conn).await?,
        HttpCarrierRequest::Up => run(edge, Errand { kind: ErrandKind::Up, owner, body }).await?,
        HttpCarrierRequest::Down | HttpCarrierRequest::Unknown => {
            run(edge, Errand { kind: ErrandKind::Down, owner, body }).await?
        }
    };
    let has_body = response.status() == StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    if has_body {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // nginx and those that learned from it hold responses back until they have a buffer full, unless told so.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    Ok(response)
}

/// A request's body. One that is too large ends the session, if it can be found.
async fn whole(edge: &Edge, head: &Parts, mut body: Incoming, owner: &Owner) -> Result<Bytes, Rejection> {
    match read(&mut body).await {
        Ok(bytes) => Ok(bytes),
        Err(Unread::TooLarge(beginning)) => {
            linger(&edge.drain, head.version, body);
            let body = beginning.slice(..beginning.len().min(BEGINNING));
            run(edge, Errand { kind: ErrandKind::TooLarge, owner: owner.clone(), body }).await?;
            Err(too_large())
        }
        Err(Unread::Late) => Err(late()),
        // Nobody reads this.
        Err(Unread::Broken) => Err(malformed("the body broke off")),
    }
}

/// So much of a body tells which carrier it is for.
const BEGINNING: usize = 256;

/// Does what is asked of a carrier, here or where it is.
async fn run(edge: &Edge, errand: Errand) -> Result<Response<Body>, Rejection> {
    let elsewhere = errand.carrier().and_then(|name| edge.sessions.elsewhere(&name));
    match elsewhere {
        None => serve(edge, errand).await,
        Some((peers, instance)) => match peers.forward(edge, instance, &errand).await {
            Ok((status, body)) => relayed(status, body),
            Err(error) if error.is_gone() => Err(gone()),
            Err(_) => {
                let text = "the instance that has this carrier could not be reached; send the request again";
                Err(refusal(StatusCode::BAD_GATEWAY, Code::UNAVAILABLE, "carrier_unreachable", text))
            }
        },
    }
}

/// Does what is asked of a carrier of this instance.
pub(super) async fn serve(edge: &Edge, errand: Errand) -> Result<Response<Body>, Rejection> {
    let Errand { kind, owner, body } = errand;
    match kind {
        ErrandKind::Up => up(edge, &owner, body).await,
        ErrandKind::Down => down(edge, &owner, body).await,
        ErrandKind::TooLarge => {
            if let Some(line) = leading_carrier(&body).and_then(|name| edge.sessions.http.find(name))
                && line.owner == owner
            {
                line.violate(packet_too_large(MAX_PACKET));
            }
            Err(too_large())
        }
    }
}

/// What the instance has answered that has the carrier.
fn relayed(status: StatusCode, body: Bytes) -> Result<Response<Body>, Rejection> {
    let text = String::from_utf8_lossy(&body);
    Err(match status {
        StatusCode::OK => return Ok(complete(body)),
        StatusCode::NO_CONTENT => return Ok(nothing()),
        StatusCode::BAD_REQUEST => malformed(text),
        StatusCode::FORBIDDEN => foreign(text),
        StatusCode::CONFLICT => conflict(text),
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        StatusCode::REQUEST_TIMEOUT => late(),
        _ => gone(),
    })
}

/// A new carrier.
async fn open(
    edge: &Arc<Edge>,
    head: &Parts,
    owner: Owner,
    body: Bytes,
    conn: &ConnInfo,
) -> Result<Response<Body>, Rejection> {
    let HttpOpen { packet, poll } =
        HttpOpen::decode(body).map_err(|error| malformed(format!("the body is no HttpOpen: {error}")))?;
    if packet.is_empty() {
        return Err(malformed("there is no packet in it; it must hold Hello"));
    }
    if packet.len() > MAX_PACKET {
        return Err(too_large());
    }
    if edge.drain.cut.is_cancelled() {
        let text = "the proxy is shutting down";
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, Code::UNAVAILABLE, "draining", text));
    }
    let place = super::admit(edge, conn).map_err(crowded)?;
    let hello = Hello::of(&packet);
    if place.1 && hello == Hello::New {
        return Err(crowded(super::too_many_sockets(edge)));
    }
    let begun = super::begin(edge, conn, true)?;
    let name = edge.sessions.new_token().map_err(super::no_random_numbers)?;
    let (line, opening) = Line::new(name, owner, poll, packet, hello == Hello::Crowd);
    let line = Arc::new(line);
    let Some(listing) = edge.sessions.http.enter(&line) else {
        return Err(Rejection::internal("a carrier's name leads nowhere"));
    };
    let carrier = Carrier::Http(HttpCarrier::new(Arc::clone(&line), listing));
    let link = Link::new(carrier, Some(place), &edge.metrics);
    let settings = edge.settings();
    let visitor = Visitor::of(&head.headers, conn);
    let heartbeat = settings.session.heartbeat;
    let conn = conn.clone().with_brake(settings.limits.cancels_per_second);
    edge.drain.tasks.spawn(Driver::new(Arc::clone(edge), conn, visitor, link, begun));
    if !poll {
        return Ok(Response::new(Body::new(DownBody::new(line, heartbeat))));
    }
    let patience = edge.settings().session.hello_timeout + heartbeat;
    wait(&line, opening, patience).await
}

/// What the first packet of a carrier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hello {
    /// Hello of a new session.
    New,
    /// Hello that asks for a session.
    Resumes,
    /// There is more in it than Hello.
    Crowd,
    /// There is no Hello in it; the session says what is wrong with that.
    None,
}

impl Hello {
    fn of(packet: &Bytes) -> Self {
        let mut frames = PacketReader::new(packet.clone());
        let Ok(Some(Frame { kind: FrameKind::Hello(hello), .. })) = frames.next() else { return Self::None };
        match frames.next() {
            Ok(None) if hello.resume_token.is_empty() => Self::New,
            Ok(None) => Self::Resumes,
            Ok(Some(_)) | Err(_) => Self::Crowd,
        }
    }
}

/// A packet of the client's, or its last word.
async fn up(edge: &Edge, owner: &Owner, body: Bytes) -> Result<Response<Body>, Rejection> {
    let HttpUp { carrier, number, packet, close } =
        HttpUp::decode(body.clone()).map_err(|error| undecodable(edge, owner, &body, "HttpUp", error))?;
    let line = find(edge, owner, &carrier)?;
    if let Some(close) = close {
        line.hang_up(u16::try_from(close.code).ok().filter(|&code| code != 0));
        return Ok(nothing());
    }
    let wrong = match (number, packet.is_empty()) {
        (0, _) => Some("it has no number; packets are numbered from 1"),
        (_, true) => Some("there is no packet in it"),
        _ => None,
    };
    if let Some(text) = wrong {
        line.violate(CloseReason::new(Code::INVALID_ARGUMENT, "malformed", text));
        return Err(malformed(text));
    }
    if packet.len() > MAX_PACKET {
        line.violate(packet_too_large(MAX_PACKET));
        return Err(too_large());
    }
    match line.put(number, packet) {
        Put::Taken => Ok(nothing()),
        Put::Waits if line.taken(number).await => Ok(nothing()),
        Put::Waits => Err(gone()),
        Put::Gap => Err(conflict(
            "another number was due: packets are numbered 1, 2, 3, … without gaps, and one is under way at a time",
        )),
    }
}

/// A poll.
async fn down(edge: &Edge, owner: &Owner, body: Bytes) -> Result<Response<Body>, Rejection> {
    let HttpPoll { carrier, number, wait_ms } =
        HttpPoll::decode(body.clone()).map_err(|error| undecodable(edge, owner, &body, "HttpPoll", error))?;
    let line = find(edge, owner, &carrier)?;
    if number == 0 {
        let text = "it has no number; polls are numbered from 1";
        line.violate(CloseReason::new(Code::INVALID_ARGUMENT, "malformed", text));
        return Err(malformed(text));
    }
    if !line.polls {
        return Err(conflict("this carrier streams; open one with `poll` to poll"));
    }
    let longest = edge.settings().session.heartbeat;
    let asked = match wait_ms {
        0 => longest,
        ms => Duration::from_millis(ms.into()).max(SHORTEST_WAIT).min(longest),
    };
    match line.ask(number) {
        Asked::Answer(bytes) => Ok(complete(bytes)),
        Asked::Waits(answer) => wait(&line, answer, asked).await,
        Asked::Old => Ok(nothing()),
        Asked::Gap => Err(conflict("another number was due: polls are numbered 1, 2, 3, … without gaps")),
    }
}

/// The answer to a poll: what comes, or nothing.
async fn wait(
    line: &Line,
    mut answer: tokio::sync::oneshot::Receiver<Bytes>,
    patience: Duration,
) -> Result<Response<Body>, Rejection> {
    let bytes = match timeout(patience, &mut answer).await {
        Ok(answer) => answer.ok(),
        Err(_) => line.stop_waiting(answer),
    };
    match bytes {
        Some(bytes) => Ok(complete(bytes)),
        None if line.is_over() => Err(gone()),
        // Another one waits in its place.
        None => Ok(nothing()),
    }
}

/// A body that is not what it should be: the carrier that it names nevertheless is closed.
fn undecodable(edge: &Edge, owner: &Owner, body: &Bytes, what: &str, error: DecodeError) -> Rejection {
    let text = format!("the body is no {what}: {error}");
    if let Some(Ok(line)) = leading_carrier(body).map(|name| find(edge, owner, name)) {
        line.violate(CloseReason::new(Code::INVALID_ARGUMENT, "malformed", text.clone()));
    }
    malformed(text)
}

/// The carrier that a request names, if it may use it.
fn find(edge: &Edge, owner: &Owner, name: &[u8]) -> Result<Arc<Line>, Rejection> {
    let line = edge
        .sessions
        .http
        .find(name)
        .ok_or_else(|| if edge.settings().session.fallback { gone() } else { switched_off() })?;
    if line.owner == *owner {
        return Ok(line);
    }
    Err(foreign(if line.owner.origin == owner.origin {
        "this carrier belongs to another client's certificate"
    } else {
        "this carrier belongs to another origin"
    }))
}

/// A response that a middlebox knows the end of. Hyper leaves the length of nothing out over HTTP/2.
fn complete(bytes: Bytes) -> Response<Body> {
    let length = HeaderValue::from(bytes.len());
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}

fn nothing() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Counted already.
fn crowded(reason: CloseReason) -> Rejection {
    refusal(StatusCode::TOO_MANY_REQUESTS, reason.code, reason.label, reason.message)
}

fn refusal(http: StatusCode, code: Code, reason: &'static str, message: impl Into<String>) -> Rejection {
    Rejection { http, code, reason, message: message.into() }
}

fn not_here(message: &str) -> Rejection {
    refusal(StatusCode::NOT_FOUND, Code::UNIMPLEMENTED, "carrier_path", message)
}

fn switched_off() -> Rejection {
    not_here("this proxy has no HTTP carrier (`session.fallback`); use a WebSocket")
}

fn malformed(message: impl Into<String>) -> Rejection {
    refusal(StatusCode::BAD_REQUEST, Code::INVALID_ARGUMENT, "carrier_malformed", message)
}

fn late() -> Rejection {
    let text = "the body did not come within 10 s";
    refusal(StatusCode::REQUEST_TIMEOUT, Code::DEADLINE_EXCEEDED, "carrier_late", text)
}

fn foreign(message: impl Into<String>) -> Rejection {
    refusal(StatusCode::FORBIDDEN, Code::PERMISSION_DENIED, "carrier_origin", message)
}

fn conflict(message: impl Into<String>) -> Rejection {
    refusal(StatusCode::CONFLICT, Code::FAILED_PRECONDITION, "carrier_gap", message)
}

fn gone() -> Rejection {
    let text = "there is no such carrier: it has ended, or it is another instance's; open a new one";
    refusal(StatusCode::GONE, Code::NOT_FOUND, "carrier_unknown", text)
}

fn too_large() -> Rejection {
    let text = format!("a packet may have {MAX_PACKET} bytes, and a request little more");
    refusal(StatusCode::PAYLOAD_TOO_LARGE, Code::RESOURCE_EXHAUSTED, "carrier_too_large", text)
}
