//! What a frame does: one `on_` function each.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    CloseReason, Event, INITIAL_CREDIT, MIN_CREDIT, Session, Side, StreamId, VERSION, Verdict, Violation,
    core::{Phase, STREAMS_BEFORE_WELCOME},
    metadata,
    stream::{MAX_CREDIT, Stream, Tail},
};
use crate::wire::{
    Code,
    frame::{Frame, FrameKind, PacketReader},
    v1::{self, ResumeFailure},
};

/// `Hello.agent` is for logs; this many characters are kept.
const MAX_AGENT: usize = 128;

impl Session {
    /// In: one carrier message.
    pub fn handle_packet(&mut self, packet: Bytes, now: Instant) {
        if matches!(self.phase, Phase::Closed | Phase::Detached) {
            return;
        }
        self.handle_activity(now);
        let len = packet.len();
        let mut reader = PacketReader::new(packet);
        while self.phase != Phase::Closed {
            let frame = match reader.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return self.punish(0, &Violation::Malformed(error)),
            };
            let stream = frame.stream;
            if let Err(violation) = self.on_frame(frame, now) {
                self.punish(stream, &violation);
            }
        }
        self.outbox.ack |= self.sequence.note_packet(len);
        if self.phase == Phase::Asking
            && let Some(hello) = &self.asked
        {
            self.events.push_back(Event::ResumeAsked(hello.clone()));
        }
    }

    /// In: a text message, which `bidiway.v1` does not have. A violation.
    pub fn handle_text(&mut self, now: Instant) {
        if self.phase == Phase::Detached {
            return;
        }
        self.handle_activity(now);
        self.punish(0, &Violation::Text);
    }

    pub(super) fn punish(&mut self, stream: StreamId, violation: &Violation) {
        match violation.verdict() {
            Verdict::Close(code) => {
                self.close(CloseReason::new(code, "violation", violation.to_string()));
            }
            Verdict::Reset(code) => self.reset(stream, code, violation),
        }
    }

    /// Ends one stream for what the peer did on it.
    fn reset(&mut self, stream: StreamId, code: Code, violation: &Violation) {
        let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { return };
        s.gone = true;
        s.outbound.clear();
        self.open -= 1;
        let trailers = metadata::trailers(self.side, code, violation.to_string(), false);
        let trailers = Box::new(trailers);
        match self.side {
            Side::Client => {
                s.outbound.tail = Some(Tail::Cancel);
                self.events.push_back(Event::Ended { stream, trailers });
            }
            Side::Proxy => {
                s.outbound.tail = Some(Tail::Trailers(trailers));
                self.events.push_back(Event::Cancelled { stream, code, reason: violation.label() });
            }
        }
        self.outbox.ready(stream, &mut s.outbound);
        self.close_when_drained();
    }

    fn on_frame(&mut self, frame: Frame, now: Instant) -> Result<(), Violation> {
        let Frame { stream, kind } = frame;
        self.check_place(stream, &kind)?;
        self.confirm_token();
        if stream != 0 {
            self.sequence.received += 1;
        }
        match (self.side, kind) {
            (_, FrameKind::Data { bytes, remaining, last }) => self.on_data(stream, bytes, remaining, last),
            (_, FrameKind::Credit(more)) => self.on_credit(stream, more),
            (_, FrameKind::Ack(acked)) => self.on_ack(acked),
            (_, FrameKind::Ping(number)) => {
                self.outbox.pong = Some(number);
                self.outbox.ack |= self.sequence.is_behind();
                Ok(())
            }
            (_, FrameKind::Pong(_)) => Ok(()), // a sign of life; the number is for the asker's own measurements
            (Side::Proxy, FrameKind::Open(open)) => self.on_open(stream, open),
            (Side::Proxy, FrameKind::HalfClose) => self.on_half_close(stream),
            (Side::Proxy, FrameKind::Cancel) => self.on_cancel(stream),
            (Side::Proxy, FrameKind::Hello(hello)) => self.on_hello(*hello, now),
            (Side::Proxy, FrameKind::Refresh(refresh)) => {
                self.on_defaults(refresh.metadata)?;
                self.events.push_back(Event::Refreshed);
                Ok(())
            }
            (Side::Client, FrameKind::Headers(headers)) => self.on_headers(stream, headers),
            (Side::Client, FrameKind::Trailers(trailers)) => self.on_trailers(stream, trailers),
            (Side::Client, FrameKind::Welcome(welcome)) => self.on_welcome(welcome, now),
            (Side::Client, FrameKind::GoAway(go_away)) => {
                self.going_away = Some(go_away.last_stream);
                self.events.push_back(Event::GoAway(go_away));
                Ok(())
            }
            (_, kind) => Err(Violation::WrongDirection(name(&kind))),
        }
    }

    /// What can be told without knowing the stream: the first frame, and whether the frame belongs to a stream.
    fn check_place(&self, stream: StreamId, kind: &FrameKind) -> Result<(), Violation> {
        if self.phase == Phase::Asking {
            return Err(Violation::BeforeWelcome(name(kind)));
        }
        if matches!(self.phase, Phase::Greeting | Phase::Resuming) {
            match (self.side, kind) {
                (Side::Proxy, FrameKind::Hello(_)) | (Side::Client, FrameKind::Welcome(_)) => {}
                (Side::Proxy, _) => return Err(Violation::FirstNotHello(name(kind))),
                (Side::Client, _) => return Err(Violation::FirstNotWelcome(name(kind))),
            }
        }
        let of_session = matches!(
            kind,
            FrameKind::Ack(_)
                | FrameKind::GoAway(_)
                | FrameKind::Hello(_)
                | FrameKind::Ping(_)
                | FrameKind::Pong(_)
                | FrameKind::Refresh(_)
                | FrameKind::Welcome(_)
        );
        match (of_session, stream) {
            (true, 0) => Ok(()),
            (true, _) => Err(Violation::SessionFrameOnStream { kind: name(kind), stream }),
            (false, 0) => Err(Violation::StreamFrameOnSession(name(kind))),
            (false, _) => Ok(()),
        }
    }

    /// The stream of a frame; `None` when it is over, and the frame is late.
    fn stream(&mut self, stream: StreamId, kind: &'static str) -> Result<Option<&mut Stream>, Violation> {
        let opened = match self.side {
            Side::Client => self.last_sent,
            Side::Proxy => self.last_opened,
        };
        if stream > opened {
            return Err(Violation::StreamUnknown { kind, stream });
        }
        Ok(self.streams.get_mut(&stream).filter(|s| !s.gone))
    }

    fn on_ack(&mut self, acked: u64) -> Result<(), Violation> {
        let (sent, before) = (self.reached(), self.sequence.acked);
        if acked > sent {
            return Err(Violation::AckBeyondSent { acked, sent });
        }
        if acked < before {
            return Err(Violation::AckBackwards { acked, before });
        }
        self.sequence.acked = acked;
        if let Some(resume) = self.resume.as_deref_mut() {
            resume.replay.forget(acked);
        }
        self.close_when_drained();
        Ok(())
    }

    fn on_cancel(&mut self, stream: StreamId) -> Result<(), Violation> {
        let open = self.stream(stream, "Cancel")?.is_some();
        self.remove(stream); // also one whose Trailers still wait: the client does not want them any more
        if open {
            self.events.push_back(Event::Cancelled { stream, code: Code::CANCELLED, reason: "cancelled" });
            self.close_when_drained();
        }
        Ok(())
    }

    fn on_credit(&mut self, stream: StreamId, more: u64) -> Result<(), Violation> {
        let Some(s) = self.stream(stream, "Credit")? else { return Ok(()) };
        if s.outbound.allow(more)? {
            self.events.push_back(Event::Writable { stream });
        }
        Ok(())
    }

    fn on_data(
        &mut self,
        stream: StreamId,
        bytes: Bytes,
        remaining: u64,
        last: bool,
    ) -> Result<(), Violation> {
        let max_message = self.settings.max_message;
        let client = self.side == Side::Client;
        let Some(s) = self.stream(stream, "data")? else { return Ok(()) };
        if client && last {
            return Err(Violation::LastFromProxy);
        }
        let first = s.inbound.take(bytes.len(), remaining, last, max_message)?;
        self.events.push_back(Event::Data { stream, bytes, remaining, first, last });
        Ok(())
    }

    pub(super) fn on_defaults(&mut self, entries: Vec<v1::Metadata>) -> Result<(), Violation> {
        let (size, limit) = (metadata::size(&entries), self.settings.max_metadata);
        if size > limit as usize {
            return Err(Violation::DefaultMetadataTooLarge { size, limit });
        }
        self.defaults = entries;
        Ok(())
    }

    fn on_half_close(&mut self, stream: StreamId) -> Result<(), Violation> {
        let Some(s) = self.stream(stream, "HalfClose")? else { return Ok(()) };
        if s.inbound.closed {
            return Err(Violation::HalfCloseTwice);
        }
        if s.inbound.left > 0 {
            return Err(Violation::HalfCloseInsideMessage { missing: s.inbound.left });
        }
        s.inbound.closed = true;
        self.events.push_back(Event::HalfClosed { stream });
        Ok(())
    }

    fn on_headers(&mut self, stream: StreamId, headers: v1::Headers) -> Result<(), Violation> {
        let Some(s) = self.stream(stream, "Headers")? else { return Ok(()) };
        if s.inbound.headers {
            return Err(Violation::HeadersTwice);
        }
        if s.inbound.data {
            return Err(Violation::HeadersAfterData);
        }
        s.inbound.headers = true;
        self.events.push_back(Event::Headers { stream, headers });
        Ok(())
    }

    fn on_hello(&mut self, hello: v1::Hello, now: Instant) -> Result<(), Violation> {
        if self.phase != Phase::Greeting {
            return Err(Violation::HelloTwice);
        }
        check_versions(&hello.versions)?;
        if hello.resume_token.is_empty() {
            return self.greet(hello, ResumeFailure::None, now);
        }
        if self.resume.is_none() {
            return self.greet(hello, ResumeFailure::UnknownToken, now);
        }
        self.keepalive.stop();
        self.phase = Phase::Asking;
        self.asked = Some(Box::new(hello));
        Ok(())
    }

    /// A new session begins with this Hello.
    pub(super) fn greet(
        &mut self,
        hello: v1::Hello,
        failure: ResumeFailure,
        now: Instant,
    ) -> Result<(), Violation> {
        self.credit = match hello.stream_credit {
            0 => INITIAL_CREDIT,
            credit if credit < MIN_CREDIT => {
                return Err(Violation::CreditTooSmall { credit, least: MIN_CREDIT });
            }
            credit => credit.min(MAX_CREDIT),
        };
        self.on_defaults(hello.metadata)?;
        self.phase = Phase::Open;
        self.keepalive.start(self.side, self.settings.ping_interval, now);
        if !hello.resumable || self.settings.resume_grace.is_zero() {
            self.resume = None;
        }
        self.sequence.resumable = self.resume.is_some();
        let mut welcome = self.welcome();
        welcome.resume_failure = failure.into();
        self.outbox.greeting = Some(FrameKind::Welcome(Box::new(welcome)));
        let mut agent = hello.agent;
        if let Some((end, _)) = agent.char_indices().nth(MAX_AGENT) {
            agent.truncate(end);
        }
        self.events.push_back(Event::Greeted { agent });
        Ok(())
    }

    /// Welcome of a session that begins; or goes on, but for `resumed` and `received`.
    pub(super) fn welcome(&self) -> v1::Welcome {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let resume = self.resume.as_deref();
        v1::Welcome {
            version: VERSION,
            session_id: self.settings.session_id.clone(),
            resume_token: resume.map_or_else(Bytes::new, |resume| resume.token.clone()),
            limits: Some(v1::Limits {
                max_message: self.settings.max_message,
                max_streams: self.settings.max_streams,
                stream_credit: self.granted,
                max_metadata: self.settings.max_metadata,
            }),
            ping_interval_ms: millis(self.settings.ping_interval),
            resume_grace_ms: resume.map_or(0, |resume| millis(resume.grace)),
            ..v1::Welcome::default()
        }
    }

    fn on_open(&mut self, stream: StreamId, mut open: Box<v1::Open>) -> Result<(), Violation> {
        let expected = u64::from(self.last_opened) + 1;
        if u64::from(stream) != expected {
            return Err(Violation::StreamNumber { expected, got: stream });
        }
        if self.streams.len() >= self.max_streams as usize + STREAMS_BEFORE_WELCOME as usize {
            return Err(Violation::OpenFlood);
        }
        self.last_opened = stream;
        if self.going_away.is_some() {
            self.refuse(stream, Code::UNAVAILABLE, "the proxy takes no new calls".to_owned());
            return Ok(());
        }
        let refusal = if self.open >= self.max_streams {
            Some(Violation::TooManyStreams { limit: self.max_streams })
        } else {
            metadata::merge(&mut open.metadata, &self.defaults);
            let (size, limit) = (metadata::size(&open.metadata), self.settings.max_metadata);
            (size > limit as usize).then_some(Violation::MetadataTooLarge { size, limit })
        };
        if let Some(violation) = refusal {
            let (Verdict::Reset(code) | Verdict::Close(code)) = violation.verdict();
            self.refuse(stream, code, violation.to_string());
            return Ok(());
        }
        self.streams.insert(stream, Stream::new(self.granted, self.credit));
        self.open += 1;
        self.events.push_back(Event::Opened { stream, open });
        Ok(())
    }

    /// Answers an Open with Trailers, and nobody else hears of it.
    fn refuse(&mut self, stream: StreamId, code: Code, message: String) {
        let mut s = Stream::new(self.granted, self.credit);
        s.gone = true;
        s.outbound.finished = true;
        let trailers = metadata::trailers(self.side, code, message, true);
        s.outbound.tail = Some(Tail::Trailers(Box::new(trailers)));
        self.outbox.ready(stream, &mut s.outbound);
        self.streams.insert(stream, s);
    }

    fn on_trailers(&mut self, stream: StreamId, trailers: Box<v1::Trailers>) -> Result<(), Violation> {
        let Some(s) = self.stream(stream, "Trailers")? else {
            self.remove(stream); // cancelled already, and the Cancel has become needless
            return Ok(());
        };
        if trailers.code == Code::OK.0 && s.inbound.left > 0 {
            return Err(Violation::TrailersInsideMessage { missing: s.inbound.left });
        }
        self.remove(stream);
        self.events.push_back(Event::Ended { stream, trailers });
        Ok(())
    }

    fn on_welcome(&mut self, welcome: Box<v1::Welcome>, now: Instant) -> Result<(), Violation> {
        if !matches!(self.phase, Phase::Greeting | Phase::Resuming) {
            return Err(Violation::WelcomeTwice);
        }
        if welcome.version != VERSION {
            return Err(Violation::VersionNotOffered(welcome.version));
        }
        let resuming = self.phase == Phase::Resuming;
        match (resuming, welcome.resumed) {
            (true, true) => return self.on_resumed(*welcome, now),
            (false, true) => return Err(Violation::ResumedUnasked),
            (_, false) => {}
        }
        let limits = welcome.limits.unwrap_or_default();
        let credit = limits.stream_credit;
        if credit < INITIAL_CREDIT {
            return Err(Violation::CreditTooSmall { credit, least: INITIAL_CREDIT });
        }
        if resuming {
            self.start_over(welcome.resume_failure);
        }
        self.phase = Phase::Open;
        self.credit = credit.min(MAX_CREDIT);
        self.max_streams = limits.max_streams;
        if welcome.resume_token.is_empty() {
            self.resume = None;
        } else if let Some(resume) = self.resume.as_deref_mut() {
            resume.token = welcome.resume_token.clone();
            resume.grace = Duration::from_millis(welcome.resume_grace_ms.into());
            self.sequence.resumable = true;
        }
        self.keepalive.begin(self.side, Duration::from_millis(welcome.ping_interval_ms.into()), now);
        self.events.push_back(Event::Welcomed(welcome));
        let more = self.credit - INITIAL_CREDIT;
        if more > 0 {
            self.raise_credit(more);
        }
        Ok(())
    }

    /// What Welcome gives beyond the initial credit, for the streams that are open already, in their order.
    fn raise_credit(&mut self, more: u32) {
        let mut waiting = Vec::new();
        for (&stream, s) in self.streams.iter_mut().filter(|(_, s)| !s.gone) {
            // Welcome comes before every Credit, so the sum is at most the credit of a new stream.
            if let Ok(true) = s.outbound.allow(u64::from(more)) {
                waiting.push(stream);
            }
        }
        waiting.sort_unstable();
        self.events.extend(waiting.into_iter().map(|stream| Event::Writable { stream }));
    }
}

pub(super) fn check_versions(versions: &[u32]) -> Result<(), Violation> {
    if versions.contains(&VERSION) {
        return Ok(());
    }
    let offered = if versions.is_empty() {
        "none".to_owned()
    } else {
        format!("{:?}", &versions[..versions.len().min(8)])
    };
    Err(Violation::NoCommonVersion { offered })
}

/// A frame's name in the proto file, for messages to people.
fn name(kind: &FrameKind) -> &'static str {
    match kind {
        FrameKind::Ack(_) => "Ack",
        FrameKind::Cancel => "Cancel",
        FrameKind::Credit(_) => "Credit",
        FrameKind::Data { .. } => "data",
        FrameKind::GoAway(_) => "GoAway",
        FrameKind::HalfClose => "HalfClose",
        FrameKind::Headers(_) => "Headers",
        FrameKind::Hello(_) => "Hello",
        FrameKind::Open(_) => "Open",
        FrameKind::Ping(_) => "Ping",
        FrameKind::Pong(_) => "Pong",
        FrameKind::Refresh(_) => "Refresh",
        FrameKind::Trailers(_) => "Trailers",
        FrameKind::Welcome(_) => "Welcome",
    }
}
