//! Public ports: bound once for each worker, accepted from for ever.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::telemetry::Metrics;

/// The kernel's queue of connections that wait for `accept`; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// Pauses after a failed `accept`: without one, a process that is out of file descriptors would spin.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// At most one warning in so long.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// TCP's own probes of a connection that is silent. HTTP/2 and sessions have pings; a gRPC-Web response over HTTP/1.1
/// that has nothing to say would else never learn that its client's network is gone. Gone is who is silent for 75 s.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;

/// Binds an address `count` times with SO_REUSEPORT, so that the kernel spreads connections over the workers. Port 0
/// becomes one free port for all.
pub(super) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    if address.port() != 0 {
        // SO_REUSEPORT would share the port with another Bidiway that runs already, in silence.
        socket(address, false)?;
    }
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(address, true)?;
        // Every connection that is accepted inherits it.
        socket.set_tcp_keepalive(&keepalive())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = StdListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES)
}

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts, and survives every failure to.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    pause: Duration,
    warned: Option<Instant>,
}

impl Acceptor {
    /// Must be called within the worker's runtime.
    pub(super) fn new(listener: StdListener, metrics: Arc<Metrics>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, metrics, pause: PAUSE_MIN, warned: None })
    }

    /// The next connection. Cancel-safe.
    pub(super) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.pause = PAUSE_MIN;
                    return accepted;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn failed(&mut self, error: &io::Error) {
        let kind = kind(error);
        self.metrics.accept_error(kind);
        if kind == "aborted" {
            debug!(%error, "a connection was gone before it was accepted");
            return;
        }
        let now = Instant::now();
        if self.warned.is_none_or(|at| now - at >= WARN_EVERY) {
            self.warned = Some(now);
            let hint =
                if kind == "too_many_files" { "; raise the limit of open files (ulimit -n)" } else { "" };
            warn!(%error, kind, "cannot accept connections for now{hint}");
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// A stable word for what went wrong.
fn kind(error: &io::Error) -> &'static str {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            "aborted"
        }
        io::ErrorKind::OutOfMemory => "out_of_memory",
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => "too_many_files",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_listeners_of_an_address_share_one_port() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        assert_ne!(port, 0);
        assert!(listeners.iter().all(|l| l.local_addr().unwrap().port() == port));
    }

    #[test]
    fn a_port_that_another_process_serves_is_not_shared_in_silence() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let error = bind(first[0].local_addr().unwrap(), 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn accepted_connections_are_probed_when_they_are_silent() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), PROBE_EVERY);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), PROBES);
    }

    #[test]
    fn accept_errors_have_stable_words() {
        for (errno, word) in [(24, "too_many_files"), (23, "too_many_files"), (103, "aborted"), (1, "other")]
        {
            assert_eq!(kind(&io::Error::from_raw_os_error(errno)), word);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_pause_longer_and_longer_up_to_a_second() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let mut acceptor = Acceptor::new(listener, Metrics::new()).unwrap();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let began = Instant::now();
            acceptor.failed(&io::Error::from_raw_os_error(24)).await;
            pauses.push(began.elapsed().as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }
}
