//! Which route a call would take, and why: for `bidiway check`.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, uri::Authority};

use super::{Config, InvalidValue, build::bytes};
use crate::{
    downstream::{Asked, HostPattern, MetadataCondition, RouteSettings, ServicePattern, Specificity, normal},
    telemetry::Dialect,
    wire::metadata,
};

/// A call to ask about.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// `/package.Service/Method`, with or without the first `/`.
    pub method: String,
    /// The host under which the client reaches the proxy; `None`: one that no route names.
    pub host: Option<String>,
    /// `name=value`; -bin values in base64.
    pub metadata: Vec<String>,
}

impl Config {
    /// Which route takes a call, with what it does; which others take it too, but less specifically; and which are for
    /// the method, but not for this call. Fails where the question makes no sense.
    pub fn explain(&self, question: &Question) -> Result<String, InvalidValue> {
        let path = self.path(&question.method)?;
        let host = question.host.as_deref().map(host).transpose()?;
        let metadata = self.metadata(&question.metadata)?;
        let asked = Asked { host: host.as_deref(), path: &path, metadata: &metadata };

        let routes = self.settings.downstream.routes.iter().zip(&self.route_lines);
        let mut takes: Vec<(Specificity, &RouteSettings, u64)> =
            routes.clone().filter_map(|(route, line)| Some((route.takes(&asked)?, route, *line))).collect();
        takes.sort_by_key(|(specificity, _, _)| std::cmp::Reverse(*specificity));
        let others: Vec<String> = routes
            .filter(|(route, _)| route.takes(&asked).is_none())
            .filter_map(|(route, line)| Some(format!("{}: {}", place(route, *line), missing(route, &asked)?)))
            .collect();

        let mut text = path.clone();
        if let Some(host) = &host {
            let _ = write!(text, " at {host}");
        }
        for (n, entry) in question.metadata.iter().enumerate() {
            let _ = write!(text, "{} {entry}", if n == 0 { " with" } else { "," });
        }
        match takes.split_first() {
            None => text += "\nhas no route: calls end with UNIMPLEMENTED.\n",
            Some(((specificity, route, line), less)) => {
                let _ = writeln!(text, "\ntakes {}", place(route, *line));
                describe(&mut text, route, &asked);
                if !less.is_empty() {
                    text += "\nRoutes that take it too, but are less specific:\n";
                }
                for (other, route, line) in less {
                    let by = specificity.decided_over(other);
                    let _ = writeln!(text, "  {}: less specific by its {by}", place(route, *line));
                }
            }
        }
        if !others.is_empty() {
            text += "\nRoutes for the method, but not for this call:\n";
        }
        for other in others {
            let _ = writeln!(text, "  {other}");
        }
        Ok(text)
    }

    fn path(&self, method: &str) -> Result<String, InvalidValue> {
        let mut path = if method.starts_with('/') { method.to_owned() } else { format!("/{method}") };
        if let Some(prefix) = &self.settings.downstream.prefix
            && let Some(rest) = path.strip_prefix(prefix.as_str())
            && rest.starts_with('/')
        {
            path = rest.to_owned();
        }
        let any = RouteSettings::new(ServicePattern::Any, "");
        match any.takes(&Asked { host: None, path: &path, metadata: &HeaderMap::new() }) {
            Some(_) => Ok(path),
            None => Err(InvalidValue(format!(
                "{method:?} is no gRPC method; write /package.Service/Method, such as /chat.v1.Chat/Talk"
            ))),
        }
    }

    fn metadata(&self, given: &[String]) -> Result<HeaderMap, InvalidValue> {
        let mut metadata = HeaderMap::new();
        for entry in given {
            let Some((name, value)) = entry.split_once('=') else {
                return Err(InvalidValue(format!(
                    "{entry:?} is no metadata; write name=value, such as x-canary=1"
                )));
            };
            let name = HeaderName::try_from(name.trim())
                .map_err(|_| InvalidValue(format!("{name:?} is no name of metadata")))?;
            let named = &self.settings.downstream.upgrade_headers;
            if !metadata::may_be_passed(&name) || metadata::needs_naming(&name) && !named.contains(&name) {
                let text = "is dropped before routes look at metadata: it is a browser's or the protocol's own, and \
                            `upgrade_headers` does not name it";
                return Err(InvalidValue(format!("{name} {text}")));
            }
            let value = metadata::text_value(value)
                .ok_or_else(|| InvalidValue(format!("the value of {name} is not printable ASCII")))?;
            metadata.append(name, value);
        }
        Ok(metadata)
    }
}

/// A host as routes see it: without a port, in lower case.
fn host(text: &str) -> Result<String, InvalidValue> {
    let wrong = |why: &str| {
        InvalidValue(format!(
            "{text:?} is not a host: {why}; write the name that clients use, such as app.example.com"
        ))
    };
    let authority: Authority =
        text.parse().map_err(|_| wrong("names have letters, digits and '-', separated by dots"))?;
    let host = normal(authority.host()).into_owned();
    match HostPattern::parse(&host) {
        Ok(HostPattern::Exact(host)) => Ok(host),
        Ok(HostPattern::Subdomains(_)) => Err(wrong("a client asks for one name")),
        Err(why) => Err(wrong(why)),
    }
}

