//! Whether there is room for new work.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// What can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory of the process.
    Memory,
    /// File descriptors.
    Files,
    /// A worker's time: what wants to go on waits.
    EventLoop,
}

impl Resource {
    /// The word for metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
            Self::EventLoop => "event_loop",
        }
    }
}

/// How much of something is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Strain {
    /// There is room.
    None,
    /// What runs goes on, new calls and sessions are refused.
    Shedding,
    /// New connections are closed too.
    Critical,
}

/// When work is refused, so that what runs can go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverloadSettings {
    /// The part of the memory above which new work is refused; 1: never. 0.9.
    pub memory: f64,
    /// The memory that there is, in bytes. `None`: the cgroup's limit, else the machine's.
    pub max_memory: Option<u64>,
    /// The part of the file descriptors above which new work is refused; 1: never. 0.9.
    pub files: f64,
    /// How long what can go on may wait for its worker, on and on, before new work is refused there. 500 ms.
    pub lag: Duration,
    /// Whether `/readyz` says 503 meanwhile. No: balancers would bring it all to the others, and back. While new
    /// connections are closed it does in any case.
    pub readiness: bool,
}

impl Default for OverloadSettings {
    fn default() -> Self {
        Self { memory: 0.9, max_memory: None, files: 0.9, lag: Duration::from_millis(500), readiness: false }
    }
}

/// How far below its threshold a resource must be before work is taken again.
const HYSTERESIS: f64 = 0.05;

/// When a client that was refused should try again.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What the process runs short of, shared by all workers.
#[derive(Debug, Default)]
pub struct Overload {
    memory: AtomicU8,
    files: AtomicU8,
    /// Whether there is any strain, for those who wait for it.
    is_strained: watch::Sender<bool>,
}

impl Overload {
    /// What the process runs short of, if anything.
    pub fn strain(&self) -> Option<(Resource, Strain)> {
        let both = [(Resource::Memory, &self.memory), (Resource::Files, &self.files)];
        both.into_iter()
            .map(|(resource, strain)| (resource, read(strain)))
            .filter(|(_, strain)| *strain > Strain::None)
            .max_by_key(|(_, strain)| *strain)
    }

    /// Completes while the process runs short of something.
    pub async fn strained(&self) {
        // The sender is here.
        let _ = self.is_strained.subscribe().wait_for(|is_strained| *is_strained).await;
    }

    /// `used` (a part of what there is) of a resource of the process was measured. Returns its strain, if it changed.
    pub fn measured(&self, resource: Resource, used: f64, threshold: f64) -> Option<Strain> {
        let strain = match resource {
            Resource::Memory => &self.memory,
            Resource::Files => &self.files,
            Resource::EventLoop => return None,
        };
        let before = read(strain);
        let after = next(before, used, threshold);
        strain.store(after as u8, Ordering::Relaxed);
        let is_strained = self.strain().is_some();
        self.is_strained.send_if_modified(|was| std::mem::replace(was, is_strained) != is_strained);
        (before != after).then_some(after)
    }
}

fn read(strain: &AtomicU8) -> Strain {
    match strain.load(Ordering::Relaxed) {
        0 => Strain::None,
        1 => Strain::Shedding,
        _ => Strain::Critical,
    }
}

/// The strain at `used`, coming from another. Going up takes the thresholds, going down somewhat less.
fn next(before: Strain, used: f64, threshold: f64) -> Strain {
    if threshold >= 1.0 {
        return Strain::None;
    }
    // Half of what is left is for what runs, and the other half for getting out of it.
    let critical = threshold.midpoint(1.0);
    let at = |used: f64| match used {
        used if used >= critical => Strain::Critical,
        used if used >= threshold => Strain::Shedding,
        _ => Strain::None,
    };
    at(used).max(at(used + HYSTERESIS).min(before))
}

/// How long nobody must have been there until what is still in use is nobody's.
const SETTLED: Duration = Duration::from_secs(10);

/// What stays in use when nobody is there any more: memory that the allocator keeps for what comes next. Refusing work
/// frees none of it, so nobody is refused because of it: a process must not shut itself up for good.
#[derive(Debug, Default)]
pub struct Residue {
    /// Since when nobody is there.
    since: Option<Instant>,
    kept: f64,
}

impl Residue {
    /// What of `used` counts against the threshold. Both are parts of what there is; `idle`: nobody is there.
    pub fn beyond(&mut self, used: f64, threshold: f64, idle: bool, now: Instant) -> f64 {
        match self.since {
            _ if !idle => self.since = None,
            None => self.since = Some(now),
            Some(since) if now - since >= SETTLED => self.kept = used,
            Some(_) => {}
        }
        self.kept = self.kept.min(used);
        // As much as lets work in again, and no more: what is used beyond counts as ever.
        used - (self.kept - (threshold - 2.0 * HYSTERESIS)).max(0.0)
    }
}

