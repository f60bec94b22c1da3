//! The ways in which a session's bytes reach Bidiway: each carrier, as a client makes it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bidiway::{
    server::tls::{Certificate, MinVersion, server_config},
    session::Settings,
    upstream::provider,
};
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream, client, ext::Protocol};
use http::{HeaderMap, Method, Request, Response};
use rustls_pki_types::{ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::{
    edge::Edge,
    http_carrier::{HttpWire, Requests},
    socket::{Io, Socket},
};

/// The subprotocol of sessions.
const SESSION: &str = "bidiway.v1";

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// HTTP/1.1 upgrade.
    Http1,
    /// HTTP/1.1 upgrade in TLS.
    Http1Tls,
    /// RFC 8441 on HTTP/2, prior knowledge.
    Http2,
    /// RFC 8441 on HTTP/2 in TLS.
    Http2Tls,
}

pub(crate) const CARRIERS: [Carrier; 4] =
    [Carrier::Http1, Carrier::Http1Tls, Carrier::Http2, Carrier::Http2Tls];

impl Carrier {
    pub(crate) fn has_tls(self) -> bool {
        matches!(self, Self::Http1Tls | Self::Http2Tls)
    }

    /// Bidiway's port for this carrier.
    pub(crate) fn port(self, edge: &Edge) -> SocketAddr {
        if self.has_tls() { edge.tls } else { edge.address }
    }

    /// A session.
    pub(crate) async fn connect(self, edge: &Edge) -> Socket {
        self.connect_to(self.port(edge), Settings::default()).await
    }

    /// A session with whatever listens there.
    pub(crate) async fn connect_to(self, address: SocketAddr, settings: Settings) -> Socket {
        Socket::new(self.websocket(address, "/bidiway/session", SESSION, &[]).await, settings)
    }

    /// An HTTP carrier, opened by its first packet.
    pub(crate) fn http(self, edge: &Edge, polls: bool) -> HttpWire {
        HttpWire::new(Requests::new(self, self.port(edge), HeaderMap::new()), polls)
    }

    /// A WebSocket at a path, with a subprotocol (or "": none) and further headers.
    pub(crate) async fn websocket(
        self,
        address: SocketAddr,
        path: &str,
        subprotocol: &str,
        headers: &[(&str, &str)],
    ) -> WebSocketStream<Box<dyn Io>> {
        let io = tcp(address).await;
        let mut io: Box<dyn Io> = match self {
            Self::Http1 | Self::Http2 => Box::new(io),
            Self::Http1Tls => Box::new(tls(io, "http/1.1").await),
            Self::Http2Tls => Box::new(tls(io, "h2").await),
        };
        if matches!(self, Self::Http2 | Self::Http2Tls) {
            let mut http2 = Http2::over(io, address, self.has_tls()).await;
            let stream = http2.websocket_at(path, subprotocol, headers, Bytes::new()).await;
            let io: Box<dyn Io> = Box::new(stream);
            return WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        }
        // By hand: tungstenite takes a handshake in tiny segments for an attack.
        io.write_all(handshake_at(address, path, subprotocol, headers).as_bytes()).await.unwrap();
        let head = head(&mut io).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let chosen = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(chosen.unwrap_or_default(), subprotocol, "{head}");
        WebSocketStream::from_raw_socket(io, Role::Client, None).await
    }
}

pub(crate) async fn tcp(address: SocketAddr) -> TcpStream {
    let io = TcpStream::connect(address).await.unwrap();
    io.set_nodelay(true).unwrap();
    io
}

/// The client's side of TLS, with this protocol agreed on by ALPN.
pub(crate) async fn tls(io: TcpStream, alpn: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(identity().0.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, io).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
    stream
}

/// The request of an HTTP/1.1 upgrade for a session.
pub(crate) fn handshake(address: SocketAddr) -> String {
    handshake_at(address, "/bidiway/session", SESSION, &[])
}

fn handshake_at(address: SocketAddr, path: &str, subprotocol: &str, headers: &[(&str, &str)]) -> String {
    let mut headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    if !subprotocol.is_empty() {
        headers.push_str(&format!("sec-websocket-protocol: {subprotocol}\r\n"));
    }
    format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         {headers}\r\n"
    )
}

