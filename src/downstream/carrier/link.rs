//! A session's way to its client: what carries the packets now, and what came with it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::{Instant, Sleep};

use super::socket::{Broken, Incoming, Socket};
use crate::{downstream::AddressPermit, wire::websocket::HEADER_MAX};

/// How long the peer may take to answer our close frame.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What carries packets. Each kind does the same things; the driver knows no other.
///
/// A carrier may move to another task, on another worker: whoever polls it last is woken.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A WebSocket, over HTTP/1.1 or HTTP/2.
    WebSocket(Socket),
}

impl Carrier {
    /// Room that a packet has in front for the carrier's own framing.
    pub(super) const ROOM: usize = HEADER_MAX;

    /// The next thing that the peer sent. After `Closed` or `Broken` nothing more is asked for.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        match self {
            Self::WebSocket(socket) => socket.poll_read(cx),
        }
    }

    /// Sends the packet that stands in `packet` behind [`Carrier::ROOM`] bytes, and clears `packet`. Only when
    /// `poll_flush` has said ready since the last.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, packet: &mut BytesMut) {
        match self {
            Self::WebSocket(socket) => socket.send(cx, packet),
        }
    }

    /// Brings what waits to the peer; ready when nothing waits any more.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::WebSocket(socket) => socket.poll_flush(cx),
        }
    }

    /// A sign of life below the session, which the browser answers even while the page's script is busy.
    pub(super) fn ping(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::WebSocket(socket) => socket.ping(cx),
        }
    }

    /// Says goodbye, with a close code and a reason. Nothing is sent after it.
    pub(super) fn close(&mut self, cx: &mut Context<'_>, code: u16, reason: &str) {
        match self {
            Self::WebSocket(socket) => socket.close(cx, code, reason),
        }
    }

    /// After `close`: ready when the peer has heard it, or is gone.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::WebSocket(socket) => socket.poll_closed(cx),
        }
    }
}

/// A carrier, and what goes with it wherever it goes.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) carrier: Carrier,
    /// The client address's place among its sockets, given back at the end.
    _place: Option<AddressPermit>,
    /// The address has as many sockets as it may without this one, which therefore can only go on with a session.
    pub(super) crowded: bool,
    /// Since when the last flush has not finished: nothing more is written.
    pub(super) blocked: Option<Instant>,
    /// Messages read since then.
    pub(super) reads_while_blocked: u32,
}

impl Link {
    pub(super) fn new(carrier: Carrier, place: Option<AddressPermit>, crowded: bool) -> Self {
        Self { carrier, _place: place, crowded, blocked: None, reads_while_blocked: 0 }
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
