//! What a route asks of a call: host, method, metadata; and which of two routes asks for more.

use std::{borrow::Cow, cmp::Reverse, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST, request::Parts, uri::Authority};

use super::RouteSettings;

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

impl ServicePattern {
    /// Whether it has this method.
    pub fn matches(&self, service: &str, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Package(package) => service.starts_with(package.as_str()),
            Self::Service(own) => own == service,
            Self::Method(own, own_method) => own == service && own_method == method,
        }
    }

    /// The more specific, the larger: any, the shortest package, the longest, a service, a method.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Package(package) => (1, package.len()),
            Self::Service(_) => (2, 0),
            Self::Method(..) => (3, 0),
        }
    }
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

/// Which hosts a route serves: the names under which clients reach the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `chat.example.com`, in lower case.
    Exact(String),
    /// `*.example.com`: every name below it (kept with the dot: `.example.com`), but not the name itself.
    Subdomains(String),
}

impl HostPattern {
    /// Reads `chat.example.com`, `*.example.com` or an IP address; in any case. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Err("leave `hosts` out for every host");
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err("'*' stands only for what is below a name, as in *.example.com");
        }
        if name.contains("://") || name.contains('/') {
            return Err("a host is a name without scheme and path");
        }
        if !name.is_ascii() {
            return Err("names with other letters are written in their ASCII form (xn--…)");
        }
        let authority: Authority = name.parse().map_err(|_| "it is no host name")?;
        if authority.port().is_some() || name.contains('@') {
            return Err("the port is not looked at; leave it out");
        }
        let is_address = name.starts_with('[');
        let is_name = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if !is_address && !name.split('.').all(is_name) {
            return Err("names have letters, digits and '-', separated by dots");
        }
        let name = name.to_ascii_lowercase();
        match below {
            true if is_address => Err("an address has nothing below it"),
            true => Ok(Self::Subdomains(format!(".{name}"))),
            false => Ok(Self::Exact(name)),
        }
    }

    /// Whether it has this host, which `host_of` has read.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(own) => own == host,
            Self::Subdomains(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// The more specific, the larger.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Subdomains(suffix) => (1, suffix.len()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Subdomains(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// The host that a request asks for, without its port, in lower case: `:authority`, or else `host` (RFC 9112, section
/// 3.2.2: where both are there, the request line's counts). `None`: there is none, or it is none.
pub(crate) fn host_of(head: &Parts) -> Option<Cow<'_, str>> {
    if let Some(authority) = head.uri.authority() {
        return Some(normal(authority.host()));
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next()?;
    let authority: Authority = host.to_str().ok().filter(|_| hosts.next().is_none())?.parse().ok()?;
    Some(normal(authority.host()).into_owned().into())
}

/// A host in lower case, without the dot that ends a name which is complete.
pub fn normal(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    }
}

/// What a call's metadata must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MetadataCondition {
    /// Of which entry.
    pub name: HeaderName,
    /// What of its value. Several entries of a name are one value, joined by commas.
    pub value: ValuePattern,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValuePattern {
    /// `*`: anything, but it must be there.
    Any,
    /// `v2.*`: it begins with this.
    Prefix(String),
    /// Exactly this.
    Exact(String),
}

impl MetadataCondition {
    /// Whether metadata fulfils it.
    pub fn holds(&self, metadata: &HeaderMap) -> bool {
        let mut values = metadata.get_all(&self.name).iter();
        let Some(first) = values.next() else { return false };
        let Some(second) = values.next() else { return self.value.matches(first.as_bytes()) };
        let rest = [first, second].into_iter().chain(values).map(HeaderValue::as_bytes);
        self.value.matches(&rest.collect::<Vec<_>>().join(&b','))
    }

    /// Whether one call can fulfil both.
    fn can_hold_with(&self, other: &Self) -> bool {
        if self.name != other.name {
            return true;
        }
        match (&self.value, &other.value) {
            (ValuePattern::Any, _) | (_, ValuePattern::Any) => true,
            (ValuePattern::Exact(a), ValuePattern::Exact(b)) => a == b,
            (ValuePattern::Exact(exact), ValuePattern::Prefix(prefix))
            | (ValuePattern::Prefix(prefix), ValuePattern::Exact(exact)) => {
                exact.starts_with(prefix.as_str())
            }
            (ValuePattern::Prefix(a), ValuePattern::Prefix(b)) => {
                a.starts_with(b.as_str()) || b.starts_with(a.as_str())
            }
        }
    }

    /// Whether whatever fulfils `other` fulfils this.
    fn follows_from(&self, other: &Self) -> bool {
        self.name == other.name
            && match (&self.value, &other.value) {
                (ValuePattern::Any, _) => true,
                (ValuePattern::Prefix(prefix), ValuePattern::Prefix(text) | ValuePattern::Exact(text)) => {
                    text.starts_with(prefix.as_str())
                }
                (ValuePattern::Exact(a), ValuePattern::Exact(b)) => a == b,
                _ => false,
            }
    }
}

impl ValuePattern {
    /// Reads `*`, `v2.*` or a value.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some("") => Self::Any,
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Exact(exact) => value == exact.as_bytes(),
        }
    }
}

impl fmt::Display for MetadataCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.value {
            ValuePattern::Any => write!(f, "{name}"),
            ValuePattern::Prefix(prefix) => write!(f, "{name}={prefix}*"),
            ValuePattern::Exact(exact) => write!(f, "{name}={exact}"),
        }
    }
}

