//! The connections of one upstream on one worker, and which call goes where.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use super::{
    Settings,
    connection::{Link, connect},
    keepalive::Keepalive,
    lane::{Lane, Opened},
    lock,
    retries::RetryBudget,
};
use crate::{
    telemetry::{Retry, UpstreamMetrics},
    wire::{Code, Outcome},
};

/// The most calls that may wait for connections in progress.
const MAX_WAITING: usize = 10_000;

/// The wait after the second failure in a row; it doubles from there. After the first the next dial is at once.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest wait between two dials.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// An upstream's connections. One mutex, held briefly: everything here runs on one thread, except when a session
/// goes on from another worker.
#[derive(Debug)]
pub(super) struct Pool {
    settings: Arc<Settings>,
    metrics: UpstreamMetrics,
    budget: RetryBudget,
    keepalive: Arc<Keepalive>,
    /// Of the worker whose connections these are.
    runtime: OnceLock<Handle>,
    places: Mutex<Vec<Place>>,
}

/// An endpoint and what is known of it.
#[derive(Debug)]
struct Place {
    links: Vec<Arc<Link>>,
    dialing: usize,
    /// Calls that wait for a connection in progress; first come, first served. May hold calls that were given up.
    waiting: VecDeque<Arc<Lane>>,
    /// The stream limit of the last connection: how many calls to expect one in progress to take.
    expected: usize,
    failure: Option<Failure>,
}

/// Failed dials in a row.
#[derive(Debug)]
struct Failure {
    count: u32,
    /// No dial before.
    until: Instant,
    error: String,
}

/// What an endpoint can do for one more call.
enum Offer {
    /// A slot on this connection.
    Slot(Arc<Link>),
    /// To wait for a connection, which may have to be begun.
    Wait {
        dial: bool,
    },
    Full,
    Failing,
}

/// A call's place on a connection, against the server's stream limit. Given back when dropped: when the call is
/// entirely over.
#[derive(Debug)]
pub(super) struct Slot {
    pool: Arc<Pool>,
    at: usize,
    pub(super) link: Arc<Link>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.link.leave();
        self.pool.freed(self.at);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for place in lock(&self.places).iter() {
            place.links.iter().for_each(|link| link.close());
        }
    }
}

impl Place {
    fn calls(&self) -> usize {
        self.links.iter().map(|link| link.in_flight()).sum::<usize>() + self.waiting.len()
    }

    /// Whether the last dial failed and nothing is left of earlier ones.
    fn is_failing(&self) -> bool {
        self.failure.is_some() && !self.links.iter().any(|link| link.is_open())
    }

    fn offer(&mut self, now: Instant, max_connections: usize) -> Offer {
        // The first connection with room, not the emptiest: calls that share one share its system calls.
        if let Some(link) = self.links.iter().find(|link| link.in_flight() < link.limit()) {
            return Offer::Slot(link.clone());
        }
        let room = self.dialing.saturating_mul(self.expected);
        if self.waiting.len() >= room.min(MAX_WAITING) {
            self.waiting.retain(|lane| lane.is_waiting());
        }
        if self.waiting.len() < room {
            return Offer::Wait { dial: false };
        }
        if self.failure.as_ref().is_some_and(|failure| now < failure.until) {
            return Offer::Failing;
        }
        // A connection that has said GOAWAY is noticed here at the latest.
        self.links.retain(|link| link.check());
        if self.links.len() + self.dialing < max_connections {
            Offer::Wait { dial: true }
        } else {
            Offer::Full
        }
    }

    fn failed(&mut self, error: String, now: Instant) {
        let count = self.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let wait = match count {
            1 => Duration::ZERO,
            _ => MAX_BACKOFF.min(FIRST_BACKOFF * (1 << (count - 2).min(16))),
        };
        self.failure = Some(Failure { count, until: now + wait, error });
    }
}

