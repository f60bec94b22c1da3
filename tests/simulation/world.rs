//! The model: random operations on both sides, and what each may see of them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bidiway::{
    session::{
        CloseReason, FRAME_OVERHEAD, INITIAL_CREDIT, MAX_PIECE, MIN_PIECE, OpenError, Session, Settings,
        Side, StreamId,
    },
    wire::{
        Code,
        frame::{FrameKind, PacketReader},
        v1,
    },
};
use bytes::{Bytes, BytesMut};

use crate::{
    call::{Call, Flow, Life},
    carriers::{Carriers, End, GRACE},
    coverage::{ClientState, Coverage, ProxyState},
    pipe::Pipe,
    rng::Rng,
};

/// Messages beyond this are refused by the proxy.
pub(crate) const MAX_MESSAGE: usize = 400_000;

/// Both sides, the way between them, and what is known of every call.
pub(crate) struct World<'a> {
    pub(crate) rng: &'a mut Rng,
    coverage: &'a mut Coverage,
    pub(crate) now: Instant,
    pub(crate) client: Session,
    pub(crate) proxy: Session,
    /// The proxy's, for its next session.
    pub(crate) settings: Settings,
    pub(crate) carriers: Carriers,
    /// The sequenced frames of the client and of the proxy, and which comes next of each.
    pub(crate) log: [Vec<Bytes>; 2],
    pub(crate) next: [usize; 2],
    /// The client has come back, and no Welcome yet.
    pub(crate) resuming: bool,
    /// The carrier is new, and GoAway has to be said on it.
    pub(crate) expect_go_away: bool,
    pub(crate) calls: BTreeMap<StreamId, Call>,
    /// The largest credit of a stream: what the proxy gives, and what the client gives.
    pub(crate) windows: (u64, u64),
    pub(crate) welcomed: bool,
    pub(crate) going_away: bool,
    pub(crate) proxy_closed: bool,
    pub(crate) client_closed: bool,
    pub(crate) resumable: bool,
    /// The proxy has heard Hello.
    pub(crate) greeted: bool,
    /// The client has lost its carrier with calls and without a message in either direction, and has not come back.
    pub(crate) nothing_before_the_cut: bool,
    /// The client has lost a carrier on which it asked to resume, and has not come back.
    pub(crate) cut_again: bool,
}

impl<'a> World<'a> {
    pub(crate) fn new(rng: &'a mut Rng, coverage: &'a mut Coverage, now: Instant) -> Self {
        let resumable = !rng.one_in(3);
        let client = Settings {
            stream_credit: 16_384 + rng.below(100_000) as u32,
            metadata: vec![v1::Metadata { name: "default".into(), value: None }],
            resumable: true,
            replay_limit: 0, // the least
            hello_timeout: Duration::from_secs(if resumable { 2 } else { 10 }),
            ..Settings::default()
        };
        let proxy = Settings {
            stream_credit: 65_536 + rng.below(200_000) as u32,
            max_message: MAX_MESSAGE as u64,
            max_streams: 1 + rng.below(12) as u32,
            ping_interval: Duration::from_secs(if resumable { 1 } else { 5 }),
            resume_grace: GRACE,
            replay_limit: 0,
            ..Settings::default()
        };
        let windows = (u64::from(proxy.stream_credit), u64::from(client.stream_credit));
        let mut world = Self {
            now,
            client: Session::new(Side::Client, client, now),
            proxy: Session::new(Side::Proxy, proxy.clone(), now),
            settings: proxy,
            carriers: Carriers::new(),
            log: [Vec::new(), Vec::new()],
            next: [0, 0],
            resuming: false,
            expect_go_away: false,
            calls: BTreeMap::new(),
            windows,
            welcomed: false,
            going_away: false,
            proxy_closed: false,
            client_closed: false,
            resumable,
            greeted: false,
            nothing_before_the_cut: false,
            cut_again: false,
            rng,
            coverage,
        };
        world.count("sessions");
        if world.resumable {
            let token = world.carriers.token();
            world.proxy.announce_resume(token.clone());
            world.carriers.tokens.push(token);
        }
        world
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        self.coverage.count(what);
    }

