//! Whose certificate a client has shown: told to services, and what a session is bound to.

use std::{net::SocketAddr, sync::Arc};

use bidiway::{
    downstream::{ClientIdentity, Settings as Downstream},
    server::{
        ListenerSettings, Server, Settings,
        tls::{ClientAuth, MinVersion, server_config},
    },
    session::{self, Event},
    wire::v1::{self, ResumeFailure},
};
use bytes::Bytes;
use http::{HeaderName, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use tokio::sync::oneshot;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::{
    server_tls::{Ca, Leaf, client, client_with},
    session_calls::entry,
    session_resume_refusals::hello,
    support::{
        calls,
        carrier::tcp,
        edge,
        http_carrier::{Field, Fields, open, poll, up},
        socket::{Io, Socket, request},
        upstream::{Exchange, Scripted, end, message, send},
        within,
    },
};

const TOLD: [&str; 4] = ["x-subject", "x-san", "x-hash", "x-forwarded-client-cert"];

/// Answers with what it is told of the client, a line for each entry.
async fn mirror() -> Scripted {
    Scripted::start(|mut exchange: Exchange| async move {
        let headers = exchange.request.headers().clone();
        let lines = TOLD.iter().flat_map(|name| {
            headers.get_all(*name).iter().map(move |value| format!("{name}: {}\n", value.to_str().unwrap()))
        });
        let text: String = lines.collect();
        exchange.read_all().await;
        let mut stream = exchange.headers();
        send(&mut stream, message(text.as_bytes())).await;
        end(&mut stream, 0);
    })
    .await
}

struct Port {
    /// In TLS, and in cleartext.
    tls: SocketAddr,
    plain: SocketAddr,
    clients: Ca,
    server: Ca,
    _upstream: Scripted,
    _shutdown: oneshot::Sender<()>,
}

async fn port(auth: ClientAuth) -> Port {
    let (clients, server, upstream) = (Ca::new(), Ca::new(), mirror().await);
    let identity = server.issue("localhost").certificate();
    let tls = server_config(&[identity], Some((clients.roots(), auth)), MinVersion::Tls12).unwrap();
    let name = |name| Some(HeaderName::from_static(name));
    let told = ClientIdentity {
        subject: name("x-subject"),
        san: name("x-san"),
        fingerprint: name("x-hash"),
        forwarded: true,
        trusts_forwarded: false,
    };
    let downstream = Downstream { client_identity: told, ..edge::settings() };
    let any = |tls| ListenerSettings::new("127.0.0.1:0".parse().unwrap(), tls);
    let bound = Server::bind(Settings {
        downstream: Arc::new(downstream),
        upstreams: vec![Arc::new(calls::settings(&[&upstream.url]))],
        ..Settings::new(vec![any(Some(tls)), any(None)])
    })
    .unwrap();
    let addresses = bound.addresses();
    let (shutdown, stop) = oneshot::channel::<()>();
    tokio::spawn(bound.serve(async {
        let _ = stop.await;
    }));
    Port { tls: addresses[0], plain: addresses[1], clients, server, _upstream: upstream, _shutdown: shutdown }
}

impl Port {
    fn client(&self, leaf: Option<&Leaf>, alpn: &str) -> Arc<ClientConfig> {
        let mut config = leaf.map_or_else(|| client(&self.server), |leaf| client_with(&self.server, leaf));
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Arc::new(config)
    }

    async fn connect(&self, client: &Arc<ClientConfig>) -> TlsStream<tokio::net::TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(client.clone()).connect(name, tcp(self.tls).await).await.unwrap()
    }

    async fn websocket(&self, leaf: Option<&Leaf>) -> WebSocketStream<Box<dyn Io>> {
        let io: Box<dyn Io> = Box::new(self.connect(&self.client(leaf, "http/1.1")).await);
        client_async(request(self.tls), io).await.unwrap().0
    }

    /// A session that can be resumed.
    async fn session(&self, leaf: Option<&Leaf>) -> Socket {
        let settings = session::Settings { resumable: true, ..session::Settings::default() };
        let mut socket = Socket::new(self.websocket(leaf).await, settings);
        socket.flush().await;
        assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
        socket
    }
}

/// What a service is told of a client that claims to be somebody else.
async fn told_in_session(socket: &mut Socket) -> String {
    let metadata = TOLD.map(|name| entry(name, "somebody else")).into();
    let open = v1::Open { method: "/a.B/C".into(), metadata, ..v1::Open::default() };
    let stream = socket.open_with(open).await;
    socket.send(stream, &b"x"[..]).await;
    socket.finish(stream).await;
    String::from_utf8(socket.answer(stream).await.messages.remove(0)).unwrap()
}

