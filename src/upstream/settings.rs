//! What an upstream needs to know.

use std::{net::SocketAddr, time::Duration};

use super::{Balance, ClientTls, Endpoint, Retries};

/// An upstream's settings, per worker where they count things.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its name in the configuration, for logs and metrics.
    pub name: String,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// How the endpoint of a call is chosen. [`Balance::LeastLoaded`].
    pub balance: Balance,
    /// How `dns+…` endpoints are resolved.
    pub dns: DnsSettings,
    /// Whether and how endpoints are asked for their health. `None`: they are not.
    pub health: Option<HealthSettings>,
    /// When an endpoint that fails gets no calls for a while; `None`: never.
    pub ejection: Option<EjectionSettings>,
    /// The time over which an endpoint that was ejected or unhealthy comes back to its full share; zero: at once. 10 s.
    pub ramp: Duration,
    /// How long a connection may take, with TLS and the server's first SETTINGS. 5 s.
    pub connect_timeout: Duration,
    /// The most connections per endpoint and worker. Another is opened when the server's stream limit is reached;
    /// at the cap a call fails at once with RESOURCE_EXHAUSTED. 8.
    pub max_connections: usize,
    /// The HTTP/2 window of one call: the most bytes of it that the proxy holds for a slow client. 256 KiB, as much as
    /// the credit of a session's stream: with HTTP/2's own 64 KiB, large messages stop and go.
    pub stream_window: u32,
    /// The largest headers or trailers taken from the server, in bytes (64 KiB: room for rich status details).
    pub max_header_list: u32,
    /// HTTP/2 pings: how often while calls are open (`None`: never). gRPC servers refuse more than one in five
    /// minutes by default, so the default is 5 min 10 s; a dead connection is also found by TCP. A server that finds
    /// them too many all the same gets half as many from then on.
    pub keepalive: Option<Duration>,
    /// How long to wait for the answer to a ping. 20 s.
    pub keepalive_timeout: Duration,
    /// When calls that no service has looked at are sent again; `None`: only those are of which nothing was sent.
    pub retries: Option<Retries>,
    /// The most calls at a time, in the whole process; beyond it a call fails at once with UNAVAILABLE. `None`: as many
    /// as connections take.
    pub max_calls: Option<usize>,
    /// The most calls that wait for a connection at a time, in the whole process; beyond it a call fails at once with
    /// UNAVAILABLE. `None`: 10,000 for each endpoint and worker.
    pub max_pending: Option<usize>,
    /// How long a call may last, 10 % more or less; then it ends with UNAVAILABLE. `None`: any time.
    pub max_stream_age: Option<Duration>,
    /// For `https` endpoints.
    pub tls: ClientTls,
}

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// The longest time between two look-ups of a name; sooner when an answer's TTL is shorter. 30 s.
    pub interval: Duration,
    /// The name servers to ask; empty: those of the system (`/etc/resolv.conf`).
    pub servers: Vec<SocketAddr>,
}

/// Active health checks by `grpc.health.v1`, made once for the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// The service asked for; empty: the server as a whole.
    pub service: String,
    /// The time between two checks of an endpoint. 10 s.
    pub interval: Duration,
    /// How long an answer may take. 2 s.
    pub timeout: Duration,
    /// Failed checks in a row that make a healthy endpoint unhealthy. 3.
    pub unhealthy: u32,
    /// Good checks in a row that make an unhealthy endpoint healthy. 2.
    pub healthy: u32,
}

/// Passive ejection: endpoints are judged by the calls that they get anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionSettings {
    /// Failures in a row, of all workers together, that eject an endpoint. 5.
    pub failures: u32,
    /// How long the first ejection lasts; each that follows soon is longer by as much, up to ten times. 30 s.
    pub time: Duration,
    /// The most endpoints that may be ejected at a time, in percent of all; one of several always may. 50.
    pub max_percent: u32,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), servers: Vec::new() }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            service: String::new(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            unhealthy: 3,
            healthy: 2,
        }
    }
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Self { failures: 5, time: Duration::from_secs(30), max_percent: 50 }
    }
}

impl Settings {
    /// The defaults, for these endpoints.
    pub fn new(name: impl Into<String>, endpoints: Vec<Endpoint>, tls: ClientTls) -> Self {
        Self {
            name: name.into(),
            endpoints,
            balance: Balance::default(),
            dns: DnsSettings::default(),
            health: None,
            ejection: Some(EjectionSettings::default()),
            ramp: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            max_connections: 8,
            stream_window: 256 * 1024,
            max_header_list: 64 * 1024,
            keepalive: Some(Duration::from_secs(310)),
            keepalive_timeout: Duration::from_secs(20),
            retries: Some(Retries::default()),
            max_calls: None,
            max_pending: None,
            max_stream_age: None,
            tls,
        }
    }
}
