//! One HTTP/2 connection: how it is made, what drives it, and when it is given up.

use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use h2::{PingPong, SendStream, client};
use http::uri::{Authority, Scheme};
use tokio::time::{Instant, timeout_at};

use super::{
    Chunk, Endpoint, Settings,
    dial::{DialError, dial},
    early_resets::EarlyResets,
    keepalive::{Keepalive, Watch},
    lock,
    pool::Slot,
    socket::{Progress, Socket},
};
use crate::telemetry::UpstreamMetrics;

/// The largest window that HTTP/2 has (RFC 9113, section 6.9.1). Memory is bounded by the streams' windows; a smaller
/// window of the connection would let one stalled call hold up all others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How many cancelled streams are remembered, so that what the server had already sent on them is ignored quietly.
const REMEMBERED_RESETS: usize = 1024;

/// How much more than our own limit for headers h2 takes, so that the limit can be held per call. Beyond its limit
/// h2 silently drops what is too much of trailers, and well beyond it ends the connection.
const HEADER_SLACK: u32 = 8;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no connection within {0:?}")]
    DialTimeout(Duration),
    #[error("connected, but the server sent no HTTP/2 SETTINGS that allow a call within {0:?}")]
    SettingsTimeout(Duration),
    #[error("the server does not speak HTTP/2 here: {0}")]
    Http2(h2::Error),
    #[error("the server closed the connection before its HTTP/2 SETTINGS")]
    Closed,
    /// Among others: TLS 1.3 tells of a refused client certificate only after the client's side of the handshake.
    #[error("the connection was lost before the server's HTTP/2 SETTINGS: {0}")]
    Lost(h2::Error),
}

/// A connection as the pool and its calls see it.
pub(super) struct Link {
    /// Gone when the connection takes no new streams.
    send: Mutex<Option<client::SendRequest<Chunk>>>,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// Calls that hold a slot here.
    in_flight: AtomicUsize,
    /// Calls that ever held one; tells an idle connection from one between two calls.
    opened: AtomicUsize,
    /// Why the connection was lost.
    lost: OnceLock<String>,
    early: EarlyResets,
    progress: Arc<Progress>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("authority", &self.authority)
            .field("in_flight", &self.in_flight())
            .field("lost", &self.lost.get())
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Calls that ever held a slot.
    pub(super) fn opened(&self) -> usize {
        self.opened.load(Relaxed)
    }

    /// How many writes may have reached the server: see [`Progress`].
    pub(super) fn writes(&self) -> u64 {
        self.progress.writes()
    }

    /// A call takes a slot.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
    }

    /// A call gives its slot back.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Whether new streams may be opened at all.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.send).is_some()
    }

    /// The server's limit for streams; 0 when the connection takes none.
    pub(super) fn limit(&self) -> usize {
        lock(&self.send).as_ref().map_or(0, client::SendRequest::current_max_send_streams)
    }

    /// A handle to open one stream with; `None` when the connection takes none any more.
    ///
    /// It is a fresh clone: a handle whose last request still waits to be written refuses the next one.
    pub(super) fn handle(&self) -> Option<client::SendRequest<Chunk>> {
        if self.check() { lock(&self.send).clone() } else { None }
    }

    /// Whether the connection still takes new streams; notices GOAWAY, a lost connection and the last stream id.
    pub(super) fn check(&self) -> bool {
        let mut send = lock(&self.send);
        let Some(handle) = send.as_mut() else { return false };
        let open = !matches!(handle.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)));
        if !open {
            *send = None;
        }
        open
    }

    /// Takes no new streams from now on. h2 closes the connection when the last one has ended.
    pub(super) fn close(&self) {
        *lock(&self.send) = None;
    }

    /// Cancels a stream that the server may not have noticed yet; at the latest in its turn among others.
    pub(super) fn reset_early(&self, stream: SendStream<Chunk>, slot: Option<Slot>) {
        self.early.push(stream, slot);
    }

    /// Why the connection was lost, if it was.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }
}

/// The other end of a [`Link`]: what has to be polled for anything to happen.
pub(super) struct Connection {
    http2: client::Connection<Socket, Chunk>,
    pings: PingPong,
}

