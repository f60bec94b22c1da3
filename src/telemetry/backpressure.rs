//! How long bytes waited because the other side did not take them.
//!
//! Nobody reads a clock for each message: a worker's thread has a coarse one that its [`WorkerClock`] sets four times a
//! second, and a wait is the difference of two looks at it. One wait is counted as a whole number of ticks, perhaps
//! none; over many, what is counted is on average what was waited.

use std::{
    cell::Cell,
    sync::{OnceLock, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::time::{Instant, sleep};

/// How often a worker's clock is set.
const TICK: Duration = Duration::from_millis(250);

/// Seconds.
const LAG_BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];

thread_local! {
    /// Ticks since the first clock of the process began, plus one; zero on threads without a clock.
    static NOW: Cell<u32> = const { Cell::new(0) };
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitLabels {
    upstream: String,
    direction: &'static str,
}

/// What is counted of waits, and of workers that are late.
#[derive(Debug)]
pub(super) struct BackpressureFamilies {
    backpressure: Family<WaitLabels, Seconds>,
    worker_lag: Histogram,
}

/// A counter of seconds.
type Seconds = Counter<f64, AtomicU64>;

impl Default for BackpressureFamilies {
    fn default() -> Self {
        Self { backpressure: Family::default(), worker_lag: Histogram::new(LAG_BUCKETS) }
    }
}

impl BackpressureFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "backpressure_seconds",
            "Time in which calls' bytes waited: up for the service or a connection to it, down for the client",
            self.backpressure.clone(),
        );
        r.register(
            "worker_lag_seconds",
            "How much later than due workers came to a timer",
            self.worker_lag.clone(),
        );
    }

    pub(super) fn of(&self, upstream: &str) -> Backpressure {
        let wait = |direction| {
            let labels = WaitLabels { upstream: upstream.to_owned(), direction };
            self.backpressure.get_or_create_owned(&labels)
        };
        Backpressure { up: wait("up"), down: wait("down") }
    }

    pub(super) fn clock(&self) -> WorkerClock {
        WorkerClock { lag: self.worker_lag.clone() }
    }
}

/// The handles for one upstream's waits.
#[derive(Debug)]
pub struct Backpressure {
    /// Bytes of requests waited for the service to take them.
    pub up: Seconds,
    /// Bytes of responses waited for the client to take them.
    pub down: Seconds,
}

/// One side of a call that waits now and then.
#[derive(Debug, Default)]
pub struct Wait {
    /// Zero: it does not.
    since: u32,
}

impl Wait {
    /// It waits, if it has not before.
    pub fn begin(&mut self) {
        if self.since == 0 {
            self.since = NOW.get();
        }
    }

    /// It does not wait any more.
    pub fn end(&mut self, counted: &Seconds) {
        if self.since == 0 {
            return;
        }
        let ticks = NOW.get().saturating_sub(std::mem::take(&mut self.since));
        if ticks > 0 {
            counted.inc_by(f64::from(ticks) * TICK.as_secs_f64());
        }
    }
}

/// Sets the clock of the thread that it runs on, and tells how late it comes to do so.
#[derive(Debug)]
pub struct WorkerClock {
    lag: Histogram,
}

impl WorkerClock {
    /// Runs until it is dropped.
    pub async fn run(self) {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        let epoch = *EPOCH.get_or_init(Instant::now);
        loop {
            let ticks = epoch.elapsed().as_millis() / TICK.as_millis();
            NOW.set(u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1));
            let due = Instant::now() + TICK;
            sleep(TICK).await;
            self.lag.observe(due.elapsed().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_counted_in_ticks_of_the_workers_clock_and_once() {
        let families = BackpressureFamilies::default();
        let counted = families.of("chat");
        let mut early = Wait::default();
        early.begin();
        assert_eq!(early.since, 0, "no clock runs here yet");

        let clock = tokio::spawn(families.clock().run());
        sleep(TICK / 2).await;
        let mut wait = Wait::default();
        wait.begin();
        sleep(TICK * 4).await;
        wait.begin();
        wait.end(&counted.up);
        wait.end(&counted.up);
        early.end(&counted.down);
        clock.abort();
        assert_eq!((counted.up.get(), counted.down.get()), (1.0, 0.0));
        let mut text = String::new();
        let mut registry = Registry::default();
        families.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("worker_lag_seconds_count 4"), "{text}");
    }
}
