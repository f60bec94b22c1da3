//! The link between instances.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;

use super::{Builder, listeners::concerns};
use crate::{
    config::{
        file::{File, PeerTls},
        node::Position,
        read::At,
    },
    downstream::carrier::{PeerAddress, PeerSettings},
    server::tls::{self, Certificate, ClientAuth, MinVersion},
    upstream::{ClientPem, ClientTls},
};

impl Builder<'_> {
    /// The link to other instances; `Some(None)`: there is none.
    pub(super) fn peers(&mut self, file: &File, longest_resume: Duration) -> Option<Option<PeerSettings>> {
        let session = file.session.as_ref();
        let Some(At { at, value: given }) = session.and_then(|session| session.peers.as_ref()) else {
            return Some(None);
        };
        if longest_resume.is_zero() {
            self.problems.add(*at, "`peers` is for sessions that go on, and with `resume: 0s` none does");
        }
        self.check_peer_port(&given.listen, file);
        let addresses: Vec<_> = given.addresses.0.iter().map(|address| self.peer(address)).collect();
        let (server, client) = self.peer_tls(given.tls.at, &given.tls.value)?;
        let addresses = addresses.into_iter().collect::<Option<_>>()?;
        Some(Some(PeerSettings { listen: given.listen.value, server, addresses, client }))
    }

    fn check_peer_port(&mut self, listen: &At<SocketAddr>, file: &File) {
        let taken = |other: &SocketAddr| *other == listen.value && other.port() != 0;
        let what = if file.listeners.0.iter().any(|listener| taken(&listener.address.value)) {
            "a listener's address"
        } else if file.admin.as_ref().is_some_and(|admin| taken(&admin.address.value)) {
            "the admin port"
        } else {
            return;
        };
        self.problems.add(listen.at, format!("{} is {what} already; choose another", listen.value));
    }

    fn peer(&mut self, address: &At<String>) -> Option<PeerAddress> {
        address
            .value
            .parse()
            .map_err(|error: crate::downstream::carrier::InvalidPeerAddress| {
                self.problems.add(address.at, error.to_string());
            })
            .ok()
    }

    /// Both sides of the link show the same certificate, and trust the same CA.
    fn peer_tls(&mut self, at: Position, given: &PeerTls) -> Option<(Arc<rustls::ServerConfig>, ClientTls)> {
        let PeerTls { ca, certificate, key, server_name } = given;
        if let Some(name) = server_name
            && ServerName::try_from(name.value.as_str()).is_err()
        {
            let text = format!("{:?} is no name that a certificate can carry", name.value);
            self.problems.add(name.at, text);
        }
        let roots =
            tls::load_client_ca(&self.path(ca)).map_err(|error| self.problems.add(ca.at, error.to_string()));
        let own = Certificate::load(&self.path(certificate), &self.path(key)).map_err(|error| {
            let at = if concerns(&error, &self.path(key)) { key.at } else { certificate.at };
            self.problems.add(at, error.to_string());
        });
        let (roots, own) = (roots.ok()?, own.ok()?);
        let server = tls::server_config(&[own], Some((roots, ClientAuth::Required)), MinVersion::Tls13)
            .map_err(|error| self.problems.add(at, error.to_string()))
            .ok()?;
        let [ca, certificate, key] = [ca, certificate, key].map(|path| self.read(path).ok());
        let (ca, certificate, key) = (ca?, certificate?, key?);
        let pem = ClientPem { roots: Some(&ca), identity: Some((&certificate, &key)) };
        let client = ClientTls::from_pem(pem, server_name.as_ref().map(|name| name.value.clone()))
            .map_err(|error| self.problems.add(at, error.to_string()))
            .ok()?;
        Some((server, client))
    }
}
