//! When a call is over because of the time.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Lease, response};
use crate::wire::Outcome;

/// A call's deadline and lease, in one timer: a message pays for neither.
#[derive(Debug)]
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    deadline: Option<Instant>,
    lease: Option<Arc<dyn Lease>>,
}

impl Timer {
    /// `None`: the call has all the time.
    pub(super) fn new(deadline: Option<Instant>, lease: Option<Arc<dyn Lease>>) -> Option<Self> {
        let first = earlier(deadline, lease.as_deref().map(Lease::until))?;
        Some(Self { sleep: Box::pin(sleep_until(first)), deadline, lease })
    }

    /// The same once more, for another task.
    pub(super) fn again(&self) -> Self {
        let sleep = Box::pin(sleep_until(self.sleep.deadline()));
        Self { sleep, deadline: self.deadline, lease: self.lease.clone() }
    }

    /// The call's deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ready with the call's outcome when its time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Box<Outcome>> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            if self.deadline.is_some_and(|at| at <= now) {
                return Poll::Ready(Box::new(response::deadline_exceeded()));
            }
            let until = self.lease.as_deref().map(Lease::until);
            if let Some(lease) = &self.lease
                && until.is_some_and(|at| at <= now)
            {
                return Poll::Ready(Box::new(lease.outcome()));
            }
            // Prolonged.
            let Some(next) = earlier(self.deadline, until) else { return Poll::Pending };
            self.sleep.as_mut().reset(next);
        }
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use super::*;
    use crate::wire::Code;

    /// Prolonged by tests.
    #[derive(Debug)]
    struct Until(Mutex<Instant>);

    impl Lease for Until {
        fn until(&self) -> Instant {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn outcome(&self) -> Outcome {
            Outcome::proxy(Code::UNAUTHENTICATED, "over")
        }
    }

    fn lease(seconds: u64) -> Arc<Until> {
        Arc::new(Until(Mutex::new(Instant::now() + Duration::from_secs(seconds))))
    }

    async fn end(deadline: Option<u64>, lease: Option<Arc<Until>>) -> (Code, u64) {
        let began = Instant::now();
        let deadline = deadline.map(|seconds| began + Duration::from_secs(seconds));
        let mut timer = Timer::new(deadline, lease.map(|lease| lease as Arc<dyn Lease>)).unwrap();
        let outcome = poll_fn(|cx| timer.poll(cx)).await;
        (outcome.status.code, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_first_ends_the_call() {
        assert_eq!(end(Some(5), None).await, (Code::DEADLINE_EXCEEDED, 5));
        assert_eq!(end(Some(5), Some(lease(7))).await, (Code::DEADLINE_EXCEEDED, 5));
        assert_eq!(end(Some(7), Some(lease(5))).await, (Code::UNAUTHENTICATED, 5));
        assert_eq!(end(None, Some(lease(5))).await, (Code::UNAUTHENTICATED, 5));
        assert!(Timer::new(None, None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_prolonged_lets_the_call_go_on() {
        let lease = lease(5);
        let prolonged = Arc::clone(&lease);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            *prolonged.0.lock().unwrap() += Duration::from_secs(60);
        });
        assert_eq!(end(None, Some(lease)).await, (Code::UNAUTHENTICATED, 65));
    }
}
