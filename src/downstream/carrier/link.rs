//! A session's way to its client: what carries the packets now, and what came with it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep};

use super::{
    http_carrier::HttpCarrier,
    socket::{self, Socket},
};
use crate::{
    downstream::AddressPermit,
    session::CloseReason,
    telemetry::{CarrierCount, CarrierKind, Metrics},
    wire::{
        Code,
        text_frame::{self, TextFrameWriter},
        websocket::{HEADER_MAX, WebSocketError},
    },
};

/// How long the peer may take to answer our close frame.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much one packet holds at most, about: enough to make a write worth its system call, little enough that a
/// stream waits for no more than a few milliseconds of a slow line.
pub(super) const PACKET_TARGET: usize = 64 * 1024;

/// What comes from a carrier.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A packet.
    Packet(Bytes),
    /// A text message, which the protocol does not have.
    Text,
    /// The peer lives.
    Alive,
    /// The peer said that it goes. Its close code, if it gave one.
    Closed(Option<u16>),
    /// The carrier is lost.
    Lost,
    /// The peer broke the rules of the carrier, which is of no more use. The session may go on without.
    Unfit(CloseReason),
    /// The peer did what ends the session too.
    Violation(CloseReason),
    /// The peer sent a message that is no frame of this kind of session. Says why.
    Unreadable(String),
}

impl Incoming {
    /// What a socket says, as it is where packets are binary messages.
    fn of(incoming: socket::Incoming) -> Self {
        match incoming {
            socket::Incoming::Packet(packet) => Self::Packet(packet),
            socket::Incoming::Text(_) => Self::Text,
            socket::Incoming::Alive => Self::Alive,
            socket::Incoming::Closed(code) => Self::Closed(code),
            socket::Incoming::Broken(socket::Broken::Lost) => Self::Lost,
            socket::Incoming::Broken(socket::Broken::Protocol(WebSocketError::TooLarge(limit))) => {
                Self::Violation(packet_too_large(limit))
            }
            socket::Incoming::Broken(socket::Broken::Protocol(error)) => {
                let message = format!("the WebSocket protocol was broken: {error}");
                Self::Unfit(CloseReason::carrier(message))
            }
        }
    }
}

/// What carries packets. Each kind does the same things; the driver knows no other.
///
/// A carrier may move to another task, on another worker: whoever polls it last is woken.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A WebSocket, over HTTP/1.1 or HTTP/2, or a link from another instance.
    WebSocket(Socket),
    /// A response down and requests up, or polls.
    Http(HttpCarrier),
    /// A WebSocket whose messages are text, one frame in each.
    TextSocket(Socket, TextFrameWriter),
}

impl Carrier {
    /// Room that a packet has in front for the carrier's own framing.
    pub(super) const ROOM: usize = HEADER_MAX;

    /// How metrics call it.
    pub(super) fn kind(&self) -> CarrierKind {
        match self {
            Self::WebSocket(socket) if socket.is_to_instance() => CarrierKind::Relay,
            Self::WebSocket(_) | Self::TextSocket(..) => CarrierKind::WebSocket,
            Self::Http(http) => http.kind(),
        }
    }

    /// Whether it is made of requests, which may each come on a new connection.
    pub(super) fn is_http(&self) -> bool {
        matches!(self, Self::Http(_))
    }

