//! What the process needs to know.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use super::{TracingSettings, acme::Acme, tls::CertificateFacts};
use crate::{downstream, schema, telemetry::Metrics, upstream};

/// Everything, checked and ready: the roof's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one.
    pub listeners: Vec<ListenerSettings>,
    /// `/healthz`, `/readyz`, `/metrics`; `None` switches it off.
    pub admin: Option<SocketAddr>,
    /// Worker threads, each with its own runtime, listeners and upstream connections. Default: one per core.
    pub workers: usize,
    /// How the process stops.
    pub drain: DrainSettings,
    /// Open TCP connections of the process; more wait in the kernel's backlog. 50,000.
    pub max_connections: usize,
    /// The downstream side.
    pub downstream: Arc<downstream::Settings>,
    /// The upstreams, by their names in `upstream::Settings`.
    pub upstreams: Vec<Arc<upstream::Settings>>,
    /// Where the upstreams' schemas come from, by the upstream's name. Without one, JSON is not spoken to it.
    pub schemas: HashMap<String, schema::Settings>,
    /// Spans of calls, and where they go; `None`: there are none.
    pub tracing: Option<TracingSettings>,
}

/// How the process stops. All times begin with the signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long everything is served as before, while balancers learn from `/readyz` to send nothing more. 5 s with an
    /// admin port, otherwise none.
    pub grace: Duration,
    /// The time after `grace` over which sessions are told to go elsewhere, each at a random moment. 5 s.
    pub spread: Duration,
    /// When what still runs ends with UNAVAILABLE. 25 s.
    pub timeout: Duration,
}

impl DrainSettings {
    /// How long the public ports may stay open in a drain for clients that may come back. Others come there, too, and
    /// what they begin needs time to end.
    pub(super) fn open(&self) -> Duration {
        self.draining() / 2
    }

    /// The same for the port of other instances, which bring nobody else. Who comes in the last moments would only be cut
    /// off.
    pub(super) fn open_for_peers(&self) -> Duration {
        self.draining() / 4 * 3
    }

    /// The time over which those are sent elsewhere who came in a drain, once the ports are closed.
    pub(super) fn late_spread(&self) -> Duration {
        self.spread.min(self.draining() / 16)
    }

    fn draining(&self) -> Duration {
        self.timeout.saturating_sub(self.grace)
    }
}

impl From<Duration> for DrainSettings {
    /// No grace and no spread.
    fn from(timeout: Duration) -> Self {
        Self { timeout, ..Self::default() }
    }
}

/// One public port.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Where.
    pub address: SocketAddr,
    /// TLS with ALPN h2 and http/1.1, certificates by SNI; `None`: cleartext HTTP/1.1 and HTTP/2.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether connections begin with a PROXY header (HAProxy's PROXY protocol 1 or 2), which is believed from trusted
    /// proxies. Those without are closed.
    pub proxy_protocol: bool,
    /// How long sessions that begin here wait without a carrier; `None`: as the settings of sessions say.
    pub resume: Option<Duration>,
    /// What is to be known of the certificates of `tls`, for the metrics.
    pub certificates: Vec<CertificateFacts>,
    /// A hash of what `tls` demands of clients' certificates; `None`: nothing. A reload that changes it takes back the
    /// right to resume a TLS session without showing a certificate again.
    pub client_trust: Option<[u8; 32]>,
    /// Where the certificate of `tls` comes from, if not from files; or from there as well.
    pub acme: Option<Acme>,
}

impl ListenerSettings {
    /// A port with every default.
    pub fn new(address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self {
            address,
            tls,
            proxy_protocol: false,
            resume: None,
            certificates: Vec::new(),
            client_trust: None,
            acme: None,
        }
    }
}

impl Settings {
    /// Shows in the metrics when the certificates of all ports expire.
    pub(super) fn tell_certificates(&self, metrics: &Metrics) {
        let public =
            self.listeners.iter().map(|listener| (listener.address.to_string(), &listener.certificates));
        metrics.certificates(public.flat_map(|(address, certificates)| {
            certificates.iter().map(move |facts| (address.clone(), facts.name.clone(), facts.not_after))
        }));
    }

    /// One worker, no admin port, and every other default.
    pub fn new(listeners: Vec<ListenerSettings>) -> Self {
        Self {
            listeners,
            admin: None,
            workers: 1,
            drain: DrainSettings::default(),
            max_connections: 50_000,
            downstream: Arc::default(),
            upstreams: Vec::new(),
            schemas: HashMap::new(),
            tracing: None,
        }
    }
}
