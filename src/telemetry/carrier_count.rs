//! Which carriers sessions have.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;

use super::Metrics;

/// What carries a session's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CarrierKind {
    /// A WebSocket.
    WebSocket,
    /// A response that streams, and requests: the fallback.
    Http,
    /// The fallback where no response streams.
    HttpPoll,
    /// Any of these, by another instance.
    Relay,
}

impl CarrierKind {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Http => "http",
            Self::HttpPoll => "http_poll",
            Self::Relay => "relay",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Carrier {
    pub(super) carrier: &'static str,
}

/// One carrier that is open; it is counted until this is dropped.
#[derive(Debug)]
pub struct CarrierCount {
    metrics: Arc<Metrics>,
    kind: CarrierKind,
}

impl Metrics {
    /// A carrier was opened.
    pub fn carrier_opened(self: &Arc<Self>, kind: CarrierKind) -> CarrierCount {
        let label = Carrier { carrier: kind.label() };
        self.carriers.get_or_create(&label).inc();
        self.carriers_open.get_or_create(&label).inc();
        CarrierCount { metrics: Arc::clone(self), kind }
    }
}

impl Drop for CarrierCount {
    fn drop(&mut self) {
        self.metrics.carriers_open.get_or_create(&Carrier { carrier: self.kind.label() }).dec();
    }
}
