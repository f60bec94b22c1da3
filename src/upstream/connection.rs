//! One HTTP/2 connection: how it is made, what drives it, and when it is given up.

use std::{
    fmt,
    future::{Future, poll_fn},
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
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use super::{
    Chunk, Endpoint, Settings,
    dial::{DialError, Io, dial},
    early_resets::EarlyResets,
    lock,
    pool::Slot,
};

/// The largest window that HTTP/2 has (RFC 9113, section 6.9.1). Memory is bounded by the streams' windows; a smaller
/// window of the connection would let one stalled call hold up all others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How many cancelled streams are remembered, so that what the server had already sent on them is ignored quietly.
const REMEMBERED_RESETS: usize = 1024;

/// How much more than our own limit for headers h2 takes, so that the limit can be held per call. Beyond its limit
/// h2 silently drops what is too much of trailers, and well beyond it ends the connection.
const HEADER_SLACK: u32 = 8;

/// A connection on which no call was open for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

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
    http2: client::Connection<Io, Chunk>,
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
    timeout_at(until, greet(io, endpoint, settings))
        .await
        .map_err(|_| ConnectError::SettingsTimeout(limit))?
}

async fn greet(io: Io, endpoint: &Endpoint, settings: &Settings) -> Result<(Link, Connection), ConnectError> {
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
        .handshake::<_, Chunk>(io)
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
    pub(super) async fn drive(mut self, link: &Link, settings: &Settings) -> String {
        let mut watch = Watch::new(settings);
        let alarm = Arc::new(Alarm { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let alarm_waker = Waker::from(alarm.clone());
        let reason = poll_fn(|cx| {
            match Pin::new(&mut self.http2).poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready("the server closed the connection".to_owned()),
                Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                Poll::Pending => {}
            }
            // Timers, pongs and early resets are rare and messages are not: they are looked at when they ask for it.
            alarm.task.register(cx.waker());
            if !alarm.rung.swap(false, Relaxed) {
                return Poll::Pending;
            }
            let cx = &mut Context::from_waker(&alarm_waker);
            link.early.poll(cx);
            watch.poll(cx, &mut self.pings, link)
        })
        .await;
        link.close();
        link.early.clear();
        // Before the streams are told, so that their calls can say it.
        link.lost.get_or_init(|| reason.clone());
        reason
    }
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

/// Finds dead connections by pings while calls are open, and unused ones.
struct Watch {
    sleep: Pin<Box<Sleep>>,
    keepalive: Option<Duration>,
    timeout: Duration,
    /// A ping is on its way.
    pinging: bool,
    idle: Duration,
    opened: usize,
}

impl Watch {
    fn new(settings: &Settings) -> Self {
        let keepalive = settings.keepalive;
        Self {
            sleep: Box::pin(sleep(Self::tick(keepalive))),
            keepalive,
            timeout: settings.keepalive_timeout,
            pinging: false,
            idle: Duration::ZERO,
            opened: 0,
        }
    }

    fn tick(keepalive: Option<Duration>) -> Duration {
        keepalive.map_or(IDLE, |interval| interval.min(IDLE).max(Duration::from_millis(10)))
    }

    /// Ready with the reason when the connection is dead.
    fn poll(&mut self, cx: &mut Context<'_>, pings: &mut PingPong, link: &Link) -> Poll<String> {
        let tick = Self::tick(self.keepalive);
        if self.pinging && pings.poll_pong(cx).is_ready() {
            self.pinging = false;
            self.sleep.as_mut().reset(Instant::now() + tick);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.pinging {
                return Poll::Ready(format!("no answer to an HTTP/2 PING within {:?}", self.timeout));
            }
            let mut next = tick;
            let opened = link.opened.load(Relaxed);
            if link.in_flight() > 0 {
                self.idle = Duration::ZERO;
                if self.keepalive.is_some() && pings.send_ping(h2::Ping::opaque()).is_ok() {
                    self.pinging = true;
                    next = self.timeout;
                    // Registers for the answer; the ping itself goes out when h2 is polled next, and it is woken.
                    let _ = pings.poll_pong(cx);
                }
            } else if opened == self.opened {
                self.idle += tick;
                if self.idle >= IDLE {
                    link.close();
                }
            } else {
                self.idle = Duration::ZERO;
            }
            self.opened = opened;
            self.sleep.as_mut().reset(Instant::now() + next);
        }
        Poll::Pending
    }
}
