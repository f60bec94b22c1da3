//! Connections to other instances.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Empty, Full};
use hyper::{body::Incoming as Body, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{CLIENT, CLIENT_HOST, CLIENT_SCHEME, INSTANCE, PATH, PROTOCOL, PeerError, TOKEN, finder::Place};
use crate::{
    downstream::{
        ConnInfo, Visitor,
        carrier::{
            socket::{Broken, CarrierIo, Incoming, Socket},
            token::InstanceId,
        },
    },
    session::MAX_PACKET,
    upstream::ClientTls,
    wire::{
        frame::{self, Frame, FrameKind},
        v1,
        websocket::HEADER_MAX,
    },
};

/// How long an address may take to answer. One where nobody is any more may swallow packets, and there may be another
/// to try before the client loses patience.
const CONNECT: Duration = Duration::from_secs(1);

type Anything = Box<dyn std::error::Error + Send + Sync>;

/// The most that is read of an answer's head.
const HEAD: usize = 16 * 1024;

/// What another instance has to know of a client to take its carrier.
pub(super) struct Client {
    /// It holds the token: not for logs.
    pub(super) hello: v1::Hello,
    pub(super) conn: ConnInfo,
    pub(super) visitor: Visitor,
}

/// Connects to other instances, and is told by their certificates that it is them.
#[derive(Debug)]
pub(super) struct Dialer {
    tls: Arc<rustls::ClientConfig>,
    server_name: Option<String>,
}

impl Dialer {
    pub(super) fn new(tls: &ClientTls) -> Self {
        let mut config = (*tls.config).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: Arc::new(config), server_name: tls.server_name.clone() }
    }

    /// Who is there? Has no limit of time.
    pub(super) async fn ask(&self, place: &Place) -> Result<InstanceId, Anything> {
        let request = Self::request(place)?;
        let answer = Self::send(self.connect(place).await?, request).await?;
        let id = answer.headers().get(INSTANCE).and_then(|id| id.to_str().ok());
        id.and_then(|id| id.parse().ok()).ok_or_else(|| "it does not say which instance it is".into())
    }

    /// A link to a session of an instance, and the first packet or the close that comes on it. Has no limit of time.
    pub(super) async fn open(
        &self,
        place: &Place,
        instance: InstanceId,
        client: &Client,
    ) -> Result<(Socket, Incoming), PeerError> {
        let broken = |error| PeerError::Broken(place.name(), error);
        let mut request = Self::request(place).map_err(broken)?;
        let headers = request.headers_mut();
        client.visitor.write_to(headers);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        let scheme = if client.conn.tls { "https" } else { "http" };
        headers.insert(CLIENT_SCHEME, HeaderValue::from_static(scheme));
        if let Some(token) = client.conn.shown.token_header() {
            headers.insert(TOKEN, token);
        }
        if let Some(host) = client.conn.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()) {
            headers.insert(CLIENT_HOST, host);
        }
        if let Some(agent) =
            client.conn.user_agent.as_deref().and_then(|name| HeaderValue::from_str(name).ok())
        {
            headers.insert(header::USER_AGENT, agent);
        }
        for (name, value) in [(INSTANCE, instance.to_string()), (CLIENT, client.conn.peer.to_string())] {
            headers.insert(
                name,
                value.parse().map_err(|error: header::InvalidHeaderValue| broken(error.into()))?,
            );
        }

        let io = self.connect(place).await.map_err(|error| PeerError::Unreachable(place.name(), error))?;
        let response = Self::send(io, request).await.map_err(broken)?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            StatusCode::MISDIRECTED_REQUEST => return Err(PeerError::Moved(place.name())),
            status => return Err(PeerError::Refused(place.name(), status)),
        }
        let io = hyper::upgrade::on(response).await.map_err(|error| broken(error.into()))?;
        let io = CarrierIo::Upgraded(TokioIo::new(io));
        let mut socket = Socket::to_instance(io, &Bytes::new(), MAX_PACKET);
        let answer = say_hello(&mut socket, client).await.map_err(|error| broken(error.into()))?;
        Ok((socket, answer))
    }

    fn request(place: &Place) -> Result<Request<Empty<Bytes>>, Anything> {
        let host = HeaderValue::try_from(place.address.to_string())?;
        Ok(Request::get(PATH).header(header::HOST, host).body(Empty::new())?)
    }

    /// A connection. Has no limit of time, but for each address.
    pub(super) async fn connect(&self, place: &Place) -> io::Result<TlsStream<TcpStream>> {
        let name = self.server_name.as_deref().unwrap_or(&place.host).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let tcp = timeout(CONNECT, TcpStream::connect(place.address)).await??;
        tcp.set_nodelay(true)?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await
    }

    async fn send(
        io: TlsStream<TcpStream>,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Body>, Anything> {
        let (mut send, connection) = builder().handshake(TokioIo::new(io)).await?;
        // It ends when the answer is dropped, or has become a link.
        tokio::spawn(connection.with_upgrades());
        Ok(send.send_request(request).await?)
    }

    /// HTTP on a connection, for requests one after the other.
    pub(super) async fn speak(io: TlsStream<TcpStream>) -> Result<http1::SendRequest<Full<Bytes>>, Anything> {
        let (send, connection) = builder().handshake(TokioIo::new(io)).await?;
        // It ends when nobody can send on it any more.
        tokio::spawn(connection);
        Ok(send)
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD);
    builder
}

/// Says the client's Hello, and waits for the first answer.
async fn say_hello(socket: &mut Socket, client: &Client) -> Result<Incoming, &'static str> {
    let hello = Frame { stream: 0, kind: FrameKind::Hello(Box::new(client.hello.clone())) };
    let mut packet = BytesMut::zeroed(HEADER_MAX);
    frame::encode(&hello, &mut packet);
    poll_fn(|cx| {
        if !packet.is_empty() {
            socket.send(cx, &mut packet);
        }
        if let std::task::Poll::Ready(Err(_)) = socket.poll_flush(cx) {
            return std::task::Poll::Ready(Err("the connection was lost"));
        }
        socket.poll_read(cx).map(Ok)
    })
    .await
    .and_then(|incoming| match incoming {
        Incoming::Packet(_) | Incoming::Closed(_) => Ok(incoming),
        Incoming::Broken(Broken::Lost) => Err("the connection was lost"),
        Incoming::Broken(Broken::Protocol(_)) | Incoming::Text(_) | Incoming::Alive => {
            Err("the first thing that came was no packet")
        }
    })
}