impl Pool {
    pub(super) fn new(settings: Arc<Settings>, metrics: UpstreamMetrics) -> Arc<Self> {
        let places = settings
            .endpoints
            .iter()
            .map(|_| Place {
                links: Vec::new(),
                dialing: 0,
                waiting: VecDeque::new(),
                expected: usize::MAX,
                failure: None,
            })
            .collect();
        let (budget, keepalive) = (RetryBudget::new(), Arc::new(Keepalive::new(&settings)));
        let (runtime, places) = (OnceLock::new(), Mutex::new(places));
        Arc::new(Self { settings, metrics, budget, keepalive, runtime, places })
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    pub(super) fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// Finds a connection for a call: opens its stream, lets it wait, or fails it.
    pub(super) fn place(self: &Arc<Self>, lane: Arc<Lane>) {
        self.runtime.get_or_init(Handle::current);
        self.seat(&mut lock(&self.places), lane, None);
    }

    /// `avoid` is an endpoint that has just failed this call.
    fn seat(self: &Arc<Self>, places: &mut [Place], lane: Arc<Lane>, avoid: Option<usize>) {
        let now = Instant::now();
        let max = self.settings.max_connections.max(1);
        loop {
            let mut full = false;
            let best = places
                .iter_mut()
                .enumerate()
                .filter(|(at, _)| Some(*at) != avoid)
                .filter_map(|(at, place)| match place.offer(now, max) {
                    Offer::Failing => None,
                    Offer::Full => {
                        full = true;
                        None
                    }
                    offer => Some(((place.is_failing(), place.calls()), at, offer)),
                })
                .min_by_key(|(rank, ..)| *rank);
            if let Some(((false, _), ..)) = best {
                self.probe(places, now);
            }
            match best {
                Some((_, at, Offer::Slot(link))) => match self.open(at, &link, &lane) {
                    Opened::Done => return,
                    // The connection has gone away meanwhile; the next round sees it closed.
                    Opened::NoConnection => continue,
                },
                Some((_, at, Offer::Wait { dial })) => {
                    let place = &mut places[at];
                    if place.waiting.len() >= MAX_WAITING {
                        return lane.fail(Outcome::proxy(
                            Code::RESOURCE_EXHAUSTED,
                            format!(
                                "{MAX_WAITING} calls wait already for a connection to upstream {:?}",
                                self.settings.name
                            ),
                        ));
                    }
                    if !lane.pend(&self.settings, &self.metrics) {
                        return;
                    }
                    if dial {
                        self.dial(at, place);
                    }
                    return place.waiting.push_back(lane);
                }
                _ if full => return lane.fail(self.full(places)),
                _ => return lane.fail(self.unreachable(places, now, avoid)),
            }
        }
    }

    /// Dials endpoints whose backoff is over while calls go elsewhere: no call has to wait to find out whether they
    /// are back.
    fn probe(self: &Arc<Self>, places: &mut [Place], now: Instant) {
        for (at, place) in places.iter_mut().enumerate() {
            let due = place.failure.as_ref().is_some_and(|failure| failure.until <= now);
            if due && place.is_failing() && place.dialing == 0 {
                self.dial(at, place);
            }
        }
    }

    fn open(self: &Arc<Self>, at: usize, link: &Arc<Link>, lane: &Lane) -> Opened {
        lane.open(link, || {
            link.enter();
            Slot { pool: self.clone(), at, link: link.clone() }
        })
    }

    /// A slot is free: the call that waits longest at this endpoint takes it.
    fn freed(self: &Arc<Self>, at: usize) {
        let mut places = lock(&self.places);
        let place = &mut places[at];
        while !place.waiting.is_empty() {
            let Some(link) = place.links.iter().find(|link| link.in_flight() < link.limit()).cloned() else {
                return;
            };
            if let Some(lane) = place.waiting.pop_front()
                && matches!(self.open(at, &link, &lane), Opened::NoConnection)
            {
                place.waiting.push_front(lane);
            }
        }
    }

    fn dial(self: &Arc<Self>, at: usize, place: &mut Place) {
        place.dialing += 1;
        let runtime = self.runtime.get().expect("set by `place`, the only way here");
        runtime.spawn(run(self.clone(), at));
    }

    fn connected(self: &Arc<Self>, at: usize, link: Arc<Link>) {
        if !link.check() {
            // Otherwise its calls would dial again and again without a pause.
            let (upstream, endpoint) = (&self.settings.name, &self.settings.endpoints[at]);
            let error = "the server closed the connection at once (GOAWAY)";
            tracing::warn!(upstream, %endpoint, error, "cannot connect");
            return self.failed(at, error.to_owned());
        }
        let mut places = lock(&self.places);
        let place = &mut places[at];
        place.dialing -= 1;
        place.failure = None;
        place.expected = link.limit().max(1);
        place.links.push(link);
        for lane in std::mem::take(&mut place.waiting) {
            self.seat(&mut places, lane, None);
        }
    }

    fn failed(self: &Arc<Self>, at: usize, error: String) {
        let mut places = lock(&self.places);
        let now = Instant::now();
        let place = &mut places[at];
        place.dialing -= 1;
        place.failed(error, now);
        if place.dialing > 0 {
            return;
        }
        let endpoints = self.settings.endpoints.len();
        for lane in std::mem::take(&mut place.waiting) {
            // Elsewhere, if there is an elsewhere that has not failed this call too.
            if lane.count_attempt() < endpoints {
                self.metrics.calls().retried(Retry::Connect);
                self.seat(&mut places, lane, Some(at));
            } else {
                lane.fail(self.unreachable(&places, now, Some(at)));
            }
        }
    }

    fn closed(&self, at: usize, link: &Arc<Link>) {
        lock(&self.places)[at].links.retain(|other| !Arc::ptr_eq(other, link));
    }

    fn full(&self, places: &[Place]) -> Outcome {
        let links: Vec<_> =
            places.iter().flat_map(|place| &place.links).filter(|link| link.is_open()).collect();
        let limit = links.iter().map(|link| link.limit()).max().unwrap_or(0);
        Outcome::proxy(
            Code::RESOURCE_EXHAUSTED,
            format!(
                "upstream {:?} is full: all {} connections have as many calls as the server allows (up to {limit} each)",
                self.settings.name,
                links.len(),
            ),
        )
    }

    /// Where the endpoint is that cannot be reached, and why: for logs and operators, not for clients.
    pub(super) fn connect_error(&self) -> Option<String> {
        let places = lock(&self.places);
        let (at, failure) = failing(&places, None)?;
        Some(format!("cannot connect to {}: {}", self.settings.endpoints[at], failure.error))
    }

    /// `at`: the endpoint whose error is the newest to this call.
    fn unreachable(&self, places: &[Place], now: Instant, at: Option<usize>) -> Outcome {
        let name = &self.settings.name;
        let Some((_, failure)) = failing(places, at) else {
            return Outcome::proxy(Code::UNAVAILABLE, format!("upstream {name:?} has no endpoints"));
        };
        let wait = failure.until.saturating_duration_since(now);
        let next = if wait.is_zero() {
            String::new()
        } else {
            format!("; the next attempt is in {} ms", wait.as_millis())
        };
        // Where it is and why it cannot be reached is in the log: clients need not know the inside of the network.
        Outcome::proxy(Code::UNAVAILABLE, format!("cannot connect to upstream {name:?}{next}"))
    }
}

/// The endpoint that failed last: this one if it did, or the one that is tried again first.
fn failing(places: &[Place], at: Option<usize>) -> Option<(usize, &Failure)> {
    let failure_of = |at: usize| places[at].failure.as_ref().map(|failure| (at, failure));
    at.and_then(failure_of)
        .or_else(|| (0..places.len()).filter_map(failure_of).min_by_key(|(_, failure)| failure.until))
}

/// One connection's task, from the dial to the end.
async fn run(pool: Arc<Pool>, at: usize) {
    let settings = pool.settings.clone();
    let endpoint = &settings.endpoints[at];
    let (link, connection) = match connect(endpoint, &settings).await {
        Ok((link, connection)) => (Arc::new(link), connection),
        Err(error) => {
            tracing::warn!(upstream = settings.name, %endpoint, %error, "cannot connect");
            pool.metrics.connect_failed();
            return pool.failed(at, error.to_string());
        }
    };
    tracing::debug!(upstream = settings.name, %endpoint, limit = link.limit(), "connected");
    let metrics = pool.metrics.clone();
    metrics.connected();
    let keepalive = pool.keepalive.clone();
    pool.connected(at, link.clone());
    // From here on only calls and the owner keep the pool: without them the connection closes.
    let pool = {
        let weak = Arc::downgrade(&pool);
        drop(pool);
        weak
    };
    let reason = connection.drive(&link, &keepalive, &metrics).await;
    metrics.disconnected();
    tracing::debug!(upstream = settings.name, %endpoint, reason, "disconnected");
    if let Some(pool) = pool.upgrade() {
        pool.closed(at, &link);
    }
}
