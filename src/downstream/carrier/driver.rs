//! The task that owns a socket and its session.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    ready::{KeyWaker, ReadyList},
    socket::{Broken, Incoming, Socket},
    stream::Stream,
};
use crate::{
    downstream::{AddressPermit, ConnInfo, Edge, Opening, admit},
    session::{CloseReason, Event, Session, StreamId, StreamTable},
    telemetry::{CallRecord, Dialect},
    wire::{
        Code, Outcome, metadata, v1,
        websocket::{HEADER_MAX, WebSocketError},
    },
};

/// How much one packet holds at most, about: enough to make a write worth its system call, little enough that a
/// stream waits for no more than a few milliseconds of a slow line.
const PACKET_TARGET: usize = 64 * 1024;

/// How many messages are read before others on this worker get their turn.
const READS_PER_TURN: usize = 64;

/// How many messages are read from a peer that takes nothing: enough to hear it cancel all its streams, few enough
/// that the answers which it can make us keep (a pong for each ping) stay small.
const READS_WHILE_BLOCKED: u32 = 1024;

/// How long the peer may take to answer our close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The key under which the timer and the drain signals wake the task. Streams do so under their numbers.
const SELF: u64 = 1 << 32;

/// The key under which the socket does when it has something to read.
const SOCKET: u64 = 2 << 32;

thread_local! {
    /// Where packets are written before they are framed: one for all sockets of a worker, so that an idle socket
    /// holds none.
    static PACKET: std::cell::RefCell<BytesMut> = std::cell::RefCell::new(BytesMut::new());
}

/// One carrier, its session and its calls. A future that ends when the socket is closed.
#[derive(Debug)]
pub(super) struct Driver {
    edge: Arc<Edge>,
    conn: ConnInfo,
    session_id: Arc<str>,
    upgrade_headers: HeaderMap,
    socket: Socket,
    session: Session,
    streams: StreamTable<Stream>,
    ready: Arc<ReadyList>,
    /// Taken from `ready` and not polled yet; kept for its capacity.
    turn: Vec<u64>,
    own: KeyWaker,
    reader: KeyWaker,
    timer: Pin<Box<Sleep>>,
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Since when the last flush has not finished: write no more, and read no more than [`READS_WHILE_BLOCKED`].
    blocked: Option<Instant>,
    /// Messages read since then.
    reads_while_blocked: u32,
    state: State,
    /// The client address's place among its sockets, given back at the end.
    _place: Option<AddressPermit>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The session is over; the rest of its packets is flushed, then the close frame. Until the timer.
    Ending(CloseReason),
    /// The close frame is sent; waiting for the peer's until the timer.
    Closing,
    Gone,
}

impl Driver {
    pub(super) fn new(
        edge: Arc<Edge>,
        conn: ConnInfo,
        socket: Socket,
        mut session: Session,
        session_id: Arc<str>,
        upgrade_headers: HeaderMap,
        admitted: Result<AddressPermit, CloseReason>,
    ) -> Self {
        let ready = Arc::new(ReadyList::default());
        let (own, reader) = (ready.waker(SELF), ready.waker(SOCKET));
        own.wake();
        reader.wake();
        let place = match admitted {
            Ok(place) => Some(place),
            Err(reason) => {
                session.close(reason);
                None
            }
        };
        edge.metrics.session_opened();
        Self {
            draining: Some(Box::pin(edge.drain.draining.clone().cancelled_owned())),
            cut: Some(Box::pin(edge.drain.cut.clone().cancelled_owned())),
            timer: Box::pin(tokio::time::sleep_until(Instant::now())),
            edge,
            conn,
            session_id,
            upgrade_headers,
            socket,
            session,
            streams: StreamTable::default(),
            ready,
            turn: Vec::new(),
            own,
            reader,
            blocked: None,
            reads_while_blocked: 0,
            state: State::Open,
            _place: place,
        }
    }