/// Reads the head of the answer, and not a byte more.
pub(crate) async fn head(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Bidiway's certificate, for `localhost`.
pub(crate) fn certificate() -> Arc<rustls::ServerConfig> {
    static CONFIG: OnceLock<Arc<rustls::ServerConfig>> = OnceLock::new();
    let make = || {
        let (chain, key) = identity();
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        server_config(&[certificate], None, MinVersion::Tls12).unwrap()
    };
    CONFIG.get_or_init(make).clone()
}

fn identity() -> &'static (String, String) {
    static IDENTITY: OnceLock<(String, String)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    })
}

/// An HTTP/2 connection to Bidiway.
pub(crate) struct Http2 {
    requests: client::SendRequest<Bytes>,
    origin: String,
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(Box::new(tcp(address).await), address, false).await
    }

    /// On any I/O. Waits for the server's SETTINGS, which allow extended CONNECT.
    pub(crate) async fn over(io: Box<dyn Io>, address: SocketAddr, tls: bool) -> Self {
        let (requests, mut connection) = client::Builder::new()
            // One stream that is not read must not hold up the others.
            .initial_connection_window_size(16 << 20)
            .handshake(io)
            .await
            .unwrap();
        let mut ping = connection.ping_pong().unwrap();
        tokio::spawn(connection);
        ping.ping(h2::Ping::opaque()).await.unwrap();
        assert!(requests.is_extended_connect_protocol_enabled(), "RFC 8441, section 3");
        let scheme = if tls { "https" } else { "http" };
        Self { requests, origin: format!("{scheme}://{address}") }
    }

    /// Opens a stream for a WebSocket.
    pub(crate) async fn websocket(&mut self) -> StreamIo {
        self.websocket_with(Bytes::new()).await
    }

    /// Opens a stream for a WebSocket, and sends bytes before the answer has come.
    pub(crate) async fn websocket_with(&mut self, early: Bytes) -> StreamIo {
        self.websocket_at("/bidiway/session", SESSION, &[], early).await
    }

    async fn websocket_at(
        &mut self,
        path: &str,
        subprotocol: &str,
        headers: &[(&str, &str)],
        early: Bytes,
    ) -> StreamIo {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("{}{path}", self.origin))
            .header("sec-websocket-version", "13");
        if !subprotocol.is_empty() {
            request = request.header("sec-websocket-protocol", subprotocol);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, mut send) = self.requests.send_request(request, false).unwrap();
        if !early.is_empty() {
            send.send_data(early, false).unwrap();
        }
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let chosen = response.headers().get("sec-websocket-protocol");
        assert_eq!(chosen.map_or("", |value| value.to_str().unwrap()), subprotocol);
        assert!(!response.headers().contains_key("sec-websocket-accept"), "RFC 8441, section 5");
        StreamIo { send, receive: response.into_body(), read: Bytes::new() }
    }

    /// A session on a stream of its own.
    pub(crate) async fn session(&mut self, settings: Settings) -> Socket {
        let io: Box<dyn Io> = Box::new(self.websocket().await);
        Socket::new(WebSocketStream::from_raw_socket(io, Role::Client, None).await, settings)
    }

    /// A gRPC-Web call on a stream of its own; the answer's head, and its whole body.
    pub(crate) async fn web(&mut self, path: &str, body: Bytes) -> Result<(HeaderMap, Vec<u8>), h2::Error> {
        let request = Request::post(format!("{}{path}", self.origin))
            .header("content-type", "application/grpc-web+proto")
            .body(())
            .unwrap();
        let (response, mut send) = self.requests.send_request(request, false)?;
        send.send_data(body, true)?;
        let (head, mut body) = Response::into_parts(response.await?);
        let mut all = Vec::new();
        while let Some(bytes) = body.data().await {
            let bytes = bytes?;
            let _ = body.flow_control().release_capacity(bytes.len());
            all.extend_from_slice(&bytes);
        }
        Ok((head.headers, all))
    }
}

/// A binary WebSocket message of less than 64 KiB from a client, with a mask of zeros (RFC 6455, section 5.2).
pub(crate) fn websocket_frame(payload: &[u8]) -> Bytes {
    let mut frame = vec![0x82];
    match u8::try_from(payload.len()) {
        Ok(len @ ..126) => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame.into()
}

/// The bytes of one HTTP/2 stream.
pub(crate) struct StreamIo {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
    /// Received, and not read yet.
    read: Bytes,
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(bytes)) => self.read = bytes,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..len]);
        self.read.advance(len);
        let _ = self.receive.flow_control().release_capacity(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let len = self.send.capacity().min(buf.len());
        let bytes = Bytes::copy_from_slice(&buf[..len]);
        self.send.send_data(bytes, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}
