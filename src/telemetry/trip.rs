//! Where a call went.

use std::sync::{Arc, Mutex, PoisonError};

/// Where a call went: written by what opens its streams, read where its account ends. Once for each stream, never for a
/// message.
#[derive(Debug, Default)]
pub struct Trip(Mutex<Legs>);

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub struct Legs {
    /// The endpoint of the last stream; `None`: the call has gone nowhere.
    pub endpoint: Option<Arc<str>>,
    /// How many streams were opened for it: more than one after retries.
    pub attempts: u32,
}

impl Trip {
    /// A stream is open at this endpoint.
    pub fn opened(&self, endpoint: &Arc<str>) {
        let mut legs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        legs.endpoint = Some(Arc::clone(endpoint));
        legs.attempts += 1;
    }

    /// So far.
    pub fn legs(&self) -> Legs {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
