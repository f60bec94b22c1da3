//! One public connection, from `accept` to its end or its upgrade.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION, Entry},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::Settings;
use crate::{
    downstream::{
        ClientCertificate, ConnInfo, ConnIo, Edge, Held, Limits, OpenConnection, Strain, Subject, carrier,
        proxy_protocol::{self, HeaderError, ProxyHeader},
    },
    telemetry::Metrics,
};

/// How long a connection may take to write its last bytes after the drain's cut.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// The HTTP/2 window of a connection. The largest there is: memory is bounded by the streams' windows, and h2 closes a
/// connection whose unread small frames use up a budget that it derives from this window.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// The HTTP/2 window of a request body: as much as one stream of a session has by default.
const STREAM_WINDOW: u32 = 256 * 1024;

/// What hyper may hold of a response that the client is slow to read.
const SEND_BUFFER: usize = 64 * 1024;

/// The largest head of a request that is read at all, unless the limit for metadata asks for more. Far more than that
/// limit: a call beyond it is refused with a gRPC code, a head beyond this one by hyper with HTTP 431 alone.
const HEAD: u32 = 64 * 1024;

/// The most header fields that HTTP/1.1 takes, whatever the limit for metadata.
const MOST_HEADERS: usize = 2048;

/// Room for the header fields that are no metadata (`:path`, `user-agent`, `cookie`, …).
const HEADER_ROOM: u32 = 16 * 1024;

/// Header fields that are no metadata.
const OTHER_HEADERS: usize = 64;

/// HTTP/2 pings find clients that went away without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// HTTP settings for the public ports.
fn http(limits: &Limits) -> Builder<TokioExecutor> {
    let streams = limits.http2_streams;
    let head = HEAD.max(limits.max_metadata.saturating_add(HEADER_ROOM));
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(head as usize)
        // Hyper's default of 100 fields would refuse metadata that is within its limit, and without a gRPC code.
        .max_headers((limits.max_entries() + OTHER_HEADERS).min(MOST_HEADERS))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .adaptive_window(false)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(streams)
        // A page that is left cancels all its streams at once; more than it may have open is an attack.
        .max_pending_accept_reset_streams(streams as usize)
        .max_local_error_reset_streams(1024)
        .max_header_list_size(head)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// HTTP settings for the port of other instances: their requests have a client's headers, and some of their own.
fn peer_http(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = http(&Limits { max_metadata: limits.max_metadata.saturating_mul(2), ..limits.clone() });
    let head = 2 * HEAD.max(limits.max_metadata.saturating_add(HEADER_ROOM));
    builder.http1().max_buf_size(head as usize);
    builder.http1_only()
}

/// Who comes to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Clients.
    Public,
    /// Other instances. Each has shown its certificate.
    Peers,
}

/// What the configuration says of a port's connections.
pub(super) struct Terms {
    http: Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    /// Connections begin with a PROXY header.
    proxy_protocol: bool,
    /// How long sessions that begin here wait without a carrier, if it is not as everywhere.
    resume: Option<Duration>,
}

impl Terms {
    /// Those of the public ports, in their order, and then of the port for other instances.
    pub(super) fn of(settings: &Settings) -> Vec<Self> {
        let http = http(&settings.downstream.limits);
        let public = settings.listeners.iter();
        let public = public.map(|listener| Self {
            http: http.clone(),
            tls: listener.tls.clone().map(TlsAcceptor::from),
            proxy_protocol: listener.proxy_protocol,
            resume: listener.resume,
        });
        let peers = settings.downstream.peers.as_ref();
        let peers = peers.map(|peers| Self {
            http: peer_http(&settings.downstream.limits),
            tls: Some(peers.server.clone().into()),
            proxy_protocol: false,
            resume: None,
        });
        public.chain(peers).collect()
    }
}

/// What all connections of a worker's listener share.
pub(super) struct Connections {
    /// For those that come from now on.
    terms: RwLock<Arc<Terms>>,
    door: Door,
    edge: Arc<Edge>,
    pub(super) metrics: Arc<Metrics>,
}

impl Connections {
    pub(super) fn new(terms: Terms, door: Door, edge: Arc<Edge>, metrics: Arc<Metrics>) -> Self {
        Self { terms: RwLock::new(Arc::new(terms)), door, edge, metrics }
    }

