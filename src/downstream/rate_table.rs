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
    /// Nanoseconds in which `count` come.
    period: u64,
    count: u64,
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
        let count = count.max(1).into();
        Self { period: period.as_nanos() as u64, count, burst: count }
    }

    /// So many seconds' worth at once.
    pub fn with_burst(self, seconds: u32) -> Self {
        Self { burst: self.burst * u64::from(seconds), ..self }
    }

    /// When a bucket is full that was full at `full` and gives one; or how long until it can give one. A bucket is a
    /// single time, that at which it will be full (the generic cell rate algorithm, ITU-T I.371).
    fn take(self, full: u64, now: u64) -> Result<u64, Duration> {
        match self.reserve(full, now, 1) {
            (after, Duration::ZERO) => Ok(after),
            (_, wait) => Err(wait),
        }
    }

    /// The same, but so many are taken whether they are there or not: also how long it is until they are.
    fn reserve(self, full: u64, now: u64, count: u64) -> (u64, Duration) {
        let after = full.max(now).saturating_add(self.time_of(count).max(1));
        (after, Duration::from_nanos((after - now).saturating_sub(self.time_of(self.burst))))
    }

    /// When a bucket is full of which so many were reserved and not used.
    fn give_back(self, full: u64, count: u64) -> u64 {
        full.saturating_sub(self.time_of(count).max(1))
    }

    /// In how many nanoseconds so many come.
    fn time_of(self, count: u64) -> u64 {
        let time = u128::from(self.period) * u128::from(count) / u128::from(self.count);
        u64::try_from(time).unwrap_or(u64::MAX)
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

    /// Takes so many in any case; how long until they are there.
    pub(crate) fn reserve(&self, rate: Rate, count: u64, now: Instant) -> Duration {
        let now = self.epoch.nanos(now);
        let mut full = self.full.load(Ordering::Relaxed);
        loop {
            let (after, wait) = rate.reserve(full, now, count);
            match self.full.compare_exchange_weak(full, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return wait,
                Err(other) => full = other,
            }
        }
    }

    /// Gives back so many that were reserved and not used.
    pub(crate) fn give_back(&self, rate: Rate, count: u64) {
        let given_back = |full| Some(rate.give_back(full, count));
        // It changes in any case.
        let _ = self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, given_back);
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
        self.change(key, now, |full, now| match rate.take(full, now) {
            Ok(after) => (after, Ok(())),
            Err(wait) => (full, Err(wait)),
        })
    }

    /// Takes so many from a key's bucket in any case; how long until they are there.
    pub fn reserve(&self, key: impl Hash, rate: Rate, count: u64, now: Instant) -> Duration {
        self.change(key, now, |full, now| rate.reserve(full, now, count))
    }

    /// Gives back so many that were reserved from a key's bucket and not used.
    pub fn give_back(&self, key: impl Hash, rate: Rate, count: u64, now: Instant) {
        self.change(key, now, |full, _| (rate.give_back(full, count), ()));
    }

    /// Changes the time at which a key's bucket is full.
    fn change<T>(&self, key: impl Hash, now: Instant, change: impl FnOnce(u64, u64) -> (u64, T)) -> T {
        let (key, now) = (self.hasher.hash_one(key), self.epoch.nanos(now));
        let mut shard = self.shards[key as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full) = shard.get_mut(&key) {
            let (after, told) = change(*full, now);
            *full = after;
            return told;
        }
        if shard.len() >= MOST_IN_SHARD {
            shard.retain(|_, full| *full > now);
        }
        if shard.len() >= MOST_IN_SHARD
            && let Some((&fullest, _)) = shard.iter().min_by_key(|(_, full)| **full)
        {
            shard.remove(&fullest);
        }
        let (after, told) = change(0, now);
        shard.insert(key, after);
        told
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

    #[tokio::test(start_paused = true)]
    async fn who_takes_in_any_case_is_told_when_his_turn_is_and_the_next_one_comes_behind_him() {
        let (table, bucket, rate) = (RateTable::default(), Bucket::default(), Rate::per_second(4));
        let now = Instant::now();
        for (count, wait) in [(3, 0), (1, 0), (2, 500), (1, 750), (8, 2750)] {
            let wait = Duration::from_millis(wait);
            assert_eq!(table.reserve("ada", rate, count, now), wait);
            assert_eq!(bucket.reserve(rate, count, now), wait);
        }
        assert_eq!(table.reserve("bob", rate, 1, now), Duration::ZERO);
        assert_eq!(table.reserve("ada", rate, 1, now + SECOND * 10), Duration::ZERO);
        // Exactly, however many they are.
        let fast = Rate::per_second(300_000_000);
        assert_eq!(table.reserve("bytes", fast, 300_000_000 * 7, now), SECOND * 6);
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        let rate = Rate::per_second(u32::MAX).with_burst(u32::MAX);
        assert_eq!(rate.take(0, u64::MAX), Ok(u64::MAX));
        assert!(Rate::per_minute(u32::MAX).take(0, 5).is_ok());
    }

    #[test]
    fn what_was_reserved_and_not_used_is_there_for_others() {
        let (bucket, table, now) = (Bucket::default(), RateTable::default(), Instant::now());
        let rate = Rate::per_second(10);
        for expected in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(1)] {
            assert_eq!(bucket.reserve(rate, 10, now), expected);
            assert_eq!(table.reserve("k", rate, 10, now), expected);
            if !expected.is_zero() {
                bucket.give_back(rate, 10);
                table.give_back("k", rate, 10, now);
            }
        }
    }
}
