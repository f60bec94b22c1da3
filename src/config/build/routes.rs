//! Which upstream serves what.

use std::{sync::Arc, time::Duration as Time};

use http::HeaderName;

use super::{Builder, LARGEST_MESSAGE, metadata_rules::Way};
use crate::{
    config::{
        Duration,
        choice::{Defaults, DialectWord, UnknownFields},
        file::{Json, LogMessages, Route, Upstream},
        node::Position,
        pattern,
        problem::did_you_mean,
        read::{At, Named},
    },
    downstream::{
        CallLimits, HostPattern, MessageLog, RouteLimits, RouteSettings, ServicePattern, conflicts,
    },
    schema::JsonOptions,
};

/// What routes depend on of the rest of the file.
pub(super) struct Around<'a> {
    pub(super) upstreams: &'a At<Named<Upstream>>,
    pub(super) origins: Option<&'a [At<String>]>,
    pub(super) upgrade_headers: &'a [HeaderName],
    /// Of routes that say nothing else.
    pub(super) max_message: u64,
    /// The longest that a session waits without a carrier, of all listeners.
    pub(super) resume: Time,
}

/// Where a route stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    line: u64,
    /// Its service, where its conflicts are reported.
    service: Position,
}

impl Builder<'_> {
    /// The routes, each with its line.
    pub(super) fn routes(
        &mut self,
        routes: Option<&[At<Route>]>,
        around: &Around<'_>,
    ) -> Option<Vec<(u64, RouteSettings)>> {
        let Named(entries) = &around.upstreams.value;
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.value.as_str()).collect();
        let Some(routes) = routes else {
            let [only] = &names[..] else {
                if names.len() > 1 {
                    let text = format!(
                        "`routes` is missing: with several upstreams ({}), say which serves what",
                        names.join(", ")
                    );
                    self.problems.add(around.upstreams.at, text);
                }
                return None;
            };
            let any = RouteSettings::new(ServicePattern::Any, (*only).to_owned());
            return Some(vec![(
                0,
                RouteSettings { max_message: around.max_message, auth: self.route_auth(None), ..any },
            )]);
        };
        let mut places = Vec::new();
        let mut built = Vec::new();
        for route in routes {
            if let Some(settings) = self.route(route, around, &names) {
                places.push(Place { line: route.at.line, service: route.value.service.at });
                built.push(settings);
            }
        }
        let whole = built.len() == routes.len();
        self.conflicts(&built, &places);
        self.route_names(routes, &built, &places);
        whole.then(|| places.iter().map(|place| place.line).zip(built).collect())
    }

    fn route(&mut self, given: &At<Route>, around: &Around<'_>, names: &[&str]) -> Option<RouteSettings> {
        let At { at, value: route } = given;
        let upstreams = self.route_upstreams(*at, route, names);
        let mut timeout = Time::ZERO;
        self.time(&mut timeout, route.timeout.as_ref());
        let max_stream_age = self.stream_age(route.max_stream_age.as_ref());
        let mut max_message = around.max_message;
        self.size(&mut max_message, route.max_message.as_ref(), 1, LARGEST_MESSAGE);
        let resume = self.route_resume(route.resume.as_ref(), around.resume);
        let hosts = route.hosts.as_ref().map(|hosts| self.hosts(&hosts.0)).unwrap_or_default();
        let metadata = self.conditions(route.metadata.as_ref(), around.upgrade_headers);
        let cookies = self.cookies(route.cookies.as_ref(), around.origins);
        let requests = route.request_metadata.as_ref();
        let request_metadata = requests.map(|rules| self.metadata_rules(rules, Way::Requests));
        let responses = route.response_metadata.as_ref();
        let response_metadata = responses.map(|rules| self.metadata_rules(rules, Way::Responses));
        let dialects = route.dialects.iter().flat_map(|words| &words.0);
        let dialects =
            dialects.flat_map(|At { value: DialectWord(dialects), .. }| *dialects).copied().collect();
        let log_messages = route.log_messages.as_ref().map(|given| self.log_messages(given));
        let limits = route.limits.as_ref().map(|given| {
            Arc::new(RouteLimits::new(CallLimits {
                calls_per_second: given.calls_per_second,
                concurrent_calls: given.concurrent_calls,
                messages_per_second: given.messages_per_second,
                bytes_per_second: self.bytes_per_second(given.bytes_per_second.as_ref()),
            }))
        });
        let pattern = pattern::parse(&route.service.value)
            .map_err(|error| self.problems.add(route.service.at, error))
            .ok()?;
        Some(RouteSettings {
            hosts,
            metadata,
            name: route.name.as_ref().map(|name| name.value.clone()),
            upstreams,
            dialects,
            timeout: route.timeout.is_some().then_some(timeout),
            max_stream_age,
            max_message,
            resume,
            cookies,
            request_metadata: request_metadata.unwrap_or_default(),
            response_metadata: response_metadata.filter(|rules| !rules.is_empty()).map(Into::into),
            json: route.json.as_ref().map(json).unwrap_or_default(),
            log_messages,
            auth: self.route_auth(route.auth.as_ref()),
            limits,
            ..RouteSettings::new(pattern, "")
        })
    }

    fn route_resume(&mut self, given: Option<&At<Duration>>, most: Time) -> Option<Time> {
        let At { at, value: Duration(resume) } = given?;
        if *resume > most {
            let text = format!(
                "calls end with their sessions, which wait for {most:?} at most; make `session.resume` (or that of a \
                 listener) longer, or this shorter"
            );
            self.problems.add(*at, text);
        }
        Some(*resume)
    }

    fn route_upstreams(&mut self, at: Position, route: &Route, names: &[&str]) -> Vec<(String, u32)> {
        let weighted: Vec<(&At<String>, u32)> = match (&route.upstream, &route.upstreams) {
            (Some(one), None) => vec![(one, 1)],
            (None, Some(several)) => {
                let Named(entries) = &several.value;
                let weighted =
                    entries.iter().filter_map(|(name, weight)| Some((name, weight.as_ref()?.value.0)));
                let weighted: Vec<_> = weighted.collect();
                if !weighted.is_empty() && weighted.iter().all(|(_, weight)| *weight == 0) {
                    self.problems.add(several.at, "no upstream has weight; give one at least 1");
                }
                weighted
            }
            (Some(one), Some(_)) => {
                self.problems.add(one.at, "a route has `upstream`, or `upstreams` with weights; not both");
                return Vec::new();
            }
            (None, None) => {
                let text = "`upstream` (or `upstreams` with weights) is missing in a route";
                self.problems.add(at, text);
                return Vec::new();
            }
        };
        for (name, _) in &weighted {
            if !names.is_empty() && !names.contains(&name.value.as_str()) {
                let meant = did_you_mean(&name.value, names.iter().copied());
                let text =
                    format!("there is no upstream {:?}{meant}; there are: {}", name.value, names.join(", "));
                self.problems.add(name.at, text);
            }
        }
        weighted.into_iter().map(|(name, weight)| (name.value.clone(), weight)).collect()
    }

    fn hosts(&mut self, given: &[At<String>]) -> Vec<HostPattern> {
        let mut hosts = Vec::new();
        for At { at, value } in given {
            match HostPattern::parse(value) {
                Ok(host) if hosts.contains(&host) => self.problems.add(*at, format!("{host} is there twice")),
                Ok(host) => hosts.push(host),
                Err(why) => {
                    let text = format!(
                        "{value:?} is not a host: {why}; write chat.example.com, or *.example.com for every name below it"
                    );
                    self.problems.add(*at, text);
                }
            }
        }
        hosts
    }

    fn conflicts(&mut self, routes: &[RouteSettings], places: &[Place]) {
        for conflict in conflicts(routes) {
            let (earlier, later) = conflict.routes;
            let (route, line) = (&routes[later], places[earlier].line);
            let host = conflict.host.map(|host| format!(" for {host}")).unwrap_or_default();
            let text = if route.metadata.iter().all(|condition| routes[earlier].metadata.contains(condition))
            {
                format!("{} has a route already{host}, in line {line}", route.pattern)
            } else {
                format!(
                    "a call with the metadata of both could go to this route or to the one in line {line}{host}, as \
                     neither asks for more; add a condition to one of them, or a third route that asks for both"
                )
            };
            self.problems.add(places[later].service, text);
        }
    }

    /// What metrics tell apart must have names of its own.
    fn route_names(&mut self, given: &[At<Route>], routes: &[RouteSettings], places: &[Place]) {
        for (later, place) in places.iter().enumerate() {
            let own = given.iter().find(|route| route.value.service.at == place.service);
            let Some(At { at, value }) = own.and_then(|route| route.value.name.as_ref()) else { continue };
            let same = routes.iter().enumerate().find(|(n, other)| *n != later && other.label() == *value);
            if let Some((n, other)) = same
                && (n < later || other.name.is_none())
            {
                let text = format!("the route in line {} has the name {value:?} already", places[n].line);
                self.problems.add(*at, text);
            }
        }
    }

    /// What paths may begin with.
    pub(super) fn prefix(&mut self, given: Option<&At<String>>) -> Option<String> {
        let At { at, value } = given?;
        let is_segment = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|b| b.is_ascii_graphic() && !b"%?#*\\{}".contains(&b))
        };
        let why = match value.strip_prefix('/') {
            None => "it begins with '/'",
            Some(rest) if rest.ends_with('/') || rest.is_empty() => "it does not end with '/'",
            Some(rest) if !rest.split('/').all(is_segment) => {
                "its segments have visible ASCII characters, and none of % ? # * \\ { }"
            }
            Some(rest) if rest.split('/').next() == Some("bidiway") => "/bidiway is the proxy's own",
            Some(_) => return Some(value.clone()),
        };
        self.problems.add(*at, format!("{value:?} is no prefix of paths: {why}; write /api, for instance"));
        None
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