    /// One turn: everything that can go on goes on. `Ready` when the socket is gone.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.register(cx.waker());
        loop {
            match self.state {
                State::Gone => return Poll::Ready(()),
                State::Closing => return self.poll_closing(cx),
                State::Open | State::Ending(_) => {}
            }
            let now = Instant::now();
            if self.state == State::Open {
                self.wake(now, true);
            }
            if self.write(cx, now) == Poll::Ready(true) {
                continue;
            }
            match self.state {
                State::Open => {
                    self.arm_timer();
                    return Poll::Pending;
                }
                State::Ending(_) => {
                    ready!(self.timer.as_mut().poll(cx));
                    // A peer that takes nothing must not keep its socket: the close frame stays unsaid.
                    self.end_ended();
                    return Poll::Ready(());
                }
                State::Closing | State::Gone => {}
            }
        }
    }

    /// Lets everything go on that was woken: the socket's input first, for what it brings (if `reads`), then the
    /// streams, and the timer and signals.
    fn wake(&mut self, now: Instant, reads: bool) {
        let mut turn = mem::take(&mut self.turn);
        self.ready.take(&mut turn);
        if let Some(at) = turn.iter().position(|&key| key == SOCKET && reads) {
            turn.swap_remove(at);
            self.reader.arm();
            self.read(now);
            self.ready.take(&mut turn);
        }
        for key in turn.drain(..) {
            match StreamId::try_from(key) {
                Ok(stream) => self.poll_stream(stream),
                Err(_) if key == SELF => self.poll_signals(now),
                // There is more to read: in the next turn, after others.
                Err(_) => {
                    self.reader.arm();
                    self.reader.wake();
                }
            }
        }
        self.turn = turn;
        self.drain_events();
    }

    /// Reads what the socket has.
    fn read(&mut self, now: Instant) {
        let waker = self.reader.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..READS_PER_TURN {
            // A peer that does not read may give its calls up, but must not fill our buffers with answers.
            if self.blocked.is_some() && self.reads_while_blocked == READS_WHILE_BLOCKED {
                return;
            }
            let Poll::Ready(incoming) = self.socket.poll_read(cx) else { return };
            self.reads_while_blocked += u32::from(self.blocked.is_some());
            match incoming {
                Incoming::Packet(packet) => self.session.handle_packet(packet, now.into_std()),
                Incoming::Text(_) => self.session.handle_text(now.into_std()),
                Incoming::Alive => self.session.handle_activity(now.into_std()),
                Incoming::Closed(code) => {
                    let code = code.unwrap_or(1005); // RFC 6455, section 7.1.5: none was given
                    return self.gone(
                        cx,
                        "client_closed",
                        &format!("the client closed the socket with {code}"),
                    );
                }
                Incoming::Broken(Broken::Lost) => {
                    return self.gone(cx, "lost", "the client's connection was lost");
                }
                Incoming::Broken(Broken::Protocol(WebSocketError::TooLarge(limit))) => {
                    let message = format!("a packet is larger than {limit} bytes");
                    self.session.close(CloseReason::new(
                        Code::RESOURCE_EXHAUSTED,
                        "packet_too_large",
                        message,
                    ));
                }
                Incoming::Broken(Broken::Protocol(error)) => {
                    let message = format!("the WebSocket protocol was broken: {error}");
                    self.session.close(CloseReason::carrier(message));
                }
            }
            self.drain_events();
            if self.state != State::Open {
                return;
            }
        }
        self.reader.wake();
    }

    fn poll_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.waker().arm();
        stream.pump_up(&mut self.session);
        if let Some(outcome) = stream.pump_down(&mut self.session) {
            self.end_stream(id, &outcome);
        }
    }

    /// The timer and the drain signals; they wake through [`SELF`], so that ordinary turns do not pay for them.
    fn poll_signals(&mut self, now: Instant) {
        self.own.arm();
        let waker = self.own.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        if self.draining.as_mut().is_some_and(|f| f.as_mut().poll(cx).is_ready()) {
            self.draining = None;
            // Spread over a second, so that the clients of one instance do not all arrive at the next at once.
            let delay = u32::from(self.conn.peer.port()) % 1000;
            self.session.go_away(Code::UNAVAILABLE, "this instance is shutting down", delay);
        }
        if self.cut.as_mut().is_some_and(|f| f.as_mut().poll(cx).is_ready()) {
            self.cut = None;
            let outcome = Outcome::proxy(
                Code::UNAVAILABLE,
                "the proxy is shutting down and the call did not finish before the drain deadline",
            );
            let ids: Vec<_> = self.streams.keys().copied().collect();
            for id in ids {
                self.end_stream(id, &outcome);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            self.session.handle_timeout(now.into_std());
            let Some(next) = self.session.poll_timeout() else { break };
            // The timer's grain is a millisecond; less would spin.
            let soonest = now + Duration::from_millis(1);
            self.timer.as_mut().reset(Instant::from_std(next).max(soonest));
        }
    }

    /// The timer fires at the earliest time that was ever asked for and then looks again: keepalive moves its time
    /// with every message, and must not cost a timer operation each.
    fn arm_timer(&mut self) {
        if let Some(next) = self.session.poll_timeout() {
            let next = Instant::from_std(next);
            if self.timer.is_elapsed() || next < self.timer.deadline() {
                self.timer.as_mut().reset(next);
                let waker = self.own.waker().clone();
                if self.timer.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    self.own.wake();
                }
            }
        }
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Data { stream, bytes, remaining, first, last } => {
                    self.data(stream, bytes, remaining, first, last);
                }
                Event::HalfClosed { stream } => {
                    if let Some(stream) = self.streams.get_mut(&stream) {
                        stream.end_up(&mut self.session);
                    }
                }
                Event::Opened { stream, open } => self.open(stream, &open),
                Event::Cancelled { stream, code, reason } => {
                    if let Some(stream) = self.streams.remove(&stream) {
                        // What is counted is what the client was told.
                        stream.close(&match code {
                            Code::CANCELLED => Outcome::cancelled(reason),
                            code => Outcome::proxy(code, reason),
                        });
                    }
                }
                Event::Writable { stream } => {
                    if let Some(stream) = self.streams.get(&stream) {
                        stream.waker().wake();
                    }
                }
                Event::Greeted { agent } => {
                    tracing::debug!(session = %self.session_id, peer = %self.conn.peer, agent, "session opened");
                }
                Event::Closed(reason) => {
                    self.state = State::Ending(reason);
                    self.be_patient();
                }
                // No token is announced, so nothing can be resumed.
                Event::Detached(_)
                | Event::ResumeAsked(_)
                | Event::Resumed { .. }
                | Event::TokenRetired { .. } => {}
                // A proxy's session never says these.
                Event::Ended { .. } | Event::GoAway(_) | Event::Headers { .. } | Event::Welcomed(_) => {}
            }
        }
    }

    fn data(&mut self, id: StreamId, bytes: Bytes, remaining: u64, first: bool, last: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Err(outcome) = stream.push_up(&mut self.session, bytes, remaining, first, last) {
            self.end_stream(id, &outcome);
        }
    }

    fn open(&mut self, id: StreamId, open: &v1::Open) {
        let admitted = self.readable(open).and_then(|metadata| {
            admit(
                &self.edge,
                Opening {
                    dialect: Dialect::Session,
                    conn: &self.conn,
                    session: Some(&self.session_id),
                    path: &open.method,
                    metadata,
                    upgrade_headers: &self.upgrade_headers,
                    timeout: (open.timeout_ms > 0).then(|| Duration::from_millis(open.timeout_ms)),
                },
            )
        });
        match admitted {
            Ok(admitted) => {
                let call = admitted.route.upstream.call(admitted.request);
                let waker = self.ready.waker(id.into());
                waker.wake();
                let max_message = admitted.route.settings.max_message;
                self.streams.insert(id, Stream::new(id, call, waker, admitted.record, max_message));
            }
            Err(outcome) => self.session.end(id, trailers(&outcome)),
        }
    }

    /// The metadata of an Open, if the frame asks for what there is.
    fn readable(&self, open: &v1::Open) -> Result<HeaderMap, Box<Outcome>> {
        let outcome = if open.codec != v1::Codec::Protobuf as i32 {
            Outcome::proxy(Code::UNIMPLEMENTED, "the JSON codec is not available; send protobuf messages")
        } else {
            match metadata::from_entries(&open.metadata) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => Outcome::proxy(Code::INVALID_ARGUMENT, error.to_string()),
            }
        };
        let metrics = Arc::clone(self.edge.routes.unrouted(Dialect::Session));
        let session = Some(Arc::clone(&self.session_id));
        CallRecord::start(metrics, &open.method, self.conn.peer, session).end(&outcome);
        Err(Box::new(outcome))
    }

    fn end_stream(&mut self, id: StreamId, outcome: &Outcome) {
        self.session.end(id, trailers(outcome));
        if let Some(stream) = self.streams.remove(&id) {
            stream.close(outcome);
        }
    }

    /// Writes packets until nothing is ready or the kernel takes no more. `Ready(true)`: the state has changed.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<bool> {
        loop {
            match self.socket.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    if let Some(since) = self.blocked.take() {
                        self.reads_while_blocked = 0;
                        self.session.handle_unread(since.into_std(), now.into_std());
                        if matches!(self.state, State::Ending(_)) {
                            self.be_patient();
                        }
                        self.reader.wake();
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.gone(cx, "lost", "the client's connection was lost");
                    return Poll::Ready(true);
                }
                Poll::Pending => {
                    self.blocked.get_or_insert(now);
                    return Poll::Pending;
                }
            }
            let wrote = PACKET.with_borrow_mut(|packet| {
                packet.resize(HEADER_MAX, 0);
                let ready = self.session.poll_packet(packet, PACKET_TARGET);
                if ready {
                    self.socket.send(cx, packet);
                }
                ready
            });
            if !wrote {
                break;
            }
            if self.session.take_ping() {
                self.socket.ping(cx);
            }
            // Room in the outbox may let streams go on.
            self.drain_events();
            self.wake(now, false);
        }
        if let State::Ending(reason) = &self.state {
            self.socket.close(cx, reason.close_code, &reason.message);
            self.end_ended();
            self.timer.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
            return Poll::Ready(true);
        }
        Poll::Ready(false)
    }

    /// Gives the peer time to take the next packet of an ending session: as much as it may be silent between pings.
    fn be_patient(&mut self) {
        let patience = self.edge.settings.session.ping.max(CLOSE_TIMEOUT);
        self.timer.as_mut().reset(Instant::now() + patience);
    }

    /// Counts the end of a session that was `Ending`.
    fn end_ended(&mut self) {
        if let State::Ending(reason) = mem::replace(&mut self.state, State::Closing) {
            self.end_all(reason.label, &reason.message);
        }
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.socket.poll_closed(cx).is_ready() {
            return Poll::Ready(());
        }
        self.timer.as_mut().poll(cx)
    }

    /// The socket is of no more use.
    fn gone(&mut self, cx: &mut Context<'_>, label: &'static str, text: &str) {
        // The answer to the peer's close frame, if there is one, is worth one try.
        let _ = self.socket.poll_flush(cx);
        self.end_all(label, text);
        self.state = State::Gone;
    }

    /// Cancels every call that still runs and counts the session's end.
    fn end_all(&mut self, label: &'static str, text: &str) {
        let outcome = Outcome::cancelled(text);
        for (_, stream) in self.streams.drain() {
            stream.close(&outcome);
        }
        self.edge.metrics.session_closed(label);
        tracing::debug!(session = %self.session_id, peer = %self.conn.peer, label, text, "session closed");
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().turn(cx)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if matches!(self.state, State::Open | State::Ending(_)) {
            self.end_all("dropped", "the proxy is shutting down");
        }
    }
}

fn trailers(outcome: &Outcome) -> v1::Trailers {
    v1::Trailers {
        code: outcome.status.code.0,
        message: outcome.status.message.clone(),
        details: outcome.status.details.clone(),
        metadata: metadata::to_entries(&outcome.trailers),
    }
}
