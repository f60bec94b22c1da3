//! How long bytes waited because the other side did not take them.
//!
//! Nobody reads a clock for each message: a worker's thread has a coarse one that its [`WorkerClock`] sets four times a
//! second, and a wait is the difference of two looks at it. One wait is counted as a whole number of ticks, perhaps
//! none; over many, what is counted is on average what was waited. While nobody looks, the clock rests; whoever
//! looks then reads the true time, until the clock goes again within a second.

use std::{
    cell::Cell,
    sync::{OnceLock, atomic::AtomicU64},
    time::{Duration, Instant as StdInstant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::time::{Instant, sleep_until};

/// How often a worker's clock is set while somebody looks at it.
const TICK: Duration = Duration::from_millis(250);

/// How often it is seen whether somebody does: an idle worker is to sleep. Lag is measured as often.
const REST: Duration = Duration::from_secs(1);

/// Seconds.
const LAG_BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];

thread_local! {
    /// Ticks since the first clock of the process began, plus one; zero on threads without a clock.
    static NOW: Cell<u32> = const { Cell::new(0) };
    static HAND: Cell<Hand> = const { Cell::new(Hand::Unseen) };
}

/// What becomes of a worker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    /// It is set again after a tick, and nobody has looked since it was.
    Unseen,
    /// It is set again after a tick, and somebody has looked.
    Seen,
    /// It is not set before somebody looks.
    Resting,
    /// It was, and is again at the end of the rest.
    Roused,
}

/// The time in ticks, as this thread's clock has it.
fn look() -> u32 {
    match HAND.get() {
        Hand::Seen => {}
        Hand::Unseen => HAND.set(Hand::Seen),
        Hand::Resting | Hand::Roused if NOW.get() > 0 => {
            HAND.set(Hand::Roused);
            set();
        }
        Hand::Resting | Hand::Roused => {}
    }
    NOW.get()
}

/// Sets this thread's clock.
fn set() {
    let ticks = epoch().elapsed().as_millis() / TICK.as_millis();
    NOW.set(u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1));
}

/// Where all clocks begin. Some time ago: a test's clock may stand still at any time in between.
fn epoch() -> Instant {
    const AGO: Duration = Duration::from_secs(3600);
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(|| Instant::now().checked_sub(AGO).unwrap_or_else(Instant::now))
}

/// The next of the moments that lie so far apart, the same for everybody: a thread wakes up once for all who go by it.
pub fn next_moment(apart: Duration) -> Instant {
    let apart = apart.max(Duration::from_millis(1));
    let passed = epoch().elapsed().as_nanos() / apart.as_nanos();
    epoch() + apart * u32::try_from(passed + 1).unwrap_or(u32::MAX)
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
            self.since = look();
        }
    }

    /// It does not wait any more.
    pub fn end(&mut self, counted: &Seconds) {
        if self.since == 0 {
            return;
        }
        let ticks = look().saturating_sub(std::mem::take(&mut self.since));
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
    /// One more tick: call it again and again, and on one thread. Returns how late the worker came to it.
    pub async fn tick(&self) -> Duration {
        set();
        let next = match HAND.get() {
            Hand::Seen | Hand::Roused => {
                HAND.set(Hand::Unseen);
                next_moment(TICK)
            }
            Hand::Unseen | Hand::Resting => {
                HAND.set(Hand::Resting);
                next_moment(REST)
            }
        };
        let (before, pause) = (wall_clock(), next.saturating_duration_since(Instant::now()));
        sleep_until(next).await;
        let lag = before.elapsed().saturating_sub(pause);
        self.lag.observe(lag.as_secs_f64());
        lag
    }
}

/// The true time, however tests treat tokio's.
#[expect(
    clippy::disallowed_methods,
    reason = "lag is measured, and a stopped clock lags by as much as a test says"
)]
fn wall_clock() -> StdInstant {
    StdInstant::now()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::{task::LocalSet, time::sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_counted_in_ticks_of_the_workers_clock_and_once() {
        let families = BackpressureFamilies::default();
        let counted = families.of("chat");
        let mut early = Wait::default();
        early.begin();
        assert_eq!(early.since, 0, "no clock runs here yet");

        let clock = families.clock();
        let clock = tokio::spawn(async move {
            loop {
                clock.tick().await;
            }
        });
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
        assert!(text.contains("worker_lag_seconds_count"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_at_which_nobody_looks_rests_and_is_right_for_who_looks_next() {
        let families = BackpressureFamilies::default();
        let (counted, clock) = (families.of("chat"), families.clock());
        let wakes = Rc::new(Cell::new(0));
        let (counter, local) = (wakes.clone(), LocalSet::new());
        local.spawn_local(async move {
            loop {
                clock.tick().await;
                counter.set(counter.get() + 1);
            }
        });
        let looks = async {
            sleep(REST * 2).await;
            wakes.take();
            sleep(REST * 10).await;
            assert_eq!(wakes.take(), 10);
            // In the middle of a rest.
            sleep_until(next_moment(REST) + TICK / 2).await;
            let mut wait = Wait::default();
            wait.begin();
            sleep(TICK * 2).await;
            wait.end(&counted.up);
            assert_eq!(counted.up.get(), 0.5);
            sleep_until(next_moment(REST) + TICK / 2).await;
            wakes.take();
            for _ in 0..10 {
                wait.begin();
                sleep(TICK).await;
                wait.end(&counted.up);
            }
            assert_eq!((counted.up.get(), wakes.get()), (3.0, 10));
        };
        local.run_until(looks).await;
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_goes_by_the_same_moments() {
        for pause in [0, 1, 300, 699] {
            sleep(Duration::from_millis(pause)).await;
            let (next, rest) = (next_moment(TICK), next_moment(REST));
            assert!(next > Instant::now() && next <= rest && rest <= Instant::now() + REST);
            assert!((rest - next).as_millis().is_multiple_of(TICK.as_millis()));
        }
    }
}
