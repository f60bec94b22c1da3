//! Which upstream serves a method.

mod pattern;
mod table;
mod targets;
#[cfg(test)]
mod tests;

pub use pattern::{
    Asked, Conflict, HostPattern, MetadataCondition, ServicePattern, Specificity, ValuePattern, conflicts,
    normal,
};
pub(crate) use pattern::{host_of, split};
pub use table::Routes;

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    Limits, MessageLog, RouteLimits,
    identity::{Auth, Gate},
};
use crate::{
    schema::{JsonOptions, Schema},
    telemetry::{CallMetrics, Dialect, Metrics},
    upstream::Upstream,
    wire::metadata_rules::MetadataRules,
};
use targets::Targets;

/// One route of the configuration. Of the routes that take a call the most specific gets it: [`Specificity`].
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// The hosts of the calls that it takes: any of these; empty: any host at all.
    pub hosts: Vec<HostPattern>,
    /// Their methods.
    pub pattern: ServicePattern,
    /// What all of them have in their metadata.
    pub metadata: Vec<MetadataCondition>,
    /// What metrics and logs call it; `None`: what it takes, as text.
    pub name: Option<String>,
    /// The names of its upstreams, with the part of the calls that each gets: its weight of the sum of them all. At
    /// least one has weight.
    pub upstreams: Vec<(String, u32)>,
    /// The dialects in which its methods may be called; empty: all. In others they are UNIMPLEMENTED.
    pub dialects: Vec<Dialect>,
    /// The longest a call may take: also the deadline of calls that have none. `None`: no limit.
    pub timeout: Option<Duration>,
    /// The greatest age of a call, which ends so that its client calls again; its upstream's holds besides. `None`: no
    /// limit.
    pub max_stream_age: Option<Duration>,
    /// The largest message, either way.
    pub max_message: u64,
    /// How long its calls go on while their session has no carrier; zero: they end with the carrier that they run on.
    /// `None`: as long as the session.
    pub resume: Option<Duration>,
    /// Cookies that become metadata, in place of what the client says under that name. The settings' `cookies` must
    /// have their names.
    pub cookies: Vec<(String, HeaderName)>,
    /// What becomes of calls' metadata on its way up, after cookies and upgrade headers have come to it.
    pub request_metadata: MetadataRules,
    /// What becomes of services' metadata on its way down.
    pub response_metadata: Option<Arc<MetadataRules>>,
    /// How the route speaks JSON where a client asks for JSON.
    pub json: JsonOptions,
    /// Which of its calls' messages are logged; `None`: none.
    pub log_messages: Option<MessageLog>,
    /// Who may call; `None`: everybody, and nothing is known of identities.
    pub auth: Option<Auth>,
    /// What all clients together may use of it; `None`: no limits.
    pub limits: Option<Arc<RouteLimits>>,
}

impl RouteSettings {
    /// A route with every default.
    pub fn new(pattern: ServicePattern, upstream: impl Into<String>) -> Self {
        Self {
            hosts: Vec::new(),
            pattern,
            metadata: Vec::new(),
            name: None,
            upstreams: vec![(upstream.into(), 1)],
            dialects: Vec::new(),
            timeout: None,
            max_stream_age: None,
            max_message: Limits::default().max_message,
            resume: None,
            cookies: Vec::new(),
            request_metadata: MetadataRules::default(),
            response_metadata: None,
            json: JsonOptions::default(),
            log_messages: None,
            auth: None,
            limits: None,
        }
    }

    /// The upstream whose schema the route's JSON follows: the one with the most weight, of equals the first.
    pub fn main_upstream(&self) -> &str {
        let heaviest = self.upstreams.iter().rev().max_by_key(|(_, weight)| *weight);
        heaviest.map_or("", |(name, _)| name)
    }

    /// What metrics and logs call it.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.wanted())
    }
}

/// A route as a worker uses it.
#[derive(Debug)]
pub struct Route {
    /// The settings.
    pub settings: RouteSettings,
    /// The worker's upstreams.
    targets: Targets,
    /// The main upstream's schema, the same for all workers; `None`: it has none, and JSON is not spoken.
    pub schema: Option<Schema>,
    /// The name for metrics and logs.
    pub name: String,
    /// What its calls pass.
    pub(crate) gate: Option<Gate>,
    metrics: DialectMetrics,
}

impl Route {
    fn new(
        settings: &RouteSettings,
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
        metrics: &Metrics,
    ) -> Self {
        let target = |(name, weight): &(String, u32)| {
            let upstream = upstreams.get(name);
            let upstream = upstream.expect("the configuration accepts only routes to upstreams that it has");
            (upstream.clone(), *weight)
        };
        let name = settings.label();
        Self {
            targets: Targets::new(settings.upstreams.iter().map(target).collect(), targets::seed()),
            schema: schemas.get(settings.main_upstream()).cloned(),
            metrics: DialectMetrics::new(metrics, &name),
            gate: settings.auth.as_ref().map(|auth| Gate::new(auth, upstreams, metrics)),
            settings: settings.clone(),
            name,
        }
    }

    /// The upstream for a call: drawn by weight where there are several.
    pub fn upstream(&self) -> &Upstream {
        self.targets.draw()
    }

    /// Whether its methods may be called in a dialect.
    pub fn speaks(&self, dialect: Dialect) -> bool {
        let dialects = &self.settings.dialects;
        dialects.is_empty() || dialects.contains(&dialect)
    }

    /// The handles for counting this route's calls in a dialect.
    pub fn metrics(&self, dialect: Dialect) -> &Arc<CallMetrics> {
        self.metrics.of(dialect)
    }
}

/// One route's metric handles, by dialect: found without a look-up by name.
#[derive(Debug)]
struct DialectMetrics {
    grpc_web: Arc<CallMetrics>,
    grpc_web_text: Arc<CallMetrics>,
    grpc: Arc<CallMetrics>,
    session: Arc<CallMetrics>,
    grpc_websockets: Arc<CallMetrics>,
    grpc_websockets_multiplex: Arc<CallMetrics>,
    json_http: Arc<CallMetrics>,
    json_socket: Arc<CallMetrics>,
}

impl DialectMetrics {
    fn new(metrics: &Metrics, route: &str) -> Self {
        Self {
            grpc_web: metrics.calls(route, Dialect::GrpcWeb),
            grpc_web_text: metrics.calls(route, Dialect::GrpcWebText),
            grpc: metrics.calls(route, Dialect::Grpc),
            session: metrics.calls(route, Dialect::Session),
            grpc_websockets: metrics.calls(route, Dialect::GrpcWebSockets),
            grpc_websockets_multiplex: metrics.calls(route, Dialect::GrpcWebSocketsMultiplex),
            json_http: metrics.calls(route, Dialect::JsonHttp),
            json_socket: metrics.calls(route, Dialect::JsonSocket),
        }
    }

    fn of(&self, dialect: Dialect) -> &Arc<CallMetrics> {
        match dialect {
            Dialect::GrpcWeb => &self.grpc_web,
            Dialect::GrpcWebText => &self.grpc_web_text,
            Dialect::Grpc => &self.grpc,
            Dialect::Session => &self.session,
            Dialect::GrpcWebSockets => &self.grpc_websockets,
            Dialect::GrpcWebSocketsMultiplex => &self.grpc_websockets_multiplex,
            Dialect::JsonHttp => &self.json_http,
            Dialect::JsonSocket => &self.json_socket,
        }
    }
}
