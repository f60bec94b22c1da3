//! A member as one worker sees it: its connections, and the calls that wait for one.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{connection::Link, lane::Lane, lock, member::Member};

/// The most calls that may wait for connections in progress.
pub(super) const MAX_WAITING: usize = 10_000;

/// The wait after the second failure in a row; it doubles from there. After the first the next dial is at once.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest wait between two dials.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A member and what this worker has of it. One mutex, held briefly: everything here runs on one thread, except when
/// a session goes on from another worker. Who holds it may lock lanes, and nothing else.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) member: Arc<Member>,
    /// The last dial failed, and nothing is left of earlier ones.
    failing: AtomicBool,
    state: Mutex<PlaceState>,
}

#[derive(Debug)]
pub(super) struct PlaceState {
    pub(super) links: Vec<Arc<Link>>,
    pub(super) dialing: usize,
    /// Calls that wait for a connection in progress; first come, first served. May hold calls that were given up.
    pub(super) waiting: VecDeque<Arc<Lane>>,
    /// The stream limit of the last connection: how many calls to expect one in progress to take.
    pub(super) expected: usize,
    pub(super) failure: Option<Failure>,
    /// The member has vanished: no new calls.
    pub(super) retired: bool,
}

/// Failed dials in a row.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    count: u32,
    /// No dial before.
    pub(super) until: Instant,
    pub(super) error: String,
}

/// What a place can do for one more call.
pub(super) enum Offer {
    /// A slot on this connection.
    Slot(Arc<Link>),
    /// To wait for a connection, which may have to be begun.
    Wait {
        dial: bool,
    },
    Full,
    Failing,
}

impl Place {
    pub(super) fn new(member: Arc<Member>) -> Arc<Self> {
        let state = PlaceState {
            links: Vec::new(),
            dialing: 0,
            waiting: VecDeque::new(),
            expected: usize::MAX,
            failure: None,
            retired: false,
        };
        Arc::new(Self { member, failing: AtomicBool::new(false), state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PlaceState> {
        lock(&self.state)
    }

    /// Calls that run or wait here.
    pub(super) fn calls(&self) -> usize {
        let state = self.state();
        state.links.iter().map(|link| link.in_flight()).sum::<usize>() + state.waiting.len()
    }

    /// Whether the last dial failed and nothing is left of earlier ones.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    /// To be called when links or failures have changed.
    pub(super) fn note(&self, state: &PlaceState) {
        let failing = state.failure.is_some() && !state.links.iter().any(|link| link.is_open());
        self.failing.store(failing, Relaxed);
    }

    /// A connection that is over.
    pub(super) fn closed(&self, link: &Arc<Link>) {
        let mut state = self.state();
        state.links.retain(|other| !Arc::ptr_eq(other, link));
        self.note(&state);
    }

    /// Closes the connections that no call uses.
    pub(super) fn close_unused(&self) {
        let mut state = self.state();
        state.links.retain(|link| {
            let is_used = link.in_flight() > 0;
            if !is_used {
                link.close();
            }
            is_used
        });
        self.note(&state);
    }

    /// No new calls from now on: what runs may finish, and connections close behind the last call. Returns the calls
    /// that have to go elsewhere.
    pub(super) fn retire(&self) -> VecDeque<Arc<Lane>> {
        let mut state = self.state();
        state.retired = true;
        state.links.iter().for_each(|link| link.close());
        std::mem::take(&mut state.waiting)
    }
}

impl PlaceState {
    pub(super) fn offer(&mut self, now: Instant, max_connections: usize) -> Offer {
        // The first connection with room, not the emptiest: calls that share one share its system calls.
        if let Some(link) = self.free() {
            return Offer::Slot(link);
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

    /// The first connection with room.
    pub(super) fn free(&self) -> Option<Arc<Link>> {
        self.links.iter().find(|link| link.in_flight() < link.limit()).cloned()
    }

    pub(super) fn failed(&mut self, error: String, now: Instant) {
        let count = self.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let wait = match count {
            1 => Duration::ZERO,
            _ => MAX_BACKOFF.min(FIRST_BACKOFF * (1 << (count - 2).min(16))),
        };
        self.failure = Some(Failure { count, until: now + wait, error });
    }
}
