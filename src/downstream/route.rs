//! Which upstream serves a method.

use std::{cmp::Reverse, collections::HashMap, fmt, sync::Arc, time::Duration};

use super::{Limits, MessageLog, RouteLimits};
use crate::{
    schema::{JsonOptions, Schema},
    telemetry::{CallMetrics, Dialect, Metrics},
    upstream::Upstream,
};

/// Which methods a route serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServicePattern {
    /// `*`: everything.
    Any,
    /// `chat.v1.*`: every service whose full name begins with this package (kept with the dot: `chat.v1.`).
    Package(String),
    /// `chat.v1.Chat`: one service.
    Service(String),
    /// `chat.v1.Chat/Talk`: one method.
    Method(String, String),
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Package(package) => write!(f, "{package}*"),
            Self::Service(service) => f.write_str(service),
            Self::Method(service, method) => write!(f, "{service}/{method}"),
        }
    }
}

/// One route of the configuration. The most specific pattern wins: method, service, longest package, any.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// What it serves.
    pub pattern: ServicePattern,
    /// The name of its upstream.
    pub upstream: String,
    /// The longest a call may take: also the deadline of calls that have none. `None`: no limit.
    pub timeout: Option<Duration>,
    /// The largest message, either way.
    pub max_message: u64,
    /// How the route speaks JSON where a client asks for JSON.
    pub json: JsonOptions,
    /// Which of its calls' messages are logged; `None`: none.
    pub log_messages: Option<MessageLog>,
    /// What all clients together may use of it; `None`: no limits.
    pub limits: Option<Arc<RouteLimits>>,
}

impl RouteSettings {
    /// A route with every default.
    pub fn new(pattern: ServicePattern, upstream: impl Into<String>) -> Self {
        Self {
            pattern,
            upstream: upstream.into(),
            timeout: None,
            max_message: Limits::default().max_message,
            json: JsonOptions::default(),
            log_messages: None,
            limits: None,
        }
    }
}

/// A route as a worker uses it.
#[derive(Debug)]
pub struct Route {
    /// The settings.
    pub settings: RouteSettings,
    /// The worker's upstream.
    pub upstream: Upstream,
    /// The upstream's schema, the same for all workers; `None`: it has none, and JSON is not spoken.
    pub schema: Option<Schema>,
    /// The name for metrics and logs: the pattern as configured.
    pub name: String,
    metrics: DialectMetrics,
}

impl Route {
    /// The handles for counting this route's calls in a dialect.
    pub fn metrics(&self, dialect: Dialect) -> &Arc<CallMetrics> {
        self.metrics.of(dialect)
    }
}

/// The metric label of calls that no route serves.
const UNROUTED: &str = "(none)";

/// All routes of a worker.
#[derive(Debug)]
pub struct Routes {
    /// By `package.Service/Method`.
    methods: HashMap<String, Arc<Route>>,
    /// By `package.Service`.
    services: HashMap<String, Arc<Route>>,
    /// By `package.`, the longest first.
    packages: Vec<(String, Arc<Route>)>,
    any: Option<Arc<Route>>,
    unrouted: DialectMetrics,
}

impl Routes {
    /// Builds the table. Panics on an upstream name that `upstreams` does not have: the configuration has checked it.
    pub fn new(
        routes: &[RouteSettings],
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
        metrics: &Metrics,
    ) -> Self {
        let mut table = Self {
            methods: HashMap::new(),
            services: HashMap::new(),
            packages: Vec::new(),
            any: None,
            unrouted: DialectMetrics::new(metrics, UNROUTED),
        };
        for settings in routes {
            let upstream = upstreams
                .get(&settings.upstream)
                .expect("the configuration accepts only routes to upstreams that it has")
                .clone();
            let name = settings.pattern.to_string();
            let metrics = DialectMetrics::new(metrics, &name);
            let schema = schemas.get(&settings.upstream).cloned();
            let route = Arc::new(Route { settings: settings.clone(), upstream, schema, name, metrics });
            match &settings.pattern {
                ServicePattern::Any => table.any = Some(route),
                ServicePattern::Package(package) => table.packages.push((package.clone(), route)),
                ServicePattern::Service(service) => {
                    table.services.insert(service.clone(), route);
                }
                ServicePattern::Method(service, method) => {
                    table.methods.insert(format!("{service}/{method}"), route);
                }
            }
        }
        table.packages.sort_by_key(|(package, _)| Reverse(package.len()));
        table
    }

