//! TLS on a public port: names, ALPN, versions, client certificates, slow handshakes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bidiway::{
    server::{
        ListenerSettings, Server, Settings,
        tls::{Certificate, ClientAuth, MinVersion, server_config},
    },
    telemetry::Metrics,
    upstream::provider,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, version::TLS12};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{calls, edge, within};

pub(crate) struct Ca {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { der: certificate.der().clone(), pem: certificate.pem(), key }
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }
}

impl Leaf {
    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_pem(self.pem.as_bytes(), self.key.serialize_pem().as_bytes()).unwrap()
    }
}

struct Port {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    _shutdown: oneshot::Sender<()>,
}

fn listen(tls: Arc<rustls::ServerConfig>) -> Port {
    let mut downstream = edge::settings();
    downstream.limits.handshake_timeout = Duration::from_millis(200);
    let server = Server::bind(Settings {
        downstream: Arc::new(downstream),
        upstreams: vec![Arc::new(calls::settings(&["http://127.0.0.1:1"]))],
        ..Settings::new(vec![ListenerSettings::new("127.0.0.1:0".parse().unwrap(), Some(tls))])
    })
    .unwrap();
    let (address, metrics) = (server.addresses()[0], server.metrics());
    let (shutdown, stop) = oneshot::channel();
    tokio::spawn(server.serve(async {
        let _ = stop.await;
    }));
    Port { address, metrics, _shutdown: shutdown }
}

pub(crate) fn client(ca: &Ca) -> ClientConfig {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(ca.roots()).with_no_client_auth()
}

pub(crate) fn client_with(ca: &Ca, leaf: &Leaf) -> ClientConfig {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf.key.serialize_der()));
    builder.with_root_certificates(ca.roots()).with_client_auth_cert(vec![leaf.der.clone()], key).unwrap()
}

async fn connect(port: &Port, config: ClientConfig, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(port.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), socket).await
}

/// Sends a request and returns the first bytes of the answer. With TLS 1.3 only this shows whether the server has
/// taken the client's certificate.
async fn ask(stream: std::io::Result<TlsStream<TcpStream>>) -> std::io::Result<String> {
    let mut stream = stream?;
    stream.write_all(b"GET /nothing HTTP/1.1\r\nhost: a.example\r\n\r\n").await?;
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn shown(stream: &TlsStream<TcpStream>) -> &CertificateDer<'static> {
    &stream.get_ref().1.peer_certificates().unwrap()[0]
}

#[tokio::test]
async fn the_certificate_follows_the_name_that_the_client_asks_for() {
    let ca = Ca::new();
    let (first, second) = (ca.issue("a.example"), ca.issue("*.b.example"));
    let tls = server_config(&[first.certificate(), second.certificate()], None, MinVersion::Tls12).unwrap();
    let port = listen(tls);
    for (name, leaf) in [("a.example", &first), ("www.b.example", &second)] {
        let stream = connect(&port, client(&ca), name).await.unwrap();
        assert_eq!(shown(&stream), &leaf.der, "{name}");
    }
    // For any other name there is the first certificate, which is not valid for it.
    let error = connect(&port, client(&ca), "c.example").await.unwrap_err();
    assert!(error.to_string().contains("not valid for"), "{error}");
}

#[tokio::test]
async fn alpn_chooses_the_http_version() {
    let ca = Ca::new();
    let tls = server_config(&[ca.issue("a.example").certificate()], None, MinVersion::Tls12).unwrap();
    let port = listen(tls);
    for (offered, chosen) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[&b"http/1.1"[..]][..], Some(&b"http/1.1"[..])),
        (&[][..], None),
    ] {
        let mut config = client(&ca);
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let stream = connect(&port, config, "a.example").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        if chosen != Some(b"h2") {
            assert_eq!(ask(Ok(stream)).await.unwrap(), "HTTP/1.1");
        }
    }
    let mut config = client(&ca);
    config.alpn_protocols = vec![b"spdy/1".to_vec()];
    assert!(connect(&port, config, "a.example").await.is_err());
}

#[tokio::test]
async fn a_required_client_certificate_must_come_from_the_named_ca() {
    let (ca, clients, strangers) = (Ca::new(), Ca::new(), Ca::new());
    let auth = Some((clients.roots(), ClientAuth::Required));
    let port =
        listen(server_config(&[ca.issue("a.example").certificate()], auth, MinVersion::Tls12).unwrap());
    let known = client_with(&ca, &clients.issue("me"));
    assert_eq!(ask(connect(&port, known, "a.example").await).await.unwrap(), "HTTP/1.1");
    assert!(ask(connect(&port, client(&ca), "a.example").await).await.is_err());
    let stranger = client_with(&ca, &strangers.issue("me"));
    assert!(ask(connect(&port, stranger, "a.example").await).await.is_err());
}

#[tokio::test]
async fn an_optional_client_certificate_may_be_missing_but_not_wrong() {
    let (ca, clients, strangers) = (Ca::new(), Ca::new(), Ca::new());
    let auth = Some((clients.roots(), ClientAuth::Optional));
    let port =
        listen(server_config(&[ca.issue("a.example").certificate()], auth, MinVersion::Tls12).unwrap());
    assert_eq!(ask(connect(&port, client(&ca), "a.example").await).await.unwrap(), "HTTP/1.1");
    let stranger = client_with(&ca, &strangers.issue("me"));
    assert!(ask(connect(&port, stranger, "a.example").await).await.is_err());
}

#[tokio::test]
async fn tls_1_2_is_spoken_unless_1_3_is_the_least() {
    let ca = Ca::new();
    let leaf = ca.issue("a.example");
    let old = || {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS12]).unwrap();
        builder.with_root_certificates(ca.roots()).with_no_client_auth()
    };
    let port = listen(server_config(&[leaf.certificate()], None, MinVersion::Tls12).unwrap());
    assert_eq!(ask(connect(&port, old(), "a.example").await).await.unwrap(), "HTTP/1.1");
    let port = listen(server_config(&[leaf.certificate()], None, MinVersion::Tls13).unwrap());
    assert!(connect(&port, old(), "a.example").await.is_err());
}

#[tokio::test]
async fn a_handshake_that_fails_or_takes_too_long_is_counted_and_closed() {
    let ca = Ca::new();
    let tls = server_config(&[ca.issue("a.example").certificate()], None, MinVersion::Tls12).unwrap();
    let port = listen(tls);
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut socket = TcpStream::connect(port.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = within(10, socket.read_to_end(&mut rest)).await;
    }
    let text = port.metrics.encode();
    assert!(text.lines().any(|line| line == "bidiway_tls_handshake_failures_total 2"), "{text}");
    // The port lives on.
    assert!(connect(&port, client(&ca), "a.example").await.is_ok());
}
