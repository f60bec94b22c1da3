//! What all clients together may use of a route.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::rate_table::{Bucket, Rate};

/// A route's limits and what is used of them, in the whole process.
#[derive(Debug)]
pub struct RouteLimits {
    calls: Option<u32>,
    concurrent: Option<u32>,
    used: Arc<Used>,
}

/// What is used of a route's limits, whatever they are.
#[derive(Debug, Default)]
struct Used {
    calls: Bucket,
    open: AtomicU32,
}

/// Why a route takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteFull {
    /// So many calls begin in a second; there is room after this time.
    Rate(u32, Duration),
    /// So many run.
    Concurrent(u32),
}

/// One call of a route; given back when dropped.
#[derive(Debug)]
pub(crate) struct RoutePermit(Arc<Used>);

impl RouteLimits {
    /// Limits of the calls that begin in a second, and of those that run.
    pub fn new(calls_per_second: Option<u32>, concurrent_calls: Option<u32>) -> Self {
        Self { calls: calls_per_second, concurrent: concurrent_calls, used: Arc::default() }
    }

    /// The same limits, of which is used what is used of `before`: those of the same route, which they replace.
    #[must_use]
    pub fn in_place_of(&self, before: &Self) -> Self {
        Self { used: Arc::clone(&before.used), ..*self }
    }

    /// A place for one more call.
    pub(crate) fn enter(&self) -> Result<RoutePermit, RouteFull> {
        let before = self.used.open.fetch_add(1, Ordering::Relaxed);
        // From here on, dropping it gives it back.
        let permit = RoutePermit(Arc::clone(&self.used));
        if let Some(most) = self.concurrent.filter(|most| before >= *most) {
            return Err(RouteFull::Concurrent(most));
        }
        if let Some(calls) = self.calls {
            let taken = self.used.calls.take(Rate::per_second(calls), Instant::now());
            taken.map_err(|wait| RouteFull::Rate(calls, wait))?;
        }
        Ok(permit)
    }
}

impl Drop for RoutePermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back_and_a_refused_one_was_never_taken() {
        let limits = Arc::new(RouteLimits::new(None, Some(2)));
        let (first, _second) = (limits.enter().unwrap(), limits.enter().unwrap());
        assert_eq!(limits.enter().unwrap_err(), RouteFull::Concurrent(2));
        assert_eq!(limits.enter().unwrap_err(), RouteFull::Concurrent(2));
        drop(first);
        let _third = limits.enter().unwrap();
        assert_eq!(limits.used.open.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_come_as_fast_as_the_route_takes_them() {
        let limits = Arc::new(RouteLimits::new(Some(2), None));
        let both = [limits.enter(), limits.enter()];
        assert!(both.iter().all(Result::is_ok));
        let wait = Duration::from_millis(500);
        assert_eq!(limits.enter().unwrap_err(), RouteFull::Rate(2, wait));
        tokio::time::advance(wait).await;
        assert!(limits.enter().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_replace_others_go_on_from_what_is_used_of_them() {
        let old = Arc::new(RouteLimits::new(Some(3), Some(2)));
        let (first, _second) = (old.enter().unwrap(), old.enter().unwrap());
        let new = Arc::new(RouteLimits::new(Some(3), Some(3)).in_place_of(&old));
        let _third = new.enter().unwrap();
        assert_eq!(new.enter().unwrap_err(), RouteFull::Concurrent(3));
        drop(first);
        assert!(matches!(new.enter(), Err(RouteFull::Rate(3, _))), "three have begun in this second");
        assert_eq!(old.enter().unwrap_err(), RouteFull::Concurrent(2), "what came under the old ones counts");
    }
}
