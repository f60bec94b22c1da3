//! Certificates by ACME, against Pebble, Let's Encrypt's test authority: `scripts/test acme`, or `apt install pebble` and
//! `cargo test --features acme --test it acme:: -- --ignored`.

use std::{net::TcpListener, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use bidiway::upstream::provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    carrier::tcp,
    reload::{Folder, Live},
    within,
};

/// The authority, and a name server that sends everybody to this machine.
struct Pebble {
    /// Its API, and its own pages.
    port: u16,
    management: u16,
    /// What its API shows.
    certificate: CertificateDer<'static>,
    _processes: [Child; 2],
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(command: &mut Command) -> Child {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    quiet.spawn().expect("pebble is installed")
}

impl Pebble {
    /// `tls`: where it looks for proofs.
    async fn start(folder: &Folder, tls: u16) -> Self {
        let certificate = folder.certificate("pebble", "localhost");
        let [port, management, dns, other] = [(); 4].map(|()| free_port());
        let path = |name: &str| folder.path(name).display().to_string();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("pebble.pem"),
            "privateKey": path("pebble.key"),
            "httpPort": other,
            "tlsPort": tls,
        } });
        folder.write("pebble.json", &config.to_string());
        let names = run(Command::new("pebble-challtestsrv").args([
            "-defaultIPv4=127.0.0.1",
            "-defaultIPv6=",
            "-http01=",
            "-https01=",
            "-tlsalpn01=",
            &format!("-dns01=127.0.0.1:{dns}"),
            &format!("-management=127.0.0.1:{other}"),
        ]));
        let pebble = run(Command::new("pebble")
            .args(["-config", &path("pebble.json"), "-dnsserver", &format!("127.0.0.1:{dns}")])
            .env("PEBBLE_VA_NOSLEEP", "1"));
        within(20, async { while TcpStream::connect(("127.0.0.1", port)).await.is_err() {} }).await;
        Self { port, management, certificate, _processes: [names, pebble] }
    }

    /// What its certificates come from.
    async fn root(&self) -> CertificateDer<'static> {
        let io = tcp(([127, 0, 0, 1], self.management).into()).await;
        let mut stream = connect(io, "localhost", &self.certificate).await.unwrap();
        stream.write_all(b"GET /roots/0 HTTP/1.0\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        CertificateDer::from_pem_slice(&text).unwrap()
    }
}

async fn connect(
    io: TcpStream,
    name: &'static str,
    root: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), io).await
}

/// What is shown to clients that ask for the name, once it is one that they trust.
async fn shown(live: &Live, root: &CertificateDer<'static>) -> CertificateDer<'static> {
    within(60, async {
        loop {
            match connect(tcp(live.addresses[0]).await, "edge.test", root).await {
                Ok(stream) => return stream.get_ref().1.peer_certificates().unwrap()[0].clone(),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await
}

fn config(port: u16, pebble: u16, more: &str) -> String {
    format!(
        "listeners:
  - address: 127.0.0.1:{port}
    tls:
      acme:
        domains: [edge.test]
        email: ada@example.org
        cache: cache
        directory: https://localhost:{pebble}/dir
        directory_ca: pebble.pem
upstreams: {{ a: {{ endpoints: [\"http://127.0.0.1:1\"] }} }}
reload: 100ms
{more}"
    )
}

#[tokio::test]
#[ignore = "needs pebble, which `scripts/test acme` installs"]
async fn a_certificate_is_ordered_proven_shown_and_kept() {
    let folder = Folder::new();
    let port = free_port();
    let pebble = Pebble::start(&folder, port).await;
    let file: PathBuf = folder.path("a.yaml");
    folder.write("a.yaml", &config(port, pebble.port, ""));
    let live = Live::start(file.clone());
    let root = pebble.root().await;
    let first = shown(&live, &root).await;

    // It outlives a reload …
    folder.write("a.yaml", &config(port, pebble.port, "origins: [\"https://app.test\"]\n"));
    live.generation(2).await;
    assert_eq!(shown(&live, &root).await, first);
    // … and a restart, without the authority.
    drop(live);
    let (gone, port) = (pebble.port, free_port());
    drop(pebble);
    folder.write("a.yaml", &config(port, gone, ""));
    let live = Live::start(file);
    assert_eq!(shown(&live, &root).await, first);
}
