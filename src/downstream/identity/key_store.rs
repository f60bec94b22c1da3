//! An issuer's keys, kept fresh.

use std::{
    mem,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};

use super::{Authority, KeySet, KeySource, fetch::fetch};

/// How long after a fetch that failed the next one is made, unless keys are fetched more often anyway.
const RETRY: Duration = Duration::from_secs(30);

/// The keys of one issuer, with those that wait for newer ones. What could be had last stays until something better is
/// there: an issuer that cannot be reached locks nobody out whose key was known.
#[derive(Debug)]
pub(super) struct KeyStore {
    state: Mutex<State>,
    /// Asks for a fetch now.
    wake: Arc<Notify>,
    /// Counts fetches that are over.
    done: watch::Sender<u64>,
    cooldown: Duration,
}

#[derive(Debug)]
struct State {
    keys: Option<Arc<KeySet>>,
    /// Counts the changes of the keys.
    generation: u64,
    /// Somebody fetches.
    kept: bool,
    /// Nobody shall any more.
    retired: bool,
    /// A fetch is under way, or about to be.
    under_way: bool,
    /// When the last one was over.
    last: Option<Instant>,
}

/// The end of fetches to come.
#[derive(Clone, Debug)]
pub(super) struct Renewal(Vec<watch::Receiver<u64>>);

impl Renewal {
    /// `None`: there are none.
    pub(super) fn of(fetches: Vec<watch::Receiver<u64>>) -> Option<Self> {
        (!fetches.is_empty()).then_some(Self(fetches))
    }

    /// Waits for them, whatever they bring.
    pub(super) async fn over(self) {
        for mut fetch in self.0 {
            // An error means that nobody fetches any more.
            let _ = fetch.changed().await;
        }
    }
}

impl KeyStore {
    pub(super) fn new(source: &KeySource, cooldown: Duration) -> Self {
        let keys = match source {
            KeySource::Secret(keys) | KeySource::File { first: keys, .. } => Some(Arc::new(keys.clone())),
            KeySource::Url(_) => None,
        };
        let state = State { keys, generation: 0, kept: false, retired: false, under_way: false, last: None };
        Self { state: Mutex::new(state), wake: Arc::default(), done: watch::Sender::new(0), cooldown }
    }

    /// The keys as they are known now, and how often they have changed.
    pub(super) fn current(&self) -> (Option<Arc<KeySet>>, u64) {
        let state = self.lock();
        (state.keys.clone(), state.generation)
    }

    /// Asks for newer keys, unless that was done a moment ago: tokens with made-up keys must not make us hammer the
    /// issuer, nor wait.
    pub(super) fn renew(&self) -> Option<watch::Receiver<u64>> {
        let mut state = self.lock();
        if !state.kept {
            return None;
        }
        if !state.under_way {
            if state.last.is_some_and(|at| at.elapsed() < self.cooldown) {
                return None;
            }
            state.under_way = true;
            self.wake.notify_one();
        }
        Some(self.done.subscribe())
    }

    /// Ends who keeps it, after the fetch for which somebody waits.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        (state.kept, state.retired) = (false, true);
        self.wake.notify_one();
    }

    /// Whether nobody waits for a fetch, nor will.
    fn is_over(&self) -> bool {
        let state = self.lock();
        state.retired && !state.under_way
    }

    /// Begins with what is known elsewhere.
    pub(super) fn inherit(&self, old: &Self) {
        let (keys, _) = old.current();
        let mut state = self.lock();
        if state.keys.is_none() && keys.is_some() {
            state.keys = keys;
            state.generation += 1;
        }
    }

    /// Takes the result of a fetch. The word for metrics.
    fn take(&self, result: Result<KeySet, String>) -> Result<&'static str, String> {
        let mut state = self.lock();
        state.under_way = false;
        state.last = Some(Instant::now());
        let word = result.map(|keys| {
            if state.keys.as_deref() == Some(&keys) {
                return "unchanged";
            }
            state.keys = Some(Arc::new(keys));
            state.generation += 1;
            "changed"
        });
        drop(state);
        self.done.send_modify(|count| *count += 1);
        word
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends who keeps it.
impl Drop for KeyStore {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Starts keeping a provider's keys fresh in the current runtime, unless somebody does, or they never change.
pub(super) fn keep(authority: &Arc<Authority>, provider: usize) {
    let store = authority.key_store(provider);
    let Ok(runtime) = Handle::try_current() else { return };
    let source = &authority.settings().providers[provider].keys;
    let has_first = match source {
        KeySource::Secret(_) => return,
        KeySource::File { .. } => true,
        KeySource::Url(_) => false,
    };
    let mut state = store.lock();
    if state.retired || mem::replace(&mut state.kept, true) {
        return;
    }
    state.under_way = !has_first;
    drop(state);
    runtime.spawn(run(Arc::downgrade(authority), provider, store.wake.clone(), has_first));
}

/// Fetches until the authority is gone.
async fn run(authority: Weak<Authority>, provider: usize, wake: Arc<Notify>, mut wait: bool) {
    let mut failed = false;
    loop {
        let Some(interval) = authority.upgrade().map(|known| known.interval(provider)) else { return };
        if wait {
            let pause = if failed { RETRY.min(interval) } else { interval };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wake.notified() => {}
            }
        }
        wait = true;
        let Some(authority) = authority.upgrade().filter(|known| !known.key_store(provider).is_over()) else {
            return;
        };
        authority.key_store(provider).lock().under_way = true;
        let result = authority.key_store(provider).take(read(authority.source(provider)).await);
        failed = result.is_err();
        authority.fetched(provider, result);
    }
}

async fn read(source: &KeySource) -> Result<KeySet, String> {
    let json = match source {
        KeySource::Secret(keys) => return Ok(keys.clone()),
        KeySource::File { path, .. } => read_file(path).await?,
        KeySource::Url(url) => fetch(url).await.map_err(|error| error.to_string())?.to_vec(),
    };
    KeySet::from_jwks(&json).map_err(|error| error.to_string())
}

async fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| format!("cannot read {}: {error}", path.display()))
}
