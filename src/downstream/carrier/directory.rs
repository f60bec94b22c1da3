//! Where sessions are found that can be resumed.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    http_carrier::HttpCarriers,
    mailbox::{Arrival, Mailbox},
    parking::{Parking, Place, Room},
    peers::Peers,
    token::{self, InstanceId, Locator, Run},
};
use crate::{downstream::Settings, session::Refusal, telemetry::Metrics, wire::v1::ResumeFailure};

/// How many ended sessions are remembered, to tell their clients why they do not go on.
const REMEMBERED: usize = 1024;

/// The sessions of all workers that can be resumed: a client's next carrier lands on any of them.
///
/// It is touched when a session begins, ends, or is asked for, and by no message.
#[derive(Debug)]
pub struct SessionDirectory {
    /// The carriers that are found by their names.
    pub(super) http: Arc<HttpCarriers>,
    run: Run,
    /// Where other instances' sessions are.
    peers: Mutex<Option<Arc<Peers>>>,
    parking: Arc<Parking>,
    known: Mutex<Known>,
    /// Told when the last session has left that holds the ports open.
    vacant: Notify,
}

#[derive(Debug, Default)]
struct Known {
    sessions: HashMap<Locator, Arc<Mailbox>>,
    /// Those among them that hold the ports open.
    holding: usize,
    /// The latest ends, bounded by [`REMEMBERED`].
    ended: VecDeque<(Locator, ResumeFailure)>,
}

impl SessionDirectory {
    /// An empty one. Fails when the system has no random numbers.
    pub fn new(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Arc<Self>, getrandom::Error> {
        let instance = match &settings.instance {
            Some(name) => InstanceId::named(name),
            None => InstanceId::random()?,
        };
        Ok(Arc::new(Self {
            http: Arc::default(),
            run: Run::begin(instance)?,
            peers: Mutex::new(settings.peers.as_ref().map(|peers| Arc::new(Peers::new(peers)))),
            parking: Parking::new(room(settings), Arc::clone(metrics)),
            known: Mutex::default(),
            vacant: Notify::new(),
        }))
    }

    /// From now on these settings hold: room, and the way to other instances. The name of this one stays.
    pub fn follow(&self, settings: &Settings) {
        self.parking.resize(room(settings));
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        *peers = settings.peers.as_ref().map(|settings| match &*peers {
            Some(peers) if peers.are(settings) => Arc::clone(peers),
            _ => Arc::new(Peers::new(settings)),
        });
    }

    /// The first token of a new session.
    pub(super) fn new_token(&self) -> Result<Bytes, getrandom::Error> {
        token::mint(self.run, token::new_locator()?)
    }

    /// The next token of a session that has this one.
    pub(super) fn next_token(&self, token: &[u8]) -> Result<Bytes, getrandom::Error> {
        let locator = token::read(token).map_or_else(token::new_locator, |(_, locator)| Ok(locator))?;
        token::mint(self.run, locator)
    }

    /// From now on, carriers with this session's tokens come into its mailbox. For one that began in a drain (`late`) the
    /// ports are not held open: others would come by them, without end.
    pub(super) fn enter(self: &Arc<Self>, token: &[u8], mailbox: Mailbox, late: bool) -> Option<Entry> {
        let (_, locator) = token::read(token)?;
        let mailbox = Arc::new(mailbox);
        let mut known = self.known();
        known.sessions.insert(locator, Arc::clone(&mailbox));
        known.holding += usize::from(!late);
        let why = ResumeFailure::StateLost;
        Some(Entry { directory: Arc::clone(self), locator, mailbox, late, why })
    }

    /// Which instance this is.
    pub(super) fn instance(&self) -> InstanceId {
        self.run.instance
    }

    /// Whose session a token is, and the way there, if it is another instance's and there are any.
    pub(super) fn elsewhere(&self, token: &[u8]) -> Option<(Arc<Peers>, InstanceId)> {
        let (Run { instance, .. }, _) =
            token::read(token).filter(|(run, _)| run.instance != self.run.instance)?;
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some((peers, instance))
    }

    /// Brings a carrier to the session of this instance that it asks for. Where there is none it is told why.
    pub(super) fn deliver(&self, arrival: Arrival) {
        let failure = match token::read(&arrival.hello.resume_token) {
            None => ResumeFailure::UnknownToken,
            Some((run, _)) if run.instance != self.run.instance => ResumeFailure::OtherInstance,
            // It had this instance's name, and was restarted.
            Some((run, _)) if run != self.run => ResumeFailure::StateLost,
            Some((_, locator)) => {
                let known = self.known();
                if let Some(mailbox) = known.sessions.get(&locator).cloned() {
                    drop(known);
                    return mailbox.deliver(arrival);
                }
                let ended = known.ended.iter().rev().find(|(ended, _)| *ended == locator);
                ended.map_or(ResumeFailure::UnknownToken, |&(_, why)| why)
            }
        };
        arrival.refuse(Refusal::Failure(failure));
    }

    /// Completes when no session is left that a client could come back to, but for those that began in the drain, and
    /// none whose requests come on new connections.
    pub async fn vacated(&self) {
        loop {
            self.http.vacated().await;
            let left = self.vacant.notified();
            if self.known().holding == 0 {
                return;
            }
            left.await;
        }
    }

    /// Completes when no session is left that a client could come back to.
    pub(super) async fn emptied(&self) {
        loop {
            let left = self.vacant.notified();
            if self.known().sessions.is_empty() {
                return;
            }
            left.await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much is kept of sessions without a carrier.
fn room(settings: &Settings) -> Room {
    let limits = &settings.limits;
    Room {
        sessions: limits.parked_sessions,
        per_address: limits.parked_per_address,
        bytes: limits.parked_bytes,
    }
}

/// A session's entry in the directory; taken out when dropped.
#[derive(Debug)]
pub(super) struct Entry {
    directory: Arc<SessionDirectory>,
    locator: Locator,
    mailbox: Arc<Mailbox>,
    /// It began in a drain.
    late: bool,
    /// What a client reads that comes back later.
    why: ResumeFailure,
}

impl Entry {
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The session's grace is over.
    pub(super) fn expired(mut self) {
        self.why = ResumeFailure::Expired;
    }

    /// The session has no carrier any more.
    pub(super) fn park(&self, address: IpAddr, bytes: u64) -> Place {
        self.directory.parking.enter(address, bytes, Arc::clone(&self.mailbox))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut known = self.directory.known();
        known.sessions.remove(&self.locator);
        if known.ended.len() == REMEMBERED {
            known.ended.pop_front();
        }
        known.ended.push_back((self.locator, self.why));
        if known.sessions.is_empty() {
            known.sessions.shrink_to_fit();
        }
        known.holding -= usize::from(!self.late);
        if known.holding == 0 {
            self.directory.vacant.notify_waiters();
        }
        drop(known);
        // After it has left: whoever comes now finds the reason.
        self.mailbox.close();
    }
}