    /// One random thing. Returns whether the session goes on.
    pub(crate) fn step(&mut self) -> bool {
        self.now += Duration::from_millis(self.rng.below(20) as u64);
        self.tick();
        if self.resumable {
            self.step_carriers();
        }
        if self.client_closed {
            return false;
        }
        match self.rng.below(1000) {
            0..120 => self.poll(Side::Client),
            120..240 => self.poll(Side::Proxy),
            240..440 => self.deliver(Side::Proxy),
            440..640 => self.deliver(Side::Client),
            640..680 => self.open(),
            680..760 => self.send(Side::Client),
            760..840 => self.send(Side::Proxy),
            840..890 => self.consume(Side::Client),
            890..940 => self.consume(Side::Proxy),
            940..955 => self.headers(),
            955..965 => self.finish(),
            965..980 => self.end(),
            980..990 => self.cancel(),
            990..995 => {
                self.client.refresh(vec![v1::Metadata { name: "fresh".into(), value: None }]);
                self.check(Side::Client);
            }
            995 => {
                if !self.proxy_closed && self.rng.one_in(2) {
                    self.proxy.go_away(Code::UNAVAILABLE, "restarting", 100);
                    self.going_away = true;
                    self.check(Side::Proxy);
                }
            }
            996 => {
                if !self.resumable && self.rng.one_in(2) {
                    self.cut();
                }
            }
            _ => self.now += Duration::from_millis(500),
        }
        self.events();
        if !self.client_closed {
            self.coverage.see(self.client_state(), self.proxy_state(), self.going_away);
        }
        !self.client_closed
    }

    fn client_state(&self) -> ClientState {
        if self.client.is_detached() {
            ClientState::Away
        } else if self.resuming {
            ClientState::Resuming
        } else if !self.welcomed {
            ClientState::Greeting
        } else if self.next[0] < self.log[0].len() {
            ClientState::SendingAgain
        } else {
            ClientState::Open
        }
    }

    fn proxy_state(&self) -> ProxyState {
        if self.proxy_closed {
            ProxyState::Closed
        } else if self.proxy.is_detached() {
            ProxyState::Away
        } else if !self.greeted {
            ProxyState::Greeting
        } else if self.next[1] < self.log[1].len() {
            ProxyState::SendingAgain
        } else {
            ProxyState::Open
        }
    }

    /// What must always hold of a side, after whatever was done to it.
    pub(crate) fn check(&self, side: Side) {
        match side {
            Side::Client => self.client.check_invariants(),
            Side::Proxy => self.proxy.check_invariants(),
        }
    }

    fn tick(&mut self) {
        for session in [&mut self.client, &mut self.proxy] {
            if session.poll_timeout().is_some_and(|at| at <= self.now) {
                session.handle_timeout(self.now);
                session.check_invariants();
            }
        }
        self.events();
    }

    /// Lets one side write a packet (or not: its carrier is blocked), and looks at what it wrote.
    fn poll(&mut self, side: Side) {
        let target = [1, 1000, 16 * 1024, 64 * 1024][self.rng.below(4)];
        let (session, on) = match side {
            Side::Client => (&mut self.client, self.carriers.client_on),
            Side::Proxy => (&mut self.proxy, self.carriers.proxy_on),
        };
        let mut packet = BytesMut::new();
        let wrote = session.poll_packet(&mut packet, target);
        session.check_invariants();
        assert_eq!(wrote, !packet.is_empty());
        assert!(packet.len() < target + MAX_PIECE + 1000, "a packet ends at its target or one piece later");
        let packet = packet.freeze();
        let Some(id) = on else {
            assert!(!wrote || session.is_closed(), "there is no carrier");
            return;
        };
        let carrier = self.carriers.all.get_mut(&id).expect("the session is on it");
        match side {
            Side::Client if matches!(carrier.proxy, End::Closed) => {} // nobody reads it
            Side::Client => carrier.up.put(packet.clone(), self.now, self.rng),
            Side::Proxy if self.carriers.client_on != on => {}
            Side::Proxy => carrier.down.put(packet.clone(), self.now, self.rng),
        }
        self.written(side, &packet);
        let session = if side == Side::Client { &self.client } else { &self.proxy };
        if self.resumable && session.held_bytes() >= 128 * 1024 {
            self.count("much is kept");
        }
    }