    /// Whether the session's frames are text here.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::TextSocket(..))
    }

    /// The next thing that the peer sent. After all but `Packet`, `Text` and `Alive` nothing more is asked for.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        match self {
            Self::WebSocket(socket) => socket.poll_read(cx).map(Incoming::of),
            Self::TextSocket(socket, _) => socket.poll_read(cx).map(|incoming| match incoming {
                socket::Incoming::Text(text) => {
                    let mut packet = BytesMut::new();
                    match text_frame::read(&text, &mut packet) {
                        Ok(()) => Incoming::Packet(packet.freeze()),
                        Err(error) => Incoming::Unreadable(error.to_string()),
                    }
                }
                socket::Incoming::Packet(_) => {
                    Incoming::Unreadable("a binary message in a session of text".to_owned())
                }
                other => Incoming::of(other),
            }),
            Self::Http(http) => http.poll_read(cx),
        }
    }

    /// How much the next packet should hold, about.
    pub(super) fn packet_target(&self) -> usize {
        match self {
            Self::WebSocket(_) | Self::TextSocket(..) => PACKET_TARGET,
            Self::Http(http) => http.packet_target(),
        }
    }

    /// Sends the packet that stands in `packet` behind [`Carrier::ROOM`] bytes, and clears `packet`. Only when
    /// `poll_flush` has said ready since the last.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, packet: &mut BytesMut) {
        match self {
            Self::WebSocket(socket) => socket.send(cx, packet),
            Self::Http(http) => http.send(packet),
            Self::TextSocket(socket, writer) => {
                let frames = Bytes::copy_from_slice(&packet[Self::ROOM..]);
                let written = writer.write(frames, |text| {
                    packet.truncate(Self::ROOM);
                    packet.extend_from_slice(text.as_bytes());
                    socket.send_text(cx, packet);
                    packet.resize(Self::ROOM, 0);
                });
                debug_assert!(written.is_ok(), "a packet of our own holds frames");
                packet.clear();
            }
        }
    }

    /// Brings what waits to the peer; ready when another packet may be sent.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        match self {
            Self::WebSocket(socket) | Self::TextSocket(socket, _) => socket.poll_flush(cx).map_err(|_| Lost),
            Self::Http(http) => http.poll_flush(cx.waker()),
        }
    }

    /// A sign of life below the session, which the browser answers even while the page's script is busy.
    pub(super) fn ping(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::WebSocket(socket) | Self::TextSocket(socket, _) => socket.ping(cx),
            // There is none. What is lost is found out by the session's own Ping.
            Self::Http(_) => {}
        }
    }

    /// Says goodbye, with a close code and a reason. Nothing is sent after it.
    pub(super) fn close(&mut self, cx: &mut Context<'_>, code: u16, reason: &str) {
        match self {
            Self::WebSocket(socket) | Self::TextSocket(socket, _) => socket.close(cx, code, reason),
            Self::Http(http) => http.close(code, reason),
        }
    }

    /// After `close`: ready when the peer has heard it, or is gone.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::WebSocket(socket) | Self::TextSocket(socket, _) => socket.poll_closed(cx),
            Self::Http(http) => http.poll_closed(cx.waker()),
        }
    }
}

/// The carrier is lost.
#[derive(Debug)]
pub(super) struct Lost;

/// A packet beyond what any carrier takes.
pub(super) fn packet_too_large(limit: usize) -> CloseReason {
    let message = format!("a packet is larger than {limit} bytes");
    CloseReason::new(Code::RESOURCE_EXHAUSTED, "packet_too_large", message)
}

/// A carrier, and what goes with it wherever it goes.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) carrier: Carrier,
    /// The client address's place among its sockets, given back at the end.
    _place: Option<AddressPermit>,
    _count: CarrierCount,
    /// The address has as many sockets as it may without this one, which therefore can only go on with a session.
    pub(super) crowded: bool,
    /// Since when the last flush has not finished: nothing more is written.
    pub(super) blocked: Option<Instant>,
    /// Messages read since then.
    pub(super) reads_while_blocked: u32,
}

impl Link {
    /// `place` is as `admit` gave it; `None`: there is none, and the session is closed already.
    pub(super) fn new(
        carrier: Carrier,
        place: Option<(AddressPermit, bool)>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let count = metrics.carrier_opened(carrier.kind());
        let (place, crowded) = place.map_or((None, true), |(place, crowded)| (Some(place), crowded));
        Self { carrier, _place: place, _count: count, crowded, blocked: None, reads_while_blocked: 0 }
    }

    /// Closes a carrier that the session has no more use for. The future ends when the peer has heard it.
    pub(super) fn farewell(mut self, code: u16, reason: &str) -> Farewell {
        // What cannot be written at once is when the future is polled.
        self.carrier.close(&mut Context::from_waker(Waker::noop()), code, reason);
        Farewell { link: self, timer: Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)) }
    }
}

/// A link after its last words, until the peer has answered them or has had the time to.
#[derive(Debug)]
pub(super) struct Farewell {
    link: Link,
    timer: Pin<Box<Sleep>>,
}

impl Future for Farewell {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.link.carrier.poll_closed(cx).is_ready() {
            return Poll::Ready(());
        }
        self.timer.as_mut().poll(cx)
    }
}
