//! How fast clients may send within their calls.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{AddressTable, CallLimits, Edge, Rate, Route, RouteLimits, address_table::Subject};
use crate::{
    telemetry::Metrics,
    upstream::{Allowance, Turn},
};

/// What holds one call's messages back: those of its client's address, of its principal and of its route.
#[derive(Debug)]
struct ClientPace {
    addresses: Arc<AddressTable>,
    metrics: Arc<Metrics>,
    limits: Vec<Limit>,
}

#[derive(Debug)]
struct Limit {
    name: &'static str,
    what: Counted,
    rate: Rate,
    bucket: Whose,
}

#[derive(Clone, Copy, Debug)]
enum Counted {
    Messages,
    Bytes,
}

#[derive(Debug)]
enum Whose {
    Client(Subject),
    Route(Arc<RouteLimits>),
}

/// What a call must keep to; `None`: it may send as fast as it likes.
pub(super) fn of(
    edge: &Edge,
    client: Subject,
    principal: Option<u64>,
    route: &Route,
) -> Option<Arc<dyn Allowance>> {
    let settings = edge.settings();
    let (per_address, per_principal) = (&settings.limits.per_address, &settings.limits.per_principal);
    let per_route = route.settings.limits.as_ref();
    let has_principal = principal.is_some() && per_principal.bounds_traffic();
    if !per_address.bounds_traffic() && !has_principal && per_route.is_none_or(|it| !it.bounds_traffic()) {
        return None;
    }
    let mut limits = Vec::new();
    let mut add = |given: &CallLimits, names: [&'static str; 2], bucket: &dyn Fn() -> Whose| {
        let both = [(given.messages_per_second, Counted::Messages), (given.bytes_per_second, Counted::Bytes)];
        for (name, (most, what)) in names.into_iter().zip(both) {
            let rate = most.map(Rate::per_second);
            limits.extend(rate.map(|rate| Limit { name, what, rate, bucket: bucket() }));
        }
    };
    add(per_address, ["messages_per_address", "bytes_per_address"], &|| Whose::Client(client));
    if let Some(principal) = principal.map(Subject::Principal) {
        add(per_principal, ["messages_per_principal", "bytes_per_principal"], &|| Whose::Client(principal));
    }
    if let Some(route) = per_route {
        let names = ["messages_per_route", "bytes_per_route"];
        add(route.traffic(), names, &|| Whose::Route(Arc::clone(route)));
    }
    let (addresses, metrics) = (Arc::clone(&edge.addresses), Arc::clone(&edge.metrics));
    Some(Arc::new(ClientPace { addresses, metrics, limits }))
}

impl ClientPace {
    /// The limits that so much counts for, and how much.
    fn counts(&self, messages: u32, bytes: usize) -> impl Iterator<Item = (&Limit, u64)> {
        let count = move |what| match what {
            Counted::Messages => messages.into(),
            Counted::Bytes => bytes as u64,
        };
        self.limits.iter().map(move |limit| (limit, count(limit.what))).filter(|(_, count)| *count > 0)
    }
}

impl Allowance for ClientPace {
    fn take(&self, messages: u32, bytes: usize) -> Option<Turn> {
        let now = Instant::now();
        let mut turn: Option<Turn> = None;
        for (Limit { name, what, rate, bucket }, count) in self.counts(messages, bytes) {
            // Of all, so that each counts what passes: the longest wait is that of all together.
            let wait = match (bucket, what) {
                (Whose::Client(subject), _) => {
                    self.addresses.rates.reserve((*name, *subject), *rate, count, now)
                }
                (Whose::Route(limits), Counted::Messages) => limits.used.messages.reserve(*rate, count, now),
                (Whose::Route(limits), Counted::Bytes) => limits.used.bytes.reserve(*rate, count, now),
            };
            let at = now + wait;
            if !wait.is_zero() && turn.is_none_or(|turn| at > turn.at) {
                turn = Some(Turn { at, limit: name });
            }
        }
        turn
    }

    fn give_back(&self, messages: u32, bytes: usize) {
        for (Limit { name, what, rate, bucket }, count) in self.counts(messages, bytes) {
            match (bucket, what) {
                (Whose::Client(subject), _) => {
                    self.addresses.rates.give_back((*name, *subject), *rate, count, Instant::now());
                }
                (Whose::Route(limits), Counted::Messages) => limits.used.messages.give_back(*rate, count),
                (Whose::Route(limits), Counted::Bytes) => limits.used.bytes.give_back(*rate, count),
            }
        }
    }

    fn waited(&self, limit: &'static str, time: Duration) {
        self.metrics.limits().throttled(limit, time);
    }
}
