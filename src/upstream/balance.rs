//! Which member a call goes to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, header};
use tokio::time::Instant;

use super::place::Place;

/// How the endpoint of a call is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two endpoints drawn at random, the one with fewer calls in flight.
    #[default]
    LeastLoaded,
    /// Each in its turn.
    RoundRobin,
    /// Calls with the same key go to the same endpoint as long as it serves; those without a key to the least loaded.
    Hash(HashKey),
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// All values of this metadata.
    Header(HeaderName),
    /// The value of this cookie, where `cookie` reaches the metadata.
    Cookie(String),
}

/// The least part of its share that a member gets when it comes back: it must get calls to show that it works.
const LEAST_SHARE: f64 = 0.1;

/// A member as a worker may choose it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) place: Arc<Place>,
    /// Neither unhealthy nor ejected; or all are.
    pub(super) usable: bool,
    /// From when on its share grows.
    pub(super) back: Option<Instant>,
}

/// What one call brings to the choice: the same for all its attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    key: Option<u64>,
    random: u64,
    turn: usize,
    now: Instant,
}

#[derive(Debug)]
pub(super) struct Balancer {
    balance: Balance,
    ramp: Duration,
    state: AtomicU64,
    turn: AtomicUsize,
}

impl Balancer {
    pub(super) fn new(balance: Balance, ramp: Duration) -> Self {
        // Workers begin at different places. Without random numbers at the start they would only begin at the same.
        let seed = getrandom::u64().unwrap_or_default();
        Self { balance, ramp, state: AtomicU64::new(seed), turn: AtomicUsize::new((seed >> 32) as usize) }
    }

