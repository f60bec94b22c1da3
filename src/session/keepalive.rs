//! Time: pings, silence, and how long a greeting may take.

use std::time::{Duration, Instant};

use super::{CloseReason, Event, Session, Side, core::Phase};
use crate::wire::Code;

/// When things are due. A time that cannot be represented is never.
#[derive(Debug)]
pub(super) struct Keepalive {
    /// When the last byte came.
    pub(super) heard: Instant,
    /// Silence of this length means that the carrier is dead.
    silence: Option<Duration>,
    /// Proxy: the interval of pings, and when the next is due.
    interval: Duration,
    next_ping: Option<Instant>,
    pings: u64,
    /// A ping went out that the owner has not been told of.
    ticked: bool,
    /// Until when the peer's first frame has to come.
    greeting: Option<Instant>,
}

impl Keepalive {
    pub(super) fn new(now: Instant, greeting: Duration) -> Self {
        Self {
            heard: now,
            silence: None,
            interval: Duration::ZERO,
            next_ping: None,
            pings: 0,
            ticked: false,
            greeting: now.checked_add(greeting),
        }
    }

    /// The greeting has come. `interval` is Welcome's ping interval; zero switches keepalive off.
    pub(super) fn start(&mut self, side: Side, interval: Duration, now: Instant) {
        self.greeting = None;
        if interval.is_zero() {
            return;
        }
        self.interval = interval;
        self.silence = interval.checked_mul(2);
        if side == Side::Proxy {
            self.next_ping = now.checked_add(interval);
        }
    }

    /// The carrier is gone: nothing is due.
    pub(super) fn stop(&mut self) {
        self.silence = None;
        self.next_ping = None;
        self.greeting = None;
        self.ticked = false;
    }

    /// There is a new carrier, and the peer's greeting has to come.
    pub(super) fn expect_greeting(&mut self, now: Instant, within: Duration) {
        self.heard = now;
        self.greeting = now.checked_add(within);
    }

    /// There is a new carrier, and it is greeted.
    pub(super) fn begin(&mut self, side: Side, interval: Duration, now: Instant) {
        self.stop();
        self.heard = now;
        self.start(side, interval, now);
    }

    /// Proxy: a Ping out of turn. Returns its number.
    pub(super) fn ping(&mut self) -> u64 {
        self.pings += 1;
        self.pings
    }

    fn silent_at(&self) -> Option<Instant> {
        self.heard.checked_add(self.silence?)
    }
}

impl Session {
    /// In: a sign of life that is no packet (a WebSocket ping or pong).
    pub fn handle_activity(&mut self, now: Instant) {
        self.keepalive.heard = self.keepalive.heard.max(now);
    }

    /// In: the carrier was not read from `since` to `now`, because it took no bytes either. That was our silence, not
    /// the peer's.
    pub fn handle_unread(&mut self, since: Instant, now: Instant) {
        let heard = self.keepalive.heard.checked_add(now.saturating_duration_since(since));
        self.handle_activity(heard.map_or(now, |heard| heard.min(now)));
    }

    /// In: time has passed. Call it at or after `poll_timeout`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.expires()) {
            let grace = self.resume.as_deref().map_or(Duration::ZERO, |resume| resume.grace);
            let message = format!("it was without a carrier for {grace:?}");
            self.close(CloseReason::new(Code::UNAVAILABLE, "resume_expired", message));
        } else if due(self.keepalive.greeting) {
            let after = self.settings.hello_timeout;
            self.lose_carrier(
                now,
                match self.side {
                    Side::Client => {
                        CloseReason::new(Code::UNAVAILABLE, "silent", format!("no Welcome within {after:?}"))
                    }
                    Side::Proxy => CloseReason::new(
                        Code::DEADLINE_EXCEEDED,
                        "hello_timeout",
                        format!("no Hello within {after:?}"),
                    ),
                },
            );
        } else if due(self.keepalive.silent_at()) {
            let after = self.keepalive.silence.unwrap_or_default();
            let message = format!("nothing came for {after:?}");
            self.lose_carrier(now, CloseReason::new(Code::UNAVAILABLE, "silent", message));
        } else if due(self.keepalive.next_ping) {
            self.keepalive.ticked = true;
            self.outbox.ping = Some(self.keepalive.ping());
            self.keepalive.next_ping = now.checked_add(self.keepalive.interval);
            self.outbox.ack |= self.sequence.is_behind();
        }
    }

    /// The carrier is of no use; the session may go on without it.
    fn lose_carrier(&mut self, now: Instant, reason: CloseReason) {
        if !self.is_resumable() {
            self.close(reason);
        } else if self.detach(now) {
            self.events.push_back(Event::Detached(reason));
        }
    }

    /// Out: whether a keepalive tick has passed since the last time this was asked. The owner then lets the carrier
    /// send a ping of its own, which a browser answers even while the page's script is busy.
    pub fn take_ping(&mut self) -> bool {
        std::mem::take(&mut self.keepalive.ticked)
    }

    /// Out: when `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        let k = &self.keepalive;
        [k.greeting, k.silent_at(), k.next_ping, self.expires()].into_iter().flatten().min()
    }
}
