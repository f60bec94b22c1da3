//! Several instances of the proxy that know each other.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU8, Ordering},
};

use bidiway::{
    downstream::{
        Settings,
        carrier::{PeerAddress, PeerSettings},
    },
    server::tls::{Certificate, ClientAuth, MinVersion, server_config},
    upstream::{ClientPem, ClientTls},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::edge::{self, Edge, edge_with};

/// The name in the instances' certificate.
pub(crate) const NAME: &str = "peers.test";

/// Who signs the certificates of the instances.
pub(crate) struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key.
    pub(crate) fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(crate) fn client(&self, shows: bool) -> ClientTls {
        let (chain, key) = self.issue();
        let identity = shows.then_some((chain.as_bytes(), key.as_bytes()));
        let pem = ClientPem { roots: Some(self.pem.as_bytes()), identity };
        ClientTls::from_pem(pem, Some(NAME.to_owned())).unwrap()
    }

    /// The settings of an instance that listens here.
    pub(crate) fn peers(&self, listen: SocketAddr, addresses: &[PeerAddress]) -> PeerSettings {
        let (chain, key) = self.issue();
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let clients = Some((roots, ClientAuth::Required));
        let server = server_config(&[certificate], clients, MinVersion::Tls13).unwrap();
        PeerSettings { listen, server, addresses: addresses.to_vec(), client: self.client(true) }
    }
}

/// An address that nobody else uses: no other test binds to it.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let ip = Ipv4Addr::new(127, 77, std::process::id() as u8, NEXT.fetch_add(1, Ordering::Relaxed));
    (ip, 7443).into()
}

pub(crate) fn name_of(address: SocketAddr) -> PeerAddress {
    address.to_string().parse().unwrap()
}

pub(crate) fn with_peers(settings: &Settings, peers: PeerSettings) -> Settings {
    Settings { peers: Some(peers), ..settings.clone() }
}

/// So many instances that know each other, and some addresses where nobody is.
pub(crate) async fn instances_with(
    count: usize,
    url: &str,
    settings: Settings,
) -> (Vec<Edge>, Vec<SocketAddr>, Ca) {
    let ca = Ca::new();
    let listen: Vec<_> = (0..count).map(|_| own_address()).collect();
    let mut addresses = vec![name_of(own_address())];
    addresses.extend(listen.iter().copied().map(name_of));
    addresses.push("localhost:1".parse().unwrap());
    let mut edges = Vec::new();
    for &listen in &listen {
        edges.push(edge_with(url, with_peers(&settings, ca.peers(listen, &addresses))).await);
    }
    (edges, listen, ca)
}

pub(crate) async fn instances(count: usize, url: &str) -> Vec<Edge> {
    instances_with(count, url, edge::settings()).await.0
}
