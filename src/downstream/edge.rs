//! One worker's front door: every request of the public listeners comes in here.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{Drain, Routes, Settings};
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
}

impl Edge {
    /// A worker's front door over its upstreams (by name).
    pub fn new(
        _settings: Arc<Settings>,
        _upstreams: &HashMap<String, Upstream>,
        _metrics: Arc<Metrics>,
        _drain: Drain,
    ) -> Arc<Self> {
        todo!()
    }

    /// Answers one request: guard, dialect, call. Never fails; every refusal is an answer.
    pub async fn handle(self: Arc<Self>, _request: Request<Incoming>, _conn: ConnInfo) -> Response<Body> {
        todo!()
    }
}
