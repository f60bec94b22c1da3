//! A brake for who opens calls and gives them up, again and again.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{sync::Notify, time::Instant};

use super::rate_table::{Bucket, Rate};

/// So many seconds' worth may come at once: a page that is left gives up all it has, on every stream that it may have.
const BURST: u32 = 10;

/// Counts the calls of one connection or session that its client gave up. Each costs a stream at the service, and its
/// client nothing.
#[derive(Debug)]
pub(crate) struct CancelBrake {
    rate: Rate,
    bucket: Bucket,
    tripped: AtomicBool,
    notify: Notify,
}

impl CancelBrake {
    /// Lets so many calls a second be given up for long, and ten times as many at once.
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            rate: Rate::per_second(per_second).with_burst(BURST),
            bucket: Bucket::default(),
            tripped: AtomicBool::new(false),
            notify: Notify::new(),
        }
    }

    /// One more was given up.
    pub(crate) fn count(&self) {
        if self.bucket.take(self.rate, Instant::now()).is_err() && !self.tripped.swap(true, Ordering::Relaxed)
        {
            self.notify.notify_one();
        }
    }

    /// There were too many since this was last asked.
    pub(crate) fn has_tripped(&self) -> bool {
        self.tripped.load(Ordering::Relaxed) && self.tripped.swap(false, Ordering::Relaxed)
    }

    /// Completes when there were too many. For one task.
    pub(crate) async fn tripped(&self) {
        self.notify.notified().await;
    }
}
