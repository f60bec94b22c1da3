//! Whether there is room for new work.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    time::Duration,
};

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
    /// Whether `/readyz` says 503 meanwhile. No: balancers would bring it all to the others, and back.
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
