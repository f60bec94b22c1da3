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
    calls: Option<(u32, Bucket)>,
    concurrent: Option<u32>,
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
pub(crate) struct RoutePermit(Arc<RouteLimits>);

impl RouteLimits {
    /// Limits of the calls that begin in a second, and of those that run.
    pub fn new(calls_per_second: Option<u32>, concurrent_calls: Option<u32>) -> Self {
        let calls = calls_per_second.map(|calls| (calls, Bucket::default()));
        Self { calls, concurrent: concurrent_calls, open: AtomicU32::new(0) }
    }

    /// A place for one more call.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<RoutePermit, RouteFull> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // From here on, dropping it gives it back.
        let permit = RoutePermit(Arc::clone(self));
        if let Some(most) = self.concurrent.filter(|most| before >= *most) {
            return Err(RouteFull::Concurrent(most));
        }
        if let Some((calls, bucket)) = &self.calls {
            let taken = bucket.take(Rate::per_second(*calls), Instant::now());
            taken.map_err(|wait| RouteFull::Rate(*calls, wait))?;
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
        assert_eq!(limits.open.load(Ordering::Relaxed), 2);
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
}