    pub(crate) fn see(&mut self, from: Side, stream: StreamId, kind: &FrameKind) {
        let up = from == Side::Client;
        self.count(match kind {
            FrameKind::Ack(_) if up => "Ack up",
            FrameKind::Ack(_) => "Ack down",
            FrameKind::Cancel => "Cancel",
            FrameKind::Credit(_) if up => "Credit up",
            FrameKind::Credit(_) => "Credit down",
            FrameKind::Data { .. } if up => "data up",
            FrameKind::Data { .. } => "data down",
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
        });
        assert!(self.resumable || !matches!(kind, FrameKind::Ack(_)), "no Ack without a resume token");
        if let FrameKind::Data { bytes, .. } = kind {
            assert!(bytes.len() <= MAX_PIECE, "pieces are small");
            let extra = if self.welcomed { self.windows.0 - u64::from(INITIAL_CREDIT) } else { 0 };
            let down_window = self.windows.1;
            let call = self.calls.get_mut(&stream).expect("data belongs to a call");
            let (flow, allowed) = if up {
                let allowed = u64::from(INITIAL_CREDIT) + extra + call.up.allowed;
                (&mut call.up, allowed)
            } else {
                let allowed = down_window + call.down.allowed;
                (&mut call.down, allowed)
            };
            flow.blocked = false; // there is room in the outbox again
            flow.spent += bytes.len() as u64 + u64::from(FRAME_OVERHEAD);
            assert!(flow.spent <= allowed, "stream {stream}: credit is never exceeded");
        }
    }

    /// Lets one side receive what has arrived, or one packet of it.
    fn deliver(&mut self, to: Side) {
        let now = self.now;
        let arrived = |pipe: &Pipe| pipe.packets.front().is_some_and(|(at, _)| *at <= now);
        let ready: Vec<u32> = match to {
            Side::Proxy => {
                self.carriers.all.iter().filter(|(_, c)| arrived(&c.up)).map(|(id, _)| *id).collect()
            }
            Side::Client => self
                .carriers
                .client_on
                .filter(|id| arrived(&self.carriers.all[id].down))
                .into_iter()
                .collect(),
        };
        let Some(id) = self.rng.pick(&ready) else { return };
        let carrier = self.carriers.all.get_mut(&id).expect("picked");
        let pipe = if to == Side::Proxy { &mut carrier.up } else { &mut carrier.down };
        let (_, packet) = pipe.packets.pop_front().expect("something has arrived");
        let packet = packet.freeze();
        if to == Side::Proxy {
            self.arrive(id, packet);
        } else {
            self.note_credit(&packet, Side::Client);
            self.client.handle_packet(packet, self.now);
            self.check(Side::Client);
        }
    }

    /// What the model has to know of a packet that one side handles.
    pub(crate) fn note_credit(&mut self, packet: &Bytes, to: Side) {
        let mut reader = PacketReader::new(packet.clone());
        while let Some(frame) = reader.next().expect("packets concatenate") {
            match frame.kind {
                FrameKind::Credit(more) => {
                    let call = self.calls.get_mut(&frame.stream).expect("credit belongs to a call");
                    let flow = if to == Side::Proxy { &mut call.down } else { &mut call.up };
                    flow.allowed += more;
                }
                FrameKind::Welcome(welcome) => {
                    if welcome.resumed {
                        self.next[0] = welcome.received as usize;
                    }
                    self.resuming = false;
                    self.welcomed = true;
                }
                _ => {}
            }
        }
    }

    pub(crate) fn streams(&self, side: Side, may: impl Fn(&Call) -> bool) -> Vec<StreamId> {
        let open = |call: &Call| match side {
            Side::Client => call.client == Life::Open,
            Side::Proxy => call.proxy == Life::Open,
        };
        self.calls.iter().filter(|(_, call)| open(call) && may(call)).map(|(id, _)| *id).collect()
    }

