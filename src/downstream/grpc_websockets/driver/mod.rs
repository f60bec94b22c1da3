//! The task that owns a socket and its calls.
//!
//! `opening` begins its calls, `writing` brings what they have to the client, `timing` is what time and the drain do.

mod opening;
mod timing;
mod writing;

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::stream::{Stream, TOGETHER};
use crate::{
    downstream::{
        AddressPermit, ConnInfo, Edge, Opening, Settings, account, call_gate,
        carrier::{
            ready::{KeyWaker, ReadyList},
            socket::{Broken, Incoming, Socket},
        },
    },
    session::CloseReason,
    wire::{
        Code, Outcome,
        grpc_websockets::{Frame, GOAWAY, Request, is_request, read_frame, read_request},
        websocket::WebSocketError,
    },
};

/// Request bytes that a socket's calls may hold together before no more is read from it. They wait for upstream: the
/// dialect has no other way to slow a client down. Large enough that a client which gives up is heard behind what it
/// had sent.
const BACKLOG: usize = 4 * 1024 * 1024;

/// How much of it must go before more is read.
const RELIEF: usize = 256 * 1024;

/// How many messages are read before others on this worker get their turn.
const READS_PER_TURN: usize = 64;

/// How many pings are answered for a client that takes nothing, and how many of its calls are refused: the answers
/// have to be kept.
const ANSWERS_WHILE_BLOCKED: usize = 256;

/// How long the client may take to answer our close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The close code for a client that does not keep to a limit (RFC 6455, section 7.4.1: its policy).
const POLICY: u16 = 1008;

/// Why a socket of an address that has enough is closed.
const TOO_MANY: &str = "too many sockets";

/// The stream number of a socket's only call; it is not on the wire.
const ONLY: u32 = 0;

/// The key under which the timer and the drain signals wake the task. Streams do so under their numbers.
const SELF: u64 = 1 << 32;

/// The key under which the socket does when it has something to read.
const SOCKET: u64 = 2 << 32;

/// One socket and its calls. A future that ends when the socket is closed.
#[derive(Debug)]
pub(super) struct Driver {
    edge: Arc<Edge>,
    /// As they were when the socket was opened.
    settings: Arc<Settings>,
    conn: ConnInfo,
    socket: Socket,
    /// The method of the only call; `None`: many calls, each with its number.
    path: Option<Box<str>>,
    upgrade_headers: HeaderMap,
    streams: HashMap<u32, Stream>,
    /// Calls that came to nothing, to be told.
    refused: VecDeque<(u32, Box<Outcome>)>,
    /// Streams that may have something for the client, in turns.
    down: VecDeque<u32>,
    /// What all streams hold of their requests.
    backlog: usize,
    /// Streams that have got something since their requests last went on.
    up: Vec<u32>,
    /// Since when nothing is read, as the backlog is full.
    paused: Option<Instant>,
    /// Since when the last flush has not finished.
    blocked: Option<Instant>,
    /// Pings and pongs since then.
    answers_while_blocked: usize,
    /// When the client last showed that it lives.
    heard: Instant,
    pinged: Instant,
    /// The first header block must come by then.
    greeting: Option<Instant>,
    /// The highest stream number seen.
    highest: Option<u32>,
    goaway: GoAway,
    ready: Arc<ReadyList>,
    /// Taken from `ready` and not polled yet; kept for its capacity.
    turn: Vec<u64>,
    own: KeyWaker,
    reader: KeyWaker,
    timer: Pin<Box<Sleep>>,
    /// What will send the client elsewhere.
    departure: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    state: State,
    /// The client address's place among its sockets, given back at the end.
    place: Result<AddressPermit, CloseReason>,
}

/// How far the end of a multiplexed socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoAway {
    No,
    /// To be written.
    Due,
    Sent(Instant),
    Acknowledged,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// What is left to tell is written, then the close frame.
    Ending(u16, &'static str),
    /// The close frame is sent; waiting for the client's until the timer.
    Closing,
    Gone,
}

impl Driver {
    pub(super) fn new(
        edge: Arc<Edge>,
        conn: ConnInfo,
        socket: Socket,
        path: Option<Box<str>>,
        upgrade_headers: HeaderMap,
    ) -> Self {
        let ready = Arc::new(ReadyList::default());
        let (own, reader) = (ready.waker(SELF), ready.waker(SOCKET));
        own.wake();
        reader.wake();
        let now = Instant::now();
        let settings = edge.settings();
        let place = call_gate::socket_place(&edge, &conn);
        let mut driver = Self {
            departure: Some(Box::pin(edge.drain.departure().clone().cancelled_owned())),
            cut: Some(Box::pin(edge.drain.cut.clone().cancelled_owned())),
            timer: Box::pin(tokio::time::sleep_until(now)),
            greeting: Some(now + settings.session.hello_timeout),
            settings,
            edge,
            conn,
            socket,
            path,
            upgrade_headers,
            streams: HashMap::new(),
            refused: VecDeque::new(),
            down: VecDeque::new(),
            backlog: 0,
            up: Vec::new(),
            paused: None,
            blocked: None,
            answers_while_blocked: 0,
            heard: now,
            pinged: now,
            highest: None,
            goaway: GoAway::No,
            ready,
            turn: Vec::new(),
            own,
            reader,
            state: State::Open,
            place,
        };
        if let Err(reason) = &driver.place {
            let outcome = Outcome::proxy(reason.code, reason.message.as_str());
            // A multiplexed client is told with its first call: there is nothing to tell it with before.
            if driver.path.is_some() {
                driver.end_socket(1000, TOO_MANY, &outcome);
            }
        }
        driver
    }

