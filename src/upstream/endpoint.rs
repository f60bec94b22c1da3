//! Where a service listens.

use std::{fmt, path::PathBuf, str::FromStr};

use http::uri::{Authority, Scheme};

use super::LocalEndpoint;

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
    /// `dns+http://host:port` or `dns+https://host:port`: every address that the name stands for is a server of its
    /// own. With [`Endpoint::Tcp`] they are one, and the system chooses an address for each connection.
    Dns {
        /// Whether TLS is spoken, with the name.
        tls: bool,
        /// The name.
        host: String,
        /// The port, the same for all addresses.
        port: u16,
    },
    /// `unix:/path` or `unix:///path`: cleartext HTTP/2 on a Unix socket.
    Unix(PathBuf),
    /// A service within this process. Not to be written in a configuration.
    Local(LocalEndpoint),
}

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an endpoint: {why}; write http://HOST:PORT, https://HOST:PORT, dns+http://NAME:PORT, dns+https://NAME:PORT or unix:/PATH"
)]
pub struct InvalidEndpoint {
    /// What was there.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        parse(text).map_err(|why| InvalidEndpoint { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        // `unix:///run/x` is the form with an empty authority; `unix://run/x` would name a host.
        let path = match path.strip_prefix("//") {
            Some(rest) if rest.starts_with('/') => rest,
            Some(_) => return Err("unix://NAME/… names a host"),
            None => path,
        };
        return if path.starts_with('/') && path.len() > 1 {
            Ok(Endpoint::Unix(PathBuf::from(path)))
        } else {
            Err("the path of a Unix socket must be absolute")
        };
    }
    let (dns, url) = match text.get(..4) {
        Some(prefix) if prefix.eq_ignore_ascii_case("dns+") => (true, &text[4..]),
        _ => (false, text),
    };
    let (tls, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some(_) => return Err("the scheme is unknown"),
        None => return Err("it has no scheme"),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("an endpoint has no path");
    }
    if authority.contains('@') {
        return Err("an endpoint has no user name");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or("a '[' is not closed")?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "what is in brackets is no IPv6 address")?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err("only a port may follow the ']'"),
            }
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address needs brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    let port = match port {
        None => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(0) | Err(_) => return Err("the port must be 1 to 65535"),
            Ok(port) => port,
        },
        Some(_) => return Err("the port must be a number"),
    };
    if dns && host.parse::<std::net::IpAddr>().is_ok() {
        return Err("`dns+` is for names, and this is an address");
    }
    let host = host.to_owned();
    let endpoint = if dns { Endpoint::Dns { tls, host, port } } else { Endpoint::Tcp { tls, host, port } };
    match endpoint.host_port().parse::<Authority>() {
        Ok(_) => Ok(endpoint),
        Err(_) => Err("the host has characters that no host name has"),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { tls, .. } | Self::Dns { tls, .. } => {
                let dns = if matches!(self, Self::Dns { .. }) { "dns+" } else { "" };
                write!(f, "{dns}{}://{}", if *tls { "https" } else { "http" }, self.host_port())
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Local(_) => f.write_str("local"),
        }
    }
}

impl Endpoint {
    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. } | Self::Dns { tls: true, .. })
    }

    /// What one of a name's addresses is dialled as.
    pub(super) fn resolved(&self) -> Self {
        match self {
            Self::Dns { tls, host, port } => Self::Tcp { tls: *tls, host: host.clone(), port: *port },
            there => there.clone(),
        }
    }

    /// `host:port`, with brackets round an IPv6 address; `localhost` for a Unix socket, as gRPC clients do.
    fn host_port(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } | Self::Dns { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) | Self::Local(_) => "localhost".to_owned(),
        }
    }

    /// `:authority`; `server_name` is the TLS name that stands for the host, if any.
    pub(super) fn authority(&self, server_name: Option<&str>) -> Authority {
        let named = match (self, server_name) {
            (endpoint, Some(name)) if endpoint.is_tls() => name.parse().ok(),
            _ => None,
        };
        named.or_else(|| self.host_port().parse().ok()).unwrap_or_else(|| Authority::from_static("localhost"))
    }

    /// `:scheme`.
    pub(super) fn scheme(&self) -> Scheme {
        if self.is_tls() { Scheme::HTTPS } else { Scheme::HTTP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        text.parse::<Endpoint>().unwrap().to_string()
    }

    #[test]
    fn endpoints_are_read_and_written_with_their_ports() {
        assert_eq!(round_trip("http://localhost:50051"), "http://localhost:50051");
        assert_eq!(round_trip("HTTP://10.0.0.1"), "http://10.0.0.1:80");
        assert_eq!(round_trip("https://api.example.com/"), "https://api.example.com:443");
        assert_eq!(round_trip("https://[::1]:8443"), "https://[::1]:8443");
        assert_eq!(round_trip("http://[fe80::1]"), "http://[fe80::1]:80");
        assert_eq!(round_trip("dns+http://chat.internal:50051"), "dns+http://chat.internal:50051");
        assert_eq!(round_trip("DNS+HTTPS://chat"), "dns+https://chat:443");
        assert_eq!(round_trip("unix:/run/chat.sock"), "unix:/run/chat.sock");
        assert_eq!(round_trip("unix:///run/chat.sock"), "unix:/run/chat.sock");
    }

    #[test]
    fn a_text_that_is_no_endpoint_is_refused_with_the_reason() {
        for (text, why) in [
            ("localhost:50051", "no scheme"),
            ("ftp://a:1", "scheme is unknown"),
            ("dns+chat:1", "no scheme"),
            ("dns+unix:/x", "no scheme"),
            ("dns+http://10.0.0.1:1", "for names"),
            ("dns+http://[::1]:1", "for names"),
            ("http://", "host is missing"),
            ("http://:80", "host is missing"),
            ("http://a:", "1 to 65535"),
            ("http://a:0", "1 to 65535"),
            ("http://a:70000", "1 to 65535"),
            ("http://a:+8", "must be a number"),
            ("http://a:grpc", "must be a number"),
            ("http://a/path", "no path"),
            ("http://a?x", "no path"),
            ("http://me@a:1", "no user name"),
            ("http://::1:80", "needs brackets"),
            ("http://[::1", "not closed"),
            ("http://[::1]x", "only a port"),
            ("http://[chat]:1", "no IPv6 address"),
            ("http://a b:1", "characters"),
            ("unix:run/x", "absolute"),
            ("unix:", "absolute"),
            ("unix://run/x", "names a host"),
            ("", "no scheme"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains(why), "{text:?}: {error}");
            assert!(error.to_string().contains("unix:/PATH"), "{error}");
        }
    }

    #[test]
    fn the_authority_is_host_and_port_or_the_tls_name() {
        let tcp: Endpoint = "https://[::1]:8443".parse().unwrap();
        assert_eq!(tcp.authority(None), "[::1]:8443");
        assert_eq!(tcp.authority(Some("chat.internal")), "chat.internal");
        assert_eq!(tcp.scheme(), Scheme::HTTPS);
        let plain: Endpoint = "http://a:1".parse().unwrap();
        assert_eq!(plain.authority(Some("chat.internal")), "a:1");
        let unix: Endpoint = "unix:/run/x".parse().unwrap();
        assert_eq!(unix.authority(None), "localhost");
        assert_eq!(unix.scheme(), Scheme::HTTP);
    }
}
