//! The connections of one upstream on one worker, and which call goes where.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{runtime::Handle, sync::watch, task::AbortHandle, time::Instant};

use super::{
    Settings,
    balance::{Balancer, Candidate},
    complaints::Complaints,
    connection::{Link, connect},
    keepalive::Keepalive,
    lane::{Lane, Opened},
    lock,
    member::Member,
    place::{Failure, MAX_WAITING, Offer, Place, PlaceState},
    retries::RetryBudget,
    roster::{Fault, Members, Roster},
};
use crate::{
    telemetry::{Counted, Retry, UpstreamMetrics},
    wire::{Code, Outcome},
};

/// The most endpoints that are dialled for one call. One call must not go round the thousands that a service may have.
const MOST_ENDPOINTS: usize = 5;

/// The most endpoints that one call lets dial whether they are back.
const MOST_PROBES: usize = 5;

/// An upstream's connections.
#[derive(Debug)]
pub(super) struct Pool {
    roster: Arc<Roster>,
    balancer: Balancer,
    budget: RetryBudget,
    keepalive: Arc<Keepalive>,
    table: Mutex<Table>,
    complaints: Mutex<Complaints>,
    worker: OnceLock<Worker>,
    /// Where the next probe begins: the members that fail take turns.
    next_probe: AtomicUsize,
}

/// The worker whose connections these are.
#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// The task that follows the roster.
    follower: AbortHandle,
}

/// The members as they were published last. Its lock is held to look at it and to change it, not to place a call.
#[derive(Debug)]
struct Table {
    candidates: Arc<[Candidate]>,
    /// Why there are none.
    problem: Option<Arc<str>>,
    /// Calls that wait until there are any.
    waiting: VecDeque<Arc<Lane>>,
}

/// A call's place on a connection, against the server's stream limit. Given back when dropped: when the call is
/// entirely over.
#[derive(Debug)]
pub(super) struct Slot {
    pool: Arc<Pool>,
    place: Arc<Place>,
    pub(super) link: Arc<Link>,
}

/// What became of a call at a place.
enum Seated {
    /// It has a slot, waits for one, or needs none any more.
    Done,
    Full,
    Failing,
}

impl Slot {
    /// The server has begun to answer.
    pub(super) fn answered(&self) {
        self.place.member.succeeded();
    }

    /// The server has failed the call before it began to answer.
    pub(super) fn failed(&self) {
        self.pool.roster.failed(&self.place.member, Fault::Answer);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.link.leave();
        self.pool.freed(&self.place);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.get() {
            worker.follower.abort();
        }
        for candidate in lock(&self.table).candidates.iter() {
            candidate.place.retire();
        }
    }
}

impl Pool {
    pub(super) fn new(roster: Arc<Roster>) -> Arc<Self> {
        let settings = roster.settings();
        let balancer = Balancer::new(settings.balance.clone(), settings.ramp);
        let table = Table { candidates: Arc::new([]), problem: None, waiting: VecDeque::new() };
        let pool = Arc::new(Self {
            balancer,
            budget: RetryBudget::new(),
            keepalive: Arc::new(Keepalive::new(settings)),
            table: Mutex::new(table),
            complaints: Mutex::default(),
            worker: OnceLock::new(),
            next_probe: AtomicUsize::new(0),
            roster,
        });
        pool.renew(&pool.roster.members());
        pool
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        self.roster.settings()
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        self.roster.connection_metrics()
    }

    pub(super) fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// Counts one more call, which leaves when the place is dropped; or there are as many as there may be.
    pub(super) fn enter(&self) -> Result<Counted, Box<Outcome>> {
        let settings = self.settings();
        let place = self.metrics().calls().enter(settings.max_calls).ok_or_else(|| {
            let (max, name) = (settings.max_calls.unwrap_or_default(), &settings.name);
            let text = format!("upstream {name:?} has as many calls as it may have: {max} (`max_calls`)");
            Box::new(Outcome::proxy(Code::UNAVAILABLE, text))
        })?;
        self.budget.call();
        Ok(place)
    }

    /// Finds a connection for a call: opens its stream, lets it wait, or fails it.
    pub(super) fn place(self: &Arc<Self>, lane: Arc<Lane>) {
        self.worker();
        self.seat(lane, None);
    }

