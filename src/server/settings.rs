//! What the process needs to know.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use crate::{downstream, schema, upstream};

/// Everything, checked and ready: the roof's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one.
    pub listeners: Vec<ListenerSettings>,
    /// `/healthz`, `/readyz`, `/metrics`; `None` switches it off.
    pub admin: Option<SocketAddr>,
    /// Worker threads, each with its own runtime, listeners and upstream connections. Default: one per core.
    pub workers: usize,
    /// How long calls may go on after the signal to stop. 30 s.
    pub drain: Duration,
    /// Open TCP connections of the process; more wait in the kernel's backlog. 50,000.
    pub max_connections: usize,
    /// The downstream side.
    pub downstream: Arc<downstream::Settings>,
    /// The upstreams, by their names in `upstream::Settings`.
    pub upstreams: Vec<Arc<upstream::Settings>>,
    /// Where the upstreams' schemas come from, by the upstream's name. Without one, JSON is not spoken to it.
    pub schemas: HashMap<String, schema::Settings>,
}

/// One public port.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Where.
    pub address: SocketAddr,
    /// TLS with ALPN h2 and http/1.1, certificates by SNI; `None`: cleartext HTTP/1.1 and HTTP/2.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}
