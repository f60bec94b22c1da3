//! Names to addresses, again and again.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::time::{Instant, sleep, timeout};

use super::{Roster, Settings};

/// How long a look-up may take, with every attempt.
const LOOK_UP: Duration = Duration::from_secs(5);

/// How long one name server may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// An answer's TTL may be 0: it is asked for again no sooner.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// The wait after the first failure; it doubles from there, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Addresses of a name, and how long they are valid.
struct Found {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

/// Looks up a name for as long as there is a roster.
pub(super) async fn follow(
    roster: Weak<Roster>,
    at: usize,
    host: String,
    port: u16,
    settings: Arc<Settings>,
) {
    let dns = &settings.dns;
    let mut failures = 0_u32;
    loop {
        let found = match timeout(LOOK_UP, look_up(&host, &dns.servers)).await {
            Ok(Ok(found)) if found.addresses.is_empty() => Err("the name has no addresses".to_owned()),
            Ok(found) => found.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {LOOK_UP:?}")),
        };
        let Some(roster) = roster.upgrade() else { return };
        let wait = match found {
            Ok(Found { mut addresses, ttl }) => {
                failures = 0;
                addresses.sort_unstable();
                addresses.dedup();
                let addresses: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
                roster.resolved(at, &addresses);
                ttl.max(SHORTEST_TTL)
            }
            Err(error) => {
                failures += 1;
                roster.unresolved(at, error);
                FIRST_RETRY * (1 << (failures - 1).min(16))
            }
        };
        drop(roster);
        sleep(wait.min(dns.interval)).await;
    }
}

async fn look_up(host: &str, servers: &[SocketAddr]) -> Result<Found, NetError> {
    let answer = resolver(servers)?.lookup_ip(host).await?;
    let ttl = Instant::from_std(answer.valid_until()).saturating_duration_since(Instant::now());
    Ok(Found { addresses: answer.iter().collect(), ttl })
}

/// Made anew for each look-up, which is cheap without a cache: so changes of `/etc/resolv.conf` and `/etc/hosts` count.
fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if servers.is_empty() {
        Resolver::builder(provider)?
    } else {
        let servers = servers.iter().map(name_server).collect();
        Resolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), servers), provider)
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(ATTEMPT);
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}
