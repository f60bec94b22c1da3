//! Which instance is where.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::lookup_host,
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout},
};

use super::{PeerAddress, dial::Dialer};
use crate::downstream::carrier::token::InstanceId;

/// At most so many addresses are asked. More instances than this do not share one address.
const MOST: usize = 256;

/// How long one of them may take to say who it is.
const ANSWER: Duration = Duration::from_secs(1);

/// For so long a search in vain is not repeated: who makes tokens up cannot make the instances ask each other more often.
const PAUSE: Duration = Duration::from_secs(1);

/// Where an instance is heard, and by which name it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// As it was configured: what its certificate is checked for, unless there is a name for all.
    pub(super) host: Arc<str>,
}

impl Place {
    pub(super) fn name(&self) -> PeerAddress {
        PeerAddress { host: self.address.ip().to_string().into(), port: self.address.port() }
    }
}

/// Finds instances by asking all of them who they are. What they said is remembered until it turns out to be wrong.
#[derive(Debug)]
pub(super) struct Finder {
    addresses: Vec<PeerAddress>,
    dialer: Arc<Dialer>,
    known: Mutex<HashMap<InstanceId, Place>>,
    /// One search at a time; when the last one began in which all were asked.
    search: AsyncMutex<Option<Instant>>,
}

impl Finder {
    pub(super) fn new(addresses: Vec<PeerAddress>, dialer: Arc<Dialer>) -> Self {
        Self { addresses, dialer, known: Mutex::default(), search: AsyncMutex::default() }
    }

    /// Where the instance is. `None`: no peer that answers in time is this one. Cancel-safe.
    pub(super) async fn find(&self, instance: InstanceId) -> Option<Place> {
        if let Some(place) = self.known().get(&instance) {
            return Some(place.clone());
        }
        let asked = Instant::now();
        let mut last = self.search.lock().await;
        // Others may have searched meanwhile.
        if let Some(place) = self.known().get(&instance) {
            return Some(place.clone());
        }
        if last.is_some_and(|began| began + PAUSE > asked) {
            return None;
        }
        let began = Instant::now();
        let places = self.resolve().await;
        let mut answers: FuturesUnordered<_> = places.into_iter().map(|place| self.ask(place)).collect();
        let mut found = HashSet::new();
        while let Some(answer) = answers.next().await {
            let Some((other, place)) = answer else { continue };
            self.remember(other, place.clone());
            found.insert(other);
            if other == instance {
                return Some(place);
            }
        }
        self.known().retain(|other, _| found.contains(other));
        *last = Some(began);
        None
    }

    /// The instance is not there any more.
    pub(super) fn forget(&self, instance: InstanceId, place: &Place) {
        let mut known = self.known();
        if known.get(&instance) == Some(place) {
            known.remove(&instance);
        }
    }

    async fn ask(&self, place: Place) -> Option<(InstanceId, Place)> {
        match timeout(ANSWER, self.dialer.ask(&place)).await {
            Ok(Ok(instance)) => return Some((instance, place)),
            Ok(Err(error)) => tracing::debug!(peer = %place.address, %error, "a peer does not say who it is"),
            Err(_) => tracing::debug!(peer = %place.address, "a peer does not say who it is in time"),
        }
        None
    }

    /// All addresses, each once.
    async fn resolve(&self) -> Vec<Place> {
        let lookups: FuturesUnordered<_> = self.addresses.iter().map(resolve).collect();
        let all: Vec<_> = lookups.collect().await;
        let mut seen = HashSet::new();
        let places = all.into_iter().flatten().filter(|place| seen.insert(place.address));
        places.take(MOST).collect()
    }

    /// An address has one instance: the last one that answered there.
    fn remember(&self, instance: InstanceId, place: Place) {
        let mut known = self.known();
        known.retain(|_, other| other.address != place.address);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(instance, place);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<InstanceId, Place>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses behind a name.
async fn resolve(PeerAddress { host, port }: &PeerAddress) -> Vec<Place> {
    match timeout(ANSWER, lookup_host((&**host, *port))).await {
        Ok(Ok(found)) => found.map(|address| Place { address, host: Arc::clone(host) }).collect(),
        Ok(Err(error)) => {
            tracing::warn!(%host, %error, "the name of the peers cannot be resolved");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(%host, "the name of the peers cannot be resolved in time");
            Vec::new()
        }
    }
}
