//! Two sides of a session and the way between them, in virtual time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{Event, Session, Settings, Side, StreamId, epoch, open, v1};
use crate::session::MIN_PIECE;

/// A packet on its way, and when it arrives.
type Way = VecDeque<(Instant, Bytes)>;

pub(super) struct Pair {
    pub(super) client: Session,
    pub(super) proxy: Session,
    pub(super) now: Instant,
    pub(super) latency: Duration,
    /// How full a packet may get; small ones show turns.
    pub(super) target: usize,
    up: Way,
    down: Way,
    pub(super) at_client: VecDeque<Event>,
    pub(super) at_proxy: VecDeque<Event>,
    /// Whether data is consumed as soon as it comes.
    pub(super) eager: bool,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(Settings::default(), Settings::default())
    }

    pub(super) fn with(client: Settings, proxy: Settings) -> Self {
        let now = epoch();
        Self {
            client: Session::new(Side::Client, client, now),
            proxy: Session::new(Side::Proxy, proxy, now),
            now,
            latency: Duration::from_millis(10),
            target: 64 * 1024,
            up: Way::new(),
            down: Way::new(),
            at_client: VecDeque::new(),
            at_proxy: VecDeque::new(),
            eager: true,
        }
    }

    /// A pair that has exchanged greetings.
    pub(super) fn greeted() -> Self {
        Self::new().and_greeted()
    }

    pub(super) fn and_greeted(mut self) -> Self {
        self.settle();
        assert!(matches!(self.at_proxy.pop_front(), Some(Event::Greeted { .. })));
        assert!(matches!(self.at_client.pop_front(), Some(Event::Welcomed(_))));
        self
    }

    /// A stream that both sides know.
    pub(super) fn opened(&mut self) -> StreamId {
        let stream = self.client.open(open("/a.B/C")).expect("room for a stream");
        self.settle();
        assert!(matches!(self.at_proxy.pop_back(), Some(Event::Opened { .. })));
        stream
    }

    /// A pair that has exchanged greetings, and whose session can be resumed.
    pub(super) fn resumable() -> Self {
        let client = Settings { resumable: true, ..Settings::default() };
        let mut pair = Self::with(client, Settings::default());
        pair.proxy.announce_resume(Bytes::from_static(b"first"));
        pair.and_greeted()
    }

    /// The carrier is lost, with all that is on its way, and both sides know it.
    pub(super) fn cut(&mut self) {
        self.lose();
        assert!(self.client.detach(self.now) && self.proxy.detach(self.now), "the session goes on");
        for session in [&mut self.client, &mut self.proxy] {
            session.check_invariants();
            assert!(!session.poll_packet(&mut BytesMut::new(), usize::MAX), "there is no carrier");
        }
    }

    /// What is on its way is lost.
    pub(super) fn lose(&mut self) {
        self.up.clear();
        self.down.clear();
    }

    /// The Hello of the client's new carrier, as a proxy's new session sees it.
    pub(super) fn ask(&mut self) -> (Session, v1::Hello) {
        self.client.reattach(self.now);
        let mut packet = BytesMut::new();
        assert!(self.client.poll_packet(&mut packet, usize::MAX), "Hello");
        assert!(!self.client.poll_packet(&mut packet, usize::MAX), "and nothing else");
        let mut fresh = Session::new(Side::Proxy, Settings::default(), self.now);
        fresh.announce_resume(Bytes::from_static(b"fresh"));
        fresh.handle_packet(packet.freeze(), self.now);
        fresh.check_invariants();
        assert!(!fresh.poll_packet(&mut BytesMut::new(), usize::MAX), "the owner has to decide");
        let Some(Event::ResumeAsked(hello)) = fresh.poll_event() else { panic!("the owner is asked") };
        assert_eq!(fresh.poll_event(), None);
        (fresh, *hello)
    }

    /// The client comes back and the proxy goes on; nothing has been sent yet.
    pub(super) fn resume(&mut self, token: &'static str) {
        let (_, hello) = self.ask();
        self.proxy.attach(hello, Bytes::from_static(token.as_bytes()), self.now).expect("a good Hello");
        self.proxy.check_invariants();
    }

    /// Moves packets until both sides have nothing more to say, without timers.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = self.collect();
            let next = self.up.front().into_iter().chain(self.down.front()).map(|(at, _)| *at).min();
            if let Some(at) = next {
                self.now = self.now.max(at);
                moved |= self.deliver();
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets time pass, with everything that happens in it.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let due = [self.client.poll_timeout(), self.proxy.poll_timeout()];
            let Some(at) = due.into_iter().flatten().min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            self.proxy.handle_timeout(self.now);
        }
        self.now = self.now.max(end);
    }

    /// Polls both sides once.
    fn collect(&mut self) -> bool {
        let mut moved = false;
        let at = self.now + self.latency;
        for (session, way, events) in [
            (&mut self.client, &mut self.up, &mut self.at_client),
            (&mut self.proxy, &mut self.down, &mut self.at_proxy),
        ] {
            session.check_invariants();
            while let Some(event) = session.poll_event() {
                if let (true, Event::Data { stream, bytes, .. }) = (self.eager, &event) {
                    session.consumed(*stream, bytes.len(), 1);
                    session.check_invariants();
                }
                events.push_back(event);
                moved = true;
            }
            let mut packet = BytesMut::new();
            while session.poll_packet(&mut packet, self.target) {
                session.check_invariants();
                way.push_back((at, packet.split().freeze()));
                moved = true;
            }
        }
        moved
    }

    fn deliver(&mut self) -> bool {
        let mut moved = false;
        for (session, way) in [(&mut self.proxy, &mut self.up), (&mut self.client, &mut self.down)] {
            while way.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, packet) = way.pop_front().expect("looked at above");
                session.handle_packet(packet, self.now);
                session.check_invariants();
                moved = true;
            }
        }
        moved
    }

    /// Sends a whole message upwards (or as much as is possible with the credit there is); returns what is left.
    pub(super) fn send_up(&mut self, stream: StreamId, message: Bytes) -> Bytes {
        feed(&mut self.client, stream, message)
    }

    pub(super) fn send_down(&mut self, stream: StreamId, message: Bytes) -> Bytes {
        feed(&mut self.proxy, stream, message)
    }

    /// The payload that has come at one side since the last look.
    pub(super) fn received(events: &mut VecDeque<Event>, of: StreamId) -> Vec<u8> {
        let mut bytes = Vec::new();
        events.retain(|event| match event {
            Event::Data { stream, bytes: piece, .. } if *stream == of => {
                bytes.extend_from_slice(piece);
                false
            }
            _ => true,
        });
        bytes
    }
}

/// What a driver does with a message: piece after piece while there is room.
pub(super) fn feed(session: &mut Session, stream: StreamId, mut message: Bytes) -> Bytes {
    while let Some(len) = session.piece(stream, message.len()) {
        assert!(len >= message.len().min(MIN_PIECE), "no silly little pieces");
        let piece = message.split_to(len);
        session.send(stream, piece, message.len() as u64, false);
        session.check_invariants();
        if message.is_empty() {
            break;
        }
    }
    message
}
