//! The task that owns a session, its calls and its carrier.

mod resume;

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Begun,
    calls::{Caller, Calls},
    directory::Entry,
    link::{CLOSE_TIMEOUT, Carrier, Incoming, Link},
    mailbox::Answer,
    parking::Place,
    ready::{KeyWaker, ReadyList},
};
use crate::{
    downstream::{ConnInfo, Edge, Principal, Settings, Visitor, call_gate, identity::SessionIdentity},
    session::{CloseReason, Event, Session, StreamId},
    wire::{Code, Outcome},
};

/// How many messages are read before others on this worker get their turn.
const READS_PER_TURN: usize = 64;

/// How many messages are read from a peer that takes nothing: enough to hear it cancel all its streams, few enough
/// that the answers which it can make us keep (a pong for each ping) stay small.
const READS_WHILE_BLOCKED: u32 = 1024;

/// The key under which the timer and the drain signals wake the task. Streams do so under their numbers.
const SELF: u64 = 1 << 32;

/// The key under which the carrier does when it has something to read.
const CARRIER: u64 = 2 << 32;

/// The key under which others do, when they have something for the session.
const MAILBOX: u64 = 3 << 32;

thread_local! {
    /// Where packets are written before they are framed: one for all sockets of a worker, so that an idle socket
    /// holds none.
    static PACKET: std::cell::RefCell<BytesMut> = std::cell::RefCell::new(BytesMut::new());
}

/// A session, its carrier and its calls. A future that ends with the session.
#[derive(Debug)]
pub(super) struct Driver {
    edge: Arc<Edge>,
    /// As they were when the session began.
    settings: Arc<Settings>,
    /// The carrier's connection, or the last one's.
    conn: ConnInfo,
    /// Whom the session belongs to, by the settings of its begin.
    principal: Principal,
    /// Who has come with the first carrier, as long as it may want another session.
    visitor: Option<Box<Visitor>>,
    session_id: Arc<str>,
    /// `None`: the session is parked, over, or about to be another's.
    link: Option<Link>,
    session: Session,
    /// The session can be found by its client's next carrier.
    entry: Option<Entry>,
    /// It is parked.
    place: Option<Place>,
    /// The client's Hello has come.
    greeted: bool,
    /// The client has said anew who it is, and that was not looked at.
    refreshed: bool,
    calls: Calls,
    ready: Arc<ReadyList>,
    /// Taken from `ready` and not polled yet; kept for its capacity.
    turn: Vec<u64>,
    own: KeyWaker,
    reader: KeyWaker,
    timer: Pin<Box<Sleep>>,
    /// What will send the client elsewhere. `None` before Hello, and when it has come.
    departure: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// The session began in a drain.
    late: bool,
    /// When the client is sent elsewhere, once that has come.
    leave: Option<Pin<Box<Sleep>>>,
    /// `None` when it has come.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The session goes on, with a carrier or without.
    Open,
    /// The carrier's client asks for another session, whose task has the carrier now and will say what becomes of it.
    Asking(oneshot::Receiver<Answer>),
    /// The session is over; the rest of its packets is flushed, then the close frame. Until the timer.
    Ending(CloseReason),
    Gone,
}

impl Driver {
    pub(super) fn new(
        edge: Arc<Edge>,
        mut conn: ConnInfo,
        visitor: Visitor,
        link: Link,
        begun: Begun,
    ) -> Self {
        let settings = edge.settings();
        conn.shown.session = Some(SessionIdentity::new(Arc::clone(&edge)));
        let Begun { session, id: session_id } = begun;
        let ready = Arc::new(ReadyList::default());
        let (own, reader) = (ready.waker(SELF), ready.waker(CARRIER));
        own.wake();
        reader.wake();
        edge.metrics.session_opened();
        Self {
            departure: None,
            late: false,
            cut: Some(Box::pin(edge.drain.cut.clone().cancelled_owned())),
            leave: None,
            timer: Box::pin(tokio::time::sleep_until(Instant::now())),
            calls: Calls::new(
                Arc::clone(&edge),
                Arc::clone(&session_id),
                Arc::clone(&ready),
                link.carrier.is_text(),
            ),
            principal: Principal::of(&settings, &visitor),
            visitor: Some(Box::new(visitor)),
            settings,
            edge,
            conn,
            session_id,
            link: Some(link),
            session,
            entry: None,
            place: None,
            greeted: false,
            refreshed: false,
            ready,
            turn: Vec::new(),
            own,
            reader,
            state: State::Open,
        }
    }

