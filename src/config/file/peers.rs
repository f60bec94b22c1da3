//! The link between instances.

use std::{net::SocketAddr, path::PathBuf};

use crate::config::{
    node::Node,
    problem::Problems,
    read::{At, AtLeastOne, Read, Section, section},
};

section! { "session.peers"
    /// The link between instances.
    struct Peers {
        /// IP and port where this instance hears the others. Never a public port.
        listen: At<SocketAddr>,
        /// `HOST:PORT` where instances are heard; this one may be among them. A name stands for all of its addresses,
        /// as that of a headless service does. At least one.
        addresses: AtLeastOne<At<String>>,
        /// The certificate by which instances know each other.
        tls: At<PeerTls>,
    }
}

section! { "session.peers.tls"
    /// The certificate by which instances know each other. Cleartext is not spoken between them.
    struct PeerTls {
        /// The CA (PEM file) from which their certificates come, and no others: whoever has one can speak for any client.
        ca: At<PathBuf>,
        /// This instance's certificate chain (PEM file).
        certificate: At<PathBuf>,
        /// Its private key.
        key: At<PathBuf>,
        /// The name that each instance's certificate has. Default: the host in `addresses`.
        server_name: Option<At<String>>,
    }
}
