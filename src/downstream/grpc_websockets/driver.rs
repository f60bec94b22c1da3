//! The task that owns a socket and its calls.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::stream::{Down, Stream, TOGETHER};
use crate::{
    downstream::{
        AddressPermit, ConnInfo, Edge, Opening, account, admit,
        carrier::{
            ready::{KeyWaker, ReadyList},
            socket::{Broken, Incoming, Socket},
        },
    },
    telemetry::Dialect,
    wire::{
        Code, Outcome,
        grpc_web::{ContentType, Form},
        grpc_websockets::{
            Frame, GOAWAY, PATH_HEADER, Request, is_request, read_frame, read_headers, read_request,
            stream_number, write_block,
        },
        websocket::{HEADER_MAX, WebSocketError},
    },
};

/// Request bytes that a socket's calls may hold together before no more is read from it. They wait for upstream: the
/// dialect has no other way to slow a client down. Large enough that a client which gives up is heard behind what it
/// had sent.
const BACKLOG: usize = 4 * 1024 * 1024;

/// How much of it must go before more is read.
const RELIEF: usize = 256 * 1024;

/// How long one call of several may keep the others from being read.
const PAUSE: Duration = Duration::from_secs(2);

/// How often a socket that is not read is pinged: a client that is gone answers with a TCP reset.
const PING_WHILE_PAUSED: Duration = Duration::from_secs(1);

/// How many messages are read before others on this worker get their turn.
const READS_PER_TURN: usize = 64;

/// How many pings are answered for a client that takes nothing, and how many of its calls are refused: the answers
/// have to be kept.
const ANSWERS_WHILE_BLOCKED: usize = 256;

/// Room in a header block for what is no metadata. A larger one is not even read.
const BLOCK_ROOM: usize = 16 * 1024;

/// How long the client may take to answer our close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a socket without calls is kept after its GOAWAY for a client that does not acknowledge it.
const GOAWAY_PATIENCE: Duration = Duration::from_secs(2);

/// The stream number of a socket's only call; it is not on the wire.
const ONLY: u32 = 0;

/// The key under which the timer and the drain signals wake the task. Streams do so under their numbers.
const SELF: u64 = 1 << 32;

/// The key under which the socket does when it has something to read.
const SOCKET: u64 = 2 << 32;

