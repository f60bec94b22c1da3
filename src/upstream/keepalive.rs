//! When a connection is pinged, so that dead ones are found and no server takes offence; and when it has no use.
//!
//! gRPC servers count pings that come sooner than they allow (five minutes after the last one by default, or two hours
//! while no call is open), forget them whenever they send something of a call, and at the third end the connection with
//! GOAWAY, ENHANCE_YOUR_CALM and "too_many_pings" (gRFC A8, grpc-go's `keepalive.EnforcementPolicy`, C core's
//! `GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS`). So a ping is sent only while a call is open, and never
//! sooner than the interval after the last one was answered. That holds also for a server that sends nothing else.

use std::{
    future::Future,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
    time::Duration,
};

use h2::PingPong;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Settings, connection::Link, lock};

/// A connection on which no call was open for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// The least interval.
const LEAST: Duration = Duration::from_millis(10);

/// The longest interval that doubling leads to: servers' own limit while no call is open.
const LONGEST: Duration = Duration::from_secs(7200);

/// One upstream's pings, on one worker: what its connections have learnt about its servers.
#[derive(Debug)]
pub(super) struct Keepalive {
    interval: Mutex<Option<Duration>>,
    timeout: Duration,
}

impl Keepalive {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            interval: Mutex::new(settings.keepalive.map(|interval| interval.max(LEAST))),
            timeout: settings.keepalive_timeout,
        }
    }

    /// A server found the pings of a connection that had this interval too many: connections from now on have at least
    /// twice that. Returns the interval of those.
    pub(super) fn too_many(&self, had: Option<Duration>) -> Option<Duration> {
        let mut interval = lock(&self.interval);
        if let (Some(interval), Some(had)) = (interval.as_mut(), had) {
            // Several connections may hear it at once.
            *interval = (*interval).max(had.saturating_mul(2).min(LONGEST));
        }
        *interval
    }
}

/// What a connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Nothing before this time.
    Nothing(Instant),
    Ping,
    /// A ping was not answered.
    Dead,
    /// No call has used it for long.
    Unused,
}

/// The times of one connection.
#[derive(Debug)]
struct Schedule {
    interval: Option<Duration>,
    timeout: Duration,
    /// No ping before.
    next: Instant,
    /// The answer to a ping must be here by then.
    answer: Option<Instant>,
    /// When it is looked at whether calls came.
    idle: Instant,
    /// How many calls there had been by the last look.
    opened: usize,
}

impl Schedule {
    fn new(keepalive: &Keepalive, now: Instant) -> Self {
        let interval = *lock(&keepalive.interval);
        Self {
            interval,
            timeout: keepalive.timeout,
            next: now + interval.unwrap_or(IDLE),
            answer: None,
            idle: now + IDLE,
            opened: 0,
        }
    }

    /// `calls`: those open now; `opened`: all there ever were.
    fn due(&mut self, now: Instant, calls: usize, opened: usize) -> Due {
        if self.answer.is_some_and(|by| by <= now) {
            return Due::Dead;
        }
        if self.idle <= now {
            let unused = calls == 0 && opened == self.opened;
            self.opened = opened;
            self.idle = now + IDLE;
            if unused {
                return Due::Unused;
            }
        }
        if let Some(answer) = self.answer {
            return Due::Nothing(answer.min(self.idle));
        }
        let Some(interval) = self.interval else { return Due::Nothing(self.idle) };
        if self.next <= now {
            if calls > 0 {
                self.answer = Some(now + self.timeout);
                return Due::Ping;
            }
            // A call that begins now is looked after one interval later.
            self.next = now + interval;
        }
        Due::Nothing(self.next.min(self.idle))
    }

    /// The ping was answered, or could not be sent.
    fn answered(&mut self, now: Instant) {
        self.answer = None;
        self.next = now + self.interval.unwrap_or(IDLE);
    }
}

/// Finds dead connections by pings while calls are open, and unused ones.
pub(super) struct Watch {
    schedule: Schedule,
    sleep: Pin<Box<Sleep>>,
}

impl Watch {
    pub(super) fn new(keepalive: &Keepalive) -> Self {
        let now = Instant::now();
        Self { schedule: Schedule::new(keepalive, now), sleep: Box::pin(sleep_until(now)) }
    }

