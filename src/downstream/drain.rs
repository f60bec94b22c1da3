//! The signals of a graceful stop.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shared by everything that has to finish before the process ends.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Set first: the process is not ready any more, and who asks it is learning so. Everything is served as before;
    /// only HTTP/1.1 connections are not kept.
    pub leaving: CancellationToken,
    /// Set then: finish what runs, and send clients elsewhere.
    pub draining: CancellationToken,
    /// Set when the public ports close: whoever is sent elsewhere now cannot come here again.
    pub closed: CancellationToken,
    /// Set at the drain deadline: end what still runs with UNAVAILABLE.
    pub cut: CancellationToken,
    /// Every task that carries calls.
    pub tasks: TaskTracker,
    /// The time over which clients are sent elsewhere, so that they do not all arrive at the next instance at once.
    pub spread: Duration,
    /// The same for those who came during the drain; it begins when the ports close.
    pub late_spread: Duration,
}

impl Drain {
    /// What sends those elsewhere who come now. Not everything in front of an instance knows that it drains: as long
    /// as it can be reached it serves whoever comes, and sends nobody away whom the same way would lead here again.
    pub(crate) fn departure(&self) -> &CancellationToken {
        if self.draining.is_cancelled() { &self.closed } else { &self.draining }
    }

    /// A random part of the spread.
    pub(crate) fn share(&self) -> Duration {
        part(self.spread)
    }

    /// A random part of the spread of those who came late.
    pub(crate) fn late_share(&self) -> Duration {
        part(self.late_spread)
    }
}

/// A random part.
fn part(whole: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % (1 << 16);
    whole.mul_f64(random as f64 / f64::from(1 << 16))
}
