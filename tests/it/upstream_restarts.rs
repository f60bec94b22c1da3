//! Upstreams that restart while they are busy: real tonic servers, several replicas of one service. Every call has an id
//! of its own, and the service counts how often it saw which.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bidiway::{
    demo::v1::{
        HelloReply, HelloRequest,
        greeter_client::GreeterClient,
        greeter_server::{Greeter, GreeterServer},
    },
    telemetry::Metrics,
    upstream::{Roster, Upstream},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::server::TcpIncoming};

use crate::support::{calls::settings, within};

/// How often the service saw each id.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<HashMap<String, u32>>>);

#[tonic::async_trait]
impl Greeter for Counting {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let name = request.into_inner().name;
        *self.0.lock().unwrap().entry(name.clone()).or_default() += 1;
        // Some work, so that calls are running whenever the server is told to stop.
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(Response::new(HelloReply { text: name }))
    }
}

/// One server on a runtime of its own, as a process would be.
struct Replica {
    address: SocketAddr,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
    served: tokio::task::JoinHandle<()>,
}

impl Replica {
    /// Serves at this address; port 0 takes a free one.
    async fn start(address: SocketAddr, service: &Counting, age: Option<Duration>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let (service, stop) = (GreeterServer::new(service.clone()), CancellationToken::new());
        let (bound, port) = tokio::sync::oneshot::channel();
        let stopped = stop.clone();
        let served = runtime.spawn(async move {
            // Somebody's outgoing connection may have the port for a moment.
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            bound.send(listener.local_addr().unwrap()).unwrap();
            let mut server = tonic::transport::Server::builder();
            if let Some(age) = age {
                server = server.max_connection_age(age);
            }
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = server.add_service(service);
            server.serve_with_incoming_shutdown(incoming, stopped.cancelled_owned()).await.unwrap();
        });
        Self { address: port.await.unwrap(), stop, runtime: Some(runtime), served }
    }

    /// Stops as a well-behaved server does: GOAWAY, and what runs may finish.
    async fn stop(mut self) -> SocketAddr {
        self.stop.cancel();
        (&mut self.served).await.unwrap();
        self.address
    }

    /// Stops as a killed process does.
    fn kill(mut self) -> SocketAddr {
        self.runtime.take().unwrap().shutdown_background();
        self.address
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What became of the calls.
#[derive(Debug, Default)]
struct Tally {
    succeeded: Vec<String>,
    failed: Vec<(String, Status)>,
}

/// Keeps `upstream` busy with 16 calls at a time while `meanwhile` runs, which is told how many have ended.
async fn under_load<F: Future<Output = ()>>(
    upstream: &Upstream,
    meanwhile: impl FnOnce(watch::Receiver<usize>) -> F,
) -> Tally {
    let (ended, done) = (Arc::new(watch::Sender::new(0)), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let mut client = GreeterClient::new(upstream.channel());
        let (ended, done) = (ended.clone(), done.clone());
        callers.spawn(async move {
            let mut tally = Tally::default();
            for call in 0.. {
                if done.load(Relaxed) {
                    break;
                }
                let name = format!("{caller}/{call}");
                match client.hello(HelloRequest { name: name.clone() }).await {
                    Ok(_) => tally.succeeded.push(name),
                    Err(status) => tally.failed.push((name, status)),
                }
                ended.send_modify(|ended| *ended += 1);
                tokio::task::yield_now().await;
            }
            tally
        });
    }
    meanwhile(ended.subscribe()).await;
    done.store(true, Relaxed);
    let mut all = Tally::default();
    while let Some(tally) = callers.join_next().await {
        let tally = tally.unwrap();
        all.succeeded.extend(tally.succeeded);
        all.failed.extend(tally.failed);
    }
    all
}

/// Waits until so many more calls have ended.
async fn after(ended: &mut watch::Receiver<usize>, calls: usize) {
    let until = *ended.borrow() + calls;
    ended.wait_for(|ended| *ended >= until).await.unwrap();
}

/// Waits until the proxy has found a server that is back: as a rolling restart waits until what it started is ready.
async fn found(metrics: &Metrics, ended: &mut watch::Receiver<usize>, connects: u64) {
    while metric(metrics, "bidiway_upstream_connects_total") < connects {
        after(ended, 1).await;
    }
}

async fn replicas(
    service: &Counting,
    age: Option<Duration>,
) -> (Vec<Option<Replica>>, Upstream, Arc<Metrics>) {
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Some(Replica::start("127.0.0.1:0".parse().unwrap(), service, age).await));
    }
    let urls: Vec<String> =
        replicas.iter().flatten().map(|replica| format!("http://{}", replica.address)).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let metrics = Metrics::new();
    let upstream = Upstream::of(&Roster::new(Arc::new(settings(&urls)), &metrics));
    (replicas, upstream, metrics)
}

