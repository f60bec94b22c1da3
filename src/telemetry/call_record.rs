//! One call's account: counted and logged in one place, whatever the dialect.

use std::{net::SocketAddr, sync::Arc};

use super::CallMetrics;
use crate::wire::Outcome;

/// What is known of a call while it runs. It ends exactly once: with `end`, or, when it is dropped before, as
/// CANCELLED by the client. Then one log line is written and the metrics are counted.
#[derive(Debug)]
pub struct CallRecord {
    _todo: (),
}

impl CallRecord {
    /// A call has begun. `session` is the session's id for streams of sessions.
    pub fn start(
        _metrics: Arc<CallMetrics>,
        _method: &str,
        _peer: SocketAddr,
        _session: Option<Arc<str>>,
    ) -> Self {
        todo!()
    }

    /// A request message went upstream, with so many bytes of payload.
    pub fn message_up(&mut self, _bytes: u64) {
        todo!()
    }

    /// A response message went downstream, with so many bytes of payload.
    pub fn message_down(&mut self, _bytes: u64) {
        todo!()
    }

    /// Initial metadata arrived from upstream (the log's time to headers).
    pub fn headers(&mut self) {
        todo!()
    }

    /// The call is over.
    pub fn end(self, _outcome: &Outcome) {
        todo!()
    }
}
