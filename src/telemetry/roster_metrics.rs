//! Upstreams' endpoints in metrics.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::upstream_metrics::UpstreamName;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointState {
    upstream: String,
    state: &'static str,
}

/// What is counted of endpoints.
#[derive(Debug, Default)]
pub(super) struct RosterFamilies {
    endpoints: Family<EndpointState, Gauge>,
    panic: Family<UpstreamName, Gauge>,
    ejections: Family<UpstreamName, Counter>,
    resolution_failures: Family<UpstreamName, Counter>,
    check_failures: Family<UpstreamName, Counter>,
}

impl RosterFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "upstream_endpoints",
            "Endpoints now: resolved (all of them), healthy (those that get calls), unhealthy and ejected",
            self.endpoints.clone(),
        );
        r.register(
            "upstream_panic",
            "1 while every endpoint is unhealthy or ejected, so that all are used",
            self.panic.clone(),
        );
        r.register(
            "upstream_ejections",
            "Endpoints ejected because they failed too often",
            self.ejections.clone(),
        );
        r.register(
            "upstream_resolution_failures",
            "Look-ups of endpoints' names that failed",
            self.resolution_failures.clone(),
        );
        r.register(
            "upstream_health_check_failures",
            "Health checks of endpoints that failed",
            self.check_failures.clone(),
        );
    }

    /// The handles for one upstream's endpoints.
    pub(super) fn of(&self, name: &str) -> RosterMetrics {
        let state =
            |state| self.endpoints.get_or_create_owned(&EndpointState { upstream: name.to_owned(), state });
        let labels = UpstreamName { upstream: name.to_owned() };
        RosterMetrics {
            resolved: state("resolved"),
            healthy: state("healthy"),
            unhealthy: state("unhealthy"),
            ejected: state("ejected"),
            panic: self.panic.get_or_create_owned(&labels),
            ejections: self.ejections.get_or_create_owned(&labels),
            resolution_failures: self.resolution_failures.get_or_create_owned(&labels),
            check_failures: self.check_failures.get_or_create_owned(&labels),
        }
    }
}

/// How many endpoints are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    /// All of them.
    pub resolved: i64,
    /// Those that get calls.
    pub healthy: i64,
    /// Those that health checks speak against.
    pub unhealthy: i64,
    /// Those that failed too often.
    pub ejected: i64,
    /// 1 when all are used because none should be.
    pub panic: i64,
}

/// The handles for one upstream's endpoints. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RosterMetrics {
    resolved: Gauge,
    healthy: Gauge,
    unhealthy: Gauge,
    ejected: Gauge,
    panic: Gauge,
    ejections: Counter,
    resolution_failures: Counter,
    check_failures: Counter,
}

impl RosterMetrics {
    /// Handles that nobody reads.
    pub fn uncounted() -> Self {
        Self::default()
    }

    /// What one owner says of its endpoints, and what it said before. There may be two owners for a while, when the
    /// configuration changes.
    pub fn count(&self, before: &Standings, now: &Standings) {
        self.resolved.inc_by(now.resolved - before.resolved);
        self.healthy.inc_by(now.healthy - before.healthy);
        self.unhealthy.inc_by(now.unhealthy - before.unhealthy);
        self.ejected.inc_by(now.ejected - before.ejected);
        self.panic.inc_by(now.panic - before.panic);
    }

    /// An endpoint is ejected.
    pub fn ejected(&self) {
        self.ejections.inc();
    }

    /// A name could not be looked up.
    pub fn resolution_failed(&self) {
        self.resolution_failures.inc();
    }

    /// A health check did not find a healthy endpoint.
    pub fn check_failed(&self) {
        self.check_failures.inc();
    }
}