/// Connects, speaks TLS, exchanges prefaces, and waits for the server's first SETTINGS: before them its stream limit
/// is unknown, and calls beyond it would come back refused.
pub(super) async fn connect(
    endpoint: &Endpoint,
    address: Option<SocketAddr>,
    settings: &Settings,
) -> Result<(Link, Connection), ConnectError> {
    let limit = settings.connect_timeout;
    let until = Instant::now() + limit;
    let io = timeout_at(until, dial(endpoint, address, &settings.tls))
        .await
        .map_err(|_| ConnectError::DialTimeout(limit))??;
    let (socket, progress) = Socket::new(io);
    timeout_at(until, greet(socket, progress, endpoint, settings))
        .await
        .map_err(|_| ConnectError::SettingsTimeout(limit))?
}

async fn greet(
    socket: Socket,
    progress: Arc<Progress>,
    endpoint: &Endpoint,
    settings: &Settings,
) -> Result<(Link, Connection), ConnectError> {
    let (send, mut http2) = client::Builder::new()
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(settings.max_header_list.saturating_mul(HEADER_SLACK))
        .enable_push(false)
        // No stream until the first SETTINGS; then h2 takes the server's limit, or none at all.
        .initial_max_send_streams(0)
        // Many small messages that wait for a slow reader are normal here; windows bound them.
        .data_frame_budget(usize::MAX / 2)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        // By default the 1024th late frame on a forgotten cancelled stream would end the connection.
        .max_local_error_reset_streams(None)
        .handshake::<_, Chunk>(socket)
        .await?;
    poll_fn(|cx| match Pin::new(&mut http2).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(ConnectError::Closed)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
        Poll::Pending if http2.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    let pings = http2.ping_pong().expect("taken once, from a fresh connection");
    let link = Link {
        send: Mutex::new(Some(send)),
        scheme: endpoint.scheme(),
        authority: endpoint.authority(settings.tls.server_name.as_deref()),
        in_flight: AtomicUsize::new(0),
        opened: AtomicUsize::new(0),
        lost: OnceLock::new(),
        early: EarlyResets::default(),
        progress,
    };
    Ok((link, Connection { http2, pings }))
}

impl From<h2::Error> for ConnectError {
    fn from(error: h2::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.get_io().map(std::io::Error::kind) {
            Some(BrokenPipe | ConnectionReset | UnexpectedEof) => Self::Closed,
            Some(_) => Self::Lost(error),
            None => Self::Http2(error),
        }
    }
}

impl Connection {
    /// Reads, writes and pings until the connection is over; says why. Dropping the connection then fails whatever
    /// streams are left.
    pub(super) async fn drive(
        mut self,
        link: &Link,
        keepalive: &Keepalive,
        metrics: &UpstreamMetrics,
    ) -> String {
        let mut watch = Watch::new(keepalive);
        let alarm = Arc::new(Alarm { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let alarm_waker = Waker::from(alarm.clone());
        let end = poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut self.http2).poll(cx) {
                return Poll::Ready(End::Http2(result));
            }
            // Timers, pongs and early resets are rare and messages are not: they are looked at when they ask for it.
            alarm.task.register(cx.waker());
            if !alarm.rung.swap(false, Relaxed) {
                return Poll::Pending;
            }
            let cx = &mut Context::from_waker(&alarm_waker);
            link.early.poll(cx);
            watch.poll(cx, &mut self.pings, link).map(End::Dead)
        })
        .await;
        let reason = match end {
            End::Dead(reason) => reason,
            End::Http2(Ok(())) => match link.progress.error() {
                Some(error) => error.to_owned(),
                None => "the server closed the connection".to_owned(),
            },
            End::Http2(Err(error)) => {
                let reason = error.to_string();
                if is_too_many_pings(&error, &reason) {
                    metrics.calls().keepalive_backed_off();
                    let (had, interval) = (watch.interval(), keepalive.too_many(watch.interval()));
                    tracing::warn!(
                        server = %link.authority, ?had, ?interval,
                        "the server allows fewer pings; set the upstream's `keepalive` to more than it demands"
                    );
                }
                reason
            }
        };
        link.close();
        link.early.clear();
        // Before the streams are told, so that their calls can say it.
        link.lost.get_or_init(|| reason.clone());
        reason
    }
}

/// How a connection ends.
enum End {
    Http2(Result<(), h2::Error>),
    /// A ping was not answered.
    Dead(String),
}

/// Whether the server has ended the connection because of its pings. h2 shows the text of a GOAWAY only in `shown`, the
/// error as it is displayed; the code alone may have other reasons.
fn is_too_many_pings(error: &h2::Error, shown: &str) -> bool {
    error.is_go_away()
        && error.is_remote()
        && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        && shown.contains("too_many_pings")
}

/// Tells the connection's task that it was woken by a timer, a pong or an early reset.
struct Alarm {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Relaxed);
        self.task.wake();
    }
}
