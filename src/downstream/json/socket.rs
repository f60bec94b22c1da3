//! JSON sockets: a WebSocket without a subprotocol is one call, and its text messages are the call's messages.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    call::{Event, JsonCall, Single},
    options::{CallOptions, InvalidOptions, metadata_to_json},
};
use crate::{
    downstream::{
        AddressPermit, ConnInfo, Edge, Opening, Settings, account, admit, call_gate,
        carrier::socket::{Broken, Incoming, Socket},
    },
    telemetry::Dialect,
    wire::{
        Code, Outcome,
        websocket::{HEADER_MAX, WebSocketError},
    },
};

/// Request bytes that wait for upstream before no more is read from the socket. Large enough that a client which
/// gives up is heard behind what it had sent.
const BACKLOG: usize = 1024 * 1024;

/// How often a socket that is not read is pinged: a client that is gone answers with a TCP reset.
const PING_WHILE_PAUSED: Duration = Duration::from_secs(1);

/// How many messages pass before others on this worker get their turn, each way.
const MESSAGES_PER_TURN: usize = 64;

/// How many pings are answered for a client that takes nothing: the answers have to be kept.
const ANSWERS_WHILE_BLOCKED: usize = 256;

/// How long the client may take to answer our close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One socket and its call. A future that ends when the socket is closed.
#[derive(Debug)]
struct Driver {
    edge: Arc<Edge>,
    /// As they were when the socket was opened.
    settings: Arc<Settings>,
    conn: ConnInfo,
    socket: Socket,
    path: Box<str>,
    upgrade_headers: HeaderMap,
    /// What the URL says, and then the first message; or why that cannot be.
    options: Result<CallOptions, InvalidOptions>,
    call: Option<JsonCall>,
    /// Text messages for the client: no more than come of one event.
    texts: VecDeque<Vec<u8>>,
    /// Since when the last flush has not finished.
    blocked: Option<Instant>,
    /// Pings and pongs since then.
    answers_while_blocked: usize,
    /// Whether nothing is read, as the backlog is full.
    paused: bool,
    /// When the client last showed that it lives.
    heard: Instant,
    pinged: Instant,
    timer: Pin<Box<Sleep>>,
    /// What ends it if it has no call by then.
    departure: Pin<Box<WaitForCancellationFutureOwned>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    state: State,
    /// The client address's place among its sockets, given back at the end.
    _place: Option<AddressPermit>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// What is left to tell is written, then the close frame.
    Ending(u16, String),
    /// The close frame is sent; waiting for the client's until the timer.
    Closing,
    Gone,
}

/// Serves a socket until it is closed: a call of the method at `path`. `upgrade_headers` is what the call gets of the
/// request that opened the socket.
pub(crate) async fn serve(
    edge: Arc<Edge>,
    conn: ConnInfo,
    socket: Socket,
    path: Box<str>,
    query: Option<&str>,
    upgrade_headers: HeaderMap,
) {
    let options = CallOptions::from_query(query, true);
    // Boxed: the future that calls this goes away, and must not size its task.
    Box::new(Driver::new(edge, conn, socket, path, options, upgrade_headers)).await;
}

impl Driver {
    fn new(
        edge: Arc<Edge>,
        conn: ConnInfo,
        socket: Socket,
        path: Box<str>,
        options: Result<CallOptions, InvalidOptions>,
        upgrade_headers: HeaderMap,
    ) -> Self {
        let now = Instant::now();
        let (place, refused) = match call_gate::socket_place(&edge, &conn) {
            Ok(place) => (Some(place), None),
            Err(reason) => (None, Some(reason)),
        };
        let settings = edge.settings();
        let mut driver = Self {
            departure: Box::pin(edge.drain.departure().clone().cancelled_owned()),
            cut: Box::pin(edge.drain.cut.clone().cancelled_owned()),
            timer: Box::pin(sleep_until(now)),
            settings,
            edge,
            conn,
            socket,
            path,
            upgrade_headers,
            options,
            call: None,
            texts: VecDeque::new(),
            blocked: None,
            answers_while_blocked: 0,
            paused: false,
            heard: now,
            pinged: now,
            state: State::Open,
            _place: place,
        };
        if let Some(reason) = refused {
            driver.refuse(&Outcome::proxy(reason.code, reason.message));
        }
        driver
    }

