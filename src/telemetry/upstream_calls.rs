//! What becomes of calls on their way to an upstream, in metrics: how many there are, those refused, those sent again.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::upstream_metrics::UpstreamName;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    upstream: String,
    reason: &'static str,
}

/// Why a call was sent again, or another connection was tried for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The server refused the stream (REFUSED_STREAM).
    Refused,
    /// The server's GOAWAY names an earlier stream as its last.
    Goaway,
    /// The connection was lost before anything of the call was written to it.
    Unsent,
    /// The endpoint could not be connected to.
    Connect,
}

/// Why a call that the service had not looked at failed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// Too many of the upstream's recent calls were sent again already.
    Budget,
    /// It was tried as often as is allowed.
    Attempts,
    /// More of its request had been sent than is kept.
    Sent,
    /// Its deadline has passed.
    Deadline,
    /// Retries are off.
    Off,
}

/// Which limit refused a call: `max_calls` or `max_pending`.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    Calls,
    Pending,
}

const RETRIES: [&str; 4] = ["refused_stream", "goaway", "unsent", "connect"];
const NO_RETRIES: [&str; 5] = ["budget", "attempts", "sent", "deadline", "off"];
const REFUSALS: [&str; 2] = ["max_calls", "max_pending"];

/// What is counted of upstreams' calls.
#[derive(Debug, Default)]
pub(super) struct UpstreamCallFamilies {
    upstream_calls_active: Family<UpstreamName, Gauge>,
    upstream_calls_pending: Family<UpstreamName, Gauge>,
    upstream_calls_refused: Family<Because, Counter>,
    upstream_retries: Family<Because, Counter>,
    upstream_retries_denied: Family<Because, Counter>,
    upstream_calls_aged: Family<UpstreamName, Counter>,
    upstream_keepalive_backoffs: Family<UpstreamName, Counter>,
}

impl UpstreamCallFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "upstream_calls_active",
            "Calls to an upstream that run or wait for a connection now",
            self.upstream_calls_active.clone(),
        );
        r.register(
            "upstream_calls_pending",
            "Calls that wait for a connection to an upstream now",
            self.upstream_calls_pending.clone(),
        );
        r.register(
            "upstream_calls_refused",
            "Calls refused because an upstream has as many as its limit allows",
            self.upstream_calls_refused.clone(),
        );
        r.register(
            "upstream_retries",
            "Calls sent again because the service had not looked at them",
            self.upstream_retries.clone(),
        );
        r.register(
            "upstream_retries_denied",
            "Calls that failed although the service had not looked at them",
            self.upstream_retries_denied.clone(),
        );
        r.register(
            "upstream_calls_aged",
            "Calls ended because they reached an upstream's max_stream_age",
            self.upstream_calls_aged.clone(),
        );
        r.register(
            "upstream_keepalive_backoffs",
            "Times that a server found pings too many and their interval was doubled",
            self.upstream_keepalive_backoffs.clone(),
        );
    }

    /// The handles for one upstream's calls.
    pub(super) fn of(&self, name: &str) -> UpstreamCallMetrics {
        let labels = UpstreamName { upstream: name.to_owned() };
        let because = |family: &Family<Because, Counter>, reason| {
            family.get_or_create_owned(&Because { upstream: name.to_owned(), reason })
        };
        UpstreamCallMetrics(Arc::new(Handles {
            open: self.upstream_calls_active.get_or_create_owned(&labels),
            pending: self.upstream_calls_pending.get_or_create_owned(&labels),
            refused: REFUSALS.map(|reason| because(&self.upstream_calls_refused, reason)),
            retries: RETRIES.map(|reason| because(&self.upstream_retries, reason)),
            denied: NO_RETRIES.map(|reason| because(&self.upstream_retries_denied, reason)),
            aged: self.upstream_calls_aged.get_or_create_owned(&labels),
            keepalive_backoffs: self.upstream_keepalive_backoffs.get_or_create_owned(&labels),
        }))
    }
}

/// The handles for one upstream's calls. Cheap to clone.
///
/// What is open and what waits is counted here alone, in the whole process: the limits hold these very numbers.
#[derive(Clone, Debug)]
pub struct UpstreamCallMetrics(Arc<Handles>);

#[derive(Debug)]
struct Handles {
    open: Gauge,
    pending: Gauge,
    refused: [Counter; 2],
    retries: [Counter; 4],
    denied: [Counter; 5],
    aged: Counter,
    keepalive_backoffs: Counter,
}

/// One of those counted, until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl UpstreamCallMetrics {
    /// Counts an open call, unless `max` are open already in the process; then it is counted as refused.
    pub fn enter(&self, max: Option<usize>) -> Option<Counted> {
        self.count(&self.0.open, max, Refusal::Calls)
    }

    /// Counts a call that waits for a connection, unless `max` wait already in the process; then it is counted as
    /// refused.
    pub fn wait(&self, max: Option<usize>) -> Option<Counted> {
        self.count(&self.0.pending, max, Refusal::Pending)
    }

    fn count(&self, gauge: &Gauge, max: Option<usize>, refusal: Refusal) -> Option<Counted> {
        let before = usize::try_from(gauge.inc()).unwrap_or(0);
        let counted = Counted(gauge.clone());
        if max.is_some_and(|max| before >= max) {
            self.0.refused[refusal as usize].inc();
            return None;
        }
        Some(counted)
    }

    /// A call is sent again.
    pub fn retried(&self, why: Retry) {
        self.0.retries[why as usize].inc();
    }

    /// A call that the service has not looked at fails all the same.
    pub fn retry_denied(&self, why: NoRetry) {
        self.0.denied[why as usize].inc();
    }

    /// A call has reached its greatest age.
    pub fn aged(&self) {
        self.0.aged.inc();
    }

    /// A server has found the pings too many.
    pub fn keepalive_backed_off(&self) {
        self.0.keepalive_backoffs.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_counted_as_the_limit_allows_and_a_refused_one_leaves_nothing_behind() {
        let calls = UpstreamCallFamilies::default().of("chat");
        let first = calls.enter(Some(2)).unwrap();
        let _second = calls.enter(Some(2)).unwrap();
        assert!(calls.enter(Some(2)).is_none());
        assert_eq!((calls.0.open.get(), calls.0.refused[0].get(), calls.0.refused[1].get()), (2, 1, 0));
        drop(first);
        assert!(calls.enter(Some(2)).is_some());
        assert!(calls.wait(None).is_some());
        assert_eq!((calls.0.open.get(), calls.0.pending.get()), (1, 0));
    }
}
