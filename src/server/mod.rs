//! The process: listeners, workers, TLS, the admin port, start and stop.
//!
//! Workers share nothing on the way of a message: each is a thread with a runtime, listeners, upstream connections
//! and sessions of its own. What they do share is settings, metrics and the signals of the drain.

pub mod acme;
mod admin;
mod connection;
mod listener;
mod overload;
pub mod reload;
mod settings;
mod span_export;
pub mod tls;
mod worker;

pub use settings::{DrainSettings, ListenerSettings, Settings};
pub use span_export::{Collector, TracingSettings};

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    downstream::{AddressTable, Drain, carrier::SessionDirectory},
    schema::{Channel, Reflection, Schema},
    telemetry::Metrics,
    upstream::{self, Roster, Upstream},
};
use acme::Renewals;
use admin::Readiness;
use reload::{Generation, Order, Places, ReloadStatus, Reloader, Running};
use span_export::SpanExport;
use worker::Worker;

/// A server whose ports are bound and that serves nothing yet.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    addresses: Vec<SocketAddr>,
    admin: Option<TcpListener>,
    admin_address: Option<SocketAddr>,
    /// One set of listeners for each worker.
    listeners: Vec<Vec<TcpListener>>,
    /// The port for other instances: one for each worker, or none.
    peers: Vec<TcpListener>,
    metrics: Arc<Metrics>,
    sessions: Arc<SessionDirectory>,
    clients: Arc<AddressTable>,
    drain: Drain,
    reloads: Arc<ReloadStatus>,
    reloader: Reloader,
    orders: mpsc::Receiver<Order>,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("cannot listen on {address}: {source}{}", advice(source))]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No secrets can be made.
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop what listens there, or choose another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no network interface of this machine has this address",
        _ => "",
    }
}