    /// One turn: everything that can go on goes on. `Ready` when the socket is gone.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
            self.poll_signals(cx);
            self.poll_time(cx, now);
            self.read(cx, now);
            let wrote_all = self.write(cx, now);
            let resumes = self.resume();
            match &self.state {
                State::Ending(code, reason) if wrote_all => {
                    self.socket.close(cx, *code, reason);
                    self.state = State::Closing;
                    self.timer.as_mut().reset(now + CLOSE_TIMEOUT);
                }
                State::Closing | State::Gone => {}
                State::Open if resumes => {}
                State::Open | State::Ending(..) => {
                    ready!(self.arm_timer(cx));
                }
            }
        }
    }

    /// Reads what the socket has, as far as it may be read.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) {
        for _ in 0..MESSAGES_PER_TURN {
            let deaf = self.blocked.is_some() && self.answers_while_blocked >= ANSWERS_WHILE_BLOCKED;
            if self.state != State::Open || self.paused || deaf {
                return;
            }
            let Poll::Ready(incoming) = self.socket.poll_read(cx) else { return };
            self.heard = now;
            match incoming {
                Incoming::Text(text) => match std::str::from_utf8(&text) {
                    Ok(_) => self.message(text),
                    Err(_) => self.breach(1007, "a text message is not UTF-8"),
                },
                Incoming::Packet(_) => {
                    self.breach(1003, "a binary message; JSON sockets have text messages only")
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
                    self.refuse(&Outcome::proxy(Code::RESOURCE_EXHAUSTED, text));
                }
                Incoming::Broken(Broken::Protocol(error)) => {
                    self.breach(1002, &format!("the WebSocket protocol was broken: {error}"));
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    /// A text message of the client.
    fn message(&mut self, text: Bytes) {
        let is_empty = text.iter().all(u8::is_ascii_whitespace);
        if self.call.is_none() && !self.begin(&text) {
            return;
        }
        let Some(call) = &mut self.call else { return };
        if is_empty {
            call.half_close();
        } else {
            call.push(text);
        }
        self.paused = call.backlog() >= BACKLOG;
    }

    /// The first message: the call begins. Whether the message is the call's own.
    fn begin(&mut self, text: &[u8]) -> bool {
        let mut options = self.options.clone();
        let mut is_options = false;
        if let (Ok(options_), Ok(text)) = (&mut options, std::str::from_utf8(text)) {
            match options_.read_message(text) {
                Ok(is) => is_options = is,
                Err(error) => options = Err(error),
            }
        }
        let opening = Opening {
            dialect: Dialect::JsonSocket,
            conn: &self.conn,
            session: None,
            path: &self.path,
            metadata: options.as_ref().map(|options| options.metadata.clone()).unwrap_or_default(),
            upgrade_headers: &self.upgrade_headers,
            timeout: options.as_ref().ok().and_then(|options| options.timeout),
        };
        let admitted = match &options {
            Ok(_) => admit(&self.edge, opening),
            Err(error) => {
                let outcome = Outcome::proxy(Code::INVALID_ARGUMENT, error.to_string());
                account(&self.edge, &opening).end(&outcome);
                Err(Box::new(outcome))
            }
        };
        self.options = options;
        match admitted {
            Ok(admitted) => self.call = Some(JsonCall::new(admitted, Single::Implied)),
            Err(outcome) => self.end(&outcome),
        }
        self.call.is_some() && !is_options
    }

    /// Reads again when the backlog has become small. Whether it has.
    fn resume(&mut self) -> bool {
        let resumes = self.paused && self.call.as_ref().is_none_or(|call| call.backlog() < BACKLOG / 2);
        if resumes {
            self.paused = false;
            self.heard = Instant::now();
        }
        resumes
    }

    fn poll_signals(&mut self, cx: &mut Context<'_>) {
        if self.state != State::Open {
            return;
        }
        if self.edge.drain.cut.is_cancelled() || self.cut.as_mut().poll(cx).is_ready() {
            let text = "the proxy is shutting down and the call did not finish before the drain deadline";
            self.refuse(&Outcome::proxy(Code::UNAVAILABLE, text));
        } else if self.call.is_none() && self.departure.as_mut().poll(cx).is_ready() {
            let text = "the proxy is draining and takes no new calls";
            self.refuse(&Outcome::proxy(Code::UNAVAILABLE, text));
        }
    }

    /// What is due at `now`.
    fn poll_time(&mut self, cx: &mut Context<'_>, now: Instant) {
        if now >= self.silent_at() {
            return self.gone("the client was silent");
        }
        if self.state == State::Open && now >= self.pinged + self.ping_interval() {
            self.pinged = now;
            if self.blocked.is_none() {
                self.socket.ping(cx);
            }
        }
    }

    fn ping_interval(&self) -> Duration {
        let ping = self.settings.session.ping;
        if self.paused { ping.min(PING_WHILE_PAUSED) } else { ping }
    }

    /// When the client is to be given up. Its pongs wait behind what we do not read; then only our writes tell.
    fn silent_at(&self) -> Instant {
        let from = if self.paused && self.blocked.is_none() { self.pinged } else { self.heard };
        from + 2 * self.settings.session.ping
    }

    /// `Ready`: the time is here already.
    fn arm_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let next = match self.state {
            State::Open => self.silent_at().min(self.pinged + self.ping_interval()),
            _ => self.silent_at(),
        };
        // The timer's grain is a millisecond; less would spin.
        let next = next.max(Instant::now() + Duration::from_millis(1));
        if self.timer.is_elapsed() || self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        self.timer.as_mut().poll(cx)
    }

    /// Writes until nothing is left or the kernel takes no more. `true`: nothing is left.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..MESSAGES_PER_TURN {
            if !matches!(self.state, State::Open | State::Ending(..)) {
                return true;
            }
            match self.socket.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    if self.blocked.take().is_some() {
                        self.answers_while_blocked = 0;
                        self.heard = now;
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.gone("the client's connection was lost");
                    return true;
                }
                Poll::Pending => {
                    self.blocked.get_or_insert(now);
                    // The request goes on, and so does the deadline.
                    self.poll_call(cx, false);
                    return false;
                }
            }
            if self.texts.is_empty() {
                self.poll_call(cx, true);
            }
            let Some(text) = self.texts.pop_front() else { return true };
            let mut message = BytesMut::with_capacity(HEADER_MAX + text.len());
            message.resize(HEADER_MAX, 0);
            message.extend_from_slice(&text);
            self.socket.send_text(cx, &mut message);
        }
        cx.waker().wake_by_ref();
        false
    }

    /// Takes what the call has for the client.
    fn poll_call(&mut self, cx: &mut Context<'_>, wanted: bool) {
        loop {
            let Some(call) = &mut self.call else { return };
            let Poll::Ready(event) = call.poll(cx, wanted) else { return };
            match event {
                Event::Headers(headers) => {
                    if self.wants_status() {
                        self.texts
                            .push_back(json!({ "@metadata": metadata_to_json(&headers) }).to_string().into());
                        return;
                    }
                }
                Event::Message(json) => {
                    self.texts.push_back(json);
                    return;
                }
                Event::End(outcome) => return self.end(&outcome),
            }
        }
    }

    fn wants_status(&self) -> bool {
        self.options.as_ref().is_ok_and(|options| options.status)
    }

    /// The call is over, and counted: tells the client.
    fn end(&mut self, outcome: &Outcome) {
        if self.state != State::Open {
            return;
        }
        if self.wants_status() {
            let status = match &self.call {
                Some(call) => call.status_to_json(outcome),
                None => super::status_json(outcome),
            };
            let metadata = metadata_to_json(&outcome.trailers).to_string();
            let parts = [b"{\"@status\":", &status[..], b",\"@metadata\":", metadata.as_bytes(), b"}"];
            self.texts.push_back(parts.concat());
        }
        self.call = None;
        let code = match outcome.status.code {
            Code::OK => 1000,
            code => code.to_close(),
        };
        self.state = State::Ending(code, outcome.status.message.clone());
    }

    /// Ends the call, or the socket that has none yet, with an outcome of ours.
    fn refuse(&mut self, outcome: &Outcome) {
        self.finish(outcome);
        self.end(outcome);
    }

    /// The client broke the protocol.
    fn breach(&mut self, close: u16, text: &str) {
        self.finish(&Outcome::proxy(Code::INVALID_ARGUMENT, text));
        self.call = None;
        if self.state == State::Open {
            self.state = State::Ending(close, text.to_owned());
        }
    }

    /// Ends and counts the call, if there is one.
    fn finish(&mut self, outcome: &Outcome) {
        if let Some(call) = &mut self.call {
            call.finish(outcome.clone());
        }
    }

    /// The socket is of no more use: its call is cancelled.
    fn gone(&mut self, text: &str) {
        self.finish(&Outcome::cancelled(text));
        self.call = None;
        self.state = State::Gone;
        tracing::debug!(peer = %self.conn.peer, dialect = Dialect::JsonSocket.as_str(), text, "socket closed");
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

/// What a text message may have: as much as the largest message, and options may be as large as metadata.
pub(crate) fn max_message(edge: &Edge, conn: &ConnInfo, path: &str) -> usize {
    let plan = edge.plan();
    let limits = &plan.settings.limits;
    // Its metadata, and with it its route, comes with the first message.
    let routes = plan.routes.candidates(conn.host.as_deref(), path);
    let message = routes.map(|route| route.settings.max_message).max().unwrap_or_default();
    usize::try_from(message.max(u64::from(limits.max_metadata) * 2)).unwrap_or(usize::MAX)
}
