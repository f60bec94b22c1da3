//! The way to the gRPC services: endpoints, connections, and one call as bytes.
//!
//! An [`Upstream`] belongs to one worker thread: its connections live there, shared by all sockets and calls of
//! that worker. It speaks HTTP/2 through `h2` directly, because h2 shows what hyper hides: GOAWAY, the server's
//! stream limit, and flow control that is given back only when the client has taken the bytes. What is no gRPC service is
//! asked by [`http_request`].

mod balance;
mod call;
mod call_receiver;
mod channel;
mod chunk;
mod connection;
mod dial;
mod early_resets;
mod endpoint;
mod health;
mod http_request;
mod keepalive;
mod lane;
mod lifetime;
mod local;
mod member;
mod pace;
mod place;
mod pool;
mod resolve;
mod response;
mod retries;
mod roster;
mod settings;
mod socket;
mod standing;
mod tap;
mod terms;
mod tls;
mod trickle;

pub use balance::{Balance, HashKey};
pub use call::{Call, CallSender, Received, Request};
pub use call_receiver::CallReceiver;
pub use channel::Channel;
pub use chunk::Chunk;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use http_request::{HttpError, HttpUrl, InvalidUrl, http_request};
pub use local::LocalEndpoint;
pub use pace::{Allowance, Turn};
pub use retries::Retries;
pub use roster::Roster;
pub use settings::{DnsSettings, EjectionSettings, HealthSettings, Settings};
pub use tap::{Passed, Tap};
pub use terms::{Decision, Lease, Permission, Terms};
pub use tls::{ClientPem, ClientTls, TlsError, provider, sha256};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::telemetry::Metrics;
use pool::Pool;

/// A named group of endpoints that serve the same services, as one worker sees it. Cheap to clone.
///
/// When the last clone and the last call are gone, its connections close.
#[derive(Clone, Debug)]
pub struct Upstream {
    pool: Arc<Pool>,
}

impl Upstream {
    /// An upstream that connects when the first call needs it; its members are its own.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self::of(&Roster::new(settings, &Metrics::new()))
    }

    /// The same with members that it shares with other workers.
    pub fn of(roster: &Arc<Roster>) -> Self {
        Self { pool: Pool::new(roster.clone()) }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.pool.settings().name
    }

    /// Which endpoint cannot be connected to, and why; `None` when the last attempts went well. Clients are not told.
    pub fn connect_error(&self) -> Option<String> {
        self.pool.connect_error()
    }

    /// Starts a call. Never blocks and never fails here: every failure is the call's
    /// [`Outcome`](crate::wire::Outcome). On an open connection the request's HEADERS are on their way when this
    /// returns; otherwise as soon as there is one, whether or not the call is polled. Must be called within the
    /// worker's tokio runtime.
    pub fn call(&self, request: Request) -> Call {
        Call::open(&self.pool, request)
    }
}

/// A panic elsewhere leaves nothing half done here that would be worse than a second panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