    /// `metadata` is the call's.
    pub(super) fn draw(&self, metadata: Option<&HeaderMap>, now: Instant) -> Draw {
        let key = match (&self.balance, metadata) {
            (Balance::Hash(key), Some(metadata)) => key.hash(metadata),
            _ => None,
        };
        // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators): the sequence, then `mix`.
        let random = mix(self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed));
        Draw { key, random, turn: self.turn.fetch_add(1, Relaxed), now }
    }

    /// The best candidate among those that `may` be taken. Members that cannot be connected to come after those that
    /// can; those that are not usable come last, and only with `any`.
    pub(super) fn pick(
        &self,
        candidates: &[Candidate],
        draw: &Draw,
        may: impl Fn(usize, &Candidate) -> bool,
        any: bool,
    ) -> Option<usize> {
        for (usable, failing) in [(true, false), (true, true), (false, false), (false, true)] {
            if !usable && !any {
                return None;
            }
            let fits = |at: usize, candidate: &Candidate| {
                candidate.usable == usable && candidate.place.is_failing() == failing && may(at, candidate)
            };
            // If only those are left that are coming back, they take everything.
            let found = self
                .best(candidates, draw, |at, candidate| fits(at, candidate) && self.admits(candidate, draw))
                .or_else(|| self.best(candidates, draw, fits));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn best(
        &self,
        candidates: &[Candidate],
        draw: &Draw,
        fits: impl Fn(usize, &Candidate) -> bool,
    ) -> Option<usize> {
        let fitting = || candidates.iter().enumerate().filter(|(at, candidate)| fits(*at, candidate));
        if let Some(key) = draw.key {
            // Rendezvous hashing (Thaler, Ravishankar: A Name-Based Mapping Scheme for Rendezvous): when a member
            // goes, only its own keys move.
            return fitting().max_by_key(|(_, c)| mix(key ^ c.place.member.hash)).map(|(at, _)| at);
        }
        let count = fitting().count();
        let nth = |n: usize| fitting().nth(n).map(|(at, _)| at);
        if count < 2 {
            return nth(0);
        }
        if self.balance == Balance::RoundRobin {
            return nth(draw.turn % count);
        }
        let (low, high) = (draw.random as u32 as usize, (draw.random >> 32) as usize);
        let one = low % count;
        let other = (one + 1 + high % (count - 1)) % count;
        let (one, other) = (nth(one)?, nth(other)?);
        let calls = |at: usize| candidates[at].place.calls();
        Some(if calls(other) < calls(one) { other } else { one })
    }

    /// Whether a member that comes back takes this call. By the key where there is one, so that keys move once.
    fn admits(&self, candidate: &Candidate, draw: &Draw) -> bool {
        let Some(back) = candidate.back else { return true };
        let since = draw.now.saturating_duration_since(back);
        if since >= self.ramp {
            return true;
        }
        let share = (since.as_secs_f64() / self.ramp.as_secs_f64()).max(LEAST_SHARE);
        let point = mix(draw.key.unwrap_or(draw.random) ^ candidate.place.member.hash.rotate_left(32));
        (point as f64) < share * u64::MAX as f64
    }
}

impl HashKey {
    /// The hash of what a call's metadata have under this key; `None` if there is nothing.
    fn hash(&self, metadata: &HeaderMap) -> Option<u64> {
        match self {
            Self::Header(name) => {
                let mut values = metadata.get_all(name).iter().peekable();
                values.peek()?;
                Some(values.fold(FNV_OFFSET, |state, value| fnv(fnv(state, value.as_bytes()), b",")))
            }
            Self::Cookie(name) => metadata
                .get_all(header::COOKIE)
                .iter()
                .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
                .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
                .find(|value| !value.is_empty())
                .map(hash),
        }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits (RFC 9923): the same in every process and release, so that all instances agree.
fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    fnv(FNV_OFFSET, bytes)
}

/// The finalizer of SplitMix64: every bit of the input changes half of the output's.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::member::Member;

    fn candidates(count: u64, back: Option<Instant>) -> Vec<Candidate> {
        let endpoint = |n| format!("http://10.0.0.{n}:1").parse().unwrap();
        (0..count)
            .map(|n| Candidate {
                place: Place::new(Arc::new(Member::new(n, endpoint(n), None))),
                usable: true,
                back: back.filter(|_| n == 0),
            })
            .collect()
    }

    /// How many of 1,000 calls the first candidate gets.
    fn share(balancer: &Balancer, candidates: &[Candidate], now: Instant) -> usize {
        let keyed = |n: u32| HeaderMap::from_iter([(HeaderName::from_static("x-user"), n.into())]);
        (0..1000)
            .filter(|n| {
                let draw = balancer.draw(Some(&keyed(*n)), now);
                balancer.pick(candidates, &draw, |_, _| true, false) == Some(0)
            })
            .count()
    }

    #[test]
    fn a_member_that_comes_back_grows_to_its_share() {
        let ramp = Duration::from_secs(10);
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        for balance in [Balance::LeastLoaded, Balance::RoundRobin, Balance::Hash(header)] {
            let (balancer, now) = (Balancer::new(balance.clone(), ramp), Instant::now());
            let candidates = candidates(2, Some(now));
            let shares =
                [0, 5, 10].map(|after| share(&balancer, &candidates, now + Duration::from_secs(after)));
            assert!((10..130).contains(&shares[0]), "{balance:?}: {shares:?}");
            assert!((150..400).contains(&shares[1]), "{balance:?}: {shares:?}");
            assert!((400..=600).contains(&shares[2]), "{balance:?}: {shares:?}");
        }
    }

    #[test]
    fn one_that_is_alone_takes_everything_however_it_stands() {
        let now = Instant::now();
        let balancer = Balancer::new(Balance::LeastLoaded, Duration::from_secs(10));
        let mut alone = candidates(1, Some(now));
        assert_eq!(share(&balancer, &alone, now), 1000);
        alone[0].usable = false;
        let draw = balancer.draw(None, now);
        assert_eq!(balancer.pick(&alone, &draw, |_, _| true, false), None);
        assert_eq!(balancer.pick(&alone, &draw, |_, _| true, true), Some(0), "rather than nobody");
    }

    #[test]
    fn a_key_is_a_header_or_one_of_the_cookies() {
        let metadata = |pairs: &[(&'static str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        let one = header.hash(&metadata(&[("x-user", "a")]));
        assert!(one.is_some() && one == header.hash(&metadata(&[("x-other", "b"), ("x-user", "a")])));
        assert_ne!(one, header.hash(&metadata(&[("x-user", "b")])));
        assert_ne!(one, header.hash(&metadata(&[("x-user", "a"), ("x-user", "b")])));
        assert_eq!(header.hash(&metadata(&[])), None);
        let cookie = HashKey::Cookie("sid".to_owned());
        let one = cookie.hash(&metadata(&[("cookie", "sid=7")]));
        assert!(one.is_some() && one == cookie.hash(&metadata(&[("cookie", "sid2=1; xsid=2;sid=7 ; a=b")])));
        assert!(one == cookie.hash(&metadata(&[("cookie", "a=b"), ("cookie", "sid=7")])));
        assert_eq!(cookie.hash(&metadata(&[("cookie", "sid=; sid2=7")])), None);
    }
}
