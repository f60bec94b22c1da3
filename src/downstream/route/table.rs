//! All routes of a worker, found by hash look-ups.

use std::{
    cmp::Reverse,
    collections::HashMap,
    iter::{once, once_with},
    sync::Arc,
};

use super::{
    DialectMetrics, Route, RouteSettings,
    pattern::{Asked, HostPattern, ServicePattern, split},
};
use crate::{
    schema::Schema,
    telemetry::{CallMetrics, Dialect, Metrics},
    upstream::Upstream,
};

/// The metric label of calls that no route serves.
const UNROUTED: &str = "(none)";

/// All routes of a worker.
#[derive(Debug)]
pub struct Routes {
    /// Of hosts that are named.
    hosts: HashMap<String, Table>,
    /// Of the names below a name: by `.example.com`, the longest first.
    subdomains: Vec<(String, Table)>,
    /// Of any host.
    any: Table,
    unrouted: DialectMetrics,
}

/// The routes of a host.
#[derive(Debug, Default)]
struct Table {
    /// By `package.Service/Method`.
    methods: HashMap<String, Candidates>,
    /// By `package.Service`.
    services: HashMap<String, Candidates>,
    /// By `package.`, the longest first.
    packages: Vec<(String, Candidates)>,
    any: Candidates,
}

/// Routes that differ in what they ask of metadata, those that ask for more first.
type Candidates = Vec<Arc<Route>>;

impl Routes {
    /// Builds the table. Panics on an upstream name that `upstreams` does not have: the configuration has checked it.
    pub fn new(
        routes: &[RouteSettings],
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
        metrics: &Metrics,
    ) -> Self {
        let mut table = Self {
            hosts: HashMap::new(),
            subdomains: Vec::new(),
            any: Table::default(),
            unrouted: DialectMetrics::new(metrics, UNROUTED),
        };
        for settings in routes {
            let route = Arc::new(Route::new(settings, upstreams, schemas, metrics));
            if settings.hosts.is_empty() {
                table.any.insert(&route);
            }
            for host in &settings.hosts {
                match host {
                    HostPattern::Exact(host) => table.hosts.entry(host.clone()).or_default().insert(&route),
                    HostPattern::Subdomains(suffix) => under(&mut table.subdomains, suffix).insert(&route),
                }
            }
        }
        table.subdomains.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        let tables = table.hosts.values_mut().chain(table.subdomains.iter_mut().map(|(_, table)| table));
        tables.chain([&mut table.any]).for_each(Table::sort);
        table
    }

    /// The route of a call; `None` when there is none or the path has another form.
    pub fn find(&self, asked: &Asked<'_>) -> Option<&Arc<Route>> {
        let metadata = asked.metadata;
        let takes =
            |route: &&Arc<Route>| route.settings.metadata.iter().all(|condition| condition.holds(metadata));
        self.candidates(asked.host, asked.path).find(takes)
    }

    /// The routes that calls of a method on a host can go to, whatever their metadata; the most specific first.
    pub(crate) fn candidates<'a, 'p>(
        &'a self,
        host: Option<&'p str>,
        path: &'p str,
    ) -> impl Iterator<Item = &'a Arc<Route>> + use<'a, 'p> {
        let service = split(path).map(|(service, _)| service);
        service
            .into_iter()
            .flat_map(move |service| self.tables(host).flat_map(move |table| table.candidates(path, service)))
    }

    /// The tables of a host, the most specific first.
    fn tables<'a, 'p>(&'a self, host: Option<&'p str>) -> impl Iterator<Item = &'a Table> + use<'a, 'p> {
        let host = host.filter(|_| self.ask_for_hosts());
        let exact = host.and_then(|host| self.hosts.get(host));
        let below = host.into_iter().flat_map(move |host| {
            let matches = move |suffix: &str| host.len() > suffix.len() && host.ends_with(suffix);
            self.subdomains.iter().filter(move |(suffix, _)| matches(suffix)).map(|(_, table)| table)
        });
        exact.into_iter().chain(below).chain(once(&self.any))
    }

    /// Whether any route asks for a host.
    pub(crate) fn ask_for_hosts(&self) -> bool {
        !(self.hosts.is_empty() && self.subdomains.is_empty())
    }

    /// The routes that serve methods of `package.Service`, on whatever host.
    pub(crate) fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Arc<Route>> {
        let below = self.subdomains.iter().map(|(_, table)| table);
        let tables = self.hosts.values().chain(below).chain(once(&self.any));
        tables.flat_map(move |table| table.of_service(service))
    }

    /// The handles for counting calls that no route serves.
    pub(crate) fn unrouted(&self, dialect: Dialect) -> &Arc<CallMetrics> {
        self.unrouted.of(dialect)
    }
}

impl Table {
    fn insert(&mut self, route: &Arc<Route>) {
        let candidates = match &route.settings.pattern {
            ServicePattern::Any => &mut self.any,
            ServicePattern::Package(package) => under(&mut self.packages, package),
            ServicePattern::Service(service) => self.services.entry(service.clone()).or_default(),
            ServicePattern::Method(service, method) => {
                self.methods.entry(format!("{service}/{method}")).or_default()
            }
        };
        candidates.push(Arc::clone(route));
    }

    fn sort(&mut self) {
        self.packages.sort_by_key(|(package, _)| Reverse(package.len()));
        let packages = self.packages.iter_mut().map(|(_, candidates)| candidates);
        let lists = self.methods.values_mut().chain(self.services.values_mut()).chain(packages);
        for candidates in lists.chain([&mut self.any]) {
            candidates.sort_by_cached_key(|route| route.settings.order());
        }
    }

    fn candidates<'a, 'p>(
        &'a self,
        path: &'p str,
        service: &'p str,
    ) -> impl Iterator<Item = &'a Arc<Route>> + use<'a, 'p> {
        let method = move || self.methods.get(&path[1..]).filter(|_| !self.methods.is_empty());
        let service_ = move || self.services.get(service);
        let packages = self.packages.iter().filter(move |(package, _)| service.starts_with(package.as_str()));
        let lists = once_with(method).chain(once_with(service_)).flatten();
        lists.chain(packages.map(|(_, candidates)| candidates)).chain(once(&self.any)).flatten()
    }

    /// The routes of a service: those of its methods, and the one that the others have.
    fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Arc<Route>> {
        let is_own = move |name: &str| name.strip_prefix(service).is_some_and(|rest| rest.starts_with('/'));
        let methods = self.methods.iter().filter(move |(name, _)| is_own(name)).map(|(_, list)| list);
        let packages = self.packages.iter().filter(move |(package, _)| service.starts_with(package.as_str()));
        // A less specific pattern is asked only if all of the more specific ones ask for metadata.
        let mut shadowed = false;
        let others = self
            .services
            .get(service)
            .into_iter()
            .chain(packages.map(|(_, list)| list))
            .chain(once(&self.any))
            .take_while(move |list| {
                let goes_on = !shadowed;
                shadowed |= list.last().is_some_and(|route| route.settings.metadata.is_empty());
                goes_on
            });
        methods.chain(others).flatten()
    }
}

/// The value under a name in a short list, new if it is not there.
fn under<'a, T: Default>(list: &'a mut Vec<(String, T)>, name: &str) -> &'a mut T {
    let place = list.iter().position(|(own, _)| own == name).unwrap_or_else(|| {
        list.push((name.to_owned(), T::default()));
        list.len() - 1
    });
    &mut list[place].1
}