    /// Whose runtime this is, is found out by the first call.
    fn worker(self: &Arc<Self>) -> &Worker {
        self.worker.get_or_init(|| {
            let runtime = Handle::current();
            self.roster.begin(&runtime);
            let follower = runtime.spawn(follow(Arc::downgrade(self), self.roster.watch())).abort_handle();
            Worker { runtime, follower }
        })
    }

    /// Takes over what the roster has published.
    fn renew(self: &Arc<Self>, members: &Members) {
        let mut table = lock(&self.table);
        let old = std::mem::take(&mut table.candidates);
        let known = |id: u64| old.iter().find(|candidate| candidate.place.member.id == id);
        table.candidates = members
            .listed
            .iter()
            .map(|listed| {
                let place = known(listed.member.id).map(|candidate| candidate.place.clone());
                let place = place.unwrap_or_else(|| Place::new(listed.member.clone()));
                Candidate { place, usable: listed.usable, back: listed.back }
            })
            .collect();
        table.problem.clone_from(&members.problem);
        let mut homeless = VecDeque::new();
        let stays = |place: &Arc<Place>| table.candidates.iter().any(|c| Arc::ptr_eq(&c.place, place));
        for candidate in old.iter().filter(|candidate| !stays(&candidate.place)) {
            homeless.append(&mut candidate.place.retire());
        }
        if !table.candidates.is_empty() || table.problem.is_some() {
            homeless.append(&mut table.waiting);
        }
        drop(table);
        for lane in homeless {
            self.seat(lane, None);
        }
    }

    /// `avoid` is a member that has just failed this call.
    fn seat(self: &Arc<Self>, lane: Arc<Lane>, avoid: Option<u64>) {
        let candidates = {
            let mut table = lock(&self.table);
            if table.candidates.is_empty() {
                return self.unresolved(&mut table, lane);
            }
            table.candidates.clone()
        };
        let now = Instant::now();
        let draw = lane.with_metadata(|metadata| self.balancer.draw(metadata, now));
        let (mut tried, mut full) = (Vec::new(), false);
        loop {
            let may = |at: usize, candidate: &Candidate| {
                !tried.contains(&at) && Some(candidate.place.member.id) != avoid
            };
            // A usable member that is busy is no reason to take one that is ill.
            let Some(at) = self.balancer.pick(&candidates, &draw, may, !full) else { break };
            let place = &candidates[at].place;
            let seated = self.seat_at(place, &mut place.state(), &lane, now);
            match seated {
                Seated::Done => return self.probe(&candidates, now),
                Seated::Full => full = true,
                Seated::Failing => {}
            }
            tried.push(at);
        }
        lane.fail(if full { self.full(&candidates) } else { self.unreachable(&candidates, now, avoid) });
    }

    /// For a call that comes before the first member is known.
    fn unresolved(&self, table: &mut Table, lane: Arc<Lane>) {
        let name = &self.settings().name;
        if table.problem.is_some() {
            // Which name and why is in the log, as where a connection cannot be made.
            let text = format!("the endpoints of upstream {name:?} cannot be resolved");
            return lane.fail(Outcome::proxy(Code::UNAVAILABLE, text));
        }
        if table.waiting.len() >= MAX_WAITING {
            table.waiting.retain(|lane| lane.is_waiting());
        }
        if table.waiting.len() >= MAX_WAITING {
            return lane.fail(self.crowded());
        }
        if lane.pend(self.settings(), self.metrics()) {
            table.waiting.push_back(lane);
        }
    }

    fn seat_at(
        self: &Arc<Self>,
        place: &Arc<Place>,
        state: &mut PlaceState,
        lane: &Arc<Lane>,
        now: Instant,
    ) -> Seated {
        if state.retired {
            return Seated::Failing;
        }
        loop {
            match state.offer(now, self.settings().max_connections.max(1)) {
                Offer::Slot(link) => match self.open(place, &link, lane) {
                    Opened::Done => return Seated::Done,
                    // The connection has gone away meanwhile; the next round sees it closed.
                    Opened::NoConnection => {}
                },
                Offer::Wait { .. } if state.waiting.len() >= MAX_WAITING => {
                    lane.fail(self.crowded());
                    return Seated::Done;
                }
                Offer::Wait { .. } if !lane.pend(self.settings(), self.metrics()) => return Seated::Done,
                Offer::Wait { dial } => {
                    if dial {
                        self.dial(place, state);
                    }
                    state.waiting.push_back(lane.clone());
                    return Seated::Done;
                }
                Offer::Full => return Seated::Full,
                Offer::Failing => return Seated::Failing,
            }
        }
    }

