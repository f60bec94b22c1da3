//! One worker's front door: every request of the public listeners comes in here.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{AddressTable, Drain, Routes, Settings};
use crate::{telemetry::Metrics, upstream::Upstream};

/// What is known of the connection a request came on.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// The client's address (a Unix listener would say 0.0.0.0:0).
    pub peer: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// One worker's front door.
#[derive(Debug)]
pub struct Edge {
    /// Settings, the same for all workers.
    pub settings: Arc<Settings>,
    /// Routes to this worker's upstreams.
    pub routes: Routes,
    /// Shared by all workers.
    pub metrics: Arc<Metrics>,
    /// Shared by all workers.
    pub drain: Drain,
    /// Shared by all workers.
    pub addresses: Arc<AddressTable>,
}

impl Edge {
    /// A worker's front door over its upstreams (by name). All but the upstreams is shared by the workers.
    pub fn new(
        settings: Arc<Settings>,
        upstreams: &HashMap<String, Upstream>,
        metrics: Arc<Metrics>,
        drain: Drain,
        addresses: Arc<AddressTable>,
    ) -> Arc<Self> {
        let routes = Routes::new(&settings.routes, upstreams, &metrics);
        Arc::new(Self { settings, routes, metrics, drain, addresses })
    }

    /// Answers one request: guard, dialect, call. Never fails; every refusal is an answer.
    pub async fn handle(self: Arc<Self>, _request: Request<Incoming>, _conn: ConnInfo) -> Response<Body> {
        todo!()
    }
}
