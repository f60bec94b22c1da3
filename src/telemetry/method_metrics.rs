//! Calls by method, as far as services know the methods.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::call_metrics::{CODES, place};
use crate::wire::{Code, Origin};

/// The most methods that have a series of their own; the others share one.
const MOST: usize = 1000;

/// The label of those others.
const OTHERS: &str = "(other)";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: String,
    code: &'static str,
}

/// What is counted of methods. A method becomes a label when a service has answered as only the method itself does, and
/// its other ends count from then on: so clients that make methods up make no labels, also where a service refuses callers
/// before it looks for the method, and no schema is needed.
#[derive(Debug, Default)]
pub(super) struct MethodFamilies {
    method_calls: Family<MethodLabels, Counter>,
    known: Arc<Mutex<HashSet<Box<str>>>>,
}

impl MethodFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "method_calls",
            "Calls that ended, by method, of methods that a service has answered",
            self.method_calls.clone(),
        );
    }

    pub(super) fn handle(&self) -> MethodMetrics {
        MethodMetrics {
            family: self.method_calls.clone(),
            known: Arc::clone(&self.known),
            cache: Mutex::default(),
        }
    }
}

/// One method's counters, made when first used.
type Counters = Arc<[OnceLock<Counter>; CODES]>;

/// Calls by method, of one route and dialect on one worker.
#[derive(Debug)]
pub(super) struct MethodMetrics {
    family: Family<MethodLabels, Counter>,
    /// Of the whole process; looked at when a method is new here.
    known: Arc<Mutex<HashSet<Box<str>>>>,
    /// Uncontended: a worker's own.
    cache: Mutex<HashMap<Box<str>, Counters>>,
}

impl MethodMetrics {
    /// A call has ended.
    pub(super) fn ended(&self, path: &str, code: Code, origin: Origin) {
        let method = path.strip_prefix('/').unwrap_or(path);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = cache.get(method) {
            return self.count(method, counters, code);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(method) {
            if origin != Origin::Upstream || !is_of_the_method(code) {
                return;
            }
            if known.len() >= MOST {
                self.series(OTHERS, code).inc();
                return;
            }
            known.insert(method.into());
        }
        drop(known);
        let counters = Counters::new([const { OnceLock::new() }; CODES]);
        self.count(method, &counters, code);
        cache.insert(method.into(), counters);
    }

    fn count(&self, method: &str, counters: &Counters, code: Code) {
        counters[place(code)].get_or_init(|| self.series(method, code)).inc();
    }

    fn series(&self, method: &str, code: Code) -> Counter {
        self.family.get_or_create_owned(&MethodLabels { method: method.to_owned(), code: code.name() })
    }
}

/// Whether a service answers so when it has the method. What it says of a method that it does not have (UNIMPLEMENTED), or
/// before it looks for it (who calls, how much, whether it is up), says nothing.
fn is_of_the_method(code: Code) -> bool {
    matches!(
        code,
        Code::OK
            | Code::INVALID_ARGUMENT
            | Code::NOT_FOUND
            | Code::ALREADY_EXISTS
            | Code::FAILED_PRECONDITION
            | Code::ABORTED
            | Code::OUT_OF_RANGE
            | Code::DATA_LOSS
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Dialect, Metrics};

    fn count(metrics: &Metrics, method: &str, code: &str) -> u64 {
        let series = format!("bidiway_method_calls_total{{method=\"{method}\",code=\"{code}\"}} ");
        let text = metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |value| value.parse().unwrap())
    }

    #[test]
    fn a_method_is_counted_once_a_service_has_answered_as_only_the_method_does() {
        let metrics = Metrics::new();
        let calls = metrics.calls("*", Dialect::Grpc);
        let other = metrics.calls("*", Dialect::Session);
        for (path, code, origin) in [
            ("/a.B/made-up", Code::UNIMPLEMENTED, Origin::Upstream),
            ("/a.B/made-up", Code::UNAUTHENTICATED, Origin::Upstream),
            ("/a.B/made-up", Code::OK, Origin::Proxy),
            ("/a.B/Known", Code::CANCELLED, Origin::Client),
            ("/a.B/Known", Code::NOT_FOUND, Origin::Upstream),
            ("/a.B/Known", Code::CANCELLED, Origin::Client),
        ] {
            calls.methods.ended(path, code, origin);
        }
        other.methods.ended("/a.B/Known", Code::CANCELLED, Origin::Client);
        assert_eq!(count(&metrics, "a.B/Known", "NOT_FOUND"), 1);
        assert_eq!(count(&metrics, "a.B/Known", "CANCELLED"), 2, "one was before it was known");
        assert!(!metrics.encode().contains("made-up"));
    }

    #[test]
    fn beyond_the_most_methods_the_others_share_a_series() {
        let metrics = Metrics::new();
        let calls = metrics.calls("*", Dialect::Grpc);
        for n in 0..MOST + 5 {
            calls.methods.ended(&format!("/a.B/M{n}"), Code::OK, Origin::Upstream);
        }
        calls.methods.ended("/a.B/M0", Code::OK, Origin::Upstream);
        assert_eq!(count(&metrics, "a.B/M0", "OK"), 2);
        assert_eq!(count(&metrics, OTHERS, "OK"), 5);
        assert_eq!(metrics.encode().matches("method_calls_total{").count(), MOST + 1);
    }
}
