//! Carriers that are lost, noticed to be lost, replaced and doubled; and what a driver does about it.

use std::{collections::BTreeMap, time::Duration};

use bidiway::{
    session::{Refusal, Session, Side},
    wire::{
        frame::{FrameKind, PacketReader},
        v1::{self, ResumeFailure},
    },
};
use bytes::{Bytes, BytesMut};

use crate::{pipe::Pipe, world::World};

/// How long the proxy keeps a session without a carrier.
pub(crate) const GRACE: Duration = Duration::from_secs(4);

/// One connection. The client's end is open if the client is on it.
pub(crate) struct Carrier {
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    pub(crate) proxy: End,
}

/// The proxy's end of a carrier.
pub(crate) enum End {
    /// Its session waits for a Hello.
    Fresh(Box<Session>),
    /// It carries the session.
    Owner,
    Closed,
}

/// All carriers, and who is on which.
pub(crate) struct Carriers {
    pub(crate) all: BTreeMap<u32, Carrier>,
    pub(crate) client_on: Option<u32>,
    pub(crate) proxy_on: Option<u32>,
    last: u32,
    /// The driver's table: what opens the session.
    pub(crate) tokens: Vec<Bytes>,
    made: u32,
}

impl Carriers {
    /// One that both sides are on.
    pub(crate) fn new() -> Self {
        let first = Carrier { up: Pipe::default(), down: Pipe::default(), proxy: End::Owner };
        Self {
            all: BTreeMap::from([(0, first)]),
            client_on: Some(0),
            proxy_on: Some(0),
            last: 0,
            tokens: Vec::new(),
            made: 0,
        }
    }

    /// A token that was never there.
    pub(crate) fn token(&mut self) -> Bytes {
        self.made += 1;
        format!("token {}", self.made).into()
    }

    fn add(&mut self, fresh: Session) -> u32 {
        self.last += 1;
        let carrier =
            Carrier { up: Pipe::default(), down: Pipe::default(), proxy: End::Fresh(Box::new(fresh)) };
        self.all.insert(self.last, carrier);
        self.last
    }

    fn sweep(&mut self) {
        let (client, proxy) = (self.client_on, self.proxy_on);
        self.all
            .retain(|&id, carrier| client == Some(id) || proxy == Some(id) || !carrier.up.packets.is_empty());
    }

    /// When the next packet arrives anywhere.
    pub(crate) fn next_arrival(&self) -> Option<std::time::Instant> {
        let up = self.all.values().filter_map(|carrier| carrier.up.packets.front());
        let down = self.client_on.and_then(|id| self.all[&id].down.packets.front());
        up.chain(down).map(|(at, _)| *at).min()
    }

    /// Packets on their way.
    pub(crate) fn on_their_way(&self) -> usize {
        self.all.values().map(|carrier| carrier.up.packets.len() + carrier.down.packets.len()).sum()
    }
}

