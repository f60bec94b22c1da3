//! An upstream's members as the whole process sees them: who there is, and who may get calls.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, atomic::Ordering::Relaxed},
};

use tokio::{runtime::Handle, sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Endpoint, Settings, health, lock,
    member::Member,
    resolve,
    settings::EjectionSettings,
    standing::{Health, Standing},
};
use crate::telemetry::{Metrics, RosterMetrics, Standings, UpstreamMetrics};

/// An upstream's members as the whole process sees them. Names are resolved, and members are asked for their health,
/// once for all workers; what calls tell of members is counted together. It works within the runtime given to
/// [`Roster::begin`], and stops when the last owner is gone.
#[derive(Debug)]
pub struct Roster {
    settings: Arc<Settings>,
    connection_metrics: UpstreamMetrics,
    metrics: RosterMetrics,
    runtime: OnceLock<Handle>,
    /// Ends the tasks.
    over: CancellationToken,
    state: Mutex<State>,
    published: watch::Sender<Arc<Members>>,
}

#[derive(Debug)]
struct State {
    /// One for each endpoint of the settings.
    sources: Vec<Source>,
    next_id: u64,
    /// All are out, so all are used.
    panic: bool,
    /// What the metrics say.
    counted: Standings,
}

/// An endpoint and its members.
#[derive(Debug)]
struct Source {
    endpoint: Endpoint,
    entries: Vec<Entry>,
    /// Why the last look-up failed.
    problem: Option<String>,
}

#[derive(Debug)]
struct Entry {
    member: Arc<Member>,
    standing: Standing,
    /// Tells the member's health checks when it is gone.
    gone: CancellationToken,
    _gone: DropGuard,
}

/// What workers know of a roster.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) listed: Vec<Listed>,
    /// Why nobody is listed.
    pub(super) problem: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Listed {
    pub(super) member: Arc<Member>,
    /// Neither unhealthy nor ejected; or all are.
    pub(super) usable: bool,
    /// When it was taken back, if it was away.
    pub(super) back: Option<Instant>,
}

/// What went wrong with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It cannot be connected to, or a connection with calls was lost.
    Connection,
    /// It answered UNAVAILABLE, or reset a call before it answered.
    Answer,
}

impl Roster {
    /// The members of an upstream; nothing is resolved yet.
    pub fn new(settings: Arc<Settings>, metrics: &Metrics) -> Arc<Self> {
        let (connections, roster) = (metrics.upstream(&settings.name), metrics.roster(&settings.name));
        let mut next_id = 0;
        let asked = settings.health.is_some();
        let sources = settings
            .endpoints
            .iter()
            .map(|endpoint| {
                let entries = match endpoint {
                    Endpoint::Dns { .. } => Vec::new(),
                    there => vec![Entry::new(&mut next_id, there.clone(), None, asked)],
                };
                Source { endpoint: endpoint.clone(), entries, problem: None }
            })
            .collect();
        Self::with(settings, connections, roster, sources, next_id)
    }

    /// One member alone, of which nothing is counted: for its health checks.
    pub(super) fn alone(settings: Settings, member: &Member) -> Arc<Self> {
        let metrics = Metrics::new().upstream(&settings.name);
        let endpoint = member.endpoint.clone();
        let mut next_id = 0;
        let entries = vec![Entry::new(&mut next_id, endpoint.clone(), member.address, false)];
        let source = Source { endpoint, entries, problem: None };
        Self::with(Arc::new(settings), metrics, RosterMetrics::uncounted(), vec![source], next_id)
    }

    fn with(
        settings: Arc<Settings>,
        connection_metrics: UpstreamMetrics,
        metrics: RosterMetrics,
        sources: Vec<Source>,
        next_id: u64,
    ) -> Arc<Self> {
        let state = State { sources, next_id, panic: false, counted: Standings::default() };
        let roster = Self {
            settings,
            connection_metrics,
            metrics,
            runtime: OnceLock::new(),
            over: CancellationToken::new(),
            state: Mutex::new(state),
            published: watch::Sender::default(),
        };
        roster.publish(&mut lock(&roster.state));
        Arc::new(roster)
    }

