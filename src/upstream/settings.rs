//! What an upstream needs to know.

use std::time::Duration;

use super::{ClientTls, Endpoint, Retries};

/// An upstream's settings, per worker where they count things.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its name in the configuration, for logs and metrics.
    pub name: String,
    /// At least one. A new connection goes to the endpoint with the fewest calls among those not failing.
    pub endpoints: Vec<Endpoint>,
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

impl Settings {
    /// The defaults, for these endpoints.
    pub fn new(name: impl Into<String>, endpoints: Vec<Endpoint>, tls: ClientTls) -> Self {
        Self {
            name: name.into(),
            endpoints,
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