    /// The interval of this connection's pings.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.schedule.interval
    }

    /// Ready with the reason when the connection is dead.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, pings: &mut PingPong, link: &Link) -> Poll<String> {
        loop {
            let now = Instant::now();
            if self.schedule.answer.is_some() && pings.poll_pong(cx).is_ready() {
                self.schedule.answered(now);
            }
            match self.schedule.due(now, link.in_flight(), link.opened()) {
                Due::Nothing(until) => {
                    self.sleep.as_mut().reset(until);
                    if self.sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Due::Ping => {
                    // The ping itself goes out when h2 is polled next, and it is woken.
                    if pings.send_ping(h2::Ping::opaque()).is_err() {
                        self.schedule.answered(now);
                    }
                }
                Due::Dead => {
                    let timeout = self.schedule.timeout;
                    return Poll::Ready(format!("no answer to an HTTP/2 PING within {timeout:?}"));
                }
                Due::Unused => link.close(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::ClientTls;

    /// How a server counts pings, as grpc-go and gRPC's C core do.
    struct Policy {
        least: Duration,
        last: Option<Instant>,
        strikes: u32,
    }

    impl Policy {
        /// A ping arrives; whether the connection is ended for it.
        fn ping(&mut self, now: Instant, calls: usize) -> bool {
            let least = if calls == 0 { Duration::from_secs(7200) } else { self.least };
            if self.last.is_some_and(|last| last + least > now) {
                self.strikes += 1;
            }
            self.last = Some(now);
            self.strikes > 2
        }

        /// The server sends something of a call.
        fn sends(&mut self) {
            self.strikes = 0;
            self.last = None;
        }
    }

    fn keepalive(interval: Option<Duration>) -> Keepalive {
        let mut settings = Settings::new("chat", Vec::new(), ClientTls::trusting_nobody());
        if let Some(interval) = interval {
            settings.keepalive = Some(interval);
        }
        Keepalive::new(&settings)
    }

    /// Runs a connection for a day: `calls` says how many are open in a given second. Pings take `way` seconds, now
    /// more, now less. Returns the pings, and whether the server's policy of `least` ended the connection.
    fn a_day(
        keepalive: &Keepalive,
        least: Duration,
        way: fn(u64) -> u64,
        calls: fn(u64) -> usize,
    ) -> (usize, bool) {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let mut schedule = Schedule::new(keepalive, begin);
        let mut policy = Policy { least, last: None, strikes: 0 };
        let (mut pings, mut opened, mut arrives) = (0, 0, None);
        for second in 0..24 * 3600 {
            let open = calls(second);
            let before = calls(second.saturating_sub(1));
            opened += open.saturating_sub(before);
            if open < before {
                policy.sends(); // the trailers of a call
            }
            if arrives == Some(second) {
                arrives = None;
                if policy.ping(at(second), open) {
                    return (pings, true);
                }
                schedule.answered(at(second));
            }
            loop {
                match schedule.due(at(second), open, opened) {
                    Due::Nothing(until) => break assert!(until > at(second)),
                    Due::Ping => {
                        assert!(open > 0, "a ping without an open call, at {second} s");
                        pings += 1;
                        arrives = Some(second + way(second).max(1));
                    }
                    Due::Unused => return (pings, false),
                    Due::Dead => panic!("at {second} s"),
                }
            }
        }
        (pings, false)
    }

    const FIVE_MINUTES: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn the_default_never_offends_servers_that_allow_one_ping_in_five_minutes() {
        for way in [|_| 1, |second| second % 9, |second| if second % 2 == 0 { 9 } else { 1 }] {
            let (pings, ended) = a_day(&keepalive(None), FIVE_MINUTES, way, |_| 1);
            assert!(!ended && pings > 250, "{pings} pings");
            let (_, ended) =
                a_day(&keepalive(None), FIVE_MINUTES, way, |second| usize::from(second % 400 < 200));
            assert!(!ended, "calls that come and go");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_interval_than_the_server_allows_is_found_out() {
        let keepalive = keepalive(Some(Duration::from_secs(290)));
        let (pings, ended) = a_day(&keepalive, FIVE_MINUTES, |_| 1, |_| 1);
        assert_eq!((pings, ended), (4, true), "the test's server does count");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_end_now_and_then_make_the_server_forget_pings() {
        let keepalive = keepalive(Some(Duration::from_secs(100)));
        let (pings, ended) =
            a_day(&keepalive, FIVE_MINUTES, |_| 1, |second| if second % 150 < 149 { 2 } else { 1 });
        assert!(!ended && pings > 800, "{pings} pings");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_calls_is_not_pinged_and_given_up_after_five_minutes() {
        assert_eq!(a_day(&keepalive(Some(Duration::from_secs(1))), FIVE_MINUTES, |_| 1, |_| 0), (0, false));
        let begin = Instant::now();
        let mut schedule = Schedule::new(&keepalive(None), begin);
        assert_eq!(schedule.due(begin, 0, 0), Due::Nothing(begin + IDLE));
        assert_eq!(schedule.due(begin + IDLE, 0, 1), Due::Nothing(begin + Duration::from_secs(310)));
        assert_eq!(schedule.due(begin + 2 * IDLE, 0, 1), Due::Unused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_complains_is_pinged_half_as_often_from_then_on() {
        let seconds = Duration::from_secs;
        let keepalive = keepalive(Some(seconds(100)));
        assert_eq!(keepalive.too_many(Some(seconds(100))), Some(seconds(200)));
        assert_eq!(
            keepalive.too_many(Some(seconds(100))),
            Some(seconds(200)),
            "another connection, the same news"
        );
        assert_eq!(keepalive.too_many(Some(seconds(200))), Some(seconds(400)));
        assert_eq!(Schedule::new(&keepalive, Instant::now()).interval, Some(seconds(400)));
        assert!(!a_day(&keepalive, FIVE_MINUTES, |_| 1, |_| 1).1);
    }
}
