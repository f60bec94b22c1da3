//! From what a client asked to what upstream is asked: the steps that are the same in every dialect.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, uri::PathAndQuery};
use tokio::time::Instant;

use super::{
    Asked, ConnInfo, Edge, Plan, Route, Subject, call_gate, client_pace, cookies, identity, message_log,
    trusted_proxies, upgrade_headers,
};
use crate::{
    telemetry::{CallRecord, ClientNames, Dialect},
    upstream::{Request, Upstream},
    wire::{Code, Outcome, metadata, timeout},
};

/// How a client, or a proxy before this one, calls a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A call as a client asks for it, in any dialect.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    /// How the client speaks.
    pub(crate) dialect: Dialect,
    /// The connection it came on.
    pub(crate) conn: &'a ConnInfo,
    /// The session's id for streams of sessions, for the log.
    pub(crate) session: Option<&'a Arc<str>>,
    /// What should be `/package.Service/Method`.
    pub(crate) path: &'a str,
    /// Headers or metadata as they came, not yet filtered.
    pub(crate) metadata: HeaderMap,
    /// What the configuration lets pass of the HTTP request's own headers: `upgrade_headers::pick`.
    pub(crate) upgrade_headers: &'a HeaderMap,
    /// The client's timeout, where its dialect has a form of its own for it. Otherwise `grpc-timeout` is read.
    pub(crate) timeout: Option<Duration>,
}

/// A call that may go upstream.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// What serves it.
    pub(crate) route: Arc<Route>,
    /// Where it goes: `upstream.call(request)`.
    pub(crate) upstream: Upstream,
    /// What opens it. The content type is `application/grpc`; a dialect that knows more replaces it.
    pub(crate) request: Request,
    /// Its account, already running.
    pub(crate) record: CallRecord,
}

/// Decides whether a call may go upstream, and how. A refusal is the call's outcome and is already counted and
/// logged; the dialect only has to tell the client.
///
/// `metadata` that the proxy adds for the service: `x-forwarded-for` and `x-forwarded-proto`. What a client says under
/// these and like names is dropped, unless the client is a trusted proxy.
pub(crate) fn admit(edge: &Edge, mut opening: Opening<'_>) -> Result<Admitted, Box<Outcome>> {
    // Before anything of the call is looked at, and told when its route is known.
    let places = call_gate::enter(edge, opening.conn);
    let timeout = opening.timeout();
    // Routes look at what is metadata, and at nothing else.
    metadata::filter_request(&mut opening.metadata);
    let plan = edge.plan();
    if !(opening.conn.by_proxy && opening.dialect.has_headers()) {
        trusted_proxies::drop_claims(&mut opening.metadata);
    }
    upgrade_headers::add(opening.upgrade_headers, &plan.settings, &mut opening.metadata);
    identity::remove_claimed(&plan.settings, &mut opening.metadata);
    let certificate = opening.conn.certificate.as_deref();
    plan.settings.client_identity.write_to(&mut opening.metadata, certificate);
    let route = plan.routes.find(&opening.asked());
    let mut record = record(edge, &plan, route, &opening);
    let client = Subject::of(opening.conn.peer.ip());
    let admitted = places.and_then(|places| {
        let (route, mut request, principal) = prepare(&plan, route, opening, timeout)?;
        let name = principal.as_deref().map(call_gate::name);
        if let Some(principal) = principal {
            record.verified(principal);
        }
        record.hold(places.go_on(edge, &route, name)?);
        request.pace = client_pace::of(edge, client, name, &route);
        Ok((route, request))
    });
    match admitted {
        Ok((route, mut request)) => {
            let upstream = route.upstream().clone();
            request.trip = Some(record.propagate(upstream.name(), &mut request.metadata));
            request.tap = message_log::sampled(edge, &route, &request);
            Ok(Admitted { route, upstream, request, record })
        }
        Err(outcome) => {
            record.end(&outcome);
            Err(outcome)
        }
    }
}

/// Opens the account of a call that a dialect refuses by itself, or that is about to be admitted.
pub(crate) fn account(edge: &Edge, opening: &Opening<'_>) -> CallRecord {
    let plan = edge.plan();
    record(edge, &plan, plan.routes.find(&opening.asked()), opening)
}

