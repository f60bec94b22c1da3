//! One side of a session.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    CloseReason, Event, INITIAL_CREDIT, MIN_CREDIT, MIN_PIECE, Settings, StreamId,
    keepalive::Keepalive,
    metadata,
    outbox::Outbox,
    resume::Resume,
    sequence::Sequence,
    stream::{Head, MAX_CREDIT, Stream, Streams, Tail},
};
use crate::wire::{Code, frame::FrameKind, v1};

/// Which side of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Client,
    /// Serves them.
    Proxy,
}

/// Why a stream cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams as the proxy allows are open.
    #[error("the session has {0} open streams, which is all that the proxy allows")]
    Full(u32),
    /// The proxy sent GoAway, or the session is closed.
    #[error("the session takes no new streams")]
    GoingAway,
    /// The numbers are used up (2^32 - 1 streams).
    #[error("the session has used up its stream numbers")]
    Exhausted,
}

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The peer's first frame has not come.
    Greeting,
    /// Proxy: Hello asks for another session; the owner has to say what becomes of it.
    Asking,
    Open,
    /// There is no carrier.
    Detached,
    /// Client: the new carrier's Welcome has not come.
    Resuming,
    Closed,
}

/// How many streams a client may open before Welcome tells the limit; the proxy has room to refuse as many at once.
pub(super) const STREAMS_BEFORE_WELCOME: u32 = 256;

/// One side of a session: a state machine that owns everything and waits for nothing.
///
/// Memory is bounded: per stream by its credit (what the peer may make us hold) and by two pieces (what the owner
/// may make us hold); streams by `max_streams` and as many refusals as a client can cause before it knows that
/// limit. Events are not counted: the owner drains them after every input, and one packet makes at most as many as
/// it has frames, besides one for each open stream.
#[derive(Debug)]
pub struct Session {
    pub(super) side: Side,
    pub(super) phase: Phase,
    pub(super) settings: Settings,
    pub(super) streams: Streams,
    /// Streams that are not gone.
    pub(super) open: u32,
    /// The last number used by an Open: received (proxy), or handed out (client).
    pub(super) last_opened: StreamId,
    /// Client: the last Open that was put into a packet.
    pub(super) last_sent: StreamId,
    /// Credit given to the peer on each new stream.
    pub(super) granted: u32,
    /// Credit that the peer gives on each new stream.
    pub(super) credit: u32,
    /// Client: how many streams may be open; proxy: `settings.max_streams`.
    pub(super) max_streams: u32,
    /// Proxy: default metadata of Hello or Refresh.
    pub(super) defaults: Vec<v1::Metadata>,
    /// GoAway was sent or received; it names this stream.
    pub(super) going_away: Option<StreamId>,
    pub(super) events: VecDeque<Event>,
    pub(super) outbox: Outbox,
    pub(super) sequence: Sequence,
    pub(super) keepalive: Keepalive,
    /// What a session needs that can be resumed. Client: also until Welcome says that it cannot.
    pub(super) resume: Option<Box<Resume>>,
    /// Proxy: the Hello that asks for another session.
    pub(super) asked: Option<Box<v1::Hello>>,
}

impl Session {
    /// A session that has just got its carrier. The client's Hello is ready to be polled.
    pub fn new(side: Side, settings: Settings, now: Instant) -> Self {
        let least = if side == Side::Proxy { INITIAL_CREDIT } else { MIN_CREDIT };
        let granted = settings.stream_credit.clamp(least, MAX_CREDIT);
        let mut outbox = Outbox::default();
        if side == Side::Client {
            outbox.greeting = Some(FrameKind::Hello(Box::new(v1::Hello {
                versions: vec![super::VERSION],
                metadata: settings.metadata.clone(),
                stream_credit: granted,
                agent: settings.agent.clone(),
                resumable: settings.resumable,
                ..v1::Hello::default()
            })));
        }
        let resume = (side == Side::Client && settings.resumable)
            .then(|| Resume::new(Bytes::new(), Duration::ZERO, settings.replay_limit));
        let max_streams = match side {
            Side::Client => settings.max_streams.min(STREAMS_BEFORE_WELCOME),
            Side::Proxy => settings.max_streams,
        };
        Self {
            side,
            phase: Phase::Greeting,
            streams: Streams::default(),
            open: 0,
            last_opened: 0,
            last_sent: 0,
            granted,
            credit: INITIAL_CREDIT,
            max_streams,
            defaults: Vec::new(),
            going_away: None,
            events: VecDeque::new(),
            outbox,
            sequence: Sequence::default(),
            keepalive: Keepalive::new(now, settings.hello_timeout),
            resume,
            asked: None,
            settings,
        }
    }

