//! How much each client holds.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Overload, RateTable};

/// Locks among which the counts are spread: workers that count different clients seldom meet.
const SHARDS: usize = 16;

/// What clients hold and how fast they come, shared by all workers: a client's connections land on any of them.
///
/// What is counted here is bounded by what there is: a client without a connection, socket or call has no entry.
#[derive(Debug, Default)]
pub struct AddressTable {
    counts: [Mutex<HashMap<(Held, Subject), u32>>; SHARDS],
    hasher: RandomState,
    /// How fast they come.
    pub(crate) rates: RateTable,
    /// Whether the process has room for more.
    pub overload: Overload,
}

/// What a client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// WebSockets and what stands in for them.
    Sockets,
    /// TCP connections.
    Connections,
    /// Calls that run.
    Calls,
}

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A client's address. An IPv6 client is counted by its /64, because one household or phone commands all of it.
    Address(IpAddr),
    /// Somebody whose name the proxy has verified: a hash of it.
    Principal(u64),
}

impl Subject {
    /// Whoever has this address.
    pub fn of(address: IpAddr) -> Self {
        Self::Address(subject(address))
    }
}

impl AddressTable {
    /// Counts one more socket for `address`, or `None` when it already holds `limit` of them. The socket is counted
    /// for as long as the permit lives.
    pub fn enter(self: &Arc<Self>, address: IpAddr, limit: u32) -> Option<AddressPermit> {
        self.hold(Held::Sockets, Subject::of(address), limit)
    }

    /// The same, of anything, for anybody.
    pub fn hold(self: &Arc<Self>, held: Held, subject: Subject, limit: u32) -> Option<AddressPermit> {
        let key = (held, subject);
        let mut counts = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_insert(0);
        if *count >= limit {
            // A limit of 0 must not leave an entry for every address that tries.
            if *count == 0 {
                counts.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(AddressPermit { table: Arc::clone(self), key })
    }

    /// How many addresses and principals hold something, each thing apart.
    pub fn addresses(&self) -> usize {
        self.counts.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, key: &(Held, Subject)) -> &Mutex<HashMap<(Held, Subject), u32>> {
        &self.counts[self.hasher.hash_one(key) as usize % SHARDS]
    }

    fn leave(&self, key: &(Held, Subject)) {
        let mut counts = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

/// One thing that is counted; given back when dropped.
#[derive(Debug)]
pub struct AddressPermit {
    table: Arc<AddressTable>,
    key: (Held, Subject),
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        self.table.leave(&self.key);
    }
}

/// What is counted for an address: IPv4 (also written as IPv6) as it is, IPv6 by its /64.
pub(super) fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_as_many_permits_as_the_limit_says() {
        let table = Arc::new(AddressTable::default());
        let first = table.enter(ip("192.0.2.1"), 2).unwrap();
        let _second = table.enter(ip("192.0.2.1"), 2).unwrap();
        assert!(table.enter(ip("192.0.2.1"), 2).is_none());
        assert!(table.enter(ip("192.0.2.2"), 2).is_some(), "another address is not affected");
        drop(first);
        assert!(table.enter(ip("192.0.2.1"), 2).is_some());
    }

    #[test]
    fn an_address_without_sockets_costs_no_memory() {
        let table = Arc::new(AddressTable::default());
        drop(table.enter(ip("192.0.2.1"), 2));
        assert!(table.enter(ip("192.0.2.1"), 0).is_none());
        assert_eq!(table.addresses(), 0);
    }

    #[test]
    fn ipv6_clients_are_counted_by_their_64_bit_prefix() {
        let table = Arc::new(AddressTable::default());
        let _held = table.enter(ip("2001:db8:1:2::1"), 1).unwrap();
        assert!(table.enter(ip("2001:db8:1:2:ffff::9"), 1).is_none());
        assert!(table.enter(ip("2001:db8:1:3::1"), 1).is_some());
    }

    #[test]
    fn an_ipv4_address_written_as_ipv6_is_the_same_address() {
        let table = Arc::new(AddressTable::default());
        let _held = table.enter(ip("::ffff:192.0.2.1"), 1).unwrap();
        assert!(table.enter(ip("192.0.2.1"), 1).is_none());
    }
}
