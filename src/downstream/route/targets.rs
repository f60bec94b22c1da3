//! The upstreams of a route, by weight.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::upstream::Upstream;

/// The upstreams of a route. Each call draws one of them by weight.
#[derive(Debug)]
pub(super) struct Targets {
    /// Each with the sum of the weights up to its own. Those without weight are not there.
    list: Vec<(u64, Upstream)>,
    /// Counts the draws: the state of a SplitMix64. An atomic only because the table of routes is shared with pages;
    /// it belongs to one worker.
    draws: AtomicU64,
}

impl Targets {
    /// Upstreams with their weights, of which one at least is not 0. `seed` decides what is drawn.
    pub(super) fn new(weighted: Vec<(Upstream, u32)>, seed: u64) -> Self {
        let mut sum = 0;
        let list = weighted.into_iter().filter(|(_, weight)| *weight > 0);
        let list: Vec<_> = list
            .map(|(upstream, weight)| {
                sum += u64::from(weight);
                (sum, upstream)
            })
            .collect();
        assert!(!list.is_empty(), "the configuration accepts only routes with an upstream that has weight");
        Self { list, draws: AtomicU64::new(seed) }
    }

    /// One for a call.
    pub(super) fn draw(&self) -> &Upstream {
        let last = &self.list[self.list.len() - 1];
        if self.list.len() == 1 {
            return &last.1;
        }
        let place = scaled(mix(self.draws.fetch_add(GOLDEN, Ordering::Relaxed)), last.0);
        let found = self.list.partition_point(|(sum, _)| *sum <= place);
        &self.list[found].1
    }
}

/// 2^64 divided by the golden ratio, odd: SplitMix64's step (Steele, Lea and Flood, OOPSLA 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output for a state.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(GOLDEN);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// A number below `end`, which is not 0.
fn scaled(random: u64, end: u64) -> u64 {
    ((u128::from(random) * u128::from(end)) >> 64) as u64
}

/// What differs from worker to worker and from start to start. Where the system has no random numbers, 0 will do:
/// nothing depends on it that must not be guessed.
pub(super) fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;
    use crate::upstream::{ClientTls, Settings};

    fn upstream(name: &str) -> Upstream {
        let endpoints = vec!["http://127.0.0.1:1".parse().unwrap()];
        Upstream::new(Arc::new(Settings::new(name, endpoints, ClientTls::trusting_nobody())))
    }

    fn drawn(weights: &[(&str, u32)], seed: u64, calls: u32) -> HashMap<String, u32> {
        let targets = weights.iter().map(|(name, weight)| (upstream(name), *weight)).collect();
        let targets = Targets::new(targets, seed);
        let mut counts = HashMap::new();
        for _ in 0..calls {
            *counts.entry(targets.draw().name().to_owned()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn calls_are_shared_out_by_weight() {
        for seed in [0, 1, 2, u64::MAX] {
            let counts = drawn(&[("a", 90), ("b", 9), ("c", 1), ("d", 0)], seed, 100_000);
            // Six times the standard deviation, on either side.
            assert!((89_430..=90_570).contains(&counts["a"]), "{counts:?}");
            assert!((8_457..=9_543).contains(&counts["b"]), "{counts:?}");
            assert!((811..=1_189).contains(&counts["c"]), "{counts:?}");
            assert_eq!(counts.get("d"), None, "no weight, no calls");
        }
    }

    #[test]
    fn an_upstream_alone_gets_everything_and_a_large_sum_is_no_overflow() {
        assert_eq!(drawn(&[("a", 7)], 3, 10)["a"], 10);
        let counts = drawn(&[("a", u32::MAX), ("b", u32::MAX)], 3, 10_000);
        assert!((4_700..=5_300).contains(&counts["a"]), "{counts:?}");
    }

    #[test]
    fn weights_do_not_come_in_runs() {
        let targets = Targets::new(vec![(upstream("a"), 1), (upstream("b"), 1)], 5);
        let names: Vec<_> = (0..1000).map(|_| targets.draw().name().to_owned()).collect();
        let changes = names.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!((400..=600).contains(&changes), "{changes}");
    }
}
