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
    /// Set at the drain deadline: end what still runs with UNAVAILABLE.
    pub cut: CancellationToken,
    /// Every task that carries calls.
    pub tasks: TaskTracker,
    /// The time over which clients are sent elsewhere, so that they do not all arrive at the next instance at once.
    pub spread: Duration,
}

impl Drain {
    /// A random part of the spread.
    pub(crate) fn share(&self) -> Duration {
        let random = RandomState::new().hash_one(()) % (1 << 16);
        self.spread.mul_f64(random as f64 / f64::from(1 << 16))
    }
}
