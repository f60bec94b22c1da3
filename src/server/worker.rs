//! One worker: a thread's share of the sockets, calls and upstream connections.

use std::{
    collections::HashMap,
    io, mem,
    net::TcpListener,
    sync::{Arc, Weak},
};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{Connections, Door, Terms},
    listener::Acceptor,
    overload,
    reload::{Generation, News},
};
use crate::{
    downstream::{AddressTable, Drain, Edge, OpenConnection, Plan, carrier::SessionDirectory},
    telemetry::Metrics,
    upstream::{Roster, Upstream},
};

/// What a worker is made of; sent to its thread before it runs.
#[derive(Debug)]
pub(super) struct Worker {
    /// What it begins with, the same for all.
    pub(super) generation: Arc<Generation>,
    /// What it goes on with.
    pub(super) news: mpsc::Receiver<News>,
    /// One for each listener of the settings, in their order.
    pub(super) listeners: Vec<TcpListener>,
    /// The port for other instances, if there is one.
    pub(super) peers: Option<TcpListener>,
    /// Set when that one closes in a drain.
    pub(super) peers_closed: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
    /// Places for connections in the whole process.
    pub(super) places: Arc<Semaphore>,
    /// As many again for other instances: clients must not be able to keep them out.
    pub(super) peer_places: Arc<Semaphore>,
    pub(super) drain: Drain,
    /// Sockets per client, in the whole process.
    pub(super) addresses: Arc<AddressTable>,
    /// Sessions that can be resumed, in the whole process.
    pub(super) sessions: Arc<SessionDirectory>,
}

impl Worker {
    /// Starts accepting within the current runtime. The tasks run in `drain.tasks`.
    pub(super) fn start(self) -> io::Result<()> {
        // Tokens of its own: each wake-up of a connection locks them, and workers must not meet there.
        let drain = Drain {
            leaving: self.drain.leaving.child_token(),
            draining: self.drain.draining.child_token(),
            closed: self.drain.closed.child_token(),
            cut: self.drain.cut.child_token(),
            tasks: self.drain.tasks.clone(),
            spread: self.drain.spread,
            late_spread: self.drain.late_spread,
        };
        let mut follower =
            Follower { metrics: self.metrics.clone(), drain: drain.clone(), upstreams: HashMap::new() };
        let settings = &self.generation.settings;
        let plan = follower.plan(&self.generation);
        let edge =
            Edge::new(plan, self.metrics.clone(), drain.clone(), self.addresses, self.sessions.clone());
        let clock = overload::keep_clock(self.metrics.worker_clock(), Arc::downgrade(&edge));
        tokio::spawn(drain.cut.clone().run_until_cancelled_owned(clock));
        let public = self.listeners.into_iter().map(|listener| (listener, Door::Public, &self.places));
        let peers = self.peers.into_iter().map(|listener| (listener, Door::Peers, &self.peer_places));
        let mut doors = Vec::new();
        for ((listener, door, places), terms) in public.chain(peers).zip(Terms::of(settings)) {
            let acceptor = Acceptor::new(listener, self.metrics.clone())?;
            let connections = Arc::new(Connections::new(terms, door, edge.clone(), self.metrics.clone()));
            doors.push(Arc::downgrade(&connections));
            let over = match door {
                Door::Public => drain.closed.clone(),
                Door::Peers => self.peers_closed.clone(),
            };
            drain.tasks.spawn(accept(acceptor, connections, places.clone(), drain.tasks.clone(), over));
        }
        tokio::spawn(follower.run(self.news, edge, doors));
        Ok(())
    }
}

/// Brings a worker to each new generation of the configuration.
#[derive(Debug)]
struct Follower {
    metrics: Arc<Metrics>,
    drain: Drain,
    /// Those of the current generation.
    upstreams: HashMap<String, (Arc<Roster>, Upstream)>,
}

impl Follower {
    /// Follows until the server stops. What runs goes on as it is.
    async fn run(mut self, mut news: mpsc::Receiver<News>, edge: Arc<Edge>, doors: Vec<Weak<Connections>>) {
        while let Some(News { generation, done }) = news.recv().await {
            edge.follow(self.plan(&generation));
            for (door, terms) in doors.iter().zip(Terms::of(&generation.settings)) {
                if let Some(door) = door.upgrade() {
                    door.follow(terms);
                }
            }
            // Nobody waits while the server stops.
            let _ = done.send(());
        }
    }

    /// Upstreams whose settings are the same keep their connections. The others' close with their last call.
    fn plan(&mut self, generation: &Generation) -> Arc<Plan> {
        let Generation { settings, rosters, schemas } = generation;
        let mut before = mem::take(&mut self.upstreams);
        for (name, roster) in rosters {
            let kept = before.remove(name).filter(|(before, _)| Arc::ptr_eq(before, roster));
            let upstream = kept.map_or_else(|| Upstream::of(roster), |(_, upstream)| upstream);
            self.upstreams.insert(name.clone(), (roster.clone(), upstream));
        }
        let upstreams = self.upstreams.iter().map(|(name, (_, upstream))| (name.clone(), upstream.clone()));
        Plan::new(settings.downstream.clone(), &upstreams.collect(), schemas, &self.metrics, &self.drain)
    }
}

/// Accepts until it is over; then the port is closed.
async fn accept(
    mut acceptor: Acceptor,
    connections: Arc<Connections>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    over: CancellationToken,
) {
    let mut over = std::pin::pin!(over.cancelled());
    let next = async |acceptor: &mut Acceptor| {
        let (socket, peer) = acceptor.accept().await;
        // At the limit this connection waits here, and the others in the kernel's backlog.
        let place = places.clone().acquire_owned().await.expect("nothing closes this semaphore");
        (socket, peer, place)
    };
    loop {
        let (socket, peer, place) = tokio::select! {
            // First those who are in the kernel's backlog: closing the port resets them.
            biased;
            accepted = next(&mut acceptor) => accepted,
            () = &mut over => return,
        };
        let open = OpenConnection::new(connections.metrics.clone(), place);
        tasks.spawn(connections.clone().serve(socket, peer, open));
    }
}