impl Server {
    /// Binds every port (0 is replaced by a free one), and starts nothing.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let workers = settings.workers.max(1);
        let mut listeners: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for &ListenerSettings { address, .. } in &settings.listeners {
            let failed = |source| StartError::Bind { address, source };
            let bound = listener::bind(address, workers).map_err(failed)?;
            addresses.push(bound[0].local_addr().map_err(failed)?);
            for (worker, listener) in listeners.iter_mut().zip(bound) {
                worker.push(listener);
            }
        }
        let peers = match &settings.downstream.peers {
            None => Vec::new(),
            Some(peers) => listener::bind(peers.listen, workers)
                .map_err(|source| StartError::Bind { address: peers.listen, source })?,
        };
        let admin = match settings.admin {
            None => None,
            Some(address) => Some(
                listener::bind(address, 1)
                    .and_then(|mut bound| {
                        let listener = bound.remove(0);
                        Ok((listener.local_addr()?, listener))
                    })
                    .map_err(|source| StartError::Bind { address, source })?,
            ),
        };
        let (admin_address, admin) = admin.unzip();
        let metrics = Metrics::new();
        settings.tell_certificates(&metrics);
        let sessions = SessionDirectory::new(&settings.downstream, &metrics).map_err(StartError::Random)?;
        let reloads = ReloadStatus::new(metrics.clone());
        let (reloader, orders) = Reloader::new(reloads.clone());
        let drain = Drain {
            spread: settings.drain.spread,
            late_spread: settings.drain.late_spread(),
            ..Drain::default()
        };
        Ok(Self {
            settings,
            addresses,
            admin,
            admin_address,
            listeners,
            peers,
            metrics,
            sessions,
            clients: Arc::default(),
            drain,
            reloads,
            reloader,
            orders,
        })
    }

    /// The bound addresses of the listeners, in the order of the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// The bound address of the admin port.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The process's metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// What clients hold, and whether there is room for more.
    pub fn clients(&self) -> Arc<AddressTable> {
        self.clients.clone()
    }

    /// The way to other settings while it serves.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Cancel this to end a drain before its deadline: what still runs then ends with UNAVAILABLE.
    pub fn cut(&self) -> CancellationToken {
        self.drain.cut.clone()
    }

    /// Serves until `shutdown` completes, then drains: readiness off, the grace, GoAway, calls finish until the
    /// deadline, then UNAVAILABLE. Returns when everything has ended. With one worker, it runs within the caller's runtime.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let Self {
            settings,
            admin,
            listeners,
            peers,
            metrics,
            sessions,
            clients: addresses,
            drain,
            reloads,
            orders,
            ..
        } = self;
        let stop = CancellationToken::new();
        let spans = settings.tracing.as_ref().map(|tracing| export_spans(tracing, &settings, &metrics));
        let readiness = Arc::<Readiness>::default();
        let rosters = rosters(&settings, None, &metrics);
        let schemas = Arc::new(schemas(&settings, &rosters, &metrics));
        let (schemas_now, seen) = watch::channel(schemas.clone());
        if let Some(listener) = admin {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let stop = stop.clone().cancelled_owned();
                    let (readiness, metrics) = (readiness.clone(), metrics.clone());
                    let served = admin::serve(listener, readiness, metrics, seen, reloads, stop);
                    tokio::spawn(served);
                }
                Err(error) => error!(%error, "the admin port does not work"),
            }
        }

        let (places, peer_places) =
            (Places::new(settings.max_connections), Places::new(settings.max_connections));
        let watch = overload::watch(
            settings.downstream.limits.overload,
            addresses.clone(),
            metrics.clone(),
            readiness.clone(),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch));
        let mut peers = peers.into_iter();
        let peers_closed = CancellationToken::new();
        let generation = Arc::new(Generation { settings, rosters, schemas });
        let (senders, news): (Vec<_>, Vec<_>) = listeners.iter().map(|_| mpsc::channel(1)).unzip();
        let workers = listeners.into_iter().zip(news).map(|(listeners, news)| Worker {
            generation: generation.clone(),
            news,
            listeners,
            peers: peers.next(),
            peers_closed: peers_closed.clone(),
            metrics: metrics.clone(),
            places: places.semaphore(),
            peer_places: peer_places.semaphore(),
            drain: drain.clone(),
            addresses: addresses.clone(),
            sessions: sessions.clone(),
        });
        let threads = start(workers.collect(), &stop).await;
        readiness.ready();

        let times = generation.settings.drain;
        let DrainSettings { grace, spread, timeout: limit } = times;
        let mut renewals = Renewals::default();
        renewals.follow(&generation.settings);
        let running = Running {
            generation,
            workers: senders,
            metrics,
            sessions: sessions.clone(),
            places: vec![places, peer_places],
            schemas: schemas_now,
            renewals,
        };
        // Kept until the end, and with it what workers have of upstreams that no call uses.
        let mut running = pin!(running.run(orders));
        tokio::select! {
            () = shutdown => {}
            () = &mut running => {}
        }
        readiness.draining();
        let deadline = tokio::time::sleep(limit);
        drain.leaving.cancel();
        if !grace.is_zero() {
            info!(?grace, "stopping: not ready any more, but everything is served during the grace");
            tokio::select! {
                () = tokio::time::sleep(grace.min(limit)) => {}
                () = drain.cut.cancelled() => {}
            }
        }
        info!(deadline = ?limit.saturating_sub(grace), ?spread, "draining: open calls may finish, clients go elsewhere");
        drain.draining.cancel();
        drain.tasks.close();
        let ending = async {
            let begun = Instant::now();
            let _ = timeout_at(begun + times.open(), sessions.vacated()).await;
            drain.closed.cancel();
            let _ = timeout_at(begun + times.open_for_peers(), sessions.vacated()).await;
            peers_closed.cancel();
            drain.tasks.wait().await;
        };
        let ended = tokio::select! {
            () = ending => true,
            () = deadline => false,
            () = drain.cut.cancelled() => false,
        };
        drain.closed.cancel();
        peers_closed.cancel();
        drain.cut.cancel();
        // Twice: a call may end within its grace, and its connection after that.
        if !ended && timeout(2 * connection::LAST_WORDS, drain.tasks.wait()).await.is_err() {
            warn!(tasks = drain.tasks.len(), "some connections did not end in time and are dropped");
        }
        stop.cancel();
        for thread in threads {
            if tokio::task::spawn_blocking(|| thread.join()).await.is_err() {
                error!("a worker's thread did not end well");
            }
        }
        if let Some((closing, export)) = spans {
            closing.cancel();
            if timeout(LAST_SPANS, export).await.is_err() {
                warn!("the trace collector did not take the last spans in time");
            }
        }
        info!("stopped");
    }
}

