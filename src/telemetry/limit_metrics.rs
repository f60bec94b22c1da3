//! Limits and overload in metrics.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Shed {
    resource: &'static str,
    work: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// What is counted of limits and overload, in the whole process. All words are fixed ones.
#[derive(Debug, Default)]
pub struct LimitMetrics {
    limited: Family<Limit, Counter>,
    throttled: Family<Limit, Counter<f64, AtomicU64>>,
    proxy_header_failures: Family<Why, Counter>,
    write_stalls: Counter,
    overload: Family<OfResource, Gauge>,
    shed: Family<Shed, Counter>,
    memory_max_bytes: Gauge,
}

impl LimitMetrics {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "limited",
            "Connections, sockets and calls beyond a limit of their client or route",
            self.limited.clone(),
        );
        r.register(
            "throttled_seconds",
            "Time in which calls held messages back because of a limit of their client or route",
            self.throttled.clone(),
        );
        r.register(
            "proxy_header_failures",
            "Connections without a PROXY header that is believed",
            self.proxy_header_failures.clone(),
        );
        r.register(
            "write_stalls",
            "Connections closed because their clients took nothing for too long",
            self.write_stalls.clone(),
        );
        r.register(
            "overload",
            "Workers (event_loop) or processes that shed new work now",
            self.overload.clone(),
        );
        r.register("shed", "New work refused because something ran short", self.shed.clone());
        r.register("memory_max_bytes", "The memory that the process may use", self.memory_max_bytes.clone());
    }

    /// Something was beyond a limit.
    pub fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&Limit { limit }).inc();
    }

    /// A call has held messages back for so long.
    pub fn throttled(&self, limit: &'static str, time: Duration) {
        self.throttled.get_or_create(&Limit { limit }).inc_by(time.as_secs_f64());
    }

    /// A connection did not begin with a PROXY header that is believed; `reason` is a stable word.
    pub fn proxy_header_failed(&self, reason: &'static str) {
        self.proxy_header_failures.get_or_create(&Why { reason }).inc();
    }

    /// A client took nothing for too long.
    pub fn write_stalled(&self) {
        self.write_stalls.inc();
    }

    /// The process sheds new work because of a resource, or takes it again.
    pub fn overload(&self, resource: &'static str, is_overloaded: bool) {
        self.overload.get_or_create(&OfResource { resource }).set(is_overloaded.into());
    }

    /// One more worker sheds new work because it lags, or one less.
    pub fn workers_lagging(&self, one_more: bool) {
        let gauge = self.overload.get_or_create(&OfResource { resource: "event_loop" });
        if one_more {
            gauge.inc()
        } else {
            gauge.dec()
        };
    }

    /// New work (`connection`, `session` or `call`) was refused.
    pub fn shed(&self, resource: &'static str, work: &'static str) {
        self.shed.get_or_create(&Shed { resource, work }).inc();
    }

    /// The memory that the process may use, in bytes.
    pub fn memory_max(&self, most: u64) {
        self.memory_max_bytes.set(most.cast_signed());
    }
}