    /// The route for `/package.Service/Method`; `None` when there is none or the path has another form.
    pub fn find(&self, path: &str) -> Option<&Arc<Route>> {
        let (service, _) = split(path)?;
        if !self.methods.is_empty()
            && let Some(route) = self.methods.get(&path[1..])
        {
            return Some(route);
        }
        self.find_service(service)
    }

    /// The route of a service's methods that have none of their own.
    fn find_service(&self, service: &str) -> Option<&Arc<Route>> {
        if let Some(route) = self.services.get(service) {
            return Some(route);
        }
        let package = self.packages.iter().find(|(package, _)| service.starts_with(package.as_str()));
        package.map(|(_, route)| route).or(self.any.as_ref())
    }

    /// The routes that serve methods of `package.Service`.
    pub(crate) fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Arc<Route>> {
        let methods = self
            .methods
            .iter()
            .filter(move |(name, _)| name.strip_prefix(service).is_some_and(|rest| rest.starts_with('/')));
        let others = self.find_service(service);
        methods.map(|(_, route)| route).chain(others)
    }

    /// The handles for counting calls that no route serves.
    pub(crate) fn unrouted(&self, dialect: Dialect) -> &Arc<CallMetrics> {
        self.unrouted.of(dialect)
    }
}

/// Service and method of `/package.Service/Method`; `None` when the path has another form. What the names may hold
/// is narrower than a URL's path: visible ASCII without the characters that end a path or begin an escape.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'%'))
    };
    (is_name(service) && is_name(method)).then_some((service, method))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{ClientTls, Settings};

    fn routes(patterns: &[ServicePattern]) -> Routes {
        let upstream =
            Settings::new("u", vec!["http://127.0.0.1:1".parse().unwrap()], ClientTls::trusting_nobody());
        let upstreams = HashMap::from([("u".to_owned(), Upstream::new(Arc::new(upstream)))]);
        let settings: Vec<_> =
            patterns.iter().map(|pattern| RouteSettings::new(pattern.clone(), "u")).collect();
        Routes::new(&settings, &upstreams, &HashMap::new(), &Metrics::new())
    }

    fn all() -> [ServicePattern; 5] {
        [
            ServicePattern::Any,
            ServicePattern::Package("chat.".into()),
            ServicePattern::Package("chat.v1.".into()),
            ServicePattern::Service("chat.v1.Chat".into()),
            ServicePattern::Method("chat.v1.Chat".into(), "Talk".into()),
        ]
    }

    fn name<'a>(routes: &'a Routes, path: &str) -> Option<&'a str> {
        routes.find(path).map(|route| route.name.as_str())
    }

    #[test]
    fn the_most_specific_pattern_wins_in_whatever_order_they_stand() {
        let mut patterns = all();
        for _ in 0..patterns.len() {
            patterns.rotate_left(1);
            let routes = routes(&patterns);
            assert_eq!(name(&routes, "/chat.v1.Chat/Talk"), Some("chat.v1.Chat/Talk"));
            assert_eq!(name(&routes, "/chat.v1.Chat/Listen"), Some("chat.v1.Chat"));
            assert_eq!(name(&routes, "/chat.v1.Room/Talk"), Some("chat.v1.*"));
            assert_eq!(name(&routes, "/chat.v2.Chat/Talk"), Some("chat.*"));
            assert_eq!(name(&routes, "/chats.Chat/Talk"), Some("*"));
        }
    }

    #[test]
    fn without_a_route_for_everything_something_stays_unserved() {
        let routes = routes(&all()[1..]);
        assert_eq!(name(&routes, "/other.Service/Method"), None);
        assert_eq!(name(&routes, "/chat/Talk"), None, "a package is no service");
    }

    #[test]
    fn only_paths_of_the_form_of_a_method_are_served() {
        let routes = routes(&all());
        for path in [
            "",
            "/",
            "//",
            "/a",
            "/a/",
            "//b",
            "a/b",
            "/a/b/",
            "/a/b/c",
            "/a/b?c=d",
            "/a/%62",
            "/a/b#c",
            "/a b/c",
            "/ü/c",
            "/a/b\r\nx: y",
            "*",
        ] {
            assert_eq!(name(&routes, path), None, "{path:?}");
        }
        assert_eq!(name(&routes, "/a/b"), Some("*"));
    }

    #[test]
    fn each_dialect_of_a_route_is_counted_by_itself() {
        let routes = routes(&all());
        let route = routes.find("/a/b").unwrap();
        assert!(Arc::ptr_eq(route.metrics(Dialect::Grpc), route.metrics(Dialect::Grpc)));
        assert!(!Arc::ptr_eq(route.metrics(Dialect::Grpc), route.metrics(Dialect::Session)));
    }
}
