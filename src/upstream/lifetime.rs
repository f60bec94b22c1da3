//! How long a call may last: its deadline, or the greatest age that its upstream allows a stream.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Settings, response, retries::vary};
use crate::{
    telemetry::UpstreamMetrics,
    wire::{Code, Outcome},
};

/// Timers here and at the server fire on whole milliseconds, each on its own.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// How much the greatest age varies, in percent, so that streams that began together do not all come back together.
const JITTER: u32 = 10;

/// What ends a call when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Deadline,
    Age,
}

impl End {
    /// What the client is told. The end by age is counted here.
    pub(super) fn outcome(self, settings: &Settings, metrics: &UpstreamMetrics) -> Outcome {
        match self {
            Self::Deadline => response::deadline_exceeded(),
            Self::Age => {
                metrics.calls().aged();
                let (name, age) = (&settings.name, settings.max_stream_age.unwrap_or_default());
                let text = format!(
                    "the call has reached the greatest age of upstream {name:?}, {age:?}; call again"
                );
                Outcome::proxy(Code::UNAVAILABLE, text)
            }
        }
    }
}

/// The earlier of the two ends of a call; one timer.
#[derive(Debug)]
pub(super) struct Lifetime {
    sleep: Pin<Box<Sleep>>,
    end: End,
}

impl Lifetime {
    /// From now on; `None` when nothing ends the call.
    pub(super) fn new(deadline: Option<Instant>, settings: &Settings) -> Option<Self> {
        let age = settings.max_stream_age.and_then(|age| Instant::now().checked_add(vary(age, JITTER)));
        let (at, end) = match (deadline, age) {
            (Some(deadline), Some(age)) if age < deadline => (age, End::Age),
            (Some(deadline), _) => (deadline, End::Deadline),
            (None, Some(age)) => (age, End::Age),
            (None, None) => return None,
        };
        Some(Self { sleep: Box::pin(sleep_until(at)), end })
    }

    /// When, and what it is.
    pub(super) fn end(&self) -> (Instant, End) {
        (self.sleep.deadline(), self.end)
    }

    /// Ready when the time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.sleep.as_mut().poll(cx).map(|()| self.end)
    }

    /// Whether the deadline has passed, as far as timers can tell.
    pub(super) fn is_expired(&self) -> bool {
        self.end == End::Deadline && self.sleep.deadline() <= Instant::now() + TIMER_GRAIN
    }
}
