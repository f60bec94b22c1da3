//! Where the requests of HTTP carriers find them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::Line;
use crate::downstream::carrier::token::{self, Locator};

/// The HTTP carriers of all workers: a client's requests land on any of them. One look for each request.
///
/// A carrier's name looks like a resume token, and leads to its instance in the same way.
#[derive(Debug, Default)]
pub(in crate::downstream::carrier) struct HttpCarriers {
    lines: Mutex<HashMap<Locator, Arc<Line>>>,
    /// Told when the last carrier has left.
    vacant: Notify,
}

impl HttpCarriers {
    /// Completes when there is none.
    pub(in crate::downstream::carrier) async fn vacated(&self) {
        loop {
            let left = self.vacant.notified();
            if self.lines().is_empty() {
                return;
            }
            left.await;
        }
    }

    /// From now on, requests find this carrier.
    pub(super) fn enter(self: &Arc<Self>, line: &Arc<Line>) -> Option<Listing> {
        let (_, locator) = token::read(&line.name)?;
        self.lines().insert(locator, Arc::clone(line));
        Some(Listing { table: Arc::clone(self), locator })
    }

    /// The carrier of this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<Arc<Line>> {
        let (_, locator) = token::read(name)?;
        let line = self.lines().get(&locator).cloned()?;
        token::same(&line.name, name).then_some(line)
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Locator, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A carrier's place in the table; given back when dropped.
#[derive(Debug)]
pub(super) struct Listing {
    table: Arc<HttpCarriers>,
    locator: Locator,
}

impl Drop for Listing {
    fn drop(&mut self) {
        let mut lines = self.table.lines();
        lines.remove(&self.locator);
        if lines.is_empty() {
            lines.shrink_to_fit();
            self.table.vacant.notify_waiters();
        }
    }
}
