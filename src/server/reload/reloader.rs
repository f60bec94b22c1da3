//! From settings to running workers.

use std::{collections::HashMap, sync::Arc};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use super::{Generation, News, ReloadStatus, fixed};
use crate::{
    downstream::carrier::SessionDirectory,
    schema::Schema,
    server::{Rosters, Settings, acme::Renewals, rosters, schema_of, tls::keep_tickets},
    telemetry::Metrics,
};

/// What became of new settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What differs from what the process was started with, and holds only after a restart: keys of the configuration.
    pub restart_needed: Vec<&'static str>,
}

/// A running server's way to other settings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloader {
    orders: mpsc::Sender<Order>,
    status: Arc<ReloadStatus>,
}

/// New settings, and who waits until they hold.
#[derive(Debug)]
pub(in crate::server) struct Order {
    settings: Settings,
    done: oneshot::Sender<Applied>,
}

impl Reloader {
    pub(in crate::server) fn new(status: Arc<ReloadStatus>) -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(1);
        (Self { orders, status }, receiver)
    }

    /// From now on these settings hold: for new connections, sessions and calls. Completes when every worker goes by
    /// them; `None`: the server stops, or is not serving yet.
    pub async fn apply(&self, settings: Settings) -> Option<Applied> {
        let (done, applied) = oneshot::channel();
        self.orders.send(Order { settings, done }).await.ok()?;
        applied.await.ok()
    }

    pub(super) fn status(&self) -> &ReloadStatus {
        &self.status
    }
}

/// What of a running server can change.
#[derive(Debug)]
pub(in crate::server) struct Running {
    pub(in crate::server) generation: Arc<Generation>,
    pub(in crate::server) workers: Vec<mpsc::Sender<News>>,
    pub(in crate::server) metrics: Arc<Metrics>,
    pub(in crate::server) sessions: Arc<SessionDirectory>,
    pub(in crate::server) places: Vec<Places>,
    /// For the admin port.
    pub(in crate::server) renewals: Renewals,
    pub(in crate::server) schemas: tokio::sync::watch::Sender<Arc<HashMap<String, Schema>>>,
}

impl Running {
    /// Takes orders until the server stops.
    pub(in crate::server) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(Order { settings, done }) = orders.recv().await {
            // Who asked may have gone away; the settings hold all the same.
            let _ = done.send(self.apply(settings).await);
        }
        std::future::pending().await
    }

    async fn apply(&mut self, mut settings: Settings) -> Applied {
        let restart_needed = fixed::keep(&self.generation.settings, &mut settings);
        let old = self.generation.settings.downstream.clone();
        settings.downstream.keep_identity(&old);
        settings.downstream.keep_route_limits(&old);
        for (old, new) in self.generation.settings.listeners.iter().zip(&mut settings.listeners) {
            if let (Some(old_tls), Some(new_tls)) = (&old.tls, &mut new.tls)
                && old.client_trust == new.client_trust
            {
                *new_tls = keep_tickets(old_tls, new_tls);
            }
        }
        let rosters = rosters(&settings, Some(&self.generation.rosters), &self.metrics);
        let schemas = Arc::new(self.schemas(&settings, &rosters));
        self.sessions.follow(&settings.downstream);
        for places in &mut self.places {
            places.resize(settings.max_connections).await;
        }
        settings.tell_certificates(&self.metrics);
        self.renewals.follow(&settings);
        self.schemas.send_replace(schemas.clone());
        self.generation = Arc::new(Generation { settings, rosters, schemas });
        for worker in &self.workers {
            let (done, told) = oneshot::channel();
            let news = News { generation: self.generation.clone(), done };
            if worker.send(news).await.is_ok() {
                let _ = told.await;
            }
        }
        self.generation.settings.downstream.retire_identity(&old);
        Applied { restart_needed }
    }

    /// Schemas of upstreams that have not changed keep what they have loaded.
    fn schemas(&self, settings: &Settings, rosters: &Rosters) -> HashMap<String, Schema> {
        let Generation { settings: before, schemas, .. } = &*self.generation;
        let upstream = |settings: &Settings, name: &str| {
            settings.upstreams.iter().find(|upstream| upstream.name == *name).cloned()
        };
        let kept = |name: &str| {
            let same = before.schemas.get(name) == settings.schemas.get(name)
                && upstream(before, name) == upstream(settings, name);
            schemas.get(name).filter(|_| same).cloned()
        };
        let names = settings.schemas.keys();
        names
            .filter_map(|name| {
                let schema = kept(name).or_else(|| schema_of(name, settings, rosters, &self.metrics))?;
                Some((name.clone(), schema))
            })
            .collect()
    }
}

/// Places for connections, of which there may be more or fewer later.
#[derive(Debug)]
pub(in crate::server) struct Places {
    semaphore: Arc<Semaphore>,
    /// How many there are when `leaving` is done.
    count: usize,
    /// Takes away so many when connections give them back.
    leaving: Option<(usize, JoinHandle<()>)>,
}

impl Places {
    pub(in crate::server) fn new(count: usize) -> Self {
        let count = count.min(Semaphore::MAX_PERMITS);
        Self { semaphore: Arc::new(Semaphore::new(count)), count, leaving: None }
    }

    pub(in crate::server) fn semaphore(&self) -> Arc<Semaphore> {
        self.semaphore.clone()
    }

    async fn resize(&mut self, count: usize) {
        let count = count.min(Semaphore::MAX_PERMITS);
        if let Some((number, leaving)) = self.leaving.take() {
            leaving.abort();
            if leaving.await.is_err() {
                self.count += number;
            }
        }
        if count > self.count {
            self.semaphore.add_permits(count - self.count);
        }
        let surplus = self.count.saturating_sub(count);
        let rest = surplus - self.semaphore.forget_permits(surplus);
        if rest > 0 {
            let semaphore = self.semaphore.clone();
            let number = u32::try_from(rest).unwrap_or(u32::MAX);
            let leave = async move {
                if let Ok(places) = semaphore.acquire_many_owned(number).await {
                    places.forget();
                }
            };
            self.leaving = Some((rest, tokio::spawn(leave)));
        }
        self.count = count;
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if let Some((_, leaving)) = &self.leaving {
            leaving.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_that_are_taken_go_away_when_they_are_given_back() {
        let mut places = Places::new(3);
        let semaphore = places.semaphore();
        let taken = semaphore.clone().acquire_many_owned(2).await.unwrap();
        places.resize(1).await;
        assert_eq!(semaphore.available_permits(), 0);
        // Bigger again before it has become smaller.
        places.resize(2).await;
        drop(taken);
        tokio::task::yield_now().await;
        let all = tokio::time::timeout(std::time::Duration::from_secs(5), async {
            while places.leaving.as_ref().is_some_and(|(_, leaving)| !leaving.is_finished()) {
                tokio::task::yield_now().await;
            }
            semaphore.acquire_many(2).await.unwrap()
        });
        drop(all.await.unwrap());
        assert!(semaphore.try_acquire_many(3).is_err(), "two, and not three");
        places.resize(5).await;
        assert_eq!(semaphore.available_permits(), 5);
    }
}
