//! Upstreams' schemas in metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::upstream_metrics::UpstreamName;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SchemaLoad {
    upstream: String,
    result: &'static str,
}

/// What is counted of schemas.
#[derive(Debug, Default)]
pub(super) struct SchemaFamilies {
    schema_loads: Family<SchemaLoad, Counter>,
    schema_loaded: Family<UpstreamName, Gauge>,
}

impl SchemaFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "schema_loads",
            "Services' descriptors asked for: loaded, changed, unchanged or failed",
            self.schema_loads.clone(),
        );
        r.register(
            "schema_loaded_timestamp_seconds",
            "When descriptors were last had from the upstream, in Unix time",
            self.schema_loaded.clone(),
        );
    }

    /// The handles for one upstream's schema.
    pub(super) fn of(&self, name: &str) -> SchemaMetrics {
        SchemaMetrics {
            upstream: name.to_owned(),
            loads: self.schema_loads.clone(),
            loaded: self.schema_loaded.clone(),
        }
    }
}

/// One upstream's schema in metrics.
#[derive(Clone, Debug)]
pub struct SchemaMetrics {
    upstream: String,
    loads: Family<SchemaLoad, Counter>,
    loaded: Family<UpstreamName, Gauge>,
}

impl SchemaMetrics {
    /// A service's descriptors were had from the upstream; `result` is `loaded`, `changed` or `unchanged`.
    pub fn had(&self, result: &'static str) {
        self.count(result);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.loaded.get_or_create(&UpstreamName { upstream: self.upstream.clone() }).set(now as i64);
    }

    /// They could not be had.
    pub fn failed(&self) {
        self.count("failed");
    }

    fn count(&self, result: &'static str) {
        self.loads.get_or_create(&SchemaLoad { upstream: self.upstream.clone(), result }).inc();
    }
}