    /// Client: opens a stream. Data may be sent on it at once.
    pub fn open(&mut self, open: v1::Open) -> Result<StreamId, OpenError> {
        debug_assert_eq!(self.side, Side::Client, "only a client opens streams");
        if self.phase == Phase::Closed || self.going_away.is_some() {
            return Err(OpenError::GoingAway);
        }
        // Cancelled streams whose Cancel still waits count, so that open and cancel in turns stay bounded.
        if self.streams.len() >= self.max_streams as usize {
            return Err(OpenError::Full(self.max_streams));
        }
        let id = self.last_opened.checked_add(1).ok_or(OpenError::Exhausted)?;
        self.last_opened = id;
        self.open += 1;
        let mut stream = Stream::new(self.granted, self.credit);
        stream.outbound.head = Some(Head::Open(Box::new(open)));
        self.outbox.ready(id, &mut stream.outbound);
        self.streams.insert(id, stream);
        Ok(id)
    }

    /// Client: new default metadata. Only the latest waits to be sent; it goes out before Opens that still wait.
    pub fn refresh(&mut self, metadata: Vec<v1::Metadata>) {
        debug_assert_eq!(self.side, Side::Client, "only a client has default metadata");
        if self.phase == Phase::Closed {
            return;
        }
        if self.resume.is_some() {
            self.settings.metadata.clone_from(&metadata); // for the next Hello
        }
        self.outbox.refresh = Some(v1::Refresh { metadata });
    }

    /// Proxy: what the client said last about all its calls, in Hello or Refresh.
    pub fn default_metadata(&self) -> &[v1::Metadata] {
        &self.defaults
    }

    /// Proxy: initial metadata of a stream. Ignored when the stream is gone. Once, and before any data.
    pub fn send_headers(&mut self, stream: StreamId, headers: v1::Headers) {
        debug_assert_eq!(self.side, Side::Proxy, "only a proxy sends Headers");
        let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { return };
        debug_assert!(!s.outbound.headers, "Headers twice on stream {stream}");
        s.outbound.headers = true;
        s.outbound.head = Some(Head::Headers(headers));
        self.outbox.ready(stream, &mut s.outbound);
    }

    /// How many payload bytes `send` takes on this stream now: what credit and the bounded outbox leave, at most
    /// [`super::MAX_PIECE`]. `None`: not even an empty message; `Some(0)`: an empty message only. For a
    /// stream that is gone, and while there is no carrier: `None`.
    ///
    /// Do not cut a message smaller than [`super::MIN_PIECE`] because capacity is short: ask [`Session::piece`].
    pub fn capacity(&self, stream: StreamId) -> Option<usize> {
        let stream = self.streams.get(&stream).filter(|s| !s.gone && self.has_carrier())?;
        stream.outbound.capacity()
    }

    /// How many of the `at_hand` bytes of a message to `send` now. `None`: none; a `Writable` event tells when to ask
    /// again. Never a silly little piece: all that is at hand, or at least [`super::MIN_PIECE`].
    pub fn piece(&mut self, stream: StreamId, at_hand: usize) -> Option<usize> {
        let has_carrier = self.has_carrier();
        let out = &mut self.streams.get_mut(&stream).filter(|s| !s.gone)?.outbound;
        let least = at_hand.min(MIN_PIECE);
        let room = out.capacity().filter(|&capacity| capacity >= least && has_carrier);
        out.denied = room.is_none().then_some(least);
        room.map(|capacity| capacity.min(at_hand))
    }

    /// Sends a message or a piece of one; `bytes` must fit `capacity`. `last` (client only, `remaining` 0): no more
    /// messages follow. Ignored when the stream is gone.
    pub fn send(&mut self, stream: StreamId, bytes: Bytes, remaining: u64, last: bool) {
        debug_assert!(!last || (remaining == 0 && self.side == Side::Client), "`last` is out of place");
        let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { return };
        s.outbound.headers = true; // too late for Headers now
        s.outbound.push(bytes, remaining, last);
        self.outbox.ready(stream, &mut s.outbound);
    }

    /// Client: no more messages on this stream.
    pub fn finish(&mut self, stream: StreamId) {
        debug_assert_eq!(self.side, Side::Client, "a proxy ends streams with Trailers");
        let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { return };
        let out = &mut s.outbound;
        debug_assert_eq!(out.left, 0, "finish inside a message on stream {stream}");
        if out.finished {
            return;
        }
        out.finished = true;
        match out.data.back_mut() {
            Some(piece) => piece.last = true,
            None => out.tail = Some(Tail::HalfClose),
        }
        self.outbox.ready(stream, out);
    }

    /// Proxy: ends a stream, after all that was sent on it. The stream is gone once its Trailers are on the wire;
    /// for the owner it is gone now: events of it that were not polled yet are to be ignored.
    pub fn end(&mut self, stream: StreamId, trailers: v1::Trailers) {
        debug_assert_eq!(self.side, Side::Proxy, "a client ends streams with Cancel");
        let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { return };
        s.gone = true;
        s.outbound.finished = true;
        s.outbound.tail = Some(Tail::Trailers(Box::new(trailers)));
        self.outbox.ready(stream, &mut s.outbound);
        self.open -= 1;
        self.close_when_drained();
    }

    /// Client: gives a stream up. What waits in the outbox for it is dropped, and no more events come of it.
    pub fn cancel(&mut self, stream: StreamId) {
        debug_assert_eq!(self.side, Side::Client, "a proxy ends streams with Trailers");
        let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { return };
        s.gone = true;
        s.outbound.clear();
        s.outbound.tail = Some(Tail::Cancel);
        self.outbox.ready(stream, &mut s.outbound);
        self.open -= 1;
    }

