//! Where a service listens.

use std::{fmt, path::PathBuf, str::FromStr};

/// One place where a service listens, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port` (cleartext HTTP/2 with prior knowledge) or `https://host:port`. Ports default to 80/443.
    Tcp {
        /// Whether TLS is spoken.
        tls: bool,
        /// A name or an address (IPv6 without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/path` or `unix:///path`: cleartext HTTP/2 on a Unix socket.
    Unix(PathBuf),
}

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an endpoint: {why}; write http://HOST:PORT, https://HOST:PORT or unix:/PATH")]
pub struct InvalidEndpoint {
    /// What was there.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(_text: &str) -> Result<Self, InvalidEndpoint> {
        todo!()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
