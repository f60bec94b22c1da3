//! Which upstream serves what.

use std::{collections::HashMap, sync::Arc, time::Duration as Time};

use super::{Builder, LARGEST_MESSAGE};
use crate::{
    config::{
        choice::{Defaults, UnknownFields},
        file::{Json, LogMessages, Route, Upstream},
        node::Position,
        pattern,
        problem::did_you_mean,
        read::{At, Named},
    },
    downstream::{MessageLog, RouteLimits, RouteSettings, ServicePattern},
    schema::JsonOptions,
};

impl Builder<'_> {
    pub(super) fn routes(
        &mut self,
        routes: Option<&[Route]>,
        upstreams: &At<Named<Upstream>>,
        max_message: u64,
    ) -> Option<Vec<RouteSettings>> {
        let Named(entries) = &upstreams.value;
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.value.as_str()).collect();
        let Some(routes) = routes else {
            let [only] = &names[..] else {
                if names.len() > 1 {
                    let text = format!(
                        "`routes` is missing: with several upstreams ({}), say which serves what",
                        names.join(", ")
                    );
                    self.problems.add(upstreams.at, text);
                }
                return None;
            };
            let upstream = (*only).to_owned();
            return Some(vec![RouteSettings {
                max_message,
                ..RouteSettings::new(ServicePattern::Any, upstream)
            }]);
        };
        let mut seen: HashMap<ServicePattern, Position> = HashMap::new();
        let built: Vec<_> = routes
            .iter()
            .map(|route| {
                let upstream = &route.upstream;
                if !names.is_empty() && !names.contains(&upstream.value.as_str()) {
                    let meant = did_you_mean(&upstream.value, names.iter().copied());
                    let text = format!(
                        "there is no upstream {:?}{meant}; there are: {}",
                        upstream.value,
                        names.join(", ")
                    );
                    self.problems.add(upstream.at, text);
                }
                let mut timeout = Time::ZERO;
                self.time(&mut timeout, route.timeout.as_ref());
                let mut max = max_message;
                self.size(&mut max, route.max_message.as_ref(), 1, LARGEST_MESSAGE);
                let pattern = pattern::parse(&route.service.value)
                    .map_err(|error| self.problems.add(route.service.at, error))
                    .ok()?;
                if let Some(first) = seen.insert(pattern.clone(), route.service.at) {
                    let text = format!("{} has a route already, in line {}", route.service.value, first.line);
                    self.problems.add(route.service.at, text);
                }
                Some(RouteSettings {
                    timeout: route.timeout.is_some().then_some(timeout),
                    max_message: max,
                    json: route.json.as_ref().map(json).unwrap_or_default(),
                    log_messages: route.log_messages.as_ref().map(|given| self.log_messages(given)),
                    limits: route.limits.as_ref().map(|given| {
                        Arc::new(RouteLimits::new(given.calls_per_second, given.concurrent_calls))
                    }),
                    ..RouteSettings::new(pattern, upstream.value.clone())
                })
            })
            .collect();
        built.into_iter().collect()
    }

    fn log_messages(&mut self, given: &LogMessages) -> MessageLog {
        let mut log = MessageLog::new(given.sample.value.0);
        let mut max = log.max_bytes as u64;
        self.size(&mut max, given.max_bytes.as_ref(), 1, 1 << 20);
        log.max_bytes = max as usize;
        for word in given.redact.iter().flatten() {
            if !log.redact(&word.value) {
                self.problems.add(word.at, "a word to redact needs letters or digits");
            }
        }
        log
    }
}

/// How a route speaks JSON.
fn json(given: &Json) -> JsonOptions {
    JsonOptions {
        ignore_unknown: given.unknown_fields.is_some_and(|UnknownFields(ignore)| ignore),
        defaults: given.defaults.is_some_and(|Defaults(write)| write),
        field_names: given.field_names.unwrap_or_default(),
    }
}
