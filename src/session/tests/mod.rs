//! The session's tests: [`Pair`] is two sides in virtual time, [`Alone`] one side that is fed frame by frame.

mod cancel;
mod credit;
mod dialogues;
mod fairness;
mod go_away;
mod hello;
mod keepalive;
mod lifecycle;
mod pair;
mod pieces;
mod resume;
mod sequence;
mod size;
mod violations;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{CloseReason, Event, Session, Settings, Side, StreamId};
use crate::wire::{
    frame::{self, Frame, FrameKind, PacketReader},
    v1,
};
use pair::Pair;

/// Where virtual time begins.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; only differences matter")]
fn epoch() -> Instant {
    Instant::now()
}

fn text(name: &str, value: &str) -> v1::Metadata {
    v1::Metadata { name: name.to_owned(), value: Some(v1::metadata::Value::Text(value.to_owned())) }
}

fn open(method: &str) -> v1::Open {
    v1::Open { method: method.to_owned(), ..v1::Open::default() }
}

fn trailers(code: u32) -> v1::Trailers {
    v1::Trailers { code, ..v1::Trailers::default() }
}

fn data(bytes: &'static [u8], remaining: u64) -> FrameKind {
    FrameKind::Data { bytes: Bytes::from_static(bytes), remaining, last: false }
}

fn hello() -> v1::Hello {
    v1::Hello { versions: vec![1], ..v1::Hello::default() }
}

fn welcome() -> v1::Welcome {
    v1::Welcome {
        version: 1,
        limits: Some(v1::Limits {
            max_message: 1 << 20,
            max_streams: 100,
            stream_credit: 64 * 1024,
            max_metadata: 16 * 1024,
        }),
        ping_interval_ms: 20_000,
        ..v1::Welcome::default()
    }
}

fn decode(packet: Bytes) -> Vec<Frame> {
    let mut reader = PacketReader::new(packet);
    std::iter::from_fn(|| reader.next().expect("a session writes valid packets")).collect()
}

/// One side of a session; the test plays the other, frame by frame.
struct Alone {
    session: Session,
    now: Instant,
}

impl Alone {
    fn new(side: Side, settings: Settings) -> Self {
        let now = epoch();
        let session = Session::new(side, settings, now);
        session.check_invariants();
        Self { session, now }
    }

    /// A proxy that has exchanged greetings.
    fn proxy(settings: Settings) -> Self {
        let mut one = Self::new(Side::Proxy, settings);
        one.feed(0, FrameKind::Hello(Box::new(hello())));
        assert!(matches!(one.events()[..], [Event::Greeted { .. }]));
        assert!(matches!(one.frames()[..], [Frame { kind: FrameKind::Welcome(_), .. }]));
        one
    }

    /// A client that has exchanged greetings.
    fn client(settings: Settings) -> Self {
        let mut one = Self::new(Side::Client, settings);
        assert!(matches!(one.frames()[..], [Frame { kind: FrameKind::Hello(_), .. }]));
        one.feed(0, FrameKind::Welcome(Box::new(welcome())));
        assert!(matches!(one.events()[..], [Event::Welcomed(_)]));
        one
    }

    fn feed(&mut self, stream: StreamId, kind: FrameKind) {
        let mut packet = BytesMut::new();
        frame::encode(&Frame { stream, kind }, &mut packet);
        self.feed_bytes(packet.freeze());
    }

    fn feed_bytes(&mut self, packet: impl Into<Bytes>) {
        self.session.handle_packet(packet.into(), self.now);
        self.session.check_invariants();
    }

    /// A call that the session has just been asked to open.
    fn opened(&mut self) -> StreamId {
        let stream = self.session.last_opened + 1;
        self.feed(stream, FrameKind::Open(Box::new(open("/a.B/C"))));
        assert!(matches!(self.events()[..], [Event::Opened { .. }]));
        stream
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
        self.session.check_invariants();
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    /// Everything that is ready.
    fn frames(&mut self) -> Vec<Frame> {
        let mut packet = BytesMut::new();
        while self.session.poll_packet(&mut packet, usize::MAX) {}
        self.session.check_invariants();
        decode(packet.freeze())
    }

    /// How the session ended, if it has.
    fn closed(&mut self) -> Option<CloseReason> {
        match self.events().pop() {
            Some(Event::Closed(reason)) => Some(reason),
            _ => None,
        }
    }
}