/// A call, as far as routes look at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name under which the client reached the proxy, as [`normal`] writes it.
    pub host: Option<&'a str>,
    /// What should be `/package.Service/Method`.
    pub path: &'a str,
    /// The call's metadata.
    pub metadata: &'a HeaderMap,
}

/// How much a route asks for of what a call has; of several routes that take a call, the greatest gets it. Compared in
/// this order: host (exact, longest wildcard, any), method (method, service, longest package, any), metadata (most
/// conditions, then most exact values, most prefixes, the longest prefixes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    host: (u8, usize),
    service: (u8, usize),
    metadata: [usize; 4],
}

impl Specificity {
    /// What makes it greater than another that is less: `host`, `method` or `metadata`.
    pub fn decided_over(&self, less: &Self) -> &'static str {
        if self.host != less.host {
            "host"
        } else if self.service != less.service {
            "method"
        } else {
            "metadata"
        }
    }
}

impl RouteSettings {
    /// Whether it takes a call, and how specifically.
    pub fn takes(&self, asked: &Asked<'_>) -> Option<Specificity> {
        let (service, method) = split(asked.path)?;
        let host = self.host(asked.host)?;
        let takes = self.pattern.matches(service, method)
            && self.metadata.iter().all(|condition| condition.holds(asked.metadata));
        takes.then(|| Specificity { host, service: self.pattern.rank(), metadata: self.metadata_rank() })
    }

    /// The rank of its most specific host that is this one; `None`: it is for other hosts.
    fn host(&self, host: Option<&str>) -> Option<(u8, usize)> {
        if self.hosts.is_empty() {
            return Some((0, 0));
        }
        let host = host?;
        self.hosts.iter().filter(|pattern| pattern.matches(host)).map(HostPattern::rank).max()
    }

    fn metadata_rank(&self) -> [usize; 4] {
        let count = |is: fn(&ValuePattern) -> bool| self.metadata.iter().filter(|c| is(&c.value)).count();
        let exact = count(|value| matches!(value, ValuePattern::Exact(_)));
        let prefixes = count(|value| matches!(value, ValuePattern::Prefix(_)));
        let lengths = self.metadata.iter().map(|condition| match &condition.value {
            ValuePattern::Prefix(prefix) => prefix.len(),
            _ => 0,
        });
        [self.metadata.len(), exact, prefixes, lengths.sum()]
    }

    /// In the order in which a table asks routes of the same host and pattern. Where the rank is the same, either no
    /// call is of both, or another comes before both; then the order means nothing, but it is always the same.
    pub(super) fn order(&self) -> impl Ord + use<> {
        (Reverse(self.metadata_rank()), self.wanted())
    }
}

/// Routes that some calls could go to alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Their places in the list.
    pub routes: (usize, usize),
    /// A host that both name; `None`: both are for any.
    pub host: Option<HostPattern>,
}

/// The first two routes (of every two at most once) for which it cannot be said which of them is the more specific:
/// calls exist that both take, with the same host pattern, the same service pattern and metadata conditions of the
/// same rank, and no third route asks for all that both ask for.
pub fn conflicts(routes: &[RouteSettings]) -> Vec<Conflict> {
    let mut found = Vec::new();
    for (later, b) in routes.iter().enumerate() {
        for (earlier, a) in routes[..later].iter().enumerate() {
            if a.pattern != b.pattern || a.metadata_rank() != b.metadata_rank() {
                continue;
            }
            let mut both = a.metadata.iter().flat_map(|x| b.metadata.iter().map(move |y| (x, y)));
            if !both.all(|(x, y)| x.can_hold_with(y)) {
                continue;
            }
            let shared: Vec<_> = match (a.hosts.is_empty(), b.hosts.is_empty()) {
                (true, true) => vec![None],
                _ => a.hosts.iter().filter(|host| b.hosts.contains(host)).map(Some).collect(),
            };
            let open = shared.into_iter().find(|host| !routes.iter().any(|c| c.settles(a, b, *host)));
            if let Some(host) = open {
                found.push(Conflict { routes: (earlier, later), host: host.cloned() });
            }
        }
    }
    found
}

impl RouteSettings {
    /// Whether every call of this host that both `a` and `b` take goes to this rather than to them.
    fn settles(&self, a: &Self, b: &Self, host: Option<&HostPattern>) -> bool {
        let is_there = match host {
            Some(host) => self.hosts.contains(host),
            None => self.hosts.is_empty(),
        };
        let asked = || a.metadata.iter().chain(&b.metadata);
        is_there
            && self.pattern == a.pattern
            && self.metadata_rank() > a.metadata_rank()
            && self.metadata.iter().all(|own| asked().any(|given| own.follows_from(given)))
    }

    /// Which calls it takes: the service pattern, behind the hosts, before the metadata.
    pub fn wanted(&self) -> String {
        let list = |items: Vec<String>| items.join(",");
        let mut text = self.pattern.to_string();
        if !self.hosts.is_empty() {
            let hosts = self.hosts.iter().map(ToString::to_string).collect();
            text = format!("{} {text}", list(hosts));
        }
        if !self.metadata.is_empty() {
            let metadata = self.metadata.iter().map(ToString::to_string).collect();
            text += &format!(" [{}]", list(metadata));
        }
        text
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
