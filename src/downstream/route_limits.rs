//! What all clients together may use of a route.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    CallLimits,
    rate_table::{Bucket, Rate},
};

/// A route's limits and what is used of them, in the whole process.
#[derive(Debug)]
pub struct RouteLimits {
    calls: Bucket,
    open: AtomicU32,
    limits: CallLimits,
    pub(super) messages: Bucket,
    pub(super) bytes: Bucket,
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
    /// These limits, of which nothing is used.
    pub fn new(limits: CallLimits) -> Self {
        let [calls, messages, bytes] = Default::default();
        Self { calls, open: AtomicU32::new(0), limits, messages, bytes }
    }

    /// Whether messages may have to wait.
    pub(super) fn bounds_traffic(&self) -> bool {
        self.limits.bounds_traffic()
    }

    /// The limits themselves.
    pub(super) fn traffic(&self) -> &CallLimits {
        &self.limits
    }

    /// A place for one more call.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<RoutePermit, RouteFull> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // From here on, dropping it gives it back.
        let permit = RoutePermit(Arc::clone(self));
        if let Some(most) = self.limits.concurrent_calls.filter(|most| before >= *most) {
            return Err(RouteFull::Concurrent(most));
        }
        if let Some(calls) = self.limits.calls_per_second {
            let taken = self.calls.take(Rate::per_second(calls), Instant::now());
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
        let limits =
            Arc::new(RouteLimits::new(CallLimits { concurrent_calls: Some(2), ..CallLimits::default() }));
        let (first, _second) = (limits.enter().unwrap(), limits.enter().unwrap());
        assert_eq!(limits.enter().unwrap_err(), RouteFull::Concurrent(2));
        assert_eq!(limits.enter().unwrap_err(), RouteFull::Concurrent(2));
        drop(first);
        let _third = limits.enter().unwrap();
        assert_eq!(limits.open.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_come_as_fast_as_the_route_takes_them() {
        let limits =
            Arc::new(RouteLimits::new(CallLimits { calls_per_second: Some(2), ..CallLimits::default() }));
        let both = [limits.enter(), limits.enter()];
        assert!(both.iter().all(Result::is_ok));
        let wait = Duration::from_millis(500);
        assert_eq!(limits.enter().unwrap_err(), RouteFull::Rate(2, wait));
        tokio::time::advance(wait).await;
        assert!(limits.enter().is_ok());
    }
}
