//! The one type of I/O under every public connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;

use crate::telemetry::Metrics;

/// A connection's bytes, with or without TLS. It is one concrete type so that a carrier can take an upgraded
/// HTTP/1.1 connection back out of hyper: `auto::upgrade::downcast::<TokioIo<ConnIo>>`.
#[derive(Debug)]
pub struct ConnIo {
    socket: Socket,
    /// Stays with the socket past an upgrade: whoever owns the bytes holds a connection.
    _open: Option<OpenConnection>,
}

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    /// Boxed because its state is large beside a bare socket's.
    Tls(Box<TlsStream<TcpStream>>),
}

/// One of the process's open connections: counted, and within `max_connections`, until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    /// Counts a connection.
    pub fn new(metrics: Arc<Metrics>, permit: OwnedSemaphorePermit) -> Self {
        metrics.connection_opened();
        Self { metrics, _permit: permit }
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
        Self { socket: Socket::Plain(socket), _open: Some(open) }
    }

    /// A TLS connection after its handshake.
    pub fn tls(socket: TlsStream<TcpStream>, open: OpenConnection) -> Self {
        Self { socket: Socket::Tls(Box::new(socket)), _open: Some(open) }
    }
}

/// A connection that nobody counts.
impl From<TcpStream> for ConnIo {
    fn from(socket: TcpStream) -> Self {
        Self { socket: Socket::Plain(socket), _open: None }
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
        match &mut self.socket {
            Socket::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Socket::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Socket::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(io) => io.is_write_vectored(),
            Socket::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(io) => Pin::new(io).poll_flush(cx),
            Socket::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Socket::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
