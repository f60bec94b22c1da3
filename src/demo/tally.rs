//! Counts calls, so that a test can see from outside what became of them.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio_stream::Stream;
use tonic::Status;

use super::v1::StatsReply;

/// So many tags are told apart; further ones count in the total only.
const MAX_TAGS: usize = 1024;

/// The calls of one tag, or all calls.
#[derive(Debug, Default)]
pub(super) struct Tally {
    running: AtomicU64,
    completed: AtomicU64,
    cancelled: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// All tallies of a service. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    total: Arc<Tally>,
    tags: Arc<Mutex<HashMap<String, Arc<Tally>>>>,
}

impl Tallies {
    /// A call begins.
    pub(super) fn begin(&self, tag: &str) -> Running {
        let running = Running { tallies: [Some(self.total.clone()), self.tag(tag)], completed: false };
        running.each(|tally| &tally.running, 1);
        running
    }

    /// What is known of a tag, or of all calls.
    pub(super) fn read(&self, tag: &str) -> StatsReply {
        let tally = if tag.is_empty() { Some(self.total.clone()) } else { self.lock().get(tag).cloned() };
        tally.map_or_else(StatsReply::default, |tally| StatsReply {
            running: tally.running.load(Relaxed),
            completed: tally.completed.load(Relaxed),
            cancelled: tally.cancelled.load(Relaxed),
            received: tally.received.load(Relaxed),
            sent: tally.sent.load(Relaxed),
        })
    }

    fn tag(&self, tag: &str) -> Option<Arc<Tally>> {
        if tag.is_empty() {
            return None;
        }
        let mut tags = self.lock();
        if tags.len() >= MAX_TAGS && !tags.contains_key(tag) {
            tags.retain(|_, tally| tally.running.load(Relaxed) > 0);
            if tags.len() >= MAX_TAGS {
                return None;
            }
        }
        Some(tags.entry(tag.to_owned()).or_default().clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Tally>>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that runs. Dropped before `complete`, it counts as cancelled: tonic drops a call's future or stream when
/// the client resets it.
#[derive(Debug)]
pub(super) struct Running {
    tallies: [Option<Arc<Tally>>; 2],
    completed: bool,
}

impl Running {
    /// A message arrived.
    pub(super) fn received(&self) {
        self.each(|tally| &tally.received, 1);
    }

    /// A message goes out.
    pub(super) fn sent(&self) {
        self.each(|tally| &tally.sent, 1);
    }

    /// The service ended the call itself.
    pub(super) fn complete(&mut self) {
        self.completed = true;
    }

    /// The responses of this call, counted; the call is complete at their end.
    pub(super) fn responses<S>(self, responses: S) -> Responses<S> {
        Responses { responses, running: self }
    }

    fn each(&self, counter: impl Fn(&Tally) -> &AtomicU64, n: u64) {
        for tally in self.tallies.iter().flatten() {
            counter(tally).fetch_add(n, Relaxed);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for tally in self.tallies.iter().flatten() {
            if self.completed { &tally.completed } else { &tally.cancelled }.fetch_add(1, Relaxed);
            tally.running.fetch_sub(1, Relaxed);
        }
    }
}

/// A call's response messages, counted.
#[derive(Debug)]
pub(super) struct Responses<S> {
    responses: S,
    running: Running,
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for Responses<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let item = std::task::ready!(Pin::new(&mut self.responses).poll_next(cx));
        match item {
            Some(Ok(_)) => self.running.sent(),
            Some(Err(_)) | None => self.running.complete(),
        }
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_dropped_counts_as_cancelled_in_its_tag_and_in_the_total() {
        let tallies = Tallies::default();
        let call = tallies.begin("a");
        assert_eq!((tallies.read("a").running, tallies.read("").running), (1, 1));
        drop(call);
        for tag in ["a", ""] {
            let stats = tallies.read(tag);
            assert_eq!((stats.running, stats.completed, stats.cancelled), (0, 0, 1), "tag {tag:?}");
        }
    }

    #[test]
    fn tags_are_bounded_and_a_running_call_keeps_its_own() {
        let tallies = Tallies::default();
        let _kept = tallies.begin("kept");
        for n in 0..3 * MAX_TAGS {
            let mut call = tallies.begin(&n.to_string());
            call.complete();
        }
        assert!(tallies.lock().len() <= MAX_TAGS);
        assert_eq!(tallies.read("kept").running, 1);
        assert_eq!(tallies.read("").completed, 3 * MAX_TAGS as u64);
    }
}