fn record(edge: &Edge, plan: &Plan, route: Option<&Arc<Route>>, opening: &Opening<'_>) -> CallRecord {
    let metrics = match route {
        Some(route) => route.metrics(opening.dialect),
        None => plan.routes.unrouted(opening.dialect),
    };
    let mut record =
        CallRecord::start(Arc::clone(metrics), opening.path, opening.conn.peer, opening.session.cloned());
    record.called_by(ClientNames {
        user_agent: opening.conn.user_agent.clone(),
        request_id: opening.metadata.get(REQUEST_ID).and_then(ClientNames::printable).map(Into::into),
    });
    if let Some(tracer) = edge.metrics.tracer() {
        record.trace(tracer, &opening.metadata);
    }
    record
}

impl Opening<'_> {
    fn asked(&self) -> Asked<'_> {
        Asked { host: self.conn.host.as_deref(), path: self.path, metadata: &self.metadata }
    }

    fn timeout(&self) -> Result<Option<Duration>, Box<Outcome>> {
        match self.timeout {
            Some(timeout) => Ok(Some(timeout)),
            None => header_timeout(&self.metadata),
        }
    }
}

/// Route and request, and on whose behalf the call is made, as far as the proxy has verified that: the same for all
/// tokens of one user.
type Prepared = (Arc<Route>, Request, Option<Arc<str>>);

fn prepare(
    plan: &Plan,
    route: Option<&Arc<Route>>,
    opening: Opening<'_>,
    timeout: Result<Option<Duration>, Box<Outcome>>,
) -> Result<Prepared, Box<Outcome>> {
    let Opening { dialect, conn, session, path, mut metadata, upgrade_headers: picked, .. } = opening;
    // A session has held its metadata against the limit itself, before base64 made it longer.
    let limit = if session.is_some() { usize::MAX } else { plan.settings.limits.max_metadata as usize };
    let Some(route) = route else {
        return Err(refusal(Code::UNIMPLEMENTED, no_route(path)));
    };
    let Ok(path) = PathAndQuery::try_from(path) else {
        return Err(refusal(Code::UNIMPLEMENTED, no_route(path)));
    };
    if !route.speaks(dialect) {
        return Err(refusal(Code::UNIMPLEMENTED, other_dialect(route, dialect)));
    }
    let timeout = timeout?;
    let size = metadata::size(&metadata);
    if size > limit {
        let message = format!("the call's metadata has {size} bytes, more than the limit of {limit} bytes");
        return Err(refusal(Code::RESOURCE_EXHAUSTED, message));
    }
    trusted_proxies::tell(&mut metadata, conn);
    cookies::add(&route.settings.cookies, picked, &mut metadata);

    let timeout = match (timeout, route.settings.timeout) {
        (Some(asked), Some(allowed)) => Some(asked.min(allowed)),
        (asked, allowed) => asked.or(allowed),
    };
    // A deadline past the end of time is none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let content_type = HeaderValue::from_static("application/grpc");
    let identity::Passed { principal, mut terms } =
        identity::check(route, conn, path.path(), &mut metadata, deadline)?;
    if let Some(age) = route.settings.max_stream_age {
        terms.get_or_insert_default().max_age = Some(age);
    }
    let response_rules = route.settings.response_metadata.clone();
    let request = Request {
        path,
        content_type,
        metadata,
        deadline,
        tap: None,
        trip: None,
        response_rules,
        terms,
        pace: None,
    };
    Ok((Arc::clone(route), request, principal))
}

fn refusal(code: Code, message: impl Into<String>) -> Box<Outcome> {
    Box::new(Outcome::proxy(code, message))
}

/// The timeout of a dialect that speaks HTTP headers.
fn header_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Box<Outcome>> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = timeout::decode(value.as_bytes());
    timeout.map(Some).map_err(|error| refusal(Code::INVALID_ARGUMENT, error.to_string()))
}

/// What a client reads that asks for something no route serves. Its text is cut: it goes into a header.
fn no_route(path: &str) -> String {
    let shown: String = path.chars().take(200).collect();
    match super::route::split(path) {
        Some(_) => format!("no route serves {shown}"),
        None => format!("{shown:?} is no gRPC method; its path has the form /package.Service/Method"),
    }
}

/// What a client reads whose dialect a route does not take. It is how the client speaks that is refused, and not who
/// he is: so UNIMPLEMENTED, the code of methods that are not offered, and not PERMISSION_DENIED.
fn other_dialect(route: &Route, dialect: Dialect) -> String {
    let allowed: Vec<_> = route.settings.dialects.iter().map(|dialect| dialect.as_str()).collect();
    format!("this method is not offered over {}, only over {}", dialect.as_str(), allowed.join(", "))
}