    fn open(&mut self) {
        let next = self.calls.keys().next_back().map_or(1, |last| last + 1);
        match self.client.open(v1::Open { method: format!("/s.S/{next}"), ..v1::Open::default() }) {
            Ok(stream) => {
                assert_eq!(stream, next, "numbers have no gaps");
                let call = Call {
                    up: Flow::default(),
                    down: Flow::default(),
                    client: Life::Open,
                    proxy: Life::Unheard,
                    headers: false,
                    ended: None,
                    oversized: false,
                };
                self.calls.insert(stream, call);
            }
            Err(OpenError::Full(_) | OpenError::GoingAway) => {}
            Err(OpenError::Exhausted) => unreachable!("not so many calls"),
        }
        self.check(Side::Client);
    }

    fn send(&mut self, side: Side) {
        let may = |call: &Call| match side {
            Side::Client => !call.up.finished && !call.up.blocked,
            Side::Proxy => !call.down.blocked,
        };
        if let Some(stream) = self.rng.pick(&self.streams(side, may)) {
            self.begin(side, stream);
            self.pump(side, stream);
        }
    }

    /// Begins a message unless one is on its way.
    fn begin(&mut self, side: Side, stream: StreamId) {
        let oversized = side == Side::Client && self.rng.one_in(400);
        let message = if oversized { Bytes::from(vec![9; MAX_MESSAGE + 1]) } else { self.rng.message() };
        let call = self.calls.get_mut(&stream).expect("picked");
        let flow = if side == Side::Client { &mut call.up } else { &mut call.down };
        if flow.rest.is_none() {
            flow.messages.push(message.clone());
            flow.rest = Some(message);
            call.oversized |= oversized;
        }
    }

    /// Sends as much as the session takes, in cuts of any size. Returns whether anything went.
    fn pump(&mut self, side: Side, stream: StreamId) -> bool {
        let mut moved = false;
        loop {
            let call = self.calls.get_mut(&stream).expect("picked");
            let flow = if side == Side::Client { &mut call.up } else { &mut call.down };
            let Some(rest) = flow.rest.as_mut().filter(|_| !flow.blocked) else { return moved };
            let session = if side == Side::Client { &mut self.client } else { &mut self.proxy };
            let at_hand =
                if self.rng.one_in(4) { rest.len().min(1 + self.rng.below(20_000)) } else { rest.len() };
            let Some(len) = session.piece(stream, at_hand) else {
                flow.blocked = true;
                return moved;
            };
            assert!(len == at_hand || len >= MIN_PIECE, "no silly little pieces");
            let piece = rest.split_to(len);
            let remaining = rest.len() as u64;
            let last = side == Side::Client && remaining == 0 && self.rng.one_in(20);
            if remaining == 0 {
                flow.rest = None;
                flow.finished = last;
            }
            session.send(stream, piece, remaining, last);
            session.check_invariants();
            moved = true;
        }
    }

    fn consume(&mut self, side: Side) {
        let may = |call: &Call| {
            let flow = if side == Side::Client { &call.down } else { &call.up };
            !flow.held.is_empty()
        };
        let Some(stream) = self.rng.pick(&self.streams(side, may)) else { return };
        let part = self.rng.one_in(4);
        self.consume_one(side, stream, part);
    }

    fn consume_one(&mut self, side: Side, stream: StreamId, part: bool) {
        let call = self.calls.get_mut(&stream).expect("picked");
        let (flow, session) = match side {
            Side::Client => (&mut call.down, &mut self.client),
            Side::Proxy => (&mut call.up, &mut self.proxy),
        };
        let held = flow.held.front_mut().expect("something is held");
        if part && *held > 1 {
            let half = *held / 2;
            *held -= half;
            session.consumed(stream, half, 0);
        } else {
            session.consumed(stream, *held, 1);
            flow.held.pop_front();
        }
        session.check_invariants();
    }