    /// One turn: everything that can go on goes on. `Ready` when the socket is gone.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.register(cx.waker());
        loop {
            match self.state {
                State::Gone => return Poll::Ready(()),
                State::Closing => {
                    if self.socket.poll_closed(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    return self.timer.as_mut().poll(cx);
                }
                State::Open | State::Ending(..) => {}
            }
            let now = Instant::now();
            self.wake(cx, now);
            if let Some(reason) = call_gate::cancel_storm(&self.edge, &self.conn) {
                self.end_socket(POLICY, reason.label, &Outcome::proxy(reason.code, reason.message));
            }
            let wrote_all = self.write(cx, now);
            match self.state {
                State::Open if wrote_all && self.is_done() => self.state = State::Ending(1000, ""),
                State::Ending(code, reason) if wrote_all => {
                    self.socket.close(cx, code, reason);
                    self.state = State::Closing;
                    self.timer.as_mut().reset(now + CLOSE_TIMEOUT);
                }
                State::Closing | State::Gone => {}
                State::Open | State::Ending(..) => {
                    self.arm_timer();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether nothing can come on this socket any more.
    fn is_done(&self) -> bool {
        let idle = self.streams.is_empty() && self.refused.is_empty();
        match self.path {
            Some(_) => idle && self.greeting.is_none(),
            None => idle && self.goaway == GoAway::Acknowledged,
        }
    }

    /// Lets everything go on that was woken.
    fn wake(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut turn = mem::take(&mut self.turn);
        self.ready.take(&mut turn);
        for key in turn.drain(..) {
            match u32::try_from(key) {
                Ok(stream) => self.poll_stream(stream, now),
                Err(_) if key == SELF => self.poll_signals(cx, now),
                Err(_) => {
                    self.reader.arm();
                    self.read(now);
                }
            }
        }
        self.turn = turn;
    }

    /// Reads what the socket has, as far as it may be read.
    fn read(&mut self, now: Instant) {
        let waker = self.reader.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..READS_PER_TURN {
            let deaf = self.blocked.is_some()
                && (self.answers_while_blocked >= ANSWERS_WHILE_BLOCKED
                    || self.refused.len() >= ANSWERS_WHILE_BLOCKED);
            if self.state != State::Open || self.paused.is_some() || deaf {
                return self.pump_up();
            }
            let Poll::Ready(incoming) = self.socket.poll_read(cx) else { return self.pump_up() };
            self.heard = now;
            match incoming {
                Incoming::Packet(message) => self.message(message, now),
                Incoming::Text(_) => {
                    self.breach(1003, "a text message; this dialect has binary messages only")
                }
                Incoming::Alive => self.answers_while_blocked += usize::from(self.blocked.is_some()),
                Incoming::Closed(code) => {
                    let code = code.unwrap_or(1005); // RFC 6455, section 7.1.5: none was given
                    // The answer to the client's close frame is worth one try.
                    let _ = self.socket.poll_flush(cx);
                    self.gone(&format!("the client closed the socket with {code}"));
                }
                Incoming::Broken(Broken::Lost) => self.gone("the client's connection was lost"),
                Incoming::Broken(Broken::Protocol(WebSocketError::TooLarge(limit))) => {
                    let text = format!("a WebSocket message is larger than {limit} bytes");
                    self.end_socket(
                        1009,
                        "message too large",
                        &Outcome::proxy(Code::RESOURCE_EXHAUSTED, text),
                    );
                }
                Incoming::Broken(Broken::Protocol(error)) => {
                    self.breach(1002, &format!("the WebSocket protocol was broken: {error}"));
                }
            }
        }
        self.pump_up();
        self.reader.wake();
    }

    /// Brings upstream what was read: small messages that came together go on together.
    fn pump_up(&mut self) {
        while let Some(id) = self.up.pop() {
            self.with_stream(id, |stream| {
                stream.pump_up();
                Ok(())
            });
        }
    }

    /// A message of the client.
    fn message(&mut self, message: Bytes, now: Instant) {
        if self.path.is_some() {
            match self.greeting {
                Some(_) => self.open(ONLY, &message),
                None => self.request(ONLY, message),
            }
        } else {
            match read_frame(message) {
                Ok(Frame { stream: GOAWAY, last: true, .. }) if matches!(self.goaway, GoAway::Sent(_)) => {
                    self.goaway = GoAway::Acknowledged;
                }
                Ok(Frame { stream: GOAWAY, .. }) => {
                    self.breach(1002, "an answer to a GOAWAY that was not sent");
                }
                Ok(frame) => self.frame(frame),
                Err(error) => self.breach(1002, &error.to_string()),
            }
        }
        if self.backlog >= BACKLOG {
            self.pump_up();
            if self.backlog >= BACKLOG {
                self.paused = Some(now);
            }
        }
    }

    /// A message of a multiplexed client.
    fn frame(&mut self, Frame { stream, last, payload }: Frame) {
        if self.streams.contains_key(&stream) {
            if !payload.is_empty() {
                self.request(stream, payload);
            }
        } else if payload.is_empty() || is_request(&payload) {
            // What was on its way when its call ended is normal.
            if self.highest.is_none_or(|highest| stream > highest) {
                return self.breach(1002, &format!("a message for stream {stream}, which was never opened"));
            }
        } else if self.goaway == GoAway::Acknowledged {
            return self.breach(1002, "a new call after the GOAWAY was acknowledged");
        } else {
            self.highest = self.highest.max(Some(stream));
            self.open(stream, &payload);
        }
        if last {
            self.half_close(stream);
        }
    }

    /// A message of an open call.
    fn request(&mut self, id: u32, message: Bytes) {
        match read_request(message) {
            Ok(Some(Request::Data(bytes))) => {
                self.with_stream(id, |stream| {
                    stream.push_up(bytes)?;
                    if stream.backlog() >= TOGETHER {
                        stream.pump_up();
                    }
                    Ok(())
                });
                self.wants_up(id);
            }
            Ok(Some(Request::HalfClose)) => self.half_close(id),
            Ok(None) => {}
            Err(error) => {
                let outcome = Box::new(Outcome::faulty_request(Code::INVALID_ARGUMENT, error.to_string()));
                self.with_stream(id, |_| Err(outcome));
            }
        }
    }

    fn half_close(&mut self, id: u32) {
        self.with_stream(id, Stream::half_close);
        self.wants_up(id);
    }

    fn wants_up(&mut self, id: u32) {
        if self.up.last() != Some(&id) {
            self.up.push(id);
        }
    }

    /// Does something to a stream, minds its backlog, and ends it if that fails.
    fn with_stream(&mut self, id: u32, change: impl FnOnce(&mut Stream) -> Result<(), Box<Outcome>>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = stream.backlog();
        if !stream.is_over()
            && let Err(outcome) = change(stream)
        {
            stream.finish(outcome);
            queue(id, stream, &mut self.down);
        }
        self.backlog = self.backlog - before + stream.backlog();
    }

    fn poll_stream(&mut self, id: u32, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.waker().arm();
        queue(id, stream, &mut self.down);
        let is_blocked = self.blocked.is_some();
        self.with_stream(id, |stream| {
            stream.pump_up();
            if is_blocked {
                stream.poll_deadline();
            }
            Ok(())
        });
        self.resume(now);
    }

    /// Reads again when the backlog has become small.
    fn resume(&mut self, now: Instant) {
        if self.paused.is_some() && self.backlog <= BACKLOG - RELIEF {
            self.paused = None;
            self.heard = now;
            self.reader.wake();
        }
    }

    /// The client broke the protocol: every open call ends with that, and the socket is closed.
    fn breach(&mut self, close: u16, text: &str) {
        self.end_socket(close, "protocol error", &Outcome::proxy(Code::INVALID_ARGUMENT, text));
    }

    /// Ends every call, and the one that was to come, with this outcome; then closes the socket.
    fn end_socket(&mut self, close: u16, reason: &'static str, outcome: &Outcome) {
        if self.state != State::Open {
            return;
        }
        for (&id, stream) in &mut self.streams {
            stream.finish(Box::new(outcome.clone()));
            queue(id, stream, &mut self.down);
        }
        self.backlog = 0;
        if let Some(path) = &self.path
            && self.greeting.take().is_some()
        {
            let opening = Opening {
                dialect: self.dialect(),
                conn: &self.conn,
                session: None,
                path,
                metadata: HeaderMap::new(),
                upgrade_headers: &self.upgrade_headers,
                timeout: None,
            };
            account(&self.edge, &opening).end(outcome);
            self.refused.push_back((ONLY, Box::new(outcome.clone())));
        }
        self.state = State::Ending(close, reason);
    }

    /// The socket is of no more use: its calls are cancelled.
    fn gone(&mut self, text: &str) {
        let outcome = Outcome::cancelled(text);
        for (_, mut stream) in self.streams.drain() {
            stream.finish(Box::new(outcome.clone()));
        }
        self.state = State::Gone;
        tracing::debug!(peer = %self.conn.peer, dialect = self.dialect().as_str(), text, "socket closed");
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
        if matches!(self.state, State::Open | State::Ending(..)) {
            self.gone("the proxy is shutting down");
        }
    }
}

/// Puts a stream behind those that may have something for the client.
fn queue(id: u32, stream: &mut Stream, down: &mut VecDeque<u32>) {
    if !mem::replace(&mut stream.queued, true) {
        down.push_back(id);
    }
}
