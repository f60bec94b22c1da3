//! Ports.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    config::{
        Duration,
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
        /// Whether connections begin with a PROXY header (HAProxy's PROXY protocol, version 1 or 2) from
        /// `trusted_proxies`. Connections without one are closed. Default: false.
        proxy_protocol: Option<At<bool>>,
        /// How long sessions that begin here wait without a carrier; 0s: not at all. Default: session.resume.
        resume: Option<Duration>,
    }
}

section! { "a listener's tls"
    /// TLS of a public port, with ALPN h2 and http/1.1.
    struct ListenerTls {
        /// Certificates, chosen by the name that the client asks for; the first is the default. At least one, unless
        /// there is `acme`.
        certificates: Option<AtLeastOne<CertificateFiles>>,
        /// A certificate from an authority that speaks ACME, as Let's Encrypt, proven by TLS-ALPN-01.
        acme: Option<At<ListenerAcme>>,
        /// CA certificates (PEM file) from which clients' certificates must come. Left out: clients show none.
        client_ca: Option<At<PathBuf>>,
        /// Whether a client must show a certificate. Default: required.
        client_auth: Option<At<ClientAuth>>,
        /// The oldest TLS version that is spoken. Default: "1.2".
        min_version: Option<MinVersion>,
    }
}

section! { "acme"
    /// A certificate by ACME. Whoever configures it agrees to the authority's terms.
    struct ListenerAcme {
        /// The names that the certificate is for. Clients, and the authority, must reach this port at port 443 of
        /// each. No wildcards.
        domains: AtLeastOne<At<String>>,
        /// Whom the authority writes to. Default: nobody.
        email: Option<At<String>>,
        /// A directory for the account's key and the certificate, which nobody else may read.
        cache: At<PathBuf>,
        /// The authority's directory. Default: Let's Encrypt.
        directory: Option<At<String>>,
        /// CA certificates (PEM file) to trust towards the authority. Default: the operating system's.
        directory_ca: Option<At<PathBuf>>,
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
