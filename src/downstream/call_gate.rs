//! Whether a call may begin now: overload and the limits of its client, its principal and its route.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{
    AddressPermit, ConnInfo, Edge, Route,
    address_table::{Held, Subject},
    cancel_brake::CancelBrake,
    carrier::too_many_sockets,
    overload::{Resource, TRY_AGAIN},
    rate_table::Rate,
    route_limits::{RouteFull, RoutePermit},
};
use crate::{
    session::CloseReason,
    telemetry::{CallEnd, CallGuard},
    wire::{Code, Origin, Outcome},
};

/// Limits of one client, or of a route for all clients together; `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls that begin in a second, and as many at once.
    pub calls_per_second: Option<u32>,
    /// Calls that run.
    pub concurrent_calls: Option<u32>,
    /// Messages that are sent upstream in a second, in all calls together, and as many at once. More wait.
    pub messages_per_second: Option<u32>,
    /// The same of their bytes, with their prefixes.
    pub bytes_per_second: Option<u32>,
}

impl CallLimits {
    /// Whether messages may have to wait.
    pub(super) fn bounds_traffic(&self) -> bool {
        self.messages_per_second.is_some() || self.bytes_per_second.is_some()
    }
}

/// The trailer that tells clients when to try again, in milliseconds (gRFC A6, "Pushback"). gRPC libraries read it
/// by themselves, which they do not do with a `RetryInfo` detail.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A call whose deadline is over so soon was opened to be reset: it counts as one that its client gave up. So does one
/// that the proxy ends because of its request. Either way the proxy resets it at the service, as often as the client
/// likes.
const HOPELESS: Duration = Duration::from_millis(100);

/// A call's places, until it ends.
#[derive(Debug)]
pub(crate) struct CallPlaces {
    address: Option<AddressPermit>,
    principal: Option<AddressPermit>,
    route: Option<RoutePermit>,
    brake: Option<Arc<CancelBrake>>,
}

impl CallGuard for CallPlaces {
    fn ended(&self, end: CallEnd) {
        let CallEnd { code, origin, faulty_request, duration } = end;
        let is_given_up = (code, origin) == (Code::CANCELLED, Origin::Client);
        let is_hopeless = (code, origin) == (Code::DEADLINE_EXCEEDED, Origin::Proxy) && duration < HOPELESS;
        if let Some(brake) = &self.brake
            && (is_given_up || is_hopeless || faulty_request)
        {
            brake.count();
        }
    }
}

/// Lets a call in as far as its client's address goes: before anything of it is read, or anybody is asked about it.
pub(crate) fn enter(edge: &Edge, conn: &ConnInfo) -> Result<CallPlaces, Box<Outcome>> {
    if let Some(resource) = edge.overloaded() {
        edge.metrics.limits().shed(resource.as_str(), "call");
        return Err(refusal(Code::UNAVAILABLE, overloaded(resource), Some(TRY_AGAIN)));
    }
    let address = client(edge, Subject::of(conn.peer.ip()), edge.settings().limits.per_address)?;
    Ok(CallPlaces { address, principal: None, route: None, brake: conn.brake.clone() })
}

/// A verified name as limits count it.
pub(crate) fn name(principal: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    principal.hash(&mut hasher);
    hasher.finish()
}

impl CallPlaces {
    /// Lets it go on to its route, once it is known who calls: `principal` is a hash of the verified name. What comes
    /// back is to be kept as long as the call runs.
    pub(crate) fn go_on(
        mut self,
        edge: &Edge,
        route: &Route,
        principal: Option<u64>,
    ) -> Result<Option<Box<dyn CallGuard>>, Box<Outcome>> {
        if let Some(name) = principal {
            self.principal = client(edge, Subject::Principal(name), edge.settings().limits.per_principal)?;
        }
        if let Some(limits) = &route.settings.limits {
            self.route = Some(limits.enter().map_err(|full| route_full(edge, route, full))?);
        }
        let is_empty = self.address.is_none()
            && self.principal.is_none()
            && self.route.is_none()
            && self.brake.is_none();
        Ok((!is_empty).then(|| Box::new(self) as _))
    }
}

