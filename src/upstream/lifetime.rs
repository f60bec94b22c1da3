//! How long a call may last: its deadline, its lease, or the greatest age that its route or its upstream allows a
//! stream.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Lease, Settings, response, retries::vary};
use crate::{
    telemetry::UpstreamMetrics,
    wire::{Code, Outcome},
};

/// Timers here and at the server fire on whole milliseconds, each on its own.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// How much the greatest age varies, in percent, so that streams that began together do not all come back together.
const JITTER: u32 = 10;

/// Whose greatest age a call has reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Age {
    Route(Duration),
    Upstream(Duration),
}

/// What ends a call when its time is over.
#[derive(Clone, Debug)]
pub(super) enum End {
    Deadline,
    Age(Age),
    Lease(Arc<dyn Lease>),
}

impl End {
    /// What the client is told. The end by age is counted here.
    pub(super) fn outcome(self, settings: &Settings, metrics: &UpstreamMetrics) -> Outcome {
        match self {
            Self::Deadline => response::deadline_exceeded(),
            Self::Age(age) => {
                metrics.calls().aged();
                let text = match age {
                    Age::Route(age) => format!("its route, {age:?}"),
                    Age::Upstream(age) => format!("upstream {:?}, {age:?}", settings.name),
                };
                let text = format!("the call has reached the greatest age of {text}; call again");
                Outcome::proxy(Code::UNAVAILABLE, text)
            }
            Self::Lease(lease) => lease.outcome(),
        }
    }
}

/// The earliest of the ends of a call; one timer, for which no message pays.
#[derive(Debug)]
pub(super) struct Lifetime {
    sleep: Pin<Box<Sleep>>,
    deadline: Option<Instant>,
    /// In a box: most calls have none.
    age: Option<Box<(Instant, Age)>>,
    lease: Option<Arc<dyn Lease>>,
}

impl Lifetime {
    /// From now on; `None` when nothing ends the call.
    pub(super) fn new(
        deadline: Option<Instant>,
        lease: Option<Arc<dyn Lease>>,
        max_age: Option<Duration>,
        settings: &Settings,
    ) -> Option<Self> {
        let ages = [(max_age, Age::Route as fn(Duration) -> Age), (settings.max_stream_age, Age::Upstream)];
        let least =
            ages.into_iter().filter_map(|(age, whose)| Some((age?, whose))).min_by_key(|(age, _)| *age);
        let age =
            least.and_then(|(age, whose)| Some((Instant::now().checked_add(vary(age, JITTER))?, whose(age))));
        let until = lease.as_deref().map(Lease::until);
        let first = [deadline, age.map(|(at, _)| at), until].into_iter().flatten().min()?;
        Some(Self { sleep: Box::pin(sleep_until(first)), deadline, age: age.map(Box::new), lease })
    }

    /// The same once more, for another task.
    pub(super) fn again(&self) -> Self {
        let Self { sleep, deadline, age, lease } = self;
        let sleep = Box::pin(sleep_until(sleep.deadline()));
        Self { sleep, deadline: *deadline, age: age.clone(), lease: lease.clone() }
    }

    /// Ready when the time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            let fixed = match (self.deadline, self.age.as_deref().copied()) {
                (Some(deadline), Some((at, age))) if at < deadline => Some((at, End::Age(age))),
                (Some(deadline), _) => Some((deadline, End::Deadline)),
                (None, age) => age.map(|(at, age)| (at, End::Age(age))),
            };
            let next = fixed.as_ref().map(|(at, _)| *at);
            if let Some((at, end)) = fixed
                && at <= now
            {
                return Poll::Ready(end);
            }
            let until = self.lease.as_deref().map(Lease::until);
            if let (Some(lease), Some(until)) = (&self.lease, until)
                && until <= now
            {
                return Poll::Ready(End::Lease(Arc::clone(lease)));
            }
            // Prolonged.
            let Some(next) = next.into_iter().chain(until).min() else { return Poll::Pending };
            self.sleep.as_mut().reset(next);
        }
    }

    /// Whether the deadline has passed, as far as timers can tell.
    pub(super) fn is_expired(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now() + TIMER_GRAIN)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{Mutex, PoisonError},
    };

    use super::*;
    use crate::{telemetry::Metrics, upstream::ClientTls};

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

    async fn end(deadline: Option<u64>, age: Option<u64>, lease: Option<Arc<Until>>) -> (Code, u64) {
        let began = Instant::now();
        let deadline = deadline.map(|seconds| began + Duration::from_secs(seconds));
        let settings = Settings {
            max_stream_age: age.map(Duration::from_secs),
            ..Settings::new("chat", Vec::new(), ClientTls::trusting_nobody())
        };
        let lease = lease.map(|lease| lease as Arc<dyn Lease>);
        let mut lifetime = Lifetime::new(deadline, lease, None, &settings).unwrap();
        let end = poll_fn(|cx| lifetime.poll(cx)).await;
        (end.outcome(&settings, &Metrics::new().upstream("chat")).status.code, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_first_ends_the_call() {
        assert_eq!(end(Some(5), None, None).await, (Code::DEADLINE_EXCEEDED, 5));
        assert_eq!(end(Some(5), Some(60), Some(lease(7))).await, (Code::DEADLINE_EXCEEDED, 5));
        assert_eq!(end(Some(7), Some(60), Some(lease(5))).await, (Code::UNAUTHENTICATED, 5));
        assert_eq!(end(None, None, Some(lease(5))).await, (Code::UNAUTHENTICATED, 5));
        assert_eq!(end(Some(60), Some(10), Some(lease(60))).await.0, Code::UNAVAILABLE);
        let settings = Settings::new("chat", Vec::new(), ClientTls::trusting_nobody());
        assert!(Lifetime::new(None, None, None, &settings).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_lesser_of_two_greatest_ages_holds_and_says_whose_it_is() {
        for (route, upstream, whose) in [
            (Some(10), Some(60), "its route, 10s"),
            (Some(60), Some(10), "upstream \"chat\", 10s"),
            (Some(10), None, "its route, 10s"),
        ] {
            let [route, upstream] = [route, upstream].map(|age| age.map(Duration::from_secs));
            let began = Instant::now();
            let settings = Settings {
                max_stream_age: upstream,
                ..Settings::new("chat", Vec::new(), ClientTls::trusting_nobody())
            };
            let mut lifetime = Lifetime::new(None, None, route, &settings).unwrap();
            let end = poll_fn(|cx| lifetime.poll(cx)).await;
            let status = end.outcome(&settings, &Metrics::new().upstream("chat")).status;
            assert_eq!(status.code, Code::UNAVAILABLE);
            assert!(status.message.contains(whose), "{}", status.message);
            assert!((9..=11).contains(&began.elapsed().as_secs()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_prolonged_lets_the_call_go_on() {
        let lease = lease(5);
        let prolonged = Arc::clone(&lease);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            *prolonged.0.lock().unwrap() += Duration::from_secs(60);
        });
        assert_eq!(end(None, None, Some(lease)).await, (Code::UNAUTHENTICATED, 65));
    }
}
