//! What an instance needs to know of the others.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

use http::uri::Authority;

use crate::upstream::ClientTls;

/// The link between the instances behind one address.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Where this instance hears the others.
    pub listen: SocketAddr,
    /// TLS of that port. It must demand a certificate that only the instances have: whoever comes there may speak for
    /// any client. (Connections without one are dropped.)
    pub server: Arc<rustls::ServerConfig>,
    /// Where the instances are heard; this one may be among them. A name stands for all of its addresses.
    pub addresses: Vec<PeerAddress>,
    /// TLS towards the others, with the certificate that they demand.
    pub client: ClientTls,
}

/// `HOST:PORT`: where other instances are heard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// A name or an address (IPv6 without brackets).
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// A text that is no `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a peer; write HOST:PORT, with brackets round an IPv6 address")]
pub struct InvalidPeerAddress(pub String);

impl FromStr for PeerAddress {
    type Err = InvalidPeerAddress;

    fn from_str(text: &str) -> Result<Self, InvalidPeerAddress> {
        let parse = || {
            let authority: Authority = text.parse().ok()?;
            let port = authority.port_u16().filter(|&port| port != 0)?;
            let host = authority.host();
            let is_plain = !host.is_empty() && !text.contains('@');
            let host = match host.strip_prefix('[') {
                Some(v6) => v6.strip_suffix(']').filter(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok())?,
                None => host,
            };
            is_plain.then(|| Self { host: host.into(), port })
        };
        parse().ok_or_else(|| InvalidPeerAddress(text.to_owned()))
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port_and_nothing_else() {
        for text in ["10.0.0.1:7443", "[::1]:7443", "peers.default.svc:1"] {
            assert_eq!(text.parse::<PeerAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "a",
            "a:",
            "a:0",
            "a:70000",
            ":1",
            "::1:7443",
            "[::1]",
            "[a]:1",
            "me@a:1",
            "https://a:1",
            "a:1/x",
        ] {
            assert!(text.parse::<PeerAddress>().is_err(), "{text}");
        }
    }
}