    fn headers(&mut self) {
        let may = |call: &Call| !call.headers && call.down.messages.is_empty();
        if let Some(stream) = self.rng.pick(&self.streams(Side::Proxy, may)) {
            self.calls.get_mut(&stream).expect("picked").headers = true;
            self.proxy.send_headers(stream, v1::Headers::default());
            self.check(Side::Proxy);
        }
    }

    fn finish(&mut self) {
        let may = |call: &Call| !call.up.finished && call.up.rest.is_none();
        if let Some(stream) = self.rng.pick(&self.streams(Side::Client, may)) {
            self.calls.get_mut(&stream).expect("picked").up.finished = true;
            self.client.finish(stream);
            self.check(Side::Client);
        }
    }

    fn end(&mut self) {
        let Some(stream) = self.rng.pick(&self.streams(Side::Proxy, |_| true)) else { return };
        let call = self.calls.get_mut(&stream).expect("picked");
        let code = if call.down.rest.is_some() || self.rng.one_in(4) { 13 } else { 0 };
        call.ended = Some(code);
        call.proxy = Life::Over;
        self.proxy.end(stream, v1::Trailers { code, ..v1::Trailers::default() });
        self.check(Side::Proxy);
    }

    fn cancel(&mut self) {
        if let Some(stream) = self.rng.pick(&self.streams(Side::Client, |_| true)) {
            self.calls.get_mut(&stream).expect("picked").client = Life::Over;
            self.client.cancel(stream);
            self.check(Side::Client);
        }
    }

    /// Both sides learn that the carrier is dead; what was on its way is lost.
    fn cut(&mut self) {
        self.count("cut");
        let reason = CloseReason::new(Code::UNAVAILABLE, "carrier_lost", "cut");
        self.client.close(reason.clone());
        self.proxy.close(reason);
        self.check(Side::Client);
        self.check(Side::Proxy);
    }

    /// Everybody consumes and nothing new begins: everything must arrive.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for side in [Side::Client, Side::Proxy] {
                for stream in self.streams(side, |_| true) {
                    moved |= self.pump(side, stream);
                    let held = |world: &Self| {
                        let call = &world.calls[&stream];
                        let flow = if side == Side::Client { &call.down } else { &call.up };
                        !flow.held.is_empty()
                    };
                    while held(self) {
                        self.consume_one(side, stream, false);
                        moved = true;
                    }
                }
                let before = (self.carriers.on_their_way(), self.next);
                self.poll(side);
                moved |= before != (self.carriers.on_their_way(), self.next);
            }
            moved |= self.heal();
            if let Some(at) = self.carriers.next_arrival() {
                self.now = self.now.max(at);
                self.deliver(Side::Proxy);
                self.events();
                self.deliver(Side::Client);
                moved = true;
            }
            self.events();
            if !moved {
                return;
            }
        }
    }

    /// The end of a run: no deadlock, and every call ends.
    pub(crate) fn finale(&mut self) {
        self.settle();
        if self.client_closed {
            return;
        }
        for (stream, call) in &self.calls {
            assert_ne!(
                (call.client, call.proxy),
                (Life::Open, Life::Unheard),
                "stream {stream} was heard of"
            );
            if call.client == Life::Open && call.proxy == Life::Open {
                assert!(call.up.complete(), "stream {stream}: stuck on its way up");
                assert!(call.down.complete(), "stream {stream}: stuck on its way down");
                assert_eq!(call.up.finished, call.up.end_seen, "stream {stream}: the half-close arrived");
            }
        }
        while !self.streams(Side::Proxy, |_| true).is_empty() {
            self.end();
            self.events();
        }
        if !self.client_closed {
            self.settle();
        }
        assert_eq!((self.client.open_streams(), self.proxy.open_streams()), (0, 0));
        assert_eq!(self.proxy_closed, self.going_away, "who goes away closes after the last call");
        let open = self.streams(Side::Client, |_| true);
        assert!(open.is_empty(), "every call has ended: {open:?}");
        self.count("nothing was stuck, and everything ended");
    }
}
