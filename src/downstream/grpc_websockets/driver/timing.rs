//! What time and the drain do to a socket.

use std::{future::Future, task::Context, time::Duration};

use tokio::time::Instant;

use super::{Driver, GoAway, State};
use crate::wire::{Code, Outcome};

/// How long one call of several may keep the others from being read.
const PAUSE: Duration = Duration::from_secs(2);

/// How often a socket that is not read is pinged: a client that is gone answers with a TCP reset.
const PING_WHILE_PAUSED: Duration = Duration::from_secs(1);

/// How long a socket without calls is kept after its GOAWAY for a client that does not acknowledge it.
const GOAWAY_PATIENCE: Duration = Duration::from_secs(2);

impl Driver {
    /// The timer and the drain signals; they wake through [`SELF`], so that ordinary turns do not pay for them.
    pub(super) fn poll_signals(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.own.arm();
        let waker = self.own.waker().clone();
        let own = &mut Context::from_waker(&waker);
        if self.departure.as_mut().is_some_and(|f| f.as_mut().poll(own).is_ready()) {
            self.departure = None;
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
            let text = format!("no header block came within {:?}", self.settings.session.hello_timeout);
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
        let ping = self.settings.session.ping;
        if self.paused.is_some() { ping.min(PING_WHILE_PAUSED) } else { ping }
    }

    /// When the client is to be given up. Its pongs wait behind what we do not read; then only our writes tell.
    fn silent_at(&self) -> Instant {
        let from = match (self.paused, self.blocked) {
            (Some(_), None) => self.pinged,
            _ => self.heard,
        };
        from + 2 * self.settings.session.ping
    }

    /// The earliest time at which something may be due.
    fn next_time(&self) -> Instant {
        if self.state != State::Open {
            // Nothing else is seen to any more, and what stays due would keep the task awake.
            return self.silent_at();
        }
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
    pub(super) fn arm_timer(&mut self) {
        let next = self.next_time();
        if self.timer.is_elapsed() || next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
            let waker = self.own.waker().clone();
            if self.timer.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                self.own.wake();
            }
        }
    }
}