    /// Dials members whose backoff is over while calls go elsewhere: no call has to wait to find out whether they are
    /// back.
    fn probe(self: &Arc<Self>, candidates: &[Candidate], now: Instant) {
        let mut dialled = 0;
        let first = self.next_probe.load(Relaxed) % candidates.len().max(1);
        let in_turn = candidates.iter().enumerate().cycle().skip(first).take(candidates.len());
        for (at, place) in in_turn.map(|(at, it)| (at, &it.place)).filter(|(_, place)| place.is_failing()) {
            if dialled == MOST_PROBES {
                self.next_probe.store(at, Relaxed);
                return;
            }
            let mut state = place.state();
            let due = state.failure.as_ref().is_some_and(|failure| failure.until <= now);
            if due && state.dialing == 0 && !state.retired {
                dialled += 1;
                self.dial(place, &mut state);
            }
        }
    }

    fn open(self: &Arc<Self>, place: &Arc<Place>, link: &Arc<Link>, lane: &Lane) -> Opened {
        lane.open(link, &place.member.name, || {
            link.enter();
            Slot { pool: self.clone(), place: place.clone(), link: link.clone() }
        })
    }

    /// Closes the connections that no call uses.
    pub(super) fn close_unused(&self) {
        let candidates = lock(&self.table).candidates.clone();
        candidates.iter().for_each(|candidate| candidate.place.close_unused());
    }

    /// A slot is free: the call that waits longest at this place takes it.
    fn freed(self: &Arc<Self>, place: &Arc<Place>) {
        let mut state = place.state();
        while !state.waiting.is_empty() {
            let Some(link) = state.free() else { return };
            if let Some(lane) = state.waiting.pop_front()
                && matches!(self.open(place, &link, &lane), Opened::NoConnection)
            {
                state.waiting.push_front(lane);
            }
        }
    }

    fn dial(self: &Arc<Self>, place: &Arc<Place>, state: &mut PlaceState) {
        state.dialing += 1;
        self.worker().runtime.spawn(run(self.clone(), place.clone()));
    }

    /// Logs that a member cannot be connected to, unless the log has enough of that.
    fn complain(&self, member: &Member, error: &str) {
        if let Some(unlogged) = lock(&self.complaints).one_more(Instant::now()) {
            let (upstream, unlogged) = (&self.settings().name, (unlogged > 0).then_some(unlogged));
            tracing::warn!(upstream, endpoint = %member, error, unlogged, "cannot connect");
        }
    }

    /// Returns whether the connection is wanted.
    fn connected(self: &Arc<Self>, place: &Arc<Place>, link: Arc<Link>) -> bool {
        if !link.check() {
            // Otherwise its calls would dial again and again without a pause.
            let error = "the server closed the connection at once (GOAWAY)";
            self.complain(&place.member, error);
            self.failed(place, error.to_owned());
            return false;
        }
        let mut state = place.state();
        state.dialing -= 1;
        if state.retired {
            return false;
        }
        state.failure = None;
        state.expected = link.limit().max(1);
        state.links.push(link);
        place.note(&state);
        let now = Instant::now();
        let waiting = std::mem::take(&mut state.waiting);
        let rest: Vec<_> = waiting
            .into_iter()
            .filter(|lane| !matches!(self.seat_at(place, &mut state, lane, now), Seated::Done))
            .collect();
        drop(state);
        for lane in rest {
            self.seat(lane, None);
        }
        self.roster.connected(&place.member);
        true
    }

