//! A tonic service in several replicas: one port, each on an address of its own of the loopback network.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bidiway::demo::v1::{HelloReply, HelloRequest, greeter_server};
use tokio::{runtime, sync::Semaphore};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};
use tonic_health::{ServingStatus, server::HealthReporter};

/// One replica, in a runtime of its own: dropped, it is gone as a killed process is.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) greeter: Arc<Greeter>,
    health: HealthReporter,
    runtime: Option<runtime::Runtime>,
}

/// Answers with its address.
pub(crate) struct Greeter {
    name: String,
    greeted: AtomicUsize,
    /// Answers UNAVAILABLE.
    refuses: AtomicBool,
    /// Calls by the name of "wait" that have begun, and what lets them end.
    pub(crate) waiting: AtomicUsize,
    pub(crate) go_on: Semaphore,
}

/// So many replicas at 127.0.0.1, 127.0.0.2 and so on.
pub(crate) fn replicas(count: u8) -> Vec<Replica> {
    for _ in 0..20 {
        let first = Replica::start(ip(1), 0).unwrap();
        let port = first.address.port();
        let others: io::Result<Vec<_>> = (2..=count).map(|n| Replica::start(ip(n), port)).collect();
        if let Ok(others) = others {
            return std::iter::once(first).chain(others).collect();
        }
    }
    panic!("no port is free on {count} addresses");
}

pub(crate) fn ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

impl Replica {
    pub(crate) fn start(ip: Ipv4Addr, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let greeter = Arc::new(Greeter {
            name: address.to_string(),
            greeted: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            go_on: Semaphore::new(0),
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let service = greeter_server::GreeterServer::from_arc(greeter.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let server = tonic::transport::Server::builder().add_service(service).add_service(health_service);
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Ok(Self { address, greeter, health, runtime: Some(runtime) })
    }

    /// The same address again, as soon as the system gives it.
    pub(crate) async fn again(address: SocketAddr) -> Self {
        let SocketAddr::V4(address) = address else { unreachable!("all are IPv4") };
        loop {
            match Self::start(*address.ip(), address.port()) {
                Ok(replica) => return replica,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Calls so far.
    pub(crate) fn greeted(&self) -> usize {
        self.greeter.greeted.load(SeqCst)
    }

    /// From now on every call is UNAVAILABLE, or none.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.greeter.refuses.store(refuses, SeqCst);
    }

    /// What health checks are told.
    pub(crate) async fn serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status("", status).await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.greeted.fetch_add(1, SeqCst);
        if self.refuses.load(SeqCst) {
            return Err(Status::unavailable("no"));
        }
        if request.get_ref().name == "wait" {
            self.waiting.fetch_add(1, SeqCst);
            self.go_on.acquire().await.unwrap().forget();
        }
        Ok(Response::new(HelloReply { text: self.name.clone() }))
    }
}
