//! How long a session's calls go on without a carrier.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::{StreamId, StreamTable};

/// The calls that do not wait for a carrier as long as their session does.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// How long each of them does.
    most: StreamTable<Duration>,
    /// Since when there is no carrier.
    lost: Option<Instant>,
}

impl Patience {
    /// The call waits for so long at most.
    pub(super) fn limit(&mut self, id: StreamId, most: Duration) {
        self.most.insert(id, most);
    }

    /// The call is over.
    pub(super) fn ended(&mut self, id: StreamId) {
        self.most.remove(&id);
    }

    /// The carrier is lost, if it was not before.
    pub(super) fn lost(&mut self, now: Instant) {
        self.lost.get_or_insert(now);
    }

    /// There is another one.
    pub(super) fn found(&mut self) {
        self.lost = None;
    }

    /// When the first call has waited long enough, if there is no carrier then. Costs a look at each, without a carrier.
    pub(super) fn next(&self) -> Option<Instant> {
        self.lost.and_then(|lost| self.most.values().min().and_then(|least| lost.checked_add(*least)))
    }

    /// The calls that have waited long enough, and how long that is.
    pub(super) fn over(&self, now: Instant) -> Vec<(StreamId, Duration)> {
        let Some(lost) = self.lost else { return Vec::new() };
        let waited = now.saturating_duration_since(lost);
        self.most.iter().filter(|(_, most)| **most <= waited).map(|(&id, &most)| (id, most)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn calls_are_over_when_their_time_without_a_carrier_is() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.limit(1, SECOND);
        patience.limit(3, 2 * SECOND);
        assert_eq!((patience.next(), patience.over(now + 9 * SECOND)), (None, vec![]), "there is a carrier");
        patience.lost(now);
        patience.lost(now + SECOND);
        assert_eq!(patience.next(), Some(now + SECOND), "it was lost once");
        assert_eq!(patience.over(now + SECOND), [(1, SECOND)]);
        patience.found();
        assert_eq!(patience.next(), None);
    }

    #[test]
    fn a_call_that_ends_while_it_waits_is_not_waited_for() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.limit(1, SECOND);
        patience.lost(now);
        assert_eq!(patience.next(), Some(now + SECOND));
        patience.ended(1);
        assert_eq!(patience.next(), None, "a time in the past would keep its worker awake");
    }
}
