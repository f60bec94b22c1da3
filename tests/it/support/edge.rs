//! A whole Bidiway in front of a test's server, and HTTP clients for it.

use std::{net::SocketAddr, sync::Arc};

use bidiway::{
    downstream::{self, AddressTable, RouteSettings, ServicePattern},
    schema,
    server::{ListenerSettings, Server, Settings},
    telemetry::Metrics,
    upstream,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Builder};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;

/// A running Bidiway.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    /// The same with TLS.
    pub(crate) tls: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) cut: CancellationToken,
    pub(crate) clients: Arc<AddressTable>,
    shutdown: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

/// One route for everything to one upstream.
pub(crate) fn settings() -> downstream::Settings {
    let any = RouteSettings::new(ServicePattern::Any, "chat");
    downstream::Settings { routes: vec![any], ..downstream::Settings::default() }
}

/// A Bidiway in front of the server at `url`, for everything.
pub(crate) async fn edge(url: &str) -> Edge {
    edge_with(url, settings()).await
}

/// A Bidiway with these settings; its one upstream `chat` is at `url`.
pub(crate) async fn edge_with(url: &str, downstream: downstream::Settings) -> Edge {
    edge_over(super::calls::settings(&[url]), downstream).await
}

/// The schema settings of the tests: the upstream's reflection.
pub(crate) fn reflection() -> schema::Settings {
    schema::Settings::new(schema::Source::Reflection { fallback: None })
}

/// A Bidiway with these settings and this upstream, which must be named `chat`.
pub(crate) async fn edge_over(upstream: upstream::Settings, downstream: downstream::Settings) -> Edge {
    edge_knowing(reflection(), upstream, downstream).await
}

/// A Bidiway with these settings, and this upstream with this schema.
pub(crate) async fn edge_knowing(
    schema: schema::Settings,
    upstream: upstream::Settings,
    downstream: downstream::Settings,
) -> Edge {
    start(1, schema, vec![upstream], downstream).await
}

/// A Bidiway with these settings and several upstreams.
pub(crate) async fn edge_among(upstreams: Vec<upstream::Settings>, downstream: downstream::Settings) -> Edge {
    start(1, reflection(), upstreams, downstream).await
}

/// A Bidiway of several workers.
pub(crate) async fn edge_of_workers(workers: usize, url: &str, downstream: downstream::Settings) -> Edge {
    start(workers, reflection(), vec![super::calls::settings(&[url])], downstream).await
}

/// A Bidiway whose connections begin with a PROXY header.
pub(crate) async fn edge_behind_tcp_proxy(url: &str, downstream: downstream::Settings) -> Edge {
    edge_adjusted(reflection(), vec![super::calls::settings(&[url])], downstream, |settings| {
        settings.listeners.iter_mut().for_each(|listener| listener.proxy_protocol = true);
    })
    .await
}

/// A Bidiway of several workers and several upstreams, all with this schema.
pub(crate) async fn start(
    workers: usize,
    schema: schema::Settings,
    upstreams: Vec<upstream::Settings>,
    downstream: downstream::Settings,
) -> Edge {
    edge_adjusted(schema, upstreams, downstream, |settings| settings.workers = workers).await
}

/// A Bidiway with these upstreams and their schema, and whatever else the test wants.
pub(crate) async fn edge_adjusted(
    schema: schema::Settings,
    upstreams: Vec<upstream::Settings>,
    downstream: downstream::Settings,
    adjust: impl FnOnce(&mut Settings),
) -> Edge {
    let listener = |tls| ListenerSettings::new("127.0.0.1:0".parse().unwrap(), tls);
    let mut settings = Settings {
        drain: std::time::Duration::from_secs(30).into(),
        downstream: Arc::new(downstream),
        schemas: upstreams.iter().map(|upstream| (upstream.name.clone(), schema.clone())).collect(),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
        ..Settings::new(vec![listener(None), listener(Some(super::carrier::certificate()))])
    };
    adjust(&mut settings);
    let server = Server::bind(settings).unwrap();
    let (shutdown, stop) = oneshot::channel();
    let (addresses, metrics, cut) = (server.addresses(), server.metrics(), server.cut());
    let clients = server.clients();
    let served = tokio::spawn(server.serve(async move {
        let _ = stop.await;
    }));
    Edge { address: addresses[0], tls: addresses[1], metrics, cut, clients, shutdown: Some(shutdown), served }
}

/// A request body of the tests.
pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body that goes on as long as the sender lives.
pub(crate) fn open() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(8);
    let frames = ReceiverStream::new(receiver).map(|bytes| Ok(Frame::data(bytes)));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

/// The two HTTP versions that carry gRPC-Web here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

pub(crate) const BOTH: [Http; 2] = [Http::One, Http::Two];

impl Edge {
    /// Begins the drain.
    pub(crate) fn drain(&mut self) {
        let _ = self.shutdown.take().unwrap().send(());
    }

    /// Waits until it has stopped, and its ports are closed.
    pub(crate) async fn stopped(&mut self) {
        (&mut self.served).await.unwrap();
    }

