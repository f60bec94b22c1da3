//! The one type of I/O under every public connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::AddressPermit;
use crate::telemetry::Metrics;

/// A connection's bytes, with or without TLS. It is one concrete type so that a carrier can take an upgraded
/// HTTP/1.1 connection back out of hyper: `auto::upgrade::downcast::<TokioIo<ConnIo>>`.
#[derive(Debug)]
pub struct ConnIo {
    socket: Socket,
    stall: Stall,
    /// Stays with the socket past an upgrade: whoever owns the bytes holds a connection.
    open: Option<OpenConnection>,
}

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    /// Boxed because its state is large beside a bare socket's.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Watches for a client that takes nothing. It costs nothing while the kernel takes what is written.
#[derive(Debug, Default)]
struct Stall {
    /// How long it may; `None`: for ever.
    limit: Option<Duration>,
    /// Runs while something waits.
    timer: Option<Pin<Box<Sleep>>>,
    stalled: bool,
}

impl Stall {
    /// Looks at what a write came to. One that waits too long becomes an error, which ends the connection.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        metrics: Option<&OpenConnection>,
    ) -> Poll<io::Result<T>> {
        let Some(limit) = self.limit else { return written };
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.stalled && timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.stalled, true)
            && let Some(open) = metrics
        {
            open.metrics.limits().write_stalled();
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

/// One of the process's open connections: counted, and within `max_connections`, until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
    /// Its place among those of its client's address.
    place: Option<AddressPermit>,
}

impl OpenConnection {
    /// Counts a connection.
    pub fn new(metrics: Arc<Metrics>, permit: OwnedSemaphorePermit) -> Self {
        metrics.connection_opened();
        Self { metrics, _permit: permit, place: None }
    }

    /// It is also counted for its client, from now on.
    pub fn hold(&mut self, place: AddressPermit) {
        self.place = Some(place);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

impl ConnIo {
    /// A cleartext connection.
    pub fn plain(socket: TcpStream, open: OpenConnection) -> Self {
        Self { socket: Socket::Plain(socket), stall: Stall::default(), open: Some(open) }
    }

    /// A TLS connection after its handshake.
    pub fn tls(socket: TlsStream<TcpStream>, open: OpenConnection) -> Self {
        Self { socket: Socket::Tls(Box::new(socket)), stall: Stall::default(), open: Some(open) }
    }

    /// Ends the connection when its client takes nothing of what is written for so long.
    pub fn with_write_timeout(mut self, limit: Duration) -> Self {
        self.stall.limit = Some(limit);
        self
    }
}

/// A connection that nobody counts.
impl From<TcpStream> for ConnIo {
    fn from(socket: TcpStream) -> Self {
        Self { socket: Socket::Plain(socket), stall: Stall::default(), open: None }
    }
}

impl AsyncRead for ConnIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Socket::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ConnIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match &mut this.socket {
            Socket::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Socket::Tls(io) => Pin::new(io).poll_write(cx, buf),
        };
        this.stall.watch(cx, written, this.open.as_ref())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match &mut this.socket {
            Socket::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Socket::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        };
        this.stall.watch(cx, written, this.open.as_ref())
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(io) => io.is_write_vectored(),
            Socket::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let written = match &mut this.socket {
            Socket::Plain(io) => Pin::new(io).poll_flush(cx),
            Socket::Tls(io) => Pin::new(io).poll_flush(cx),
        };
        this.stall.watch(cx, written, this.open.as_ref())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let written = match &mut this.socket {
            Socket::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Socket::Tls(io) => Pin::new(io).poll_shutdown(cx),
        };
        this.stall.watch(cx, written, this.open.as_ref())
    }
}
