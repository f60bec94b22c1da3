//! Tokens that were verified already, so that a session with many calls verifies its token once.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Verified, crypto::digest};

/// Tables, each with a lock of its own: workers seldom meet.
const SHARDS: usize = 16;

/// SHA-256 of a token: the tokens themselves are not kept.
type Hash = [u8; 32];

/// Verified tokens by their hash, for all workers. Bounded: of those not asked for lately, some go.
#[derive(Debug)]
pub(super) struct TokenCache {
    shards: Box<[Mutex<Shard>]>,
    /// Tokens in half a shard.
    half: usize,
}

/// Two halves: what is asked for moves to the young one, and when that is full, the old one goes. Nearly the least
/// recently used, without a list.
#[derive(Debug, Default)]
struct Shard {
    young: HashMap<(Hash, usize), Known>,
    old: HashMap<(Hash, usize), Known>,
}

#[derive(Clone, Debug)]
struct Known {
    verified: Arc<Verified>,
    /// The issuer's keys, as they were: with others the signature may be wrong.
    generation: u64,
}

impl TokenCache {
    /// A cache for about so many tokens.
    pub(super) fn new(capacity: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, half: capacity.div_ceil(2 * SHARDS).max(1) }
    }

    /// What was verified of this token of this provider, unless it has expired or the keys have changed.
    pub(super) fn get(
        &self,
        token: &str,
        provider: usize,
        generation: u64,
        now: Duration,
    ) -> Option<Arc<Verified>> {
        let key = (hash(token), provider);
        let mut shard = self.shard(&key.0).lock().unwrap_or_else(PoisonError::into_inner);
        let known = match shard.young.get(&key) {
            Some(known) => known.clone(),
            None => {
                let known = shard.old.remove(&key)?;
                shard.put(key, known.clone(), self.half);
                known
            }
        };
        (known.generation == generation && now < known.verified.expires).then_some(known.verified)
    }

    /// Remembers a token.
    pub(super) fn put(&self, token: &str, verified: &Arc<Verified>, generation: u64) {
        let key = (hash(token), verified.provider);
        let known = Known { verified: Arc::clone(verified), generation };
        let mut shard = self.shard(&key.0).lock().unwrap_or_else(PoisonError::into_inner);
        shard.put(key, known, self.half);
    }

    fn shard(&self, hash: &Hash) -> &Mutex<Shard> {
        &self.shards[usize::from(hash[0]) % SHARDS]
    }
}

impl Shard {
    fn put(&mut self, key: (Hash, usize), known: Known, half: usize) {
        if self.young.len() >= half && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, known);
    }
}

fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(expires: u64) -> Arc<Verified> {
        Arc::new(Verified {
            provider: 0,
            principal: "ada".into(),
            expires: Duration::from_secs(expires),
            claims: serde_json::Map::new(),
            metadata: Vec::new(),
        })
    }

    const NOW: Duration = Duration::from_secs(50);

    #[test]
    fn a_token_is_known_until_it_expires_or_the_keys_change() {
        let cache = TokenCache::new(64);
        cache.put("a", &verified(51), 1);
        assert!(cache.get("a", 0, 1, NOW).is_some());
        assert!(cache.get("b", 0, 1, NOW).is_none());
        assert!(cache.get("a", 1, 1, NOW).is_none(), "another provider's");
        assert!(cache.get("a", 0, 2, NOW).is_none(), "other keys");
        assert!(cache.get("a", 0, 1, Duration::from_secs(51)).is_none(), "expired");
    }

    #[test]
    fn it_never_holds_more_than_its_capacity_and_keeps_what_is_asked_for() {
        let cache = TokenCache::new(64);
        cache.put("kept", &verified(100), 1);
        for n in 0..10_000 {
            cache.put(&n.to_string(), &verified(100), 1);
            assert!(cache.get("kept", 0, 1, NOW).is_some(), "{n}");
        }
        let size = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap();
            shard.young.len() + shard.old.len()
        };
        assert!(cache.shards.iter().map(size).sum::<usize>() <= 64);
    }
}
