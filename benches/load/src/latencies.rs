//! How long operations took.

use std::time::Duration;

/// Buckets per power of two: values are told apart to 1/64.
const FINE: u64 = 64;
const BITS: u32 = FINE.ilog2();

/// A histogram over nanoseconds, of fixed size, so that recording costs the client next to nothing.
#[derive(Debug)]
pub struct Latencies {
    counts: Vec<u32>,
}

impl Latencies {
    pub fn new() -> Self {
        Self { counts: vec![0; (FINE as usize) * (u64::BITS - BITS + 1) as usize] }
    }

    pub fn record(&mut self, took: Duration) {
        self.counts[bucket(took.as_nanos().try_into().unwrap_or(u64::MAX))] += 1;
    }

    /// The nanoseconds that this share of the operations did not exceed, to 1/64; 0 without operations.
    pub fn quantile(&self, share: f64) -> u64 {
        let total: u64 = self.counts.iter().map(|&c| u64::from(c)).sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if count > 0 && seen >= wanted {
                return lower_bound(index as u64);
            }
        }
        0
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < FINE {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - BITS;
    (FINE * u64::from(shift) + (nanos >> shift)) as usize
}

fn lower_bound(bucket: u64) -> u64 {
    if bucket < FINE {
        return bucket;
    }
    let shift = bucket / FINE - 1;
    (bucket - shift * FINE) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_to_within_a_sixty_fourth() {
        for nanos in [0, 1, 63, 64, 65, 127, 128, 1_000, 51_234, 1_000_000_007, u64::MAX] {
            let back = lower_bound(bucket(nanos) as u64);
            assert!(back <= nanos && nanos - back <= nanos / FINE, "{nanos} came back as {back}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut latencies = Latencies::new();
        for nanos in 1..=1000 {
            latencies.record(Duration::from_nanos(nanos * 1000));
        }
        let (p50, p99) = (latencies.quantile(0.5), latencies.quantile(0.99));
        assert!((490_000..=500_000).contains(&p50), "{p50}");
        assert!((970_000..=990_000).contains(&p99), "{p99}");
    }

    #[test]
    fn nothing_has_no_latency() {
        assert_eq!(Latencies::new().quantile(0.99), 0);
    }
}
