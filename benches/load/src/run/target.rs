//! What is measured, and how it is started.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::process::{Process, free_port};
use crate::shape::{Dialect, Named};

/// What the load goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Nothing: the client speaks to the service, and the service is what is measured.
    Direct,
    Relay,
    Envoy,
    /// Bidiway, spoken to as browsers do: sessions; gRPC-Web for shape G.
    Bidiway,
    /// Bidiway, spoken to in native gRPC over HTTP/2, as the relay and Envoy are.
    BidiwayH2,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Envoy => "envoy",
            Self::Bidiway => "bidiway",
            Self::BidiwayH2 => "bidiway-h2",
        }
    }

    /// What the client speaks to it. Relays and Envoy know no sessions: they carry the same calls as gRPC over
    /// HTTP/2. For gRPC-Web, Envoy translates as Bidiway does; the relay has no HTTP/1.1 service to relay to, and
    /// carries the same calls as gRPC.
    pub fn dialect(self, shape: Named) -> Dialect {
        match (self, shape) {
            (Self::Bidiway | Self::Envoy, Named::G) => Dialect::GrpcWeb,
            (Self::Bidiway, _) => Dialect::Session,
            _ => Dialect::H2,
        }
    }
}

/// Where the programs are and where their files go.
#[derive(Clone, Debug)]
pub struct Programs {
    pub load: String,
    pub bidiway: Option<String>,
    pub envoy: Option<String>,
    pub dir: PathBuf,
}

/// A started target.
#[derive(Debug)]
pub struct Running {
    pub process: Process,
    pub address: SocketAddr,
}

impl Programs {
    pub fn has(&self, target: Target) -> bool {
        match target {
            Target::Direct | Target::Relay => true,
            Target::Envoy => self.envoy.is_some(),
            Target::Bidiway | Target::BidiwayH2 => self.bidiway.is_some(),
        }
    }

    pub fn echo(&self, under: &[&str]) -> anyhow::Result<Running> {
        self.own("echo", under, &["echo"])
    }

    /// Starts a target in front of the service, if need be under another program such as valgrind.
    pub fn start(&self, target: Target, echo: SocketAddr, under: &[&str]) -> anyhow::Result<Running> {
        match target {
            Target::Direct => self.echo(under),
            Target::Relay => self.own("relay", under, &["relay", &echo.to_string()]),
            Target::Envoy => {
                let program = self.envoy.as_deref().context("no Envoy is given")?;
                let address = free_port()?;
                let config = self.dir.join("envoy.yaml");
                fs::write(&config, envoy_config(address, echo))?;
                let config = config.to_str().context("a path that is not UTF-8")?;
                let words = ["-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "warn"];
                self.with_port("envoy", &[under, &[program], &words].concat(), address)
            }
            Target::Bidiway | Target::BidiwayH2 => {
                let program = self.bidiway.as_deref().context("no Bidiway is given")?;
                let address = free_port()?;
                let config = self.dir.join("bidiway.yaml");
                fs::write(&config, bidiway_config(address, echo))?;
                let config = config.to_str().context("a path that is not UTF-8")?;
                self.with_port("bidiway", &[under, &[program, "serve", "--config", config]].concat(), address)
            }
        }
    }

    /// One of our own programs: it prints where it listens.
    fn own(&self, name: &str, under: &[&str], words: &[&str]) -> anyhow::Result<Running> {
        let process = Process::start(&self.dir, name, &[under, &[&self.load], words].concat())?;
        let address = process.line()?.parse()?;
        Ok(Running { process, address })
    }

    fn with_port(&self, name: &str, words: &[&str], address: SocketAddr) -> anyhow::Result<Running> {
        let mut process = Process::start(&self.dir, name, words)?;
        process.wait_for_port(address)?;
        Ok(Running { process, address })
    }
}

/// One worker, cleartext, no line per call (Envoy writes none either), no limit that the load would meet.
fn bidiway_config(listen: SocketAddr, echo: SocketAddr) -> String {
    format!(
        "workers: 1
listeners:
  - address: {listen}
upstreams:
  echo:
    endpoints: [\"http://{echo}\"]
routes:
  - service: bench.Echo
    upstream: echo
limits:
  sockets_per_address: 100000
  connections_per_address: 100000
  upgrades_per_minute: 1000000
log:
  level: warn
"
    )
}

/// One worker thread, windows and circuit breakers out of the way.
fn envoy_config(listen: SocketAddr, echo: SocketAddr) -> String {
    let http2 = "{ initial_stream_window_size: 4194304, initial_connection_window_size: 16777216, \
                 max_concurrent_streams: 100000 }";
    format!(
        "static_resources:
  listeners:
  - address: {{ socket_address: {{ address: {}, port_value: {} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: AUTO
          stream_idle_timeout: 0s
          http2_protocol_options: {http2}
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: echo, timeout: 0s }}
          http_filters:
          - name: envoy.filters.http.grpc_web
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: echo
    type: STATIC
    circuit_breakers:
      thresholds:
      - {{ max_connections: 100000, max_pending_requests: 1000000, max_requests: 1000000 }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {http2}
    load_assignment:
      cluster_name: echo
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}
",
        listen.ip(),
        listen.port(),
        echo.ip(),
        echo.port()
    )
}