/// What a route is called here.
fn place(route: &RouteSettings, line: u64) -> String {
    let what = route.wanted();
    let name = route.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    match line {
        0 => format!("the route for everything{name}"),
        line => format!("the route in line {line}{name}, {what}"),
    }
}

/// What a call lacks that a route for its method asks for; `None`: the route is for other methods.
fn missing(route: &RouteSettings, asked: &Asked<'_>) -> Option<String> {
    let wider = RouteSettings { hosts: Vec::new(), metadata: Vec::new(), ..route.clone() };
    wider.takes(asked)?;
    let here = |pattern: &HostPattern| asked.host.is_some_and(|host| pattern.matches(host));
    let mut lacks = Vec::new();
    if !route.hosts.is_empty() && !route.hosts.iter().any(here) {
        lacks.push(format!("for the host {}", list(&route.hosts, " or ")));
    }
    let unmet: Vec<&MetadataCondition> =
        route.metadata.iter().filter(|condition| !condition.holds(asked.metadata)).collect();
    if !unmet.is_empty() {
        lacks.push(format!("with the metadata {}", list(&unmet, " and ")));
    }
    Some(lacks.join(", "))
}

/// What the route of a call asks for and does.
fn describe(text: &mut String, route: &RouteSettings, asked: &Asked<'_>) {
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<20}{value}");
    };
    row("why", why(route, asked));
    let sum: u64 = route.upstreams.iter().map(|(_, weight)| u64::from(*weight)).sum();
    match &route.upstreams[..] {
        [(only, _)] => row("upstream", only.clone()),
        several => {
            let share = |(name, weight): &(String, u32)| {
                format!("{name} {:.4} %", f64::from(*weight) * 100.0 / sum as f64).replace(".0000", "")
            };
            let shares: Vec<_> = several.iter().map(share).collect();
            let main = route.main_upstream();
            row("upstreams", format!("{}; JSON by the schema of {main}", shares.join(", ")));
        }
    }
    let timeout = route.timeout.map(|timeout| format!("{timeout:?}, also for calls that bring none"));
    row("timeout", timeout.unwrap_or_else(|| "none".into()));
    if let Some(resume) = route.resume {
        row("without a carrier", format!("{resume:?} at most, in sessions"));
    }
    row("largest message", bytes(route.max_message));
    let dialects: Vec<_> = route.dialects.iter().copied().map(Dialect::as_str).collect();
    row("dialects", if dialects.is_empty() { "all".into() } else { dialects.join(", ") });
    if !route.cookies.is_empty() {
        let cookies: Vec<_> =
            route.cookies.iter().map(|(cookie, name)| format!("{cookie} as {name}")).collect();
        row("cookies", cookies.join(", "));
    }
    let rules = [
        ("request metadata", Some(&route.request_metadata).filter(|rules| !rules.is_empty())),
        ("response metadata", route.response_metadata.as_deref()),
    ];
    for (name, rules) in rules {
        let Some(rules) = rules else { continue };
        let mut steps = Vec::new();
        steps.extend(rules.remove.iter().map(|name| format!("remove {name}")));
        steps.extend(rules.rename.iter().map(|(from, to)| format!("rename {from} to {to}")));
        steps.extend(rules.set.iter().map(|(name, _)| format!("set {name}")));
        steps.extend(rules.add.iter().map(|(name, _)| format!("add {name}")));
        row(name, steps.join(", "));
    }
}

/// What the route asks for that the call has.
fn why(route: &RouteSettings, asked: &Asked<'_>) -> String {
    let here = route.hosts.iter().filter(|pattern| asked.host.is_some_and(|host| pattern.matches(host)));
    let host = match here.max_by_key(|pattern| (is_exact(pattern), pattern.to_string().len())) {
        None => "any host".to_owned(),
        Some(pattern) if is_exact(pattern) => format!("the host {pattern}"),
        Some(pattern) => format!("hosts {pattern}"),
    };
    let method = match &route.pattern {
        ServicePattern::Any => "any method".to_owned(),
        ServicePattern::Package(package) => format!("the package {}", package.trim_end_matches('.')),
        ServicePattern::Service(service) => format!("the service {service}"),
        ServicePattern::Method(service, method) => format!("the method {service}/{method}"),
    };
    let metadata = match &route.metadata[..] {
        [] => "any metadata".to_owned(),
        some => format!("the metadata {}", list(some, " and ")),
    };
    format!("it is for {host}, {method}, {metadata}")
}

fn is_exact(pattern: &HostPattern) -> bool {
    matches!(pattern, HostPattern::Exact(_))
}

fn list<T: ToString>(items: &[T], between: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}
