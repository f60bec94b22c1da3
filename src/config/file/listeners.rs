//! Ports.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    config::{
        node::Node,
        problem::Problems,
        read::{At, AtLeastOne, Read, Section, section},
    },
    server::tls::{ClientAuth, MinVersion},
};

section! { "a listener"
    /// One public port, for every dialect.
    struct Listener {
        /// IP and port: `127.0.0.1:8080` (this machine only), `0.0.0.0:8080` or `[::]:8080` (everybody).
        address: At<SocketAddr>,
        /// TLS. Left out: cleartext HTTP/1.1 and HTTP/2.
        tls: Option<At<ListenerTls>>,
    }
}

section! { "a listener's tls"
    /// TLS of a public port, with ALPN h2 and http/1.1.
    struct ListenerTls {
        /// Certificates, chosen by the name that the client asks for; the first is the default. At least one.
        certificates: AtLeastOne<CertificateFiles>,
        /// CA certificates (PEM file) from which clients' certificates must come. Left out: clients show none.
        client_ca: Option<At<PathBuf>>,
        /// Whether a client must show a certificate. Default: required.
        client_auth: Option<At<ClientAuth>>,
        /// The oldest TLS version that is spoken. Default: "1.2".
        min_version: Option<MinVersion>,
    }
}

section! { "a certificate"
    /// A certificate and its private key, in PEM files. Relative paths start at the configuration's directory.
    struct CertificateFiles {
        /// The certificate chain, the server's own certificate first.
        chain: At<PathBuf>,
        /// The private key: RSA, ECDSA or Ed25519.
        key: At<PathBuf>,
    }
}

section! { "client_identity"
    /// Metadata that says whose certificate a client has shown.
    struct ClientIdentity {
        /// For the certificate's subject: `CN=ada,O=Example` (RFC 4514, in ASCII).
        subject: Option<At<String>>,
        /// For its alternative names, an entry each: `DNS:…`, `URI:…`, `EMAIL:…`, `IP:…`. At most 32.
        san: Option<At<String>>,
        /// For its SHA-256, in lower-case hexadecimal.
        fingerprint: Option<At<String>>,
        /// Whether to tell it as Envoy does, in `x-forwarded-client-cert`. Default: false.
        forwarded: Option<bool>,
    }
}

section! { "admin"
    /// The operators' port.
    struct Admin {
        /// IP and port. It has no access control: keep it off the public network.
        address: At<SocketAddr>,
    }
}
