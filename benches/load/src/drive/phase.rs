//! A number of operations that many workers do together.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::Result;
use crate::{latencies::Latencies, shape::Shape};

#[derive(Debug)]
pub(super) struct Phase {
    operations: u64,
    left: AtomicU64,
    busy: AtomicUsize,
    over: Notify,
    begun: Instant,
    /// Between two operations of one worker, if the load is paced.
    interval: Option<Duration>,
    sockets: u32,
    latencies: Mutex<Latencies>,
}

impl Phase {
    pub(super) fn new(operations: u64, workers: usize, shape: Shape) -> Self {
        let interval = (shape.rate > 0)
            .then(|| Duration::from_secs_f64(f64::from(shape.sockets) / f64::from(shape.rate)));
        Self {
            operations,
            left: operations.into(),
            busy: workers.into(),
            over: Notify::new(),
            begun: Instant::now(),
            interval,
            sockets: shape.sockets,
            latencies: Mutex::new(Latencies::new()),
        }
    }

    /// So many operations for one worker alone, as fast as it can: how it warms up.
    pub(super) fn alone(operations: u64) -> Self {
        Self {
            operations,
            left: operations.into(),
            busy: 1.into(),
            over: Notify::new(),
            begun: Instant::now(),
            interval: None,
            sockets: 1,
            latencies: Mutex::new(Latencies::new()),
        }
    }

    /// Takes one operation on oneself; `false` when all are taken.
    pub(super) fn take(&self) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Whether all operations are taken.
    pub(super) fn is_over(&self) -> bool {
        self.left.load(Relaxed) == 0
    }

    /// Whether workers wait for slots.
    pub(super) fn is_paced(&self) -> bool {
        self.interval.is_some()
    }

    /// When a worker is to begin its operation number `turn`; `None`: at once.
    pub(super) fn slot(&self, worker: u32, turn: u32) -> Option<Instant> {
        let interval = self.interval?;
        let offset = interval.mul_f64(f64::from(worker) / f64::from(self.sockets));
        Some(self.begun + offset + interval * turn)
    }

    pub(super) fn record(&self, took: Duration) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(took);
    }

    /// One worker has nothing left to do.
    pub(super) fn leave(&self) {
        if self.busy.fetch_sub(1, Relaxed) == 1 {
            self.over.notify_one();
        }
    }

    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    pub(super) fn result(&self) -> Result {
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        Result {
            operations: self.operations,
            wall_ns: self.begun.elapsed().as_nanos().try_into().unwrap_or(u64::MAX),
            p50_ns: latencies.quantile(0.5),
            p99_ns: latencies.quantile(0.99),
        }
    }
}

/// Waits for a worker's next slot and says from when its latency counts. The timer's grain of a millisecond is not
/// the proxy's fault, an answer that came too late for the slot is.
pub(super) async fn wait(slot: Option<Instant>) -> Instant {
    match slot {
        Some(slot) if slot > Instant::now() => {
            tokio::time::sleep_until(slot.into()).await;
            Instant::now()
        }
        Some(late) => late,
        None => Instant::now(),
    }
}