    /// From now on, new connections go by these terms.
    pub(super) fn follow(&self, terms: Terms) {
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    /// Serves one connection until it ends, or until it is upgraded: then its socket belongs to the carrier's task
    /// and this one is over.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut socket: TcpStream,
        peer: SocketAddr,
        mut open: OpenConnection,
    ) {
        let terms = Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner));
        let Some((peer, by_tls)) = self.admit(&terms, &mut socket, peer, &mut open).await else { return };
        // A small frame must not wait for the acknowledgement of the one before it.
        let _ = socket.set_nodelay(true);
        let (io, certificate) = match &terms.tls {
            None => (ConnIo::plain(socket, open), None),
            // Boxed, so that the handshake's state does not stay part of this task.
            Some(acceptor) => match Box::pin(self.handshake(acceptor, socket, peer, open)).await {
                Some(shaken) => shaken,
                None => return,
            },
        };
        let io = io.with_write_timeout(self.edge.settings().limits.write_timeout);
        let conn = ConnInfo {
            certificate,
            resume: terms.resume,
            ..ConnInfo::new(peer, by_tls || terms.tls.is_some())
        };
        self.serve_http(&terms, io, conn).await;
    }

    /// Finds out who the client is, and counts it: its address, and whether it came to the proxy before us by TLS.
    async fn admit(
        &self,
        terms: &Terms,
        socket: &mut TcpStream,
        peer: SocketAddr,
        open: &mut OpenConnection,
    ) -> Option<(SocketAddr, bool)> {
        if self.door == Door::Peers {
            return Some((peer, false));
        }
        if let Some((resource, Strain::Critical)) = self.edge.addresses.overload.strain() {
            self.metrics.limits().shed(resource.as_str(), "connection");
            return None;
        }
        let (mut client, mut by_tls) = (peer, false);
        if terms.proxy_protocol {
            // Boxed, so that its buffer does not stay part of this task.
            let header = Box::pin(self.proxy_header(socket, peer)).await?;
            client = header.client.unwrap_or(peer);
            by_tls = header.tls.unwrap_or(false);
        }
        let settings = self.edge.settings();
        if !settings.trusted_proxies.contains(client.ip()) {
            let limit = settings.limits.connections_per_address;
            let place = self.edge.addresses.hold(Held::Connections, Subject::of(client.ip()), limit);
            let Some(place) = place else {
                self.metrics.limits().limited("connections_per_address");
                return None;
            };
            open.hold(place);
        }
        Some((client, by_tls))
    }

    /// What a trusted proxy says at the connection's begin.
    async fn proxy_header(&self, socket: &mut TcpStream, peer: SocketAddr) -> Option<ProxyHeader> {
        let settings = self.edge.settings();
        let limits = &settings.limits;
        let (reason, error) = if !settings.trusted_proxies.contains(peer.ip()) {
            ("untrusted", "it comes from none of `trusted_proxies`".to_owned())
        } else {
            match timeout(limits.handshake_timeout, proxy_protocol::read(socket)).await {
                Ok(Ok(header)) => return Some(header),
                Ok(Err(error @ HeaderError::Io(_))) => ("ended", error.to_string()),
                Ok(Err(error)) => ("malformed", error.to_string()),
                Err(_) => ("timeout", format!("it took longer than {:?}", limits.handshake_timeout)),
            }
        };
        self.metrics.limits().proxy_header_failed(reason);
        debug!(%peer, reason, error, "no PROXY header that is believed");
        None
    }

    async fn handshake(
        &self,
        acceptor: &TlsAcceptor,
        socket: TcpStream,
        peer: SocketAddr,
        open: OpenConnection,
    ) -> Option<(ConnIo, Option<Arc<ClientCertificate>>)> {
        let limit = self.edge.settings().limits.handshake_timeout;
        let error = match timeout(limit, acceptor.accept(socket)).await {
            Ok(Ok(stream)) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                match self.door {
                    Door::Public => {
                        let certificate = certificate.map(ClientCertificate::new);
                        return Some((ConnIo::tls(stream, open), certificate));
                    }
                    Door::Peers if certificate.is_some() => return Some((ConnIo::tls(stream, open), None)),
                    Door::Peers => {}
                }
                "a peer must show a certificate".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took longer than {limit:?}"),
        };
        self.metrics.tls_handshake_failed();
        debug!(%peer, error, "TLS handshake failed");
        None
    }

    async fn serve_http(&self, terms: &Terms, io: ConnIo, conn: ConnInfo) {
        let peer = conn.peer;
        let asked = Arc::<Asked>::default();
        let drain = &self.edge.drain;
        let conn = {
            // A proxy's connection is that of many clients.
            let settings = self.edge.settings();
            let by_proxy = settings.trusted_proxies.contains(peer.ip());
            let cancels = settings.limits.cancels_per_second.filter(|_| !by_proxy);
            conn.with_brake(cancels)
        };
        let brake = conn.cancel_storm();
        let service = {
            let (edge, asked, door) = (self.edge.clone(), asked.clone(), self.door);
            service_fn(move |request| {
                asked.note(request.version());
                answer(door, edge.clone(), request, conn.clone())
            })
        };
        // During the drain only clients should come that want to go on with their sessions. They may say so first, and
        // whoever else comes makes one request here, and the next elsewhere.
        let (late, limit) = (drain.draining.is_cancelled(), self.edge.settings().limits.header_timeout);
        let shutdown = async {
            drain.draining.cancelled().await;
            if late {
                let _ = timeout(limit, asked.first()).await;
            } else if asked.over_http1() {
                // Closed while it is idle, it may cost its client a request that is on its way. Its next answer says
                // `connection: close`; who has none to come may have closed it by itself when this is over.
                sleep(drain.spread).await;
            }
        };
        let mut http = pin!(terms.http.serve_connection_with_upgrades(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = http.as_mut() => Some(ended),
            () = shutdown => None,
            () = first_request_overdue(&asked, limit) => None,
            () = brake => {
                self.metrics.limits().limited("cancels");
                debug!(%peer, "too many calls were opened and given up");
                return;
            }
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                // HTTP/2: GOAWAY, and the open streams go on. HTTP/1.1: close after the current response.
                http.as_mut().graceful_shutdown();
                let patience = async {
                    if asked.already() {
                        drain.cut.cancelled().await;
                    }
                    sleep(LAST_WORDS).await;
                };
                tokio::select! {
                    ended = http => ended,
                    () = patience => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            debug!(%peer, error, "connection ended with an error");
        }
    }
}

/// Answers one request. Boxed: an idle connection then keeps a pointer, not the room for the largest call.
fn answer(
    door: Door,
    edge: Arc<Edge>,
    request: Request<Incoming>,
    conn: ConnInfo,
) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> {
    Box::pin(async move {
        if door == Door::Peers {
            return Ok(carrier::answer_peer(&edge, request).await);
        }
        let (version, leaving) = (request.version(), edge.drain.leaving.clone());
        let mut response = edge.handle(request, conn).await;
        // Told with an answer, a client does not use the connection again. Closed while it is idle, it may cost the
        // client a request that is on its way. HTTP/2 has GOAWAY for this.
        if version < Version::HTTP_2
            && leaving.is_cancelled()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
            && let Entry::Vacant(entry) = response.headers_mut().entry(CONNECTION)
        {
            entry.insert(HeaderValue::from_static("close"));
        }
        Ok(response)
    })
}

/// Whether a connection has had a request.
#[derive(Debug, Default)]
struct Asked {
    flag: AtomicBool,
    http1: AtomicBool,
    first: Notify,
}

impl Asked {
    fn note(&self, version: Version) {
        if !self.flag.swap(true, Ordering::Relaxed) {
            self.http1.store(version < Version::HTTP_2, Ordering::Relaxed);
            self.first.notify_one();
        }
    }

    fn over_http1(&self) -> bool {
        self.http1.load(Ordering::Relaxed)
    }

    fn already(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Completes with the first request. For one task.
    async fn first(&self) {
        if !self.already() {
            self.first.notified().await;
        }
    }
}

/// Completes when no request has come in time; otherwise never. Hyper limits the time for a request's head, but not
/// the time for the first bytes, by which it tells HTTP/1.1 from HTTP/2.
async fn first_request_overdue(asked: &Asked, limit: Duration) {
    sleep(limit).await;
    if asked.already() {
        std::future::pending::<()>().await;
    }
}
