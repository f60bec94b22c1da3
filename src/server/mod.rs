//! The process: listeners, workers, TLS, the admin port, start and stop.

mod settings;

pub use settings::{ListenerSettings, Settings};

use std::{future::Future, net::SocketAddr, sync::Arc};

use crate::telemetry::Metrics;

/// A server whose ports are bound and that serves nothing yet.
#[derive(Debug)]
pub struct Server {
    _todo: (),
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

impl Server {
    /// Binds every port (0 is replaced by a free one), and starts nothing.
    pub fn bind(_settings: Settings) -> Result<Self, StartError> {
        todo!()
    }

    /// The bound addresses of the listeners, in the order of the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        todo!()
    }

    /// The bound address of the admin port.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// The process's metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        todo!()
    }

    /// Serves until `shutdown` completes, then drains: readiness off, GoAway, calls finish until the deadline, then
    /// UNAVAILABLE. Returns when everything has ended.
    pub async fn serve(self, _shutdown: impl Future<Output = ()> + Send) {
        todo!()
    }
}