    fn failed(self: &Arc<Self>, place: &Arc<Place>, error: String) {
        self.roster.failed(&place.member, Fault::Connection);
        let mut state = place.state();
        let now = Instant::now();
        state.dialing -= 1;
        state.failed(error, now);
        place.note(&state);
        if state.dialing > 0 {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        let candidates = lock(&self.table).candidates.clone();
        let avoid = Some(place.member.id);
        for lane in waiting {
            // Elsewhere, if there is an elsewhere that has not failed this call too, and not for ever.
            if lane.count_attempt() < candidates.len().min(MOST_ENDPOINTS) {
                self.metrics().calls().retried(Retry::Connect);
                self.seat(lane, avoid);
            } else {
                lane.fail(self.unreachable(&candidates, now, avoid));
            }
        }
    }

    fn crowded(&self) -> Outcome {
        let name = &self.settings().name;
        let text = format!("{MAX_WAITING} calls wait already for a connection to upstream {name:?}");
        Outcome::proxy(Code::RESOURCE_EXHAUSTED, text)
    }

    fn full(&self, candidates: &[Candidate]) -> Outcome {
        let (mut links, mut limit) = (0, 0);
        for candidate in candidates {
            let state = candidate.place.state();
            for link in state.links.iter().filter(|link| link.is_open()) {
                links += 1;
                limit = limit.max(link.limit());
            }
        }
        Outcome::proxy(
            Code::RESOURCE_EXHAUSTED,
            format!(
                "upstream {:?} is full: all {links} connections have as many calls as the server allows (up to \
                 {limit} each)",
                self.settings().name,
            ),
        )
    }

    /// Which member cannot be reached, and why: for logs and operators, not for clients.
    pub(super) fn connect_error(&self) -> Option<String> {
        let (candidates, problem) = {
            let table = lock(&self.table);
            (table.candidates.clone(), table.problem.clone())
        };
        match failing(&candidates, None) {
            Some((member, failure)) => Some(format!("cannot connect to {member}: {}", failure.error)),
            None => problem.map(|problem| problem.to_string()),
        }
    }

    /// `newest`: the member whose error is the newest to this call.
    fn unreachable(&self, candidates: &[Candidate], now: Instant, newest: Option<u64>) -> Outcome {
        let name = &self.settings().name;
        let Some((_, failure)) = failing(candidates, newest) else {
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

/// The member that failed last: this one if it did, or the one that is tried again first.
fn failing(candidates: &[Candidate], newest: Option<u64>) -> Option<(&Member, Failure)> {
    let failures = candidates.iter().filter_map(|candidate| {
        let failure = candidate.place.state().failure.clone()?;
        Some((&*candidate.place.member, failure))
    });
    failures.min_by_key(|(member, failure)| (Some(member.id) != newest, failure.until))
}

/// Brings what the roster publishes to this worker.
async fn follow(pool: Weak<Pool>, mut published: watch::Receiver<Arc<Members>>) {
    loop {
        let members = published.borrow_and_update().clone();
        match pool.upgrade() {
            Some(pool) => pool.renew(&members),
            None => return,
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// One connection's task, from the dial to the end.
async fn run(pool: Arc<Pool>, place: Arc<Place>) {
    let settings = pool.settings().clone();
    let member = &place.member;
    let (link, connection) = match connect(&member.endpoint, member.address, &settings).await {
        Ok((link, connection)) => (Arc::new(link), connection),
        Err(error) => {
            let error = error.to_string();
            pool.complain(member, &error);
            pool.metrics().connect_failed();
            return pool.failed(&place, error);
        }
    };
    tracing::debug!(upstream = settings.name, endpoint = %member, limit = link.limit(), "connected");
    let metrics = pool.metrics().clone();
    metrics.connected();
    let keepalive = pool.keepalive.clone();
    if !pool.connected(&place, link.clone()) {
        return metrics.disconnected();
    }
    // From here on only calls and the owner keep the pool: without them the connection closes.
    let pool = {
        let weak = Arc::downgrade(&pool);
        drop(pool);
        weak
    };
    let reason = connection.drive(&link, &keepalive, &metrics).await;
    metrics.disconnected();
    tracing::debug!(upstream = settings.name, endpoint = %member, reason, "disconnected");
    if let Some(pool) = pool.upgrade() {
        if link.in_flight() > 0 {
            pool.roster.failed(member, Fault::Connection);
        }
        place.closed(&link);
    }
}
