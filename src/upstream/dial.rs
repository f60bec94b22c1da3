//! From an endpoint to a byte stream on which HTTP/2 may be spoken.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ClientTls, Endpoint};

/// A connected byte stream of one of the three kinds.
#[derive(Debug)]
pub(super) enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Why there is no byte stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("{0:?} is no name that a certificate can carry")]
    ServerName(String),
    #[error("the server did not agree on HTTP/2 by ALPN")]
    Alpn,
}

/// Connects, and speaks TLS where the endpoint asks for it. Without a time limit: the caller has one for more than
/// this. With an `address` no name is resolved.
pub(super) async fn dial(
    endpoint: &Endpoint,
    address: Option<SocketAddr>,
    tls: &ClientTls,
) -> Result<Io, DialError> {
    let (speak_tls, host, port) = match endpoint {
        Endpoint::Unix(path) => {
            return UnixStream::connect(path).await.map(Io::Unix).map_err(DialError::Connect);
        }
        Endpoint::Local(service) => return service.connect().map(Io::Unix).map_err(DialError::Connect),
        Endpoint::Tcp { tls, host, port } | Endpoint::Dns { tls, host, port } => (*tls, host, *port),
    };
    let tcp = match address {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((host.as_str(), port)).await,
    };
    let tcp = tcp.map_err(DialError::Connect)?;
    // Small messages must not wait for the acknowledgement of earlier ones.
    tcp.set_nodelay(true).map_err(DialError::Connect)?;
    if !speak_tls {
        return Ok(Io::Tcp(tcp));
    }
    let name = tls.server_name.as_ref().unwrap_or(host);
    let name = ServerName::try_from(name.clone()).map_err(|_| DialError::ServerName(name.clone()))?;
    let stream = TlsConnector::from(tls.config.clone()).connect(name, tcp).await.map_err(tls_error)?;
    // A server without ALPN completes the handshake all the same, and would then speak HTTP/1.1.
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(DialError::Alpn);
    }
    Ok(Io::Tls(Box::new(stream)))
}

/// A server that knows ALPN but not `h2` ends the handshake with an alert (RFC 7301, section 3.2).
fn tls_error(error: io::Error) -> DialError {
    use rustls::{AlertDescription::NoApplicationProtocol, Error::AlertReceived};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(AlertReceived(NoApplicationProtocol)) => DialError::Alpn,
        _ => DialError::Tls(error),
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::Unix(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Unix(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
