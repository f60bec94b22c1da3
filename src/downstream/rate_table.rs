//! How fast clients come: token buckets, in a table of bounded size.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Locks among which the buckets are spread.
const SHARDS: usize = 64;

/// Buckets in each: together 65,536, of 16 bytes and what the table costs; about 2 MiB.
const MOST_IN_SHARD: usize = 1024;

/// How fast something may come: so many at once, and one more after each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: u64,
    burst: u64,
}

impl Rate {
    /// So many a second, and as many at once.
    pub fn per_second(count: u32) -> Self {
        Self::new(Duration::from_secs(1), count)
    }

    /// So many a minute, and as many at once.
    pub fn per_minute(count: u32) -> Self {
        Self::new(Duration::from_secs(60), count)
    }

    fn new(period: Duration, count: u32) -> Self {
        let count = count.max(1);
        Self { interval: (period.as_nanos() as u64 / u64::from(count)).max(1), burst: count.into() }
    }

    /// So many seconds' worth at once.
    pub fn with_burst(self, seconds: u32) -> Self {
        Self { burst: self.burst * u64::from(seconds), ..self }
    }

    /// When a bucket is full that was full at `full` and gives one; or how long until it can give one. A bucket is a
    /// single time, that at which it will be full (the generic cell rate algorithm, ITU-T I.371).
    fn take(self, full: u64, now: u64) -> Result<u64, Duration> {
        let after = full.max(now).saturating_add(self.interval);
        let room = self.interval.saturating_mul(self.burst);
        match (after - now).checked_sub(room) {
            None | Some(0) => Ok(after),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }
}

/// Where a bucket's nanoseconds begin.
#[derive(Debug)]
struct Epoch(Instant);

impl Default for Epoch {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Epoch {
    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.0).as_nanos() as u64
    }
}

/// One bucket, for everybody together. Without a lock.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    epoch: Epoch,
    full: AtomicU64,
}

impl Bucket {
    /// Takes one, or says how long until there will be one.
    pub(crate) fn take(&self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let now = self.epoch.nanos(now);
        let mut full = self.full.load(Ordering::Relaxed);
        loop {
            let after = rate.take(full, now)?;
            match self.full.compare_exchange_weak(full, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full = other,
            }
        }
    }
}

/// A bucket for each key. One that is full is forgotten when room is needed. When none is, that goes which is nearest
/// to being full: its client gets less than one bucket too much, and nobody is refused because there are many.
#[derive(Debug)]
pub struct RateTable {
    epoch: Epoch,
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<u64, u64>>]>,
}

impl Default for RateTable {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { epoch: Epoch::default(), hasher: RandomState::new(), shards }
    }
}

impl RateTable {
    /// Takes one from a key's bucket, or says how long until there will be one.
    pub fn take(&self, key: impl Hash, rate: Rate, now: Instant) -> Result<(), Duration> {
        let (key, now) = (self.hasher.hash_one(key), self.epoch.nanos(now));
        let mut shard = self.shards[key as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full) = shard.get_mut(&key) {
            *full = rate.take(*full, now)?;
            return Ok(());
        }
        if shard.len() >= MOST_IN_SHARD {
            shard.retain(|_, full| *full > now);
        }
        if shard.len() >= MOST_IN_SHARD
            && let Some((&fullest, _)) = shard.iter().min_by_key(|(_, full)| **full)
        {
            shard.remove(&fullest);
        }
        shard.insert(key, rate.take(0, now)?);
        Ok(())
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_burst_at_once_and_then_one_after_each_interval() {
        let (table, rate) = (RateTable::default(), Rate::per_second(4));
        let now = Instant::now();
        for _ in 0..4 {
            assert_eq!(table.take("ada", rate, now), Ok(()));
        }
        assert_eq!(table.take("ada", rate, now), Err(SECOND / 4));
        assert_eq!(table.take("ada", rate, now + SECOND / 8), Err(SECOND / 8));
        assert_eq!(table.take("ada", rate, now + SECOND / 4), Ok(()));
        assert_eq!(table.take("ada", rate, now + SECOND / 4), Err(SECOND / 4));
        for _ in 0..4 {
            assert_eq!(
                table.take("ada", rate, now + 60 * SECOND),
                Ok(()),
                "it is full, and not more than full"
            );
        }
        assert!(table.take("ada", rate, now + 60 * SECOND).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_a_bucket_of_its_own() {
        let (table, rate) = (RateTable::default(), Rate::per_minute(1));
        let now = Instant::now();
        assert_eq!(table.take(("calls", 1), rate, now), Ok(()));
        assert_eq!(table.take(("calls", 2), rate, now), Ok(()));
        assert_eq!(table.take(("upgrades", 1), rate, now), Ok(()));
        assert_eq!(table.take(("calls", 1), rate, now), Err(60 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_does_not_let_the_table_grow_and_refuses_nobody_new() {
        let (table, rate) = (RateTable::default(), Rate::per_minute(2));
        let now = Instant::now();
        // Somebody whose bucket is empty is the last to be forgotten.
        table.take("busy", rate, now).unwrap();
        table.take("busy", rate, now).unwrap();
        for key in 0..200_000 {
            assert_eq!(table.take(key, rate, now), Ok(()));
        }
        assert!(table.len() <= SHARDS * MOST_IN_SHARD, "{}", table.len());
        assert!(table.take("busy", rate, now).is_err());
        let later = now + 3 * 60 * SECOND;
        for key in 0..10_000 {
            table.take(("later", key), rate, later).unwrap();
        }
        assert!(table.len() <= 10_000, "those that are full again are gone: {}", table.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_without_a_lock_counts_the_same() {
        let (bucket, rate) = (Bucket::default(), Rate::per_second(2).with_burst(3));
        let now = Instant::now();
        let taken = (0..10).filter(|_| bucket.take(rate, now).is_ok()).count();
        assert_eq!(taken, 6);
        assert_eq!(bucket.take(rate, now), Err(SECOND / 2));
        assert_eq!(bucket.take(rate, now + SECOND), Ok(()));
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        let rate = Rate::per_second(u32::MAX).with_burst(u32::MAX);
        assert_eq!(rate.take(0, u64::MAX), Ok(u64::MAX));
        assert!(Rate::per_minute(u32::MAX).take(0, 5).is_ok());
    }
}