    /// One turn: everything that can go on goes on. `Ready` when the session is over.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.register(cx.waker());
        loop {
            let now = Instant::now();
            match &mut self.state {
                State::Gone => return Poll::Ready(()),
                State::Open => self.wake(now, true),
                State::Asking(answer) => {
                    let answer = ready!(Pin::new(answer).poll(cx));
                    self.answered(answer, now);
                    continue;
                }
                State::Ending(_) => {}
            }
            if self.write(cx, now) == Poll::Ready(true) {
                continue;
            }
            match self.state {
                State::Open => {
                    self.update_place();
                    self.arm_timer();
                    return Poll::Pending;
                }
                State::Ending(_) => {
                    ready!(self.timer.as_mut().poll(cx));
                    // A peer that takes nothing must not keep its socket: the close frame stays unsaid.
                    self.end_ended();
                }
                State::Asking(_) | State::Gone => {}
            }
        }
    }

    /// Lets everything go on that was woken: the socket's input first, for what it brings (if `reads`), then the
    /// streams, and the timer and signals.
    fn wake(&mut self, now: Instant, reads: bool) {
        let mut turn = mem::take(&mut self.turn);
        self.ready.take(&mut turn);
        if let Some(at) = turn.iter().position(|&key| key == CARRIER && reads) {
            turn.swap_remove(at);
            self.reader.arm();
            self.read(now);
            // Before the streams: what has come in time prolongs a call whose token is over now.
            self.look_at_refresh();
            self.ready.take(&mut turn);
        }
        for key in turn.drain(..) {
            match StreamId::try_from(key) {
                Ok(stream) => self.calls.poll(&mut self.session, stream),
                Err(_) if key == SELF => self.poll_signals(now),
                Err(_) if key == MAILBOX => self.open_mailbox(now),
                // There is more to read: in the next turn, after others.
                Err(_) => {
                    self.reader.arm();
                    self.reader.wake();
                }
            }
        }
        self.turn = turn;
        self.drain_events();
        self.look_at_refresh();
    }

    /// Reads what the socket has.
    fn read(&mut self, now: Instant) {
        let waker = self.reader.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..READS_PER_TURN {
            let Some(link) = &mut self.link else { return };
            // A peer that does not read may give its calls up, but must not fill our buffers with answers.
            if link.blocked.is_some() && link.reads_while_blocked == READS_WHILE_BLOCKED {
                return;
            }
            let Poll::Ready(incoming) = link.carrier.poll_read(cx) else { return };
            link.reads_while_blocked += u32::from(link.blocked.is_some());
            match incoming {
                Incoming::Packet(packet) if self.greeted => {
                    self.session.handle_packet(packet, now.into_std())
                }
                Incoming::Packet(packet) => self.first_packet(packet, now),
                Incoming::Text => self.session.handle_text(now.into_std()),
                Incoming::Unreadable(message) => {
                    self.session.close(CloseReason::new(Code::INVALID_ARGUMENT, "violation", message));
                }
                Incoming::Alive => self.session.handle_activity(now.into_std()),
                Incoming::Closed(code) => {
                    let code = code.unwrap_or(1005); // RFC 6455, section 7.1.5: none was given
                    let text = format!("the client closed the socket with {code}");
                    let ends = resume::ends_session(code);
                    return self.lose(if ends { "client_closed" } else { "client_left" }, &text, ends);
                }
                Incoming::Lost => return self.lose("lost", "the client's connection was lost", false),
                Incoming::Unfit(reason) => {
                    if self.detach(reason.label) {
                        return self.drop_carrier(&reason);
                    }
                    self.session.close(reason);
                }
                Incoming::Violation(reason) => self.session.close(reason),
            }
            self.drain_events();
            if !matches!(self.state, State::Open) {
                return;
            }
        }
        self.reader.wake();
    }

    /// The timer and the drain signals; they wake through [`SELF`], so that ordinary turns do not pay for them.
    fn poll_signals(&mut self, now: Instant) {
        self.own.arm();
        let waker = self.own.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        if self.departure.as_mut().is_some_and(|f| f.as_mut().poll(cx).is_ready()) {
            self.departure = None;
            let drain = &self.edge.drain;
            let share = match (self.late, drain.closed.is_cancelled()) {
                (true, false) => drain.share(),
                // Without calls it will not be back before it has one.
                _ if self.calls.is_empty() => Duration::ZERO,
                (true, true) => drain.late_share(),
                (false, _) => drain.share(),
            };
            self.leave = Some(Box::pin(tokio::time::sleep(share)));
        }
        if self.leave.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
            self.leave = None;
            self.go_away(Duration::ZERO);
        }
        if self.cut.as_mut().is_some_and(|f| f.as_mut().poll(cx).is_ready()) {
            self.cut = None;
            let outcome = Outcome::proxy(
                Code::UNAVAILABLE,
                "the proxy is shutting down and the call did not finish before the drain deadline",
            );
            // Clients that lose a call now are likely to be back, and all of them at once.
            self.leave = None;
            if self.greeted {
                self.go_away(self.edge.drain.share());
            }
            self.calls.end_all(&mut self.session, &outcome);
            if self.link.is_none() || !self.greeted {
                self.stop();
            }
        }
        self.calls.give_up(&mut self.session, now);
        while self.timer.as_mut().poll(cx).is_ready() {
            self.session.handle_timeout(now.into_std());
            let Some(next) = self.session.poll_timeout() else { break };
            // The timer's grain is a millisecond; less would spin.
            let soonest = now + Duration::from_millis(1);
            self.timer.as_mut().reset(Instant::from_std(next).max(soonest));
        }
    }

    /// Sends the client elsewhere; it shall come there after `delay`.
    fn go_away(&mut self, delay: Duration) {
        let delay = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
        self.session.go_away(Code::UNAVAILABLE, "this instance is shutting down", delay);
    }

    /// The timer fires at the earliest time that was ever asked for and then looks again: keepalive moves its time
    /// with every message, and must not cost a timer operation each.
    fn arm_timer(&mut self) {
        let session = self.session.poll_timeout().map(Instant::from_std);
        let place = self.place.as_ref().map(Place::next_look);
        if let Some(next) = session.into_iter().chain(place).chain(self.calls.next_given_up()).min()
            && (self.timer.is_elapsed() || next < self.timer.deadline())
        {
            self.timer.as_mut().reset(next);
            let waker = self.own.waker().clone();
            if self.timer.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                self.own.wake();
            }
        }
    }

    fn drain_events(&mut self) {
        loop {
            if let Some(reason) = call_gate::cancel_storm(&self.edge, &self.conn) {
                self.session.close(reason);
            }
            let Some(event) = self.session.poll_event() else { return };
            match event {
                Event::Data { stream, bytes, remaining, first, last } => {
                    self.calls.data(&mut self.session, stream, bytes, remaining, first, last);
                }
                Event::HalfClosed { stream } => self.calls.half_closed(&mut self.session, stream),
                Event::Opened { stream, open } => {
                    let upgrade_headers = self.principal.upgrade_headers();
                    let caller = Caller { conn: &self.conn, upgrade_headers };
                    self.calls.open(&mut self.session, caller, stream, &open);
                }
                Event::Cancelled { stream, code, reason } => {
                    self.calls.cancelled(stream, code, reason);
                }
                Event::Writable { stream } => self.calls.writable(stream),
                Event::Greeted { agent } => self.greeted(&agent),
                Event::Refreshed => self.refreshed = true,
                Event::ResumeAsked(hello) => self.ask(*hello),
                Event::Resumed { bytes, .. } => self.edge.metrics.session_resumed(bytes as u64),
                Event::Detached(reason) => {
                    self.drop_carrier(&reason);
                    self.park(reason.label);
                    if self.cut.is_none() {
                        self.stop();
                    }
                }
                // Its end has been told.
                Event::Closed(_) if matches!(self.state, State::Gone) => {}
                Event::Closed(reason) => {
                    self.leave_directory(reason.label);
                    self.state = State::Ending(reason);
                    self.be_patient();
                }
                // The directory knows sessions, and each session its own tokens.
                Event::TokenRetired { .. } => {}
                // A proxy's session never says these.
                Event::Ended { .. } | Event::GoAway(_) | Event::Headers { .. } | Event::Welcomed(_) => {}
            }
        }
    }

    /// Writes packets until nothing is ready or the kernel takes no more. `Ready(true)`: the state has changed.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<bool> {
        while let Some(link) = &mut self.link {
            match link.carrier.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    if let Some(since) = link.blocked.take() {
                        link.reads_while_blocked = 0;
                        self.session.handle_unread(since.into_std(), now.into_std());
                        if matches!(self.state, State::Ending(_)) {
                            self.be_patient();
                        }
                        self.reader.wake();
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.lose("lost", "the client's connection was lost", false);
                    return Poll::Ready(true);
                }
                Poll::Pending => {
                    link.blocked.get_or_insert(now);
                    return Poll::Pending;
                }
            }
            let Some(link) = &mut self.link else { break };
            let wrote = PACKET.with_borrow_mut(|packet| {
                packet.resize(Carrier::ROOM, 0);
                let ready = self.session.poll_packet(packet, link.carrier.packet_target());
                if ready {
                    link.carrier.send(cx, packet);
                }
                ready
            });
            if !wrote {
                break;
            }
            if self.session.take_ping() {
                link.carrier.ping(cx);
            }
            // Room in the outbox may let streams go on.
            self.drain_events();
            self.wake(now, false);
        }
        if let State::Ending(reason) = &self.state {
            let reason = reason.clone();
            self.drop_carrier(&reason);
            self.end_ended();
            return Poll::Ready(true);
        }
        Poll::Ready(false)
    }

    /// Gives the peer time to take the next packet of an ending session: as much as it may be silent between pings.
    fn be_patient(&mut self) {
        let patience = self.settings.session.ping.max(CLOSE_TIMEOUT);
        self.timer.as_mut().reset(Instant::now() + patience);
    }

    /// Counts the end of a session that was `Ending`.
    fn end_ended(&mut self) {
        if let State::Ending(reason) = mem::replace(&mut self.state, State::Gone) {
            self.end_all(reason.label, &reason.message);
        }
    }

    /// The session ends with its carrier.
    fn gone(&mut self, label: &'static str, text: &str) {
        self.leave_directory(label);
        self.end_all(label, text);
        self.state = State::Gone;
    }

    /// Cancels every call that still runs and counts the session's end.
    fn end_all(&mut self, label: &'static str, text: &str) {
        self.calls.abandon(text);
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
        if !matches!(self.state, State::Gone) {
            self.end_all("dropped", "the proxy is shutting down");
        }
    }
}
