//! One server of an upstream.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use super::{Endpoint, balance::hash};

/// One server behind an endpoint: what stands in the configuration, or one of the addresses that a name stands for.
/// Shared by all workers.
#[derive(Debug)]
pub(super) struct Member {
    /// Never reused: an address that vanishes and comes back is another member.
    pub(super) id: u64,
    /// Never a name to resolve: for one of its addresses, the host is the name and `address` says where to go.
    pub(super) endpoint: Endpoint,
    pub(super) address: Option<SocketAddr>,
    /// Both, as logs call it.
    pub(super) name: Arc<str>,
    /// The same in every process and for as long as the address is the same.
    pub(super) hash: u64,
    /// Failures in a row.
    failures: AtomicU32,
    /// Ejected because it could not be connected to: whoever can, says so.
    pub(super) unreachable: AtomicBool,
}

impl Member {
    pub(super) fn new(id: u64, endpoint: Endpoint, address: Option<SocketAddr>) -> Self {
        let hash = match address {
            Some(address) => hash(address.to_string().as_bytes()),
            None => hash(endpoint.to_string().as_bytes()),
        };
        let name = name(&endpoint, address).into();
        let (failures, unreachable) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { id, endpoint, address, name, hash, failures, unreachable }
    }

    /// Counts a failure; returns how many there were in a row.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// Ends the row of failures. Writes only if there is one: the workers share this.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// As an endpoint is written, with the address where a name was.
fn name(endpoint: &Endpoint, address: Option<SocketAddr>) -> String {
    match (address, endpoint) {
        (Some(address), Endpoint::Tcp { tls, host, .. }) => {
            format!("{}://{address} ({host})", if *tls { "https" } else { "http" })
        }
        (_, endpoint) => endpoint.to_string(),
    }
}
