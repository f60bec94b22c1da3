//! Which upstream serves a method.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{telemetry::Metrics, upstream::Upstream};

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
}

/// A route as a worker uses it.
#[derive(Debug)]
pub struct Route {
    /// The settings.
    pub settings: RouteSettings,
    /// The worker's upstream.
    pub upstream: Upstream,
    /// The name for metrics and logs: the pattern as configured.
    pub name: String,
}

/// All routes of a worker.
#[derive(Debug)]
pub struct Routes {
    _todo: (),
}

impl Routes {
    /// Builds the table. Panics on an upstream name that `upstreams` does not have: the configuration has checked it.
    pub fn new(
        _routes: &[RouteSettings],
        _upstreams: &HashMap<String, Upstream>,
        _metrics: &Metrics,
    ) -> Self {
        todo!()
    }

    /// The route for `/package.Service/Method`; `None` when there is none or the path has another form.
    pub fn find(&self, _path: &str) -> Option<&Arc<Route>> {
        todo!()
    }
}