    /// A connection to send requests on.
    pub(crate) async fn connect(&self, version: Http) -> Client {
        Client::connect(self.address, version).await
    }

    /// A request to this Bidiway.
    pub(crate) fn request(&self, method: &str, path: &str) -> Builder {
        let uri = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(uri)
    }

    /// A gRPC-Web call.
    pub(crate) fn web(&self, path: &str) -> Builder {
        self.request("POST", path).header("content-type", "application/grpc-web+proto")
    }

    /// Sends one request on a connection of its own.
    pub(crate) async fn send(&self, version: Http, request: Request<Body>) -> Response<Incoming> {
        self.connect(version).await.send(request).await.unwrap()
    }
}

pub(crate) enum Client {
    One(hyper::client::conn::http1::SendRequest<Body>),
    Two(hyper::client::conn::http2::SendRequest<Body>),
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, version: Http) -> Self {
        let io = TcpStream::connect(address).await.unwrap();
        io.set_nodelay(true).unwrap();
        let io = TokioIo::new(io);
        match version {
            Http::One => {
                let (client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                Self::One(client)
            }
            Http::Two => {
                let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (client, connection) = handshake.await.unwrap();
                tokio::spawn(connection);
                Self::Two(client)
            }
        }
    }

    pub(crate) async fn send(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(client) => {
                let host = request.uri().authority().unwrap().as_str().parse().unwrap();
                let headers = request.headers_mut();
                headers.entry("host").or_insert(host);
                let path = request.uri().path_and_query().unwrap().clone();
                *request.uri_mut() = path.into();
                client.send_request(request).await
            }
            Self::Two(client) => client.send_request(request).await,
        }
    }
}

/// A gRPC-Web answer, read to its end as a client reads it.
#[derive(Debug)]
pub(crate) struct WebAnswer {
    pub(crate) http: u16,
    pub(crate) headers: HeaderMap,
    /// The payloads, with their flag bytes.
    pub(crate) messages: Vec<(u8, Vec<u8>)>,
    /// The trailer frame's entries; `None` when there was no such frame.
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether the body had HTTP trailers.
    pub(crate) http_trailers: bool,
}

impl WebAnswer {
    /// Reads an answer; fails when the body breaks off or is no gRPC-Web.
    pub(crate) async fn read(response: Response<Incoming>) -> Result<Self, String> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let http_trailers = body.trailers().is_some();
        let mut bytes = body.to_bytes().to_vec();
        let is_text = head
            .headers
            .get("content-type")
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc-web-text"));
        if is_text {
            bytes = unbase64(&bytes);
        }
        let (mut messages, mut trailers) = (Vec::new(), None);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if rest.len() < 5 {
                return Err(format!("half a prefix: {rest:?}"));
            }
            let (prefix, tail) = rest.split_at(5);
            let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            if tail.len() < len {
                return Err(format!("half a message: {} of {len} bytes", tail.len()));
            }
            if trailers.is_some() {
                return Err("something follows the trailers".into());
            }
            if prefix[0] & 0x80 != 0 {
                trailers = Some(fields(&tail[..len]));
            } else {
                messages.push((prefix[0], tail[..len].to_vec()));
            }
            rest = &tail[len..];
        }
        let http = head.status.as_u16();
        Ok(Self { http, headers: head.headers, messages, trailers, http_trailers })
    }

    /// The status, from wherever it stands; in exactly one place.
    #[track_caller]
    pub(crate) fn status(&self) -> (u32, String) {
        let places = [Some(&self.headers), self.trailers.as_ref()].into_iter().flatten();
        let found: Vec<_> = places.filter(|place| place.contains_key("grpc-status")).collect();
        assert_eq!(found.len(), 1, "one status in {self:?}");
        let code = found[0]["grpc-status"].to_str().unwrap().parse().unwrap();
        let message = found[0].get("grpc-message").map_or("", |value| value.to_str().unwrap());
        (code, percent_encoding::percent_decode_str(message).decode_utf8().unwrap().into_owned())
    }

    /// Asserts that the answer is all headers, with this status and part of its message.
    #[track_caller]
    pub(crate) fn assert_trailers_only(&self, code: u32, part: &str) {
        assert_eq!(self.http, 200, "{self:?}");
        assert!(self.messages.is_empty() && self.trailers.is_none(), "the body is empty: {self:?}");
        let (found, message) = self.status();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }

    pub(crate) fn payloads(&self) -> Vec<&[u8]> {
        self.messages.iter().map(|(_, payload)| payload.as_slice()).collect()
    }
}

/// Reads segments of padded base64 as they come one after the other.
fn unbase64(text: &[u8]) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    text.chunks(4).flat_map(|quantum| STANDARD.decode(quantum).unwrap()).collect()
}

fn fields(block: &[u8]) -> HeaderMap {
    let text = std::str::from_utf8(block).unwrap();
    let lines = text.split_terminator("\r\n").map(|line| line.split_once(':').unwrap());
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        assert_eq!(name, name.to_ascii_lowercase(), "trailer names are in lower case");
        map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.trim().parse().unwrap());
    }
    map
}
