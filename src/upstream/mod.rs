//! The way to the gRPC services: endpoints, connections, and one call as bytes.
//!
//! An [`Upstream`] belongs to one worker thread: its connections live there, shared by all sockets and calls of
//! that worker. It speaks HTTP/2 through `h2` directly, because h2 shows what hyper hides: GOAWAY, the server's
//! stream limit, and flow control that is given back only when the client has taken the bytes.

mod call;
mod chunk;
mod endpoint;
mod settings;

pub use call::{Call, CallReceiver, CallSender, Received, Request};
pub use chunk::Chunk;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use settings::{ClientTls, Settings};

use std::sync::Arc;

/// A named group of endpoints that serve the same services, as one worker sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Upstream {
    settings: Arc<Settings>,
}

impl Upstream {
    /// An upstream that connects when the first call needs it.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Starts a call. Never blocks and never fails here: connecting happens as the call is polled, and every failure
    /// is the call's [`Outcome`](crate::wire::Outcome). Must be called within the worker's tokio runtime.
    pub fn call(&self, _request: Request) -> Call {
        todo!()
    }
}
