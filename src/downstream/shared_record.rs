//! A call's account while two sides of the call write to it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{telemetry::CallRecord, wire::Outcome};

/// The account of a call whose request may still be going up, in a task of its own, while its response goes down.
/// Both live on one worker's thread, so the lock is never waited for. When the last holder drops it before the end,
/// the client has gone away.
#[derive(Clone, Debug)]
pub(crate) struct SharedRecord(Arc<Mutex<Option<CallRecord>>>);

impl SharedRecord {
    pub(crate) fn new(record: CallRecord) -> Self {
        Self(Arc::new(Mutex::new(Some(record))))
    }

    /// Writes to the account; after the end, to nothing.
    pub(crate) fn update(&self, write: impl FnOnce(&mut CallRecord)) {
        if let Some(record) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            write(record);
        }
    }

    /// Closes the account. Only the first end counts.
    pub(crate) fn end(&self, outcome: &Outcome) {
        let record = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(record) = record {
            record.end(outcome);
        }
    }
}