/// The same as native gRPC.
async fn told_natively(io: impl Io + 'static) -> String {
    let (mut send, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post("https://localhost/a.B/C").header("content-type", "application/grpc");
    for name in TOLD {
        request = request.header(name, "somebody else");
    }
    let (response, mut up) = send.send_request(request.body(()).unwrap(), false).unwrap();
    up.send_data(message(b"x"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut all = Vec::new();
    while let Some(bytes) = body.data().await {
        all.extend_from_slice(&bytes.unwrap());
    }
    String::from_utf8(all.split_off(5)).unwrap()
}

fn expected(leaf: &Leaf) -> String {
    let hash: String =
        bidiway::upstream::sha256([&*leaf.der]).iter().map(|byte| format!("{byte:02x}")).collect();
    let subject = "CN=rcgen self signed cert";
    format!(
        "x-subject: {subject}\nx-san: DNS:ada.example\nx-hash: {hash}\n\
         x-forwarded-client-cert: Hash={hash};Subject=\"{subject}\";DNS=ada.example\n"
    )
}

#[tokio::test]
async fn services_are_told_who_has_shown_which_certificate_and_not_what_a_client_claims() {
    within(20, async {
        let port = port(ClientAuth::Optional).await;
        let ada = port.clients.issue("ada.example");
        let expected = expected(&ada);
        assert_eq!(told_in_session(&mut port.session(Some(&ada)).await).await, expected);
        let client = port.client(Some(&ada), "h2");
        assert_eq!(told_natively(port.connect(&client).await).await, expected);
        // The certificate is known again when its TLS session is resumed.
        let again = port.connect(&client).await;
        assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(told_natively(again).await, expected);
        // Who has shown none is nobody, whatever he says.
        assert_eq!(told_in_session(&mut port.session(None).await).await, "");
        assert_eq!(told_natively(port.connect(&port.client(None, "h2")).await).await, "");
        assert_eq!(told_natively(tcp(port.plain).await).await, "");
    })
    .await;
}

#[tokio::test]
async fn a_session_goes_on_with_the_same_certificate_and_with_no_other() {
    within(20, async {
        let port = port(ClientAuth::Optional).await;
        let (ada, eve) = (port.clients.issue("ada.example"), port.clients.issue("ada.example"));
        for other in [Some(&eve), None] {
            let lost = port.session(Some(&ada)).await.cut();
            let mut thief = lost.resume(port.websocket(other).await).await;
            let Event::Welcomed(welcome) = thief.next_own().await else { panic!("no Welcome") };
            assert!(!welcome.resumed);
            assert_eq!(welcome.resume_failure(), ResumeFailure::WrongPrincipal);
        }
        let mut socket = port.session(Some(&ada)).await;
        assert_eq!(told_in_session(&mut socket).await, expected(&ada));
        let mut socket = socket.cut().resume(port.websocket(Some(&ada)).await).await;
        assert!(matches!(socket.next_own().await, Event::Resumed { .. }));
        assert_eq!(told_in_session(&mut socket).await, expected(&ada));
    })
    .await;
}

#[tokio::test]
async fn an_http_carrier_takes_requests_with_its_own_certificate_only() {
    within(20, async {
        let port = port(ClientAuth::Optional).await;
        let (ada, eve) = (port.clients.issue("ada.example"), port.clients.issue("ada.example"));
        let post = async |leaf: Option<&Leaf>, path: &str, body: Vec<u8>| {
            let io = TokioIo::new(port.connect(&port.client(leaf, "http/1.1")).await);
            let (mut http, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let request = Request::post(format!("/bidiway/http/{path}")).header("host", "localhost");
            let request = request.header("content-type", "application/octet-stream");
            let response =
                http.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
            let status = response.status().as_u16();
            (status, response.into_body().collect().await.unwrap().to_bytes())
        };
        let (status, answer) = post(Some(&ada), "open", open(hello(Bytes::new()), true)).await;
        assert_eq!(status, 200, "{answer:?}");
        let mut fields = Fields::default();
        fields.feed(&answer);
        let Some(Field::Opened(carrier)) = fields.next() else { panic!("{answer:?}") };
        for other in [Some(&eve), None] {
            for (path, body) in [("up", up(&carrier, 1, hello(Bytes::new()))), ("down", poll(&carrier, 1, 0))]
            {
                let (status, answer) = post(other, path, body).await;
                let answer = String::from_utf8_lossy(&answer);
                assert_eq!(status, 403, "{path}: {answer}");
                assert!(answer.contains("another client's certificate"), "{answer}");
            }
        }
        assert_eq!(post(Some(&ada), "down", poll(&carrier, 1, 0)).await.0, 200);
    })
    .await;
}
