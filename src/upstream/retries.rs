//! How often calls may be sent again that no service has looked at.

use std::{sync::Mutex, time::Duration};

use h2::Reason;
use tokio::time::Instant;

use super::lock;
use crate::telemetry::Retry;

/// When calls are sent again of which the server has certainly not begun any part.
///
/// The budget is for those that the server has seen and turned away (REFUSED_STREAM, GOAWAY): sending them again makes
/// the load of a server that is in trouble larger. A call that was never written costs nobody anything, and only
/// `attempts` bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How many of the last ten seconds' calls may be sent again, in percent. 20, as in Envoy, Finagle and Linkerd.
    pub budget: u32,
    /// How many may be sent again in each second besides, so that an upstream with few calls has a budget too. 10.
    pub per_second: u32,
    /// How often a call is tried in all, at most. 4.
    pub attempts: usize,
}

impl Default for Retries {
    fn default() -> Self {
        Self { budget: 20, per_second: 10, attempts: 4 }
    }
}

/// The budget looks back over so many seconds.
const WINDOW: usize = 10;

/// The wait before a call is tried the third time; it doubles from there, and varies by half. The second is at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// One upstream's calls and retries of the last seconds, on one worker.
#[derive(Debug)]
pub(super) struct RetryBudget {
    begin: Instant,
    seconds: Mutex<[Second; WINDOW]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// Which it is, from the begin.
    at: u64,
    calls: u64,
    retries: u64,
}

impl RetryBudget {
    pub(super) fn new() -> Self {
        Self { begin: Instant::now(), seconds: Mutex::new([Second::default(); WINDOW]) }
    }

    /// A call begins.
    pub(super) fn call(&self) {
        let at = self.now();
        current(&mut lock(&self.seconds), at).calls += 1;
    }

    /// Whether one more call may be sent again; then it is counted.
    pub(super) fn take(&self, retries: &Retries) -> bool {
        let at = self.now();
        let mut seconds = lock(&self.seconds);
        let recent = seconds.iter().filter(|second| second.at + WINDOW as u64 > at);
        let (calls, used) =
            recent.fold((0, 0), |(calls, used), second| (calls + second.calls, used + second.retries));
        let allowed = calls * u64::from(retries.budget) / 100 + u64::from(retries.per_second) * WINDOW as u64;
        if used >= allowed {
            return false;
        }
        current(&mut seconds, at).retries += 1;
        true
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_secs()
    }
}

fn current(seconds: &mut [Second; WINDOW], at: u64) -> &mut Second {
    let second = &mut seconds[(at % WINDOW as u64) as usize];
    if second.at != at {
        *second = Second { at, ..Second::default() };
    }
    second
}

/// How long to wait before this attempt, the first being 1: servers that refuse streams need a moment, and not the same
/// one for everybody.
pub(super) fn pause(attempt: usize) -> Duration {
    match attempt {
        0..=2 => Duration::ZERO,
        _ => vary(FIRST_PAUSE * (1 << (attempt - 3).min(8)), 50),
    }
}

/// A time that is up to so many percent shorter or longer.
pub(super) fn vary(time: Duration, percent: u32) -> Duration {
    // Without random numbers everything else works too.
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    time.mul_f64(1.0 + f64::from(percent) / 100.0 * (2.0 * random - 1.0))
}

/// Whether the server has certainly not begun the call (RFC 9113, section 8.7): it refused the stream, its GOAWAY names
/// a lower last stream, or nothing was written since the call was given to the connection. h2 gives a GOAWAY received
/// only to the streams above its last.
pub(super) fn not_processed(error: &h2::Error, unsent: bool) -> Option<Retry> {
    if error.is_remote() && error.is_go_away() {
        Some(Retry::Goaway)
    } else if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        Some(Retry::Refused)
    } else if unsent && !error.is_reset() {
        Some(Retry::Unsent)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRIES: Retries = Retries { budget: 20, per_second: 1, attempts: 4 };

    fn taken(budget: &RetryBudget) -> usize {
        (0..1000).take_while(|_| budget.take(&RETRIES)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_recent_calls_may_be_sent_again_and_some_in_any_case() {
        let budget = RetryBudget::new();
        assert_eq!(taken(&budget), 10, "1 in each of 10 seconds");
        for _ in 0..100 {
            budget.call();
        }
        assert_eq!(taken(&budget), 20);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(taken(&budget), 0, "those of 9 seconds ago still count");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&budget), 10, "those of 10 seconds ago do not");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&budget), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_of_nothing_allows_nothing() {
        let budget = RetryBudget::new();
        budget.call();
        assert!(!budget.take(&Retries { budget: 0, per_second: 0, attempts: 4 }));
    }

    #[test]
    fn the_second_attempt_is_at_once_and_later_ones_wait_longer_and_longer() {
        assert_eq!((pause(1), pause(2)), (Duration::ZERO, Duration::ZERO));
        for (attempt, ms) in [(3, 20), (4, 40), (5, 80)] {
            let pause = pause(attempt);
            assert!((ms / 2..=ms * 3 / 2).contains(&pause.as_millis()), "{attempt}: {pause:?}");
        }
    }

    #[test]
    fn a_time_varies_by_so_much_and_does_vary() {
        let times: Vec<_> = (0..100).map(|_| vary(Duration::from_secs(100), 10)).collect();
        assert!(times.iter().all(|time| (90..=110).contains(&time.as_secs())), "{times:?}");
        assert!(times.iter().any(|time| *time != times[0]));
    }
}
