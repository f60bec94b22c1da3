//! The demo as a whole: services, the proxy before them, the page.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use super::{Services, certificate, page};
use crate::{downstream, schema, server, upstream};

/// Where the demo listens. Port 0 takes a free one.
#[derive(Clone, Debug)]
pub struct Options {
    /// The page and the proxy, cleartext. 127.0.0.1:8080.
    pub http: SocketAddr,
    /// The same with TLS and a certificate made on the spot; `None`: not at all. 127.0.0.1:8443.
    pub https: Option<SocketAddr>,
    /// Health and metrics; `None`: not at all. 127.0.0.1:9901.
    pub admin: Option<SocketAddr>,
    /// The gRPC services themselves, for native clients and for tests that bring their own proxy. 127.0.0.1:0.
    pub services: SocketAddr,
    /// The proxy's worker threads. One per core.
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            http: local(8080),
            https: Some(local(8443)),
            admin: Some(local(9901)),
            services: local(0),
            workers: available_parallelism().map_or(1, usize::from),
        }
    }
}

impl Options {
    /// Free ports everywhere and one worker: for tests.
    pub fn ephemeral() -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { http: free, https: Some(free), admin: Some(free), services: free, workers: 1 }
    }

    /// The option that sets an address.
    fn name_of(&self, address: SocketAddr) -> &'static str {
        match address {
            _ if address == self.http => "--http",
            _ if Some(address) == self.https => "--https",
            _ if Some(address) == self.admin => "--admin",
            _ => "--services",
        }
    }
}

/// Why the demo cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No secrets can be made.
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
    /// Somebody else listens there.
    #[error(
        "{address} is taken by another program; choose another address with {option}, \
         such as `{option} {}:0` for a free port", address.ip()
    )]
    Taken {
        /// Where.
        address: SocketAddr,
        /// The option of `bidiway demo` that sets it.
        option: &'static str,
    },
    /// An address cannot be used for another reason.
    #[error("cannot listen on {address} ({option}): {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The option of `bidiway demo` that sets it.
        option: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate for localhost: {0}")]
    Certificate(Box<dyn std::error::Error + Send + Sync>),
}

/// A demo whose ports are bound; `serve` makes the proxy go. Its `Display` is the block to show to a person.
#[derive(Debug)]
pub struct Demo {
    services: Services,
    proxy: server::Server,
    addresses: Addresses,
}

/// Where a demo listens, ports filled in.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The page and the proxy, cleartext.
    pub http: SocketAddr,
    /// The same with TLS.
    pub https: Option<SocketAddr>,
    /// Health and metrics.
    pub admin: Option<SocketAddr>,
    /// The gRPC services.
    pub services: SocketAddr,
}

impl Demo {
    /// Starts the services on the current tokio runtime and binds the proxy's ports.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let refused = |address, source: io::Error| {
            let option = options.name_of(address);
            match source.kind() {
                io::ErrorKind::AddrInUse => StartError::Taken { address, option },
                _ => StartError::Bind { address, option, source },
            }
        };
        let services = Services::start(options.services).await.map_err(|e| refused(options.services, e))?;
        let settings = proxy_settings(&options, services.address()).map_err(StartError::Certificate)?;
        let proxy = server::Server::bind(settings).map_err(|error| match error {
            server::StartError::Bind { address, source } => refused(address, source),
            server::StartError::Random(error) => StartError::Random(error),
        })?;
        let bound = proxy.addresses();
        let addresses = Addresses {
            http: bound[0],
            https: bound.get(1).copied(),
            admin: proxy.admin_address(),
            services: services.address(),
        };
        Ok(Self { services, proxy, addresses })
    }

    /// Where everything listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown` completes, then drains the proxy and stops the services.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        self.proxy.serve(shutdown).await;
        drop(self.services);
    }
}

impl fmt::Display for Demo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addresses.fmt(f)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  Bidiway demo\n")?;
        writeln!(f, "    the page    http://{}/", self.http)?;
        if let Some(https) = self.https {
            writeln!(
                f,
                "    with TLS    https://{https}/   (a certificate of its own: let the browser go on)"
            )?;
        }
        writeln!(
            f,
            "    services    http://{}/   (Greeter, Chat, Lab; native gRPC with reflection)",
            self.services
        )?;
        if let Some(admin) = self.admin {
            writeln!(f, "    metrics     http://{admin}/metrics")?;
        }
        writeln!(f, "\n  Open the page, best in two tabs. Ctrl-C ends it.\n")
    }
}

/// The proxy before the services: what an operator would write as YAML.
fn proxy_settings(
    options: &Options,
    services: SocketAddr,
) -> Result<server::Settings, Box<dyn std::error::Error + Send + Sync>> {
    let mut listeners = vec![server::ListenerSettings::new(options.http, None)];
    if let Some(address) = options.https {
        let tls = Some(certificate::localhost()?);
        listeners.push(server::ListenerSettings::new(address, tls));
    }
    let route = downstream::RouteSettings::new(downstream::ServicePattern::Any, "demo");
    // All who come are on this machine, and play.
    let limits = downstream::Limits { upgrades_per_minute: None, ..downstream::Limits::default() };
    let downstream = downstream::Settings {
        limits,
        routes: vec![route],
        schema_endpoint: true,
        pages: page::router(),
        ..Default::default()
    };
    let (host, port) = (services.ip().to_string(), services.port());
    let endpoint = upstream::Endpoint::Tcp { tls: false, host, port };
    let tls = upstream::ClientTls::trusting_nobody();
    let upstream =
        upstream::Settings { keepalive: None, ..upstream::Settings::new("demo", vec![endpoint], tls) };
    Ok(server::Settings {
        admin: options.admin,
        workers: options.workers,
        drain: Duration::from_secs(2).into(),
        max_connections: 10_000,
        downstream: Arc::new(downstream),
        upstreams: vec![Arc::new(upstream)],
        schemas: HashMap::from([(
            "demo".to_owned(),
            schema::Settings::new(schema::Source::Reflection { fallback: None }),
        )]),
        ..server::Settings::new(listeners)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_names_every_address_that_is_open() {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut addresses = Addresses {
            http: address(1),
            https: Some(address(2)),
            admin: Some(address(3)),
            services: address(4),
        };
        let block = addresses.to_string();
        for expected in ["http://127.0.0.1:1/", "https://127.0.0.1:2/", "127.0.0.1:3/metrics", "127.0.0.1:4"]
        {
            assert!(block.contains(expected), "{expected} is missing in {block}");
        }
        addresses.https = None;
        assert!(!addresses.to_string().contains("https"));
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_option_that_changes_it() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = Demo::start(Options { services: address, ..Options::ephemeral() }).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("--services 127.0.0.1:0"), "{text}");
    }
}