thread_local! {
    /// Where messages are written before they are framed: one for all sockets of a worker.
    static MESSAGE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// One socket and its calls. A future that ends when the socket is closed.
#[derive(Debug)]
pub(super) struct Driver {
    edge: Arc<Edge>,
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
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    state: State,
    /// The client address's place among its sockets, given back at the end.
    _place: Option<AddressPermit>,
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
        let limit = edge.settings.limits.sockets_per_address;
        let place = edge.addresses.enter(conn.peer.ip(), limit);
        let mut driver = Self {
            draining: Some(Box::pin(edge.drain.draining.clone().cancelled_owned())),
            cut: Some(Box::pin(edge.drain.cut.clone().cancelled_owned())),
            timer: Box::pin(tokio::time::sleep_until(now)),
            greeting: Some(now + edge.settings.session.hello_timeout),
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
            _place: place,
        };
        if driver._place.is_none() {
            driver.edge.metrics.refused("sockets_per_address");
            let text = format!("this address has {limit} open sockets, which is the limit");
            driver.end_socket(1000, "too many sockets", &Outcome::proxy(Code::RESOURCE_EXHAUSTED, text));
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
                Incoming::Text => self.breach(1003, "a text message; this dialect has binary messages only"),
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
                let outcome = Box::new(Outcome::proxy(Code::INVALID_ARGUMENT, error.to_string()));
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

    /// A header block: a call begins.
    fn open(&mut self, id: u32, block: &[u8]) {
        self.greeting = None;
        let most = self.edge.settings.limits.max_metadata as usize + BLOCK_ROOM;
        let headers = match block.len() {
            size if size > most => {
                let text = format!("a header block of {size} bytes is larger than the limit of {most} bytes");
                Err((Code::RESOURCE_EXHAUSTED, text))
            }
            _ => read_headers(block).map_err(|error| (Code::INVALID_ARGUMENT, error.to_string())),
        };
        let mut failure = None;
        let mut metadata = headers.unwrap_or_else(|error| {
            failure = Some(error);
            HeaderMap::new()
        });
        let named = metadata.remove(PATH_HEADER);
        let path = match &self.path {
            Some(path) => path.clone(),
            None => method(named.as_ref()),
        };
        let content_type = match content_type(metadata.get(CONTENT_TYPE)) {
            Ok(content_type) => content_type,
            Err(error) => {
                failure.get_or_insert(error);
                HeaderValue::from_static("application/grpc+proto")
            }
        };
        let most = self.edge.settings.session.max_streams as usize;
        if self.streams.len() >= most {
            let text = format!("this socket has {most} open calls, which is the limit");
            failure.get_or_insert((Code::RESOURCE_EXHAUSTED, text));
        }
        // These clients take compressed messages for garbage.
        metadata.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        let dialect = self.dialect();
        let opening = Opening {
            dialect,
            conn: &self.conn,
            session: None,
            path: &path,
            metadata,
            upgrade_headers: &self.upgrade_headers,
            timeout: None,
        };
        let admitted = match failure {
            None => admit(&self.edge, opening),
            Some((code, text)) => {
                let outcome = Outcome::proxy(code, text);
                account(&self.edge, &opening).end(&outcome);
                Err(Box::new(outcome))
            }
        };
        match admitted {
            Ok(mut admitted) => {
                admitted.request.content_type = content_type;
                let call = admitted.route.upstream.call(admitted.request);
                let waker = self.ready.waker(id.into());
                waker.wake();
                let max_message = admitted.route.settings.max_message;
                self.streams.insert(id, Stream::new(call, waker, admitted.record, max_message));
            }
            Err(outcome) => self.refused.push_back((id, outcome)),
        }
    }

    fn dialect(&self) -> Dialect {
        match self.path {
            Some(_) => Dialect::GrpcWebSockets,
            None => Dialect::GrpcWebSocketsMultiplex,
        }
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

    /// The timer and the drain signals; they wake through [`SELF`], so that ordinary turns do not pay for them.
    fn poll_signals(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.own.arm();
        let waker = self.own.waker().clone();
        let own = &mut Context::from_waker(&waker);
        if self.draining.as_mut().is_some_and(|f| f.as_mut().poll(own).is_ready()) {
            self.draining = None;
            if self.path.is_none() {
                self.goaway = GoAway::Due;
            }
        }
        if self.cut.as_mut().is_some_and(|f| f.as_mut().poll(own).is_ready()) {
            self.cut = None;
            let text = "the proxy is shutting down and the call did not finish before the drain deadline";
            let code = if self.path.is_some() { 1000 } else { 1001 };
            self.end_socket(code, "shutting down", &Outcome::proxy(Code::UNAVAILABLE, text));
        }
        while self.timer.as_mut().poll(own).is_ready() {
            self.time_passed(cx, now);
            // The timer's grain is a millisecond; less would spin.
            let next = self.next_time().max(now + Duration::from_millis(1));
            self.timer.as_mut().reset(next);
        }
    }

    /// What is due at `now`.
    fn time_passed(&mut self, cx: &mut Context<'_>, now: Instant) {
        if !matches!(self.state, State::Open | State::Ending(..)) {
            return;
        }
        if now >= self.silent_at() {
            return self.gone("the client was silent");
        }
        if self.state != State::Open {
            return;
        }
        if self.greeting.is_some_and(|at| now >= at) {
            let text = format!("no header block came within {:?}", self.edge.settings.session.hello_timeout);
            return self.end_socket(1000, "no call", &Outcome::proxy(Code::DEADLINE_EXCEEDED, text));
        }
        if let GoAway::Sent(at) = self.goaway
            && now >= at + GOAWAY_PATIENCE
            && self.streams.is_empty()
        {
            self.state = State::Ending(1001, "shutting down");
            return;
        }
        if self.path.is_none() && self.paused.is_some_and(|since| now >= since + PAUSE) {
            self.end_slowest(now);
        }
        if now >= self.pinged + self.ping_interval() {
            self.pinged = now;
            if self.blocked.is_none() {
                self.socket.ping(cx);
            }
        }
    }

    /// Ends the call that holds the most, for the sake of the others on its socket.
    fn end_slowest(&mut self, now: Instant) {
        let slowest = self.streams.iter().max_by_key(|(_, stream)| stream.backlog()).map(|(id, _)| *id);
        if let Some(id) = slowest {
            let text = "the service takes the call's messages more slowly than they come, and they would hold up \
                        the other calls of this socket; a socket of its own (grpc-websockets) or a session has no \
                        such limit";
            let outcome = Box::new(Outcome::proxy(Code::RESOURCE_EXHAUSTED, text));
            self.with_stream(id, |_| Err(outcome));
        }
        self.paused = Some(now);
        self.resume(now);
    }

    fn ping_interval(&self) -> Duration {
        let ping = self.edge.settings.session.ping;
        if self.paused.is_some() { ping.min(PING_WHILE_PAUSED) } else { ping }
    }

    /// When the client is to be given up. Its pongs wait behind what we do not read; then only our writes tell.
    fn silent_at(&self) -> Instant {
        let from = match (self.paused, self.blocked) {
            (Some(_), None) => self.pinged,
            _ => self.heard,
        };
        from + 2 * self.edge.settings.session.ping
    }

    /// The earliest time at which something may be due.
    fn next_time(&self) -> Instant {
        let mut next = self.silent_at().min(self.pinged + self.ping_interval());
        let goaway = match self.goaway {
            GoAway::Sent(at) if self.streams.is_empty() => Some(at + GOAWAY_PATIENCE),
            _ => None,
        };
        let pause = self.paused.filter(|_| self.path.is_none()).map(|since| since + PAUSE);
        for other in [self.greeting, goaway, pause].into_iter().flatten() {
            next = next.min(other);
        }
        next
    }

    /// The timer fires at the earliest time that was ever asked for and then looks again.
    fn arm_timer(&mut self) {
        let next = self.next_time();
        if self.timer.is_elapsed() || next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
            let waker = self.own.waker().clone();
            if self.timer.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                self.own.wake();
            }
        }
    }

    /// Writes until nothing is left or the kernel takes no more. `true`: nothing is left.
    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        loop {
            if !matches!(self.state, State::Open | State::Ending(..)) {
                return true;
            }
            match self.socket.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    if self.blocked.take().is_some() {
                        self.answers_while_blocked = 0;
                        self.heard = now;
                        self.reader.wake();
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.gone("the client's connection was lost");
                    return true;
                }
                Poll::Pending => {
                    if self.blocked.is_none() {
                        self.blocked = Some(now);
                        // Nobody polls these until there is room: their deadlines must go on.
                        for id in &self.down {
                            if let Some(stream) = self.streams.get_mut(id) {
                                stream.poll_deadline();
                            }
                        }
                    }
                    return false;
                }
            }
            let wrote = MESSAGE.with_borrow_mut(|message| {
                message.clear();
                message.resize(HEADER_MAX, 0);
                let wrote = self.next_message(message, now);
                if wrote {
                    self.socket.send(cx, message);
                }
                wrote
            });
            if !wrote {
                return true;
            }
        }
    }

    /// Writes the payload of the next WebSocket message, if there is one.
    fn next_message(&mut self, message: &mut BytesMut, now: Instant) -> bool {
        if self.goaway == GoAway::Due {
            message.extend_from_slice(&GOAWAY.to_be_bytes());
            self.goaway = GoAway::Sent(now);
            return true;
        }
        if let Some((id, outcome)) = self.refused.pop_front() {
            self.number(id, true, message);
            write_block(&outcome.into_trailers(), message);
            return true;
        }
        while let Some(id) = self.down.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let start = message.len();
            if self.path.is_none() {
                message.extend_from_slice(&stream_number(id, false));
            }
            let before = stream.backlog();
            let down = stream.poll_down(message);
            self.backlog = self.backlog - before + stream.backlog();
            match down {
                Down::Pending => {
                    stream.queued = false;
                    message.truncate(start);
                }
                Down::Message => {
                    // Behind the others.
                    self.down.push_back(id);
                    return true;
                }
                Down::End(outcome) => {
                    self.streams.remove(&id);
                    message.truncate(start);
                    match outcome {
                        Some(outcome) => {
                            self.number(id, true, message);
                            write_block(&outcome.into_trailers(), message);
                            return true;
                        }
                        // The message that is out in part stays so; the client sees that the end is missing.
                        None if self.path.is_none() => {
                            self.number(id, true, message);
                            return true;
                        }
                        None => self.state = State::Ending(1011, "the call ended in the middle of a message"),
                    }
                }
            }
        }
        self.resume(now);
        false
    }

    fn number(&self, id: u32, last: bool, message: &mut BytesMut) {
        if self.path.is_none() {
            message.extend_from_slice(&stream_number(id, last));
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

/// The method that a multiplexed call names, as a path. What is none is refused when it is looked up.
fn method(named: Option<&HeaderValue>) -> Box<str> {
    let named = named.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if named.starts_with('/') { named.into() } else { format!("/{named}").into() }
}

/// The content type that upstream gets for what the client says.
fn content_type(said: Option<&HeaderValue>) -> Result<HeaderValue, (Code, String)> {
    let Some(said) = said else { return Ok(HeaderValue::from_static("application/grpc+proto")) };
    match ContentType::parse(said.as_bytes()) {
        Some(content_type) if content_type.form == Form::Binary => Ok(content_type.to_grpc()),
        Some(_) => {
            let text =
                "grpc-web-text is not spoken on WebSockets; send application/grpc-web+proto".to_owned();
            Err((Code::UNIMPLEMENTED, text))
        }
        None => {
            let text =
                format!("content-type {said:?} is not that of gRPC-Web; send application/grpc-web+proto");
            Err((Code::INVALID_ARGUMENT, text))
        }
    }
}