/// Whether one worker's event loop lags.
#[derive(Debug, Default)]
pub(crate) struct Lag(AtomicBool);

impl Lag {
    pub(crate) fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether that is another than before.
    pub(crate) fn set(&self, is_long: bool) -> bool {
        self.0.swap(is_long, Ordering::Relaxed) != is_long
    }
}

/// Tells lag that stays from a moment's: the shortest of the last few counts.
#[derive(Debug, Default)]
pub(crate) struct LagMeter {
    last: [Duration; 3],
    at: usize,
}

impl LagMeter {
    /// One more sample; whether the lag is too long now, and was before.
    pub(crate) fn sample(&mut self, lag: Duration, threshold: Duration, was_long: bool) -> bool {
        self.last[self.at] = lag;
        self.at = (self.at + 1) % self.last.len();
        if was_long { lag > threshold / 2 } else { self.last.iter().all(|lag| *lag > threshold) }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn work_is_shed_above_the_threshold_and_taken_again_only_well_below_it() {
        let overload = Overload::default();
        let at = |used| {
            overload.measured(Resource::Memory, used, 0.8);
            overload.strain().map(|(_, strain)| strain)
        };
        assert_eq!(at(0.79), None);
        assert_eq!(at(0.80), Some(Strain::Shedding));
        assert_eq!(at(0.76), Some(Strain::Shedding), "it would come back at once");
        assert_eq!(at(0.74), None);
        assert_eq!(at(0.91), Some(Strain::Critical));
        assert_eq!(at(0.86), Some(Strain::Critical));
        assert_eq!(at(0.84), Some(Strain::Shedding));
        assert_eq!(at(0.2), None);
    }

    #[test]
    fn the_worst_of_several_resources_is_told_and_changes_are_reported_once() {
        let overload = Overload::default();
        assert_eq!(overload.measured(Resource::Files, 0.85, 0.8), Some(Strain::Shedding));
        assert_eq!(overload.measured(Resource::Files, 0.86, 0.8), None);
        overload.measured(Resource::Memory, 0.99, 0.8);
        assert_eq!(overload.strain(), Some((Resource::Memory, Strain::Critical)));
        overload.measured(Resource::Memory, 0.1, 0.8);
        assert_eq!(overload.strain(), Some((Resource::Files, Strain::Shedding)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_in_use_when_nobody_is_there_shuts_nobody_out() {
        let (overload, mut residue) = (Overload::default(), Residue::default());
        let mut at = async |used, idle, seconds| {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            overload.measured(Resource::Memory, residue.beyond(used, 0.8, idle, Instant::now()), 0.8);
            overload.strain().map(|(_, strain)| strain)
        };
        assert_eq!(at(0.97, false, 0).await, Some(Strain::Critical));
        assert_eq!(at(0.97, false, 100).await, Some(Strain::Critical), "there is somebody");
        assert_eq!(at(0.97, true, 1).await, Some(Strain::Critical));
        assert_eq!(at(0.97, true, 9).await, Some(Strain::Critical), "it may be on its way back");
        assert_eq!(at(0.97, true, 2).await, None);
        assert_eq!(at(0.98, false, 1).await, None, "it is let in, and what was kept is used again");
        assert_eq!(at(1.08, false, 1).await, Some(Strain::Shedding), "and no more than that");
        assert_eq!(at(0.75, false, 1).await, None);
        assert_eq!(at(0.85, false, 1).await, Some(Strain::Shedding), "it is not kept any more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_strain_is_told_as_long_as_there_is_any() {
        let overload = Overload::default();
        let is_strained = || overload.strained().now_or_never().is_some();
        assert!(!is_strained());
        overload.measured(Resource::Memory, 0.85, 0.8);
        overload.measured(Resource::Files, 0.99, 0.8);
        assert!(is_strained() && is_strained());
        overload.measured(Resource::Files, 0.1, 0.8);
        assert!(is_strained());
        overload.measured(Resource::Memory, 0.1, 0.8);
        assert!(!is_strained());
    }

    #[test]
    fn a_threshold_of_all_is_none() {
        assert_eq!(next(Strain::Critical, 1.0, 1.0), Strain::None);
    }

    #[test]
    fn a_moment_of_lag_is_none_and_lag_that_stays_is() {
        let (mut meter, long, short) =
            (LagMeter::default(), Duration::from_millis(600), Duration::from_millis(300));
        let threshold = Duration::from_millis(500);
        let mut is_long = false;
        let mut sample = |lag| {
            is_long = meter.sample(lag, threshold, is_long);
            is_long
        };
        assert_eq!([long, long, short].map(&mut sample), [false; 3]);
        assert_eq!([long, long, long].map(&mut sample), [false, false, true]);
        assert!(sample(short), "it is not over yet");
        assert!(!sample(Duration::from_millis(100)));
    }
}