/// What one client may do.
fn client(edge: &Edge, subject: Subject, limits: CallLimits) -> Result<Option<AddressPermit>, Box<Outcome>> {
    let (who, limit) = match subject {
        Subject::Address(_) => ("this address", ["concurrent_calls_per_address", "calls_per_address"]),
        Subject::Principal(_) => ("this user", ["concurrent_calls_per_principal", "calls_per_principal"]),
    };
    let mut permit = None;
    if let Some(most) = limits.concurrent_calls {
        permit = edge.addresses.hold(Held::Calls, subject, most);
        if permit.is_none() {
            edge.metrics.limits().limited(limit[0]);
            let text = format!("{who} has {most} open calls, which is the limit");
            return Err(refusal(Code::RESOURCE_EXHAUSTED, text, None));
        }
    }
    if let Some(most) = limits.calls_per_second {
        let taken = edge.addresses.rates.take((Held::Calls, subject), Rate::per_second(most), Instant::now());
        taken.map_err(|wait| {
            edge.metrics.limits().limited(limit[1]);
            let text = format!("{who} makes more than {most} calls a second, which is the limit");
            refusal(Code::RESOURCE_EXHAUSTED, text, Some(wait))
        })?;
    }
    Ok(permit)
}

/// Whether what a client says anew about itself may be verified now: that costs as much as a call.
pub(crate) fn refresh(edge: &Edge, conn: &ConnInfo) -> bool {
    let Some(most) = edge.settings().limits.per_address.calls_per_second else { return true };
    let key = (Held::Calls, Subject::of(conn.peer.ip()));
    edge.addresses.rates.take(key, Rate::per_second(most), Instant::now()).is_ok()
}

fn route_full(edge: &Edge, route: &Route, full: RouteFull) -> Box<Outcome> {
    let (limit, text, wait) = match full {
        RouteFull::Rate(most, wait) => {
            let text = format!("the route {} takes {most} calls a second, which is the limit", route.name);
            ("calls_per_route", text, Some(wait))
        }
        RouteFull::Concurrent(most) => {
            let text = format!("the route {} has {most} open calls, which is the limit", route.name);
            ("concurrent_calls_per_route", text, None)
        }
    };
    edge.metrics.limits().limited(limit);
    refusal(Code::RESOURCE_EXHAUSTED, text, wait)
}

fn refusal(code: Code, text: impl Into<String>, wait: Option<Duration>) -> Box<Outcome> {
    let mut outcome = Outcome::proxy(code, text);
    if let Some(wait) = wait {
        // Rounded up: a client that comes a moment early comes twice.
        let ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        outcome.trailers.insert(PUSHBACK, HeaderValue::from(ms));
    }
    Box::new(outcome)
}

fn overloaded(resource: Resource) -> String {
    let what = match resource {
        Resource::Memory => "memory",
        Resource::Files => "file descriptors",
        Resource::EventLoop => "time",
    };
    format!("the proxy is short of {what} and takes no new work for now")
}

/// Why no new session or socket may begin now: the proxy is overloaded.
pub(crate) fn overload(edge: &Edge) -> Option<CloseReason> {
    let resource = edge.overloaded()?;
    edge.metrics.limits().shed(resource.as_str(), "session");
    Some(CloseReason::new(Code::UNAVAILABLE, "overloaded", overloaded(resource)))
}

/// Why a session or socket ends whose client gave too many calls up. Asked after each that is given up, and true once.
pub(crate) fn cancel_storm(edge: &Edge, conn: &ConnInfo) -> Option<CloseReason> {
    conn.brake.as_ref().filter(|brake| brake.has_tripped())?;
    edge.metrics.limits().limited("cancels");
    let text = "too many calls were opened and given up";
    Some(CloseReason::new(Code::RESOURCE_EXHAUSTED, "cancel_storm", text))
}

/// A place among the sockets of the client's address, for a socket that is all there is of its session; or why there
/// is none.
pub(crate) fn socket_place(edge: &Edge, conn: &ConnInfo) -> Result<AddressPermit, CloseReason> {
    upgrade(edge, conn)?;
    let place = edge.addresses.enter(conn.peer.ip(), edge.settings().limits.sockets_per_address);
    place.ok_or_else(|| too_many_sockets(edge))
}

/// Counts one more socket (or what stands in for it) of a client's address; or why it comes too soon.
pub(crate) fn upgrade(edge: &Edge, conn: &ConnInfo) -> Result<(), CloseReason> {
    let Some(most) = edge.settings().limits.upgrades_per_minute else { return Ok(()) };
    let key = (Held::Sockets, Subject::of(conn.peer.ip()));
    let taken = edge.addresses.rates.take(key, Rate::per_minute(most), Instant::now());
    taken.map_err(|wait| {
        edge.metrics.limits().limited("upgrades_per_address");
        let seconds = wait.as_secs() + 1;
        let text = format!(
            "this address opens more than {most} sockets a minute, which is the limit; try again in {seconds} s"
        );
        CloseReason::new(Code::RESOURCE_EXHAUSTED, "upgrades_per_address", text)
    })
}
