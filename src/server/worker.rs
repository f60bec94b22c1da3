//! One worker: a thread's share of the sockets, calls and upstream connections.

use std::{collections::HashMap, io, net::TcpListener, sync::Arc};

use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{
    DrainSettings, Settings,
    connection::{self, Connections, Door},
    listener::Acceptor,
    overload,
};
use crate::{
    downstream::{AddressTable, Drain, Edge, OpenConnection, carrier::SessionDirectory},
    schema::Schema,
    telemetry::Metrics,
    upstream::Upstream,
};

/// What a worker is made of; sent to its thread before it runs.
#[derive(Debug)]
pub(super) struct Worker {
    /// The same for all.
    pub(super) settings: Arc<Settings>,
    /// By the upstream's name, the same for all.
    pub(super) schemas: Arc<HashMap<String, Schema>>,
    /// One for each listener of the settings, in their order.
    pub(super) listeners: Vec<TcpListener>,
    /// The port for other instances, if there is one.
    pub(super) peers: Option<TcpListener>,
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
            cut: self.drain.cut.child_token(),
            tasks: self.drain.tasks.clone(),
            spread: self.drain.spread,
        };
        let upstreams: HashMap<_, _> = self
            .settings
            .upstreams
            .iter()
            .map(|settings| {
                (
                    settings.name.clone(),
                    Upstream::counted(settings.clone(), self.metrics.upstream(&settings.name)),
                )
            })
            .collect();
        let downstream = self.settings.downstream.clone();
        let http = connection::http(&downstream.limits);
        let edge = Edge::new(
            downstream.clone(),
            &upstreams,
            &self.schemas,
            self.metrics.clone(),
            drain.clone(),
            self.addresses,
            self.sessions.clone(),
        );
        tokio::spawn(overload::watch_lag(Arc::downgrade(&edge)));
        let public = self.listeners.into_iter().zip(&self.settings.listeners);
        let public = public.map(|(listener, settings)| {
            (
                listener,
                settings.tls.clone(),
                settings.proxy_protocol,
                Door::Public,
                http.clone(),
                &self.places,
            )
        });
        let peers = self.peers.zip(downstream.peers.as_ref()).map(|(listener, settings)| {
            let tls = Some(settings.server.clone());
            (listener, tls, false, Door::Peers, http.clone().http1_only(), &self.peer_places)
        });
        for (listener, tls, proxy_protocol, door, http, places) in public.chain(peers) {
            let acceptor = Acceptor::new(listener, self.metrics.clone())?;
            let connections = Arc::new(Connections {
                http,
                tls: tls.map(TlsAcceptor::from),
                proxy_protocol,
                door,
                edge: edge.clone(),
                metrics: self.metrics.clone(),
            });
            drain.tasks.spawn(accept(
                acceptor,
                connections,
                places.clone(),
                drain.clone(),
                self.sessions.clone(),
                self.settings.drain,
            ));
        }
        Ok(())
    }
}

/// Accepts until the drain begins, and then as long as there are sessions whose clients may come back, and time for
/// what they bring; then the port is closed.
async fn accept(
    mut acceptor: Acceptor,
    connections: Arc<Connections>,
    places: Arc<Semaphore>,
    drain: Drain,
    sessions: Arc<SessionDirectory>,
    times: DrainSettings,
) {
    let over = async {
        drain.draining.cancelled().await;
        tokio::select! {
            () = sessions.vacated() => {}
            // Whoever comes in the last moments would only be cut off.
            () = tokio::time::sleep(times.timeout.saturating_sub(times.grace) / 4 * 3) => {}
            () = drain.cut.cancelled() => {}
        }
    };
    let mut over = std::pin::pin!(over);
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
        drain.tasks.spawn(connections.clone().serve(socket, peer, open));
    }
}
