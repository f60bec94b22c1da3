//! The two signals of a graceful stop.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shared by everything that has to finish before the process ends.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Set first: finish what runs, take nothing new.
    pub draining: CancellationToken,
    /// Set at the drain deadline: end what still runs with UNAVAILABLE.
    pub cut: CancellationToken,
    /// Every task that carries calls.
    pub tasks: TaskTracker,
}
