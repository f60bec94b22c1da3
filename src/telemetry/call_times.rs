//! How long calls take: to their headers, to their first message, to their end.

use prometheus_client::{
    metrics::{
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::Registry,
};

use super::metrics::RouteLabels;

/// Seconds, from a local unary call to a stream that lasted an hour.
const DURATION_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0];

#[derive(Clone, Debug)]
struct NewDuration;

impl MetricConstructor<Histogram> for NewDuration {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATION_BUCKETS)
    }
}

/// The times of calls, by route and dialect.
#[derive(Debug)]
pub(super) struct TimeFamilies {
    duration: Family<RouteLabels, Histogram, NewDuration>,
    headers: Family<RouteLabels, Histogram, NewDuration>,
    first_message: Family<RouteLabels, Histogram, NewDuration>,
}

impl Default for TimeFamilies {
    fn default() -> Self {
        let new = || Family::new_with_constructor(NewDuration);
        Self { duration: new(), headers: new(), first_message: new() }
    }
}

impl TimeFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("call_duration_seconds", "Time from a call's begin to its end", self.duration.clone());
        r.register(
            "call_headers_seconds",
            "Time from a call's begin to the service's headers",
            self.headers.clone(),
        );
        r.register(
            "call_first_message_seconds",
            "Time from a call's begin to the service's first message",
            self.first_message.clone(),
        );
    }

    pub(super) fn of(&self, labels: &RouteLabels) -> CallTimes {
        CallTimes {
            duration: self.duration.get_or_create_owned(labels),
            headers: self.headers.get_or_create_owned(labels),
            first_message: self.first_message.get_or_create_owned(labels),
        }
    }
}

/// The handles of one route and dialect.
#[derive(Debug)]
pub(super) struct CallTimes {
    pub(super) duration: Histogram,
    pub(super) headers: Histogram,
    pub(super) first_message: Histogram,
}