impl World<'_> {
    /// One random thing about carriers.
    pub(crate) fn step_carriers(&mut self) {
        match self.rng.below(400) {
            0 => self.lose_client(),
            1 => self.lose_proxy(),
            2 => {
                self.count("cut for both");
                self.lose_client();
                self.lose_proxy();
            }
            3..23 => self.notice(),
            23..43 if self.client.is_detached() => self.reconnect(),
            43..46 if self.is_resuming() => {
                self.count("cut before a resume was answered");
                self.lose_client();
            }
            46..50 if self.client.is_detached() || self.proxy.is_detached() => self.now += GRACE / 2,
            _ => {}
        }
        self.carriers.sweep();
    }

    /// The client has asked to resume, and was not answered.
    fn is_resuming(&self) -> bool {
        self.resuming && self.carriers.client_on.is_some()
    }

    /// The client loses its carrier. Some of what it has sent may still arrive.
    pub(crate) fn lose_client(&mut self) {
        if self.carriers.client_on.is_none() || self.client_closed {
            return;
        }
        self.left_by_client();
        if self.client.detach(self.now) {
            self.count("cut for the client");
        } else {
            self.count("cut before the first Welcome");
        }
        self.check(Side::Client);
        self.events();
    }

    /// The client is off its carrier.
    pub(crate) fn left_by_client(&mut self) {
        let resuming = self.is_resuming();
        let Some(id) = self.carriers.client_on.take() else { return };
        self.cut_again |= resuming;
        let calls = self.streams(Side::Client, |_| true).len();
        let no_message = self.calls.values().all(|call| (call.up.spent, call.down.spent) == (0, 0));
        self.nothing_before_the_cut = calls > 0 && no_message;
        if !resuming && self.next[0] < self.log[0].len() {
            self.count("cut while the client sent again");
        }
        let carrier = self.carriers.all.get_mut(&id).expect("the client was on it");
        carrier.down.packets.clear();
        let arrive = self.rng.below(carrier.up.packets.len() + 1);
        carrier.up.packets.truncate(arrive);
    }

    /// The proxy loses its carrier. Some of what it has sent may still arrive.
    fn lose_proxy(&mut self) {
        if self.carriers.proxy_on.is_none() || self.proxy_closed {
            return;
        }
        self.left_by_proxy();
        if self.proxy.detach(self.now) {
            self.count("cut for the proxy");
        }
        self.check(Side::Proxy);
        self.events();
    }

    /// The proxy's session is off its carrier: no byte of it may reach the session any more.
    pub(crate) fn left_by_proxy(&mut self) {
        let Some(id) = self.carriers.proxy_on.take() else { return };
        if self.next[1] < self.log[1].len() {
            self.count("cut while the proxy sent again");
        }
        let carrier = self.carriers.all.get_mut(&id).expect("the proxy was on it");
        carrier.proxy = End::Closed;
        let arrive = self.rng.below(carrier.down.packets.len() + 1);
        carrier.down.packets.truncate(arrive);
    }

    /// One side sees that the other is gone.
    fn notice(&mut self) {
        if let Some(id) = self.carriers.client_on {
            let carrier = &self.carriers.all[&id];
            if matches!(carrier.proxy, End::Closed) && carrier.down.packets.is_empty() {
                self.lose_client();
            }
        }
        if let Some(id) = self.carriers.proxy_on
            && self.carriers.client_on != Some(id)
            && self.carriers.all[&id].up.packets.is_empty()
            && self.rng.one_in(3)
        {
            self.lose_proxy();
        }
    }

    /// The client comes back on a new carrier; sometimes its Hello arrives on another one as well.
    pub(crate) fn reconnect(&mut self) {
        self.client.reattach(self.now);
        self.resuming = true;
        let mut hello = BytesMut::new();
        assert!(self.client.poll_packet(&mut hello, 1), "Hello");
        assert!(!self.client.poll_packet(&mut hello, usize::MAX), "and nothing else");
        let hello = hello.freeze();
        let carriers = 1 + usize::from(self.rng.one_in(4));
        for n in 0..carriers {
            let token = self.carriers.token();
            let mut fresh = Session::new(Side::Proxy, self.settings.clone(), self.now);
            fresh.announce_resume(token);
            let id = self.carriers.add(fresh);
            if n == 0 {
                self.carriers.client_on = Some(id);
            } else {
                self.count("Hello came twice");
            }
            let carrier = self.carriers.all.get_mut(&id).expect("just added");
            carrier.up.put(hello.clone(), self.now, self.rng);
        }
        self.check(Side::Client);
    }

    /// A packet has arrived at the proxy's end of a carrier.
    pub(crate) fn arrive(&mut self, id: u32, packet: Bytes) {
        let carrier = self.carriers.all.get_mut(&id).expect("it brought a packet");
        match &mut carrier.proxy {
            End::Owner => {
                self.note_credit(&packet, Side::Proxy);
                self.proxy.handle_packet(packet, self.now);
                self.check(Side::Proxy);
            }
            End::Closed => self.count("a late packet was thrown away"),
            End::Fresh(fresh) => {
                fresh.handle_packet(packet, self.now);
                fresh.check_invariants();
                assert!(!fresh.poll_packet(&mut BytesMut::new(), 1), "the driver has to decide");
                match fresh.poll_event() {
                    Some(bidiway::session::Event::ResumeAsked(hello)) => self.decide(id, *hello),
                    other => panic!("not what a carrier begins with: {other:?}"),
                }
            }
        }
    }

    /// The driver: whose session is it?
    fn decide(&mut self, id: u32, hello: v1::Hello) {
        let fresh =
            std::mem::replace(&mut self.carriers.all.get_mut(&id).expect("it asked").proxy, End::Closed);
        let End::Fresh(mut fresh) = fresh else { panic!("only a fresh one asks") };
        let wanted = self.carriers.client_on == Some(id);
        if self.carriers.tokens.contains(&hello.resume_token) {
            let token = self.carriers.token();
            let used = hello.resume_token.clone();
            let received = hello.received as usize;
            let old = self.carriers.proxy_on;
            let detached = self.proxy.is_detached();
            assert_eq!(old.is_none(), detached);
            self.proxy.attach(hello, token, self.now).expect("a good Hello");
            self.check(Side::Proxy);
            self.left_by_proxy();
            self.count(if detached { "attached" } else { "took over from a carrier that seemed alive" });
            if !wanted {
                self.count("taken over by a Hello that nobody waits for");
            }
            let now: Vec<Bytes> = self.proxy.resume_tokens().cloned().collect();
            if self.proxy.is_closed() {
                self.count("drained by a resume");
            } else {
                assert!(
                    now.contains(&used) && now.len() == 2,
                    "the token that was used is good until the new one is known"
                );
                if now.iter().all(|token| self.carriers.tokens.contains(token)) {
                    self.count("the same token was announced again");
                }
            }
            for token in now {
                if !self.carriers.tokens.contains(&token) {
                    self.carriers.tokens.push(token);
                }
            }
            assert!(received <= self.log[1].len());
            self.next[1] = received;
            self.carriers.all.get_mut(&id).expect("it asked").proxy = End::Owner;
            self.carriers.proxy_on = Some(id);
            self.expect_go_away = self.going_away;
            return;
        }
        if !wanted {
            self.count("a late Hello was refused");
            return;
        }
        let open = self.streams(Side::Proxy, |_| true);
        assert!(open.is_empty(), "a session with calls is found by its client's token: {open:?}");
        fresh.refuse_resume(Refusal::Failure(ResumeFailure::Expired), self.now);
        fresh.check_invariants();
        while fresh.poll_event().is_some() {}
        self.carriers.tokens = fresh.resume_tokens().cloned().collect();
        assert_eq!(self.carriers.tokens.len(), 1);
        self.proxy = *fresh;
        if let Some(old) = self.carriers.proxy_on.take() {
            self.carriers.all.get_mut(&old).expect("the proxy was on it").proxy = End::Closed;
        }
        self.carriers.all.get_mut(&id).expect("it asked").proxy = End::Owner;
        self.carriers.proxy_on = Some(id);
        (self.proxy_closed, self.going_away, self.welcomed) = (false, false, false);
        self.expect_go_away = false;
        self.log[1].clear();
        self.next[1] = 0;
    }

    /// What a packet holds of one side: each sequenced frame is new, or is the same bytes as before.
    pub(crate) fn written(&mut self, side: Side, packet: &Bytes) {
        let way = usize::from(side == Side::Proxy);
        let mut rest = packet.clone();
        while !rest.is_empty() {
            let bytes = rest.split_to(crate::pipe::frame_len(&rest));
            let frame = PacketReader::new(bytes.clone()).next();
            let frame = frame.expect("a session writes valid packets").expect("a frame");
            if frame.stream == 0 {
                if let FrameKind::GoAway(_) = frame.kind {
                    self.expect_go_away = false;
                }
                self.see(side, 0, &frame.kind);
                continue;
            }
            let at = self.next[way];
            self.next[way] += 1;
            if let Some(before) = self.log[way].get(at) {
                assert_eq!(before, &bytes, "what is sent again is what was sent");
                self.count(if way == 0 { "sent again up" } else { "sent again down" });
            } else {
                self.log[way].push(bytes);
                self.see(side, frame.stream, &frame.kind);
            }
        }
        if side == Side::Proxy && !packet.is_empty() {
            assert!(!self.expect_go_away, "each carrier hears of GoAway");
        }
    }

    /// Brings both sides together again, if they are not.
    pub(crate) fn heal(&mut self) -> bool {
        if !self.resumable || self.client_closed {
            return false;
        }
        if self.client.is_detached() {
            self.reconnect();
            return true;
        }
        let Some(id) = self.carriers.client_on else { return false };
        let carrier = &self.carriers.all[&id];
        if matches!(carrier.proxy, End::Closed) && carrier.down.packets.is_empty() {
            self.lose_client();
            return true;
        }
        false
    }
}
