//! TLS towards services, and Unix sockets.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
};

use bidiway::{
    upstream::{ClientPem, ClientTls, Settings, Upstream, provider},
    wire::{Code, Origin},
};
use h2::server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    calls::{assert_unreachable, settings, unary},
    upstream::{echo, serve},
    within,
};

/// A certificate authority and what it has signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct Identity {
    chain: String,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        Identity { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

/// An echo server with TLS; returns its URL. `clients`: who may sign client certificates, which are then required.
async fn tls_server(identity: &Identity, alpn: &[&[u8]], clients: Option<&Authority>) -> String {
    use rustls_pki_types::pem::PemObject;
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider())
                .build()
                .unwrap(),
        ),
    };
    let chain = vec![rustls_pki_types::CertificateDer::from_pem_slice(identity.chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(io) = acceptor.accept(io).await {
                    serve(io, server::Builder::new(), echo, Arc::new(AtomicUsize::new(0))).await;
                }
            });
        }
    });
    url
}

fn trusting(url: &str, authority: &Authority, identity: Option<&Identity>, name: Option<&str>) -> Upstream {
    let (roots, key) = (authority.pem(), identity.map(|identity| identity.key.serialize_pem()));
    let pem = ClientPem {
        roots: Some(roots.as_bytes()),
        identity: identity.zip(key.as_ref()).map(|(id, key)| (id.chain.as_bytes(), key.as_bytes())),
    };
    let tls = ClientTls::from_pem(pem, name.map(str::to_owned)).unwrap();
    Upstream::new(Arc::new(Settings { tls, ..settings(&[url]) }))
}

/// Asserts that no connection can be made, for a reason with this part.
async fn fails(upstream: &Upstream, part: &str) {
    assert_unreachable(&within(10, unary(upstream, b"x")).await, upstream, part);
}

#[tokio::test]
async fn a_server_of_a_given_authority_is_trusted() {
    let authority = Authority::new("ca");
    let url = tls_server(&authority.sign("localhost"), &[b"h2"], None).await;
    let answer = within(10, unary(&trusting(&url, &authority, None, None), b"secret")).await;
    answer.assert(Origin::Upstream, Code::OK, "");
    assert_eq!(answer.body, b"\0\0\0\0\x06secret");
}

#[tokio::test]
async fn a_server_of_another_authority_is_not() {
    let authority = Authority::new("ca");
    let url = tls_server(&authority.sign("localhost"), &[b"h2"], None).await;
    let upstream = trusting(&url, &Authority::new("other"), None, None);
    fails(&upstream, "TLS failed: invalid peer certificate: UnknownIssuer").await;
}

#[tokio::test]
async fn the_certificate_must_have_the_hosts_name_or_the_given_one() {
    let authority = Authority::new("ca");
    let url = tls_server(&authority.sign("chat.internal"), &[b"h2"], None).await;
    fails(&trusting(&url, &authority, None, None), "not valid for name").await;
    let named = trusting(&url, &authority, None, Some("chat.internal"));
    within(10, unary(&named, b"x")).await.assert(Origin::Upstream, Code::OK, "");
    let odd = trusting(&url, &authority, None, Some("no name"));
    fails(&odd, "\"no name\" is no name").await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let url = tls_server(&servers.sign("localhost"), &[b"h2"], Some(&clients)).await;
    let known = trusting(&url, &servers, Some(&clients.sign("edge")), None);
    within(10, unary(&known, b"x")).await.assert(Origin::Upstream, Code::OK, "");
    let nobody = trusting(&url, &servers, None, None);
    fails(&nobody, "CertificateRequired").await;
    let stranger = trusting(&url, &servers, Some(&servers.sign("edge")), None);
    fails(&stranger, "UnknownCA").await;
}

#[tokio::test]
async fn a_server_without_http2_is_found_out_by_alpn() {
    let authority = Authority::new("ca");
    for alpn in [&[] as &[&[u8]], &[b"http/1.1"]] {
        let url = tls_server(&authority.sign("localhost"), alpn, None).await;
        let upstream = trusting(&url, &authority, None, None);
        fails(&upstream, "the server did not agree on HTTP/2 by ALPN").await;
    }
}

/// A socket's path, removed at the end.
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint() {
    let path = SocketPath(std::env::temp_dir().join(format!("bidiway-test-{}.sock", std::process::id())));
    let url = format!("unix:{}", path.0.display());
    let missing = Upstream::new(Arc::new(settings(&[&url])));
    fails(&missing, &format!("cannot connect to {url}")).await;
    let listener = UnixListener::bind(&path.0).unwrap();
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        serve(io, server::Builder::new(), echo, Arc::new(AtomicUsize::new(0))).await;
    });
    let answer = within(5, unary(&Upstream::new(Arc::new(settings(&[&url]))), b"x")).await;
    answer.assert(Origin::Upstream, Code::OK, "");
}