fn metric(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encode();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn replicas_that_restart_gracefully_under_load_cost_no_call_and_none_runs_twice() {
    let service = Counting::default();
    let (mut replicas, upstream, metrics) = replicas(&service, None).await;
    let tally = under_load(&upstream, |mut ended| {
        let (service, metrics, replicas) = (service.clone(), &metrics, &mut replicas);
        async move {
            for restart in 0..20 {
                after(&mut ended, 100).await;
                let place = &mut replicas[restart % 3];
                let address = place.take().unwrap().stop().await;
                after(&mut ended, 20).await;
                *place = Some(Replica::start(address, &service, None).await);
                found(metrics, &mut ended, 4 + restart as u64).await;
            }
            after(&mut ended, 100).await;
        }
    });
    let tally = within(60, tally).await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    let seen = service.0.lock().unwrap();
    assert!(tally.succeeded.len() >= 2400 && seen.len() == tally.succeeded.len());
    for (id, count) in seen.iter() {
        assert_eq!(*count, 1, "{id}");
    }
}

#[tokio::test]
async fn connections_that_servers_end_because_of_their_age_cost_no_call() {
    let service = Counting::default();
    let (_replicas, upstream, metrics) = replicas(&service, Some(Duration::from_millis(30))).await;
    let tally = under_load(&upstream, |mut ended| {
        let metrics = &metrics;
        async move {
            while metric(metrics, "bidiway_upstream_connects_total") < 60 {
                after(&mut ended, 50).await;
            }
        }
    });
    let tally = within(60, tally).await;
    assert!(tally.failed.is_empty(), "{:?}", tally.failed);
    assert!(service.0.lock().unwrap().values().all(|count| *count == 1));
}

#[tokio::test]
async fn replicas_that_are_killed_under_load_lose_what_they_ran_and_nothing_runs_twice() {
    let service = Counting::default();
    let (mut replicas, upstream, metrics) = replicas(&service, None).await;
    let tally = under_load(&upstream, |mut ended| {
        let (service, metrics, replicas) = (service.clone(), &metrics, &mut replicas);
        async move {
            for kill in 0..20 {
                after(&mut ended, 50).await;
                let place = &mut replicas[kill % 3];
                let address = place.take().unwrap().kill();
                after(&mut ended, 20).await;
                *place = Some(Replica::start(address, &service, None).await);
                found(metrics, &mut ended, 4 + kill as u64).await;
            }
        }
    });
    let tally = within(60, tally).await;
    let seen = service.0.lock().unwrap();
    for (id, count) in seen.iter() {
        assert_eq!(*count, 1, "{id}");
    }
    for id in &tally.succeeded {
        assert!(seen.contains_key(id), "{id}");
    }
    // At most what a replica was running: the others' calls, and those that come meanwhile, go on.
    assert!(tally.failed.len() <= 20 * 16, "{} failed", tally.failed.len());
    for (id, status) in &tally.failed {
        assert_eq!(status.code(), Code::Unavailable, "{id}: {status:?}");
    }
}
