//! How often the log says that something cannot be connected to.

use std::time::Duration;

use tokio::time::Instant;

/// So many lines are written in one [`PERIOD`]: a service with thousands of endpoints that are all gone says the same
/// for each.
const MOST: u32 = 10;

const PERIOD: Duration = Duration::from_secs(10);

/// The lines of one upstream on one worker.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    since: Option<Instant>,
    written: u32,
    unwritten: u64,
}

impl Complaints {
    /// One more: how many were not written since the last that was, if this one is to be written.
    pub(super) fn one_more(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now - since >= PERIOD) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written == MOST {
            self.unwritten += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_at_once_are_summed_up_and_few_are_all_written() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        for _ in 0..MOST {
            assert_eq!(complaints.one_more(now), Some(0));
        }
        for _ in 0..3000 {
            assert_eq!(complaints.one_more(now + PERIOD / 2), None);
        }
        assert_eq!(complaints.one_more(now + PERIOD), Some(3000));
        assert_eq!(complaints.one_more(now + PERIOD), Some(0));
    }
}
