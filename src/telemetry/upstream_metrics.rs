//! Upstreams in metrics.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    Backpressure,
    upstream_calls::{UpstreamCallFamilies, UpstreamCallMetrics},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UpstreamName {
    pub(super) upstream: String,
}

/// What is counted of upstreams.
#[derive(Debug, Default)]
pub(super) struct UpstreamFamilies {
    upstream_connections: Family<UpstreamName, Gauge>,
    upstream_connects: Family<UpstreamName, Counter>,
    upstream_connect_failures: Family<UpstreamName, Counter>,
    calls: UpstreamCallFamilies,
}

impl UpstreamFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "upstream_connections",
            "Upstream connections open now",
            self.upstream_connections.clone(),
        );
        r.register("upstream_connects", "Upstream connections established", self.upstream_connects.clone());
        r.register(
            "upstream_connect_failures",
            "Upstream connections that could not be established",
            self.upstream_connect_failures.clone(),
        );
        self.calls.register(r);
    }

    /// The handles for one upstream's connections.
    pub(super) fn of(&self, name: &str, backpressure: Backpressure) -> UpstreamMetrics {
        let labels = UpstreamName { upstream: name.to_owned() };
        UpstreamMetrics {
            open: self.upstream_connections.get_or_create_owned(&labels),
            connects: self.upstream_connects.get_or_create_owned(&labels),
            failures: self.upstream_connect_failures.get_or_create_owned(&labels),
            calls: self.calls.of(name),
            backpressure: Arc::new(backpressure),
        }
    }
}

/// The handles for one upstream's connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    open: Gauge,
    connects: Counter,
    failures: Counter,
    calls: UpstreamCallMetrics,
    backpressure: Arc<Backpressure>,
}

impl UpstreamMetrics {
    /// How long its calls' bytes wait.
    pub fn backpressure(&self) -> &Arc<Backpressure> {
        &self.backpressure
    }

    /// A connection is established.
    pub fn connected(&self) {
        self.connects.inc();
        self.open.inc();
    }

    /// An established connection is gone.
    pub fn disconnected(&self) {
        self.open.dec();
    }

    /// A connection could not be established.
    pub fn connect_failed(&self) {
        self.failures.inc();
    }

    /// The handles for its calls.
    pub fn calls(&self) -> &UpstreamCallMetrics {
        &self.calls
    }
}