    /// The owner has passed on a piece of `bytes` payload bytes (one `Data` event or part of it: `frames` tells how
    /// many whole events were finished): credit goes back to the peer, in halves. Whatever the owner keeps
    /// unconsumed while it waits for more of the same message must be smaller than half of the stream's credit.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize, frames: u32) {
        let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { return };
        let cost = (bytes as u32).saturating_add(frames.saturating_mul(super::FRAME_OVERHEAD));
        if s.inbound.consume(cost) {
            self.outbox.owe(stream, &mut s.inbound);
        }
    }

    /// Proxy: takes no new streams from now on; those that run go on. When none is left, a `Closed` event follows
    /// (close code 1001, label `drained`); in a session that can be resumed not before the client has acknowledged
    /// the last Trailers, so that they are not lost with the carrier.
    pub fn go_away(&mut self, code: Code, message: &str, reconnect_delay_ms: u32) {
        debug_assert_eq!(self.side, Side::Proxy, "only a proxy sends GoAway");
        if self.phase == Phase::Closed {
            return;
        }
        let last_stream = *self.going_away.get_or_insert(self.last_opened);
        let go_away = Box::new(v1::GoAway {
            last_stream,
            code: code.0,
            message: message.to_owned(),
            reconnect_delay_ms,
        });
        if let Some(resume) = &mut self.resume {
            resume.go_away = Some(go_away.clone());
        }
        self.outbox.go_away = Some(go_away);
        self.close_when_drained();
    }

    /// Ends the session. What is open is cancelled (proxy) or ends with the reason's code (client; UNAVAILABLE for OK), then a `Closed` event
    /// follows; nothing is sent after it but what waits already of streams that have ended.
    ///
    /// When the carrier is lost, say so with [`Session::detach`].
    pub fn close(&mut self, reason: CloseReason) {
        if self.phase == Phase::Closed {
            return;
        }
        let stopped = match self.phase {
            Phase::Greeting => self.side == Side::Proxy, // Welcome was not sent, so nothing else may be
            Phase::Asking | Phase::Detached | Phase::Resuming => true,
            Phase::Open => self.reached() < self.sequence.sent, // there would be a gap
            Phase::Closed => false,
        };
        self.phase = Phase::Closed;
        self.resume = None;
        self.asked = None;
        self.end_streams(&reason);
        if stopped {
            self.outbox = Outbox::default();
            self.streams = Streams::default();
        }
        self.outbox.forget(&self.streams);
        self.events.push_back(Event::Closed(reason));
    }

    /// Ends what is open for this reason. Streams that wait for their last frame only are left.
    pub(super) fn end_streams(&mut self, reason: &CloseReason) {
        let mut open: Vec<StreamId> = Vec::with_capacity(self.open as usize);
        self.streams.retain(|&id, s| {
            if !s.gone {
                open.push(id);
            }
            s.gone
        });
        open.sort_unstable();
        self.open = 0;
        for stream in open {
            self.events.push_back(match self.side {
                Side::Proxy => Event::Cancelled { stream, code: Code::CANCELLED, reason: reason.label },
                Side::Client => {
                    // Above what the proxy took, or never put into a packet.
                    let unprocessed =
                        stream > self.last_sent || self.going_away.is_some_and(|last| stream > last);
                    let message = format!("the session ended: {}", reason.message);
                    let code = if reason.code == Code::OK { Code::UNAVAILABLE } else { reason.code };
                    let trailers = metadata::trailers(self.side, code, message, unprocessed);
                    Event::Ended { stream, trailers: Box::new(trailers) }
                }
            });
        }
    }

    /// Out: fills `packet` with frames that are ready: the session's own first, then the streams in turn, a piece
    /// each, until nothing is ready or `packet` holds `target` bytes (it may end up to one piece longer). Returns
    /// whether anything was written.
    pub fn poll_packet(&mut self, packet: &mut BytesMut, target: usize) -> bool {
        let before = packet.len();
        self.fill(packet, target);
        if self.going_away.is_some() {
            self.close_when_drained(); // a session that can be resumed closes only after its last frame
        }
        packet.len() > before
    }

    /// Out: the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > 64 {
            self.events = VecDeque::new(); // a burst must not pin its room in an idle session
        }
        event
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.open as usize
    }

    /// Whether the session has ended: `Closed` is among the events, or was.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Which side this is.
    pub fn side(&self) -> Side {
        self.side
    }

    fn has_carrier(&self) -> bool {
        !matches!(self.phase, Phase::Detached | Phase::Resuming)
    }

    /// Proxy: closes after GoAway, when no stream is left and nothing could be lost with the carrier.
    pub(super) fn close_when_drained(&mut self) {
        if self.side == Side::Proxy && self.going_away.is_some() && self.open == 0 {
            if self.is_resumable() && !self.is_delivered() {
                return;
            }
            self.close(CloseReason {
                close_code: 1001,
                code: Code::OK,
                message: "drained".to_owned(),
                label: "drained",
            });
        }
    }
}