    /// Begins to resolve and to ask, within this runtime. Calls after the first do nothing; an
    /// [`Upstream`](super::Upstream) calls it when its first call comes.
    pub fn begin(self: &Arc<Self>, runtime: &Handle) {
        if self.runtime.get().is_some() {
            return;
        }
        let state = lock(&self.state);
        if self.runtime.set(runtime.clone()).is_err() {
            return;
        }
        for (at, source) in state.sources.iter().enumerate() {
            if let Endpoint::Dns { host, port, .. } = &source.endpoint {
                let follow =
                    resolve::follow(Arc::downgrade(self), at, host.clone(), *port, self.settings.clone());
                runtime.spawn(self.over.clone().run_until_cancelled_owned(follow));
            }
            source.entries.iter().for_each(|entry| self.ask(entry));
        }
    }

    /// What it was made of.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub(super) fn connection_metrics(&self) -> &UpstreamMetrics {
        &self.connection_metrics
    }

    pub(super) fn members(&self) -> Arc<Members> {
        self.published.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Members>> {
        self.published.subscribe()
    }

    // From name resolution.

    /// A name stands for these addresses. Who was there before stays the same member.
    pub(super) fn resolved(self: &Arc<Self>, at: usize, addresses: &[SocketAddr]) {
        let mut state = lock(&self.state);
        let State { sources, next_id, .. } = &mut *state;
        let source = &mut sources[at];
        source.problem = None;
        let known = |entries: &[Entry], address| entries.iter().any(|e| e.member.address == Some(address));
        let before = source.entries.len();
        source.entries.retain(|entry| entry.member.address.is_some_and(|known| addresses.contains(&known)));
        let gone = before - source.entries.len();
        let mut new = 0;
        for address in addresses {
            if !known(&source.entries, *address) {
                let endpoint = source.endpoint.resolved();
                let entry = Entry::new(next_id, endpoint, Some(*address), self.settings.health.is_some());
                self.ask(&entry);
                source.entries.push(entry);
                new += 1;
            }
        }
        if new + gone == 0 {
            return;
        }
        let (upstream, endpoint) = (&self.settings.name, &source.endpoint);
        tracing::info!(upstream, %endpoint, addresses = source.entries.len(), new, gone, "resolved");
        self.publish(&mut state);
    }

    /// A name cannot be resolved: what it stood for stays.
    pub(super) fn unresolved(&self, at: usize, error: String) {
        self.metrics.resolution_failed();
        let mut state = lock(&self.state);
        let source = &mut state.sources[at];
        let (upstream, endpoint, kept) = (&self.settings.name, &source.endpoint, source.entries.len());
        tracing::warn!(upstream, %endpoint, error, kept, "cannot resolve; the addresses known are kept");
        source.problem = Some(error);
        if kept == 0 {
            self.publish(&mut state);
        }
    }

    // From health checks.

    fn ask(self: &Arc<Self>, entry: &Entry) {
        if let (Some(settings), Some(runtime)) = (&self.settings.health, self.runtime.get()) {
            let checks = health::check(Arc::downgrade(self), entry.member.clone(), settings.clone());
            runtime.spawn(entry.gone.clone().run_until_cancelled_owned(checks));
        }
    }

    /// A health check of a member has ended.
    pub(super) fn checked(&self, member: &Member, result: Result<(), String>) {
        let Some(settings) = &self.settings.health else { return };
        if result.is_err() {
            self.metrics.check_failed();
        }
        let mut state = lock(&self.state);
        let Some(entry) = state.entry(member) else { return };
        if !entry.standing.checked(result.is_ok(), settings, Instant::now()) {
            return;
        }
        let upstream = &self.settings.name;
        match result {
            Ok(()) => tracing::info!(upstream, endpoint = %member, "healthy"),
            Err(error) => tracing::warn!(upstream, endpoint = %member, error, "unhealthy"),
        }
        self.publish(&mut state);
    }

    // From calls.

    /// A member has failed; perhaps once too often.
    pub(super) fn failed(self: &Arc<Self>, member: &Arc<Member>, fault: Fault) {
        let failures = member.failed();
        if let Some(settings) = &self.settings.ejection
            && failures >= settings.failures
        {
            self.eject(member, fault, failures, settings);
        }
    }

    fn eject(
        self: &Arc<Self>,
        member: &Arc<Member>,
        fault: Fault,
        failures: u32,
        settings: &EjectionSettings,
    ) {
        let mut state = lock(&self.state);
        let standings = || state.entries().map(|entry| &entry.standing);
        let ejected = standings().filter(|standing| standing.ejected().is_some()).count();
        let all = standings().count();
        let most = (all * settings.max_percent as usize / 100).max(1);
        // One alone would be used all the same.
        if all < 2 || ejected >= most {
            return;
        }
        let now = Instant::now();
        let Some(entry) = state.entry(member) else { return };
        if entry.standing.ejected().is_some() {
            return;
        }
        let time = entry.standing.eject(settings, now);
        member.unreachable.store(fault == Fault::Connection, Relaxed);
        let upstream = &self.settings.name;
        tracing::warn!(upstream, endpoint = %member, ?time, failures, ?fault, "ejected: it failed too often");
        self.metrics.ejected();
        self.publish(&mut state);
        drop(state);
        if let Some(runtime) = self.runtime.get() {
            let (roster, member) = (Arc::downgrade(self), member.clone());
            let back = async move {
                tokio::time::sleep_until(now + time).await;
                if let Some(roster) = roster.upgrade() {
                    roster.take_back(&member, Some(now + time));
                }
            };
            runtime.spawn(self.over.clone().run_until_cancelled_owned(back));
        }
    }

    /// Ends an ejection: the one until then, or whichever there is.
    fn take_back(&self, member: &Member, until: Option<Instant>) {
        let mut state = lock(&self.state);
        let Some(entry) = state.entry(member) else { return };
        match entry.standing.ejected() {
            Some(end) if until.is_none_or(|until| end == until) => {}
            _ => return,
        }
        entry.standing.take_back(Instant::now());
        member.unreachable.store(false, Relaxed);
        member.succeeded();
        let (upstream, ramp) = (&self.settings.name, self.settings.ramp);
        tracing::info!(upstream, endpoint = %member, ?ramp, "taken back after its ejection");
        self.publish(&mut state);
    }

    /// A worker has connected to a member: one that was ejected because nobody could is back.
    pub(super) fn connected(&self, member: &Member) {
        if member.unreachable.load(Relaxed) {
            self.take_back(member, None);
        }
    }

    /// Tells workers, metrics and the log.
    fn publish(&self, state: &mut State) {
        let usable = state.entries().any(|entry| entry.standing.is_usable());
        // While the first answers are to come, using all is nothing to worry about.
        let known = state.entries().all(|entry| entry.standing.health() != Health::Unknown);
        let panic = !usable && known && state.entries().next().is_some();
        if panic != state.panic {
            state.panic = panic;
            let upstream = &self.settings.name;
            if panic {
                tracing::error!(upstream, "every endpoint is unhealthy or ejected: all are used");
            } else {
                tracing::info!(upstream, "there are endpoints again that are neither unhealthy nor ejected");
            }
        }
        let mut standings = Standings { panic: panic.into(), ..Standings::default() };
        for standing in state.entries().map(|entry| &entry.standing) {
            standings.resolved += 1;
            standings.healthy += i64::from(standing.is_usable());
            standings.unhealthy += i64::from(standing.health() == Health::Unhealthy);
            standings.ejected += i64::from(standing.ejected().is_some());
        }
        self.metrics.count(&state.counted, &standings);
        state.counted = standings;
        let listed = |entry: &Entry| Listed {
            member: entry.member.clone(),
            usable: !usable || entry.standing.is_usable(),
            back: entry.standing.back,
        };
        let problem = state.sources.iter().find_map(|source| {
            let error = source.problem.as_ref()?;
            Some(format!("cannot resolve {}: {error}", source.endpoint).into())
        });
        let members = Members { listed: state.entries().map(listed).collect(), problem };
        self.published.send_replace(Arc::new(members));
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        self.over.cancel();
        self.metrics.count(&lock(&self.state).counted, &Standings::default());
    }
}

impl State {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.sources.iter().flat_map(|source| &source.entries)
    }

    fn entry(&mut self, member: &Member) -> Option<&mut Entry> {
        let mut entries = self.sources.iter_mut().flat_map(|source| &mut source.entries);
        entries.find(|entry| entry.member.id == member.id)
    }
}

impl Entry {
    fn new(next_id: &mut u64, endpoint: Endpoint, address: Option<SocketAddr>, asked: bool) -> Self {
        let member = Arc::new(Member::new(*next_id, endpoint, address));
        *next_id += 1;
        let gone = CancellationToken::new();
        Self { member, standing: Standing::new(asked), _gone: gone.clone().drop_guard(), gone }
    }
}