/// How long the last spans may take.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Gives calls spans and sends them away, until the token is cancelled: then what there is is sent, and it ends.
fn export_spans(
    tracing: &TracingSettings,
    settings: &Settings,
    metrics: &Metrics,
) -> (CancellationToken, JoinHandle<()>) {
    let random = || format!("{:016x}", getrandom::u64().unwrap_or_default());
    let instance = settings.downstream.instance.clone().unwrap_or_else(random);
    let queue = metrics.trace(tracing.traces);
    let closing = CancellationToken::new();
    let export = SpanExport::new(tracing, instance);
    (closing.clone(), tokio::spawn(export.run(queue, closing)))
}

/// Upstreams' members as all workers share them, by the upstream's name.
pub type Rosters = HashMap<String, Arc<Roster>>;

/// The upstreams' members. Resolving names and asking for health begins at once, within this runtime. Those `before`
/// whose settings are the same go on.
pub fn rosters(settings: &Settings, before: Option<&Rosters>, metrics: &Metrics) -> Rosters {
    let roster = |settings: &Arc<upstream::Settings>| {
        let kept = before.and_then(|before| before.get(&settings.name));
        let roster = match kept.filter(|kept| kept.settings() == settings) {
            Some(kept) => kept.clone(),
            None => Roster::new(settings.clone(), metrics),
        };
        roster.begin(&Handle::current());
        (settings.name.clone(), roster)
    };
    settings.upstreams.iter().map(roster).collect()
}

/// The upstreams' schemas. Reflection has connections of its own and runs within this runtime: whatever it does,
/// calls do not notice.
pub fn schemas(settings: &Settings, rosters: &Rosters, metrics: &Metrics) -> HashMap<String, Schema> {
    let schema = |name: &String| Some((name.clone(), schema_of(name, settings, rosters, metrics)?));
    settings.schemas.keys().filter_map(schema).collect()
}

/// One upstream's schema.
fn schema_of(name: &str, settings: &Settings, rosters: &Rosters, metrics: &Metrics) -> Option<Schema> {
    let given = settings.schemas.get(name)?;
    let upstream = Upstream::of(rosters.get(name)?);
    let reflection = Reflection { channel: Channel::new(upstream.channel()), runtime: Handle::current() };
    Some(Schema::new(name, given.clone(), reflection, metrics.schema(name)))
}

/// Starts the workers: one alone within this runtime, several in threads of their own. Returns when all accept.
async fn start(mut workers: Vec<Worker>, stop: &CancellationToken) -> Vec<thread::JoinHandle<()>> {
    if workers.len() == 1 {
        if let Err(error) = workers.remove(0).start() {
            error!(%error, "the worker cannot accept connections");
        }
        return Vec::new();
    }
    let mut threads = Vec::new();
    for (number, worker) in workers.into_iter().enumerate() {
        let (started, wait) = oneshot::channel();
        let stop = stop.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the kernel gives each worker an epoll instance at the start");
            runtime.block_on(async {
                if let Err(error) = worker.start() {
                    error!(%error, number, "a worker cannot accept connections");
                }
                let _ = started.send(());
                stop.cancelled().await;
            });
        };
        match thread::Builder::new().name(format!("worker-{number}")).spawn(run) {
            Ok(thread) => threads.push(thread),
            Err(error) => error!(%error, number, "a worker's thread cannot be started"),
        }
        let _ = wait.await;
    }
    threads
}
