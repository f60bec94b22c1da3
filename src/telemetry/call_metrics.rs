//! The cached metric handles of one route and dialect.

use std::sync::OnceLock;

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{call_times::CallTimes, method_metrics::MethodMetrics, metrics::EndLabels};
use crate::wire::{Code, Origin};

/// Codes 0 to 16, and one place for all others.
pub(super) const CODES: usize = 18;

/// The code's place among them.
pub(super) fn place(code: Code) -> usize {
    (code.0 as usize).min(CODES - 1)
}

/// The handles of one route and dialect, looked up once and cached: counting costs an atomic add.
#[derive(Debug)]
pub struct CallMetrics {
    pub(super) route: String,
    pub(super) dialect: &'static str,
    pub(super) started: Counter,
    pub(super) active: Gauge,
    pub(super) times: CallTimes,
    pub(super) methods: MethodMetrics,
    pub(super) up: Traffic,
    pub(super) down: Traffic,
    pub(super) ended: Family<EndLabels, Counter>,
    /// Made when first used: most codes never occur, and a series that was never counted need not be exported.
    pub(super) by_end: [[OnceLock<Counter>; 3]; CODES],
}

/// Messages and their bytes, in one direction.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) messages: Counter,
    pub(super) bytes: Counter,
}

impl CallMetrics {
    /// The route's configured name.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The dialect's word.
    pub fn dialect(&self) -> &'static str {
        self.dialect
    }

    /// The counter of calls that ended so.
    pub(super) fn ended(&self, code: Code, origin: Origin) -> &Counter {
        let column = match origin {
            Origin::Client => 0,
            Origin::Proxy => 1,
            Origin::Upstream => 2,
        };
        self.by_end[place(code)][column].get_or_init(|| {
            self.ended.get_or_create_owned(&EndLabels {
                route: self.route.clone(),
                dialect: self.dialect,
                code: code.name(),
                origin: origin.as_str(),
            })
        })
    }
}
