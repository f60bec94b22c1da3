//! Measures what the process uses: memory and file descriptors, as the kernel tells, and how long workers let wait.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::admin::Readiness;
use crate::{
    downstream::{AddressTable, Edge, LagMeter, OverloadSettings, Resource, Strain},
    telemetry::{Metrics, WorkerClock, next_moment},
};

/// How often the process is measured: while it is far from its limits, and while it is not. An idle one is to sleep.
const FAR: Duration = Duration::from_secs(1);
const NEAR: Duration = Duration::from_millis(250);

/// "Too many open files", of the process; on Linux, where there is `/proc`.
const EMFILE: i32 = 24;

/// Near is what has used up so much of what there is before work is refused.
const NEARNESS: f64 = 0.5;

/// How often it is decided at most whether a worker lags; its clock may tick more often.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// Measures the process, for ever. What the kernel does not tell is not watched.
pub(super) async fn watch(
    settings: OverloadSettings,
    addresses: Arc<AddressTable>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
) {
    let most_memory = settings.max_memory.or_else(|| memory_limit(Path::new("/sys/fs/cgroup")));
    if let Some(most) = most_memory {
        metrics.limits().memory_max(most);
    }
    let most_files = file_limit();
    loop {
        let mut is_near = false;
        if settings.memory < 1.0
            && let (Some(used), Some(most)) = (resident(), most_memory)
        {
            is_near |= part(used, most) >= settings.memory * NEARNESS;
            let change = addresses.overload.measured(Resource::Memory, part(used, most), settings.memory);
            tell(&metrics, Resource::Memory, used, most, change);
        }
        if settings.files < 1.0
            && let Some(most) = most_files
            && let Some(used) = open_files(most)
        {
            is_near |= part(used, most) >= settings.files * NEARNESS;
            let change = addresses.overload.measured(Resource::Files, part(used, most), settings.files);
            tell(&metrics, Resource::Files, used, most, change);
        }
        readiness.overloaded(settings.readiness && addresses.overload.strain().is_some());
        sleep_until(next_moment(if is_near { NEAR } else { FAR })).await;
    }
}

fn part(used: u64, most: u64) -> f64 {
    used as f64 / most.max(1) as f64
}

fn tell(metrics: &Metrics, resource: Resource, used: u64, most: u64, change: Option<Strain>) {
    let resource = resource.as_str();
    match change {
        None => return,
        Some(Strain::None) => info!(resource, used, most, "there is room again: new work is taken"),
        Some(Strain::Shedding) => {
            warn!(resource, used, most, "running short: new calls and sessions are refused")
        }
        Some(Strain::Critical) => {
            warn!(resource, used, most, "nearly used up: new connections are closed too")
        }
    }
    metrics.limits().overload(resource, change.is_some_and(|strain| strain > Strain::None));
}

/// Keeps a worker's clock, as long as the worker lives, and looks at how late it is. Late is who has more to do than
/// time.
pub(super) async fn keep_clock(clock: WorkerClock, edge: Weak<Edge>) {
    let mut meter = LagMeter::default();
    let mut next = Instant::now();
    loop {
        let lag = clock.tick().await;
        let Some(edge) = edge.upgrade() else { return };
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + LAG_EVERY;
        let threshold = edge.settings().limits.overload.lag;
        let is_long = meter.sample(lag, threshold, edge.lag.is_long());
        if edge.lag.set(is_long) {
            edge.metrics.limits().workers_lagging(is_long);
            if is_long {
                warn!(?lag, "a worker lags: it refuses new calls and sessions");
            } else {
                info!(?lag, "the worker keeps up again");
            }
        }
    }
}

/// The process's resident memory, in bytes.
fn resident() -> Option<u64> {
    line(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The memory that the process may use: the least of the cgroups that it is in (version 2), or all that there is.
fn memory_limit(root: &Path) -> Option<u64> {
    let machine = line(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_limit(root, &groups).into_iter().chain(machine).min()
}

/// The least `memory.max` of a process's cgroup and those above it. `groups`: `/proc/self/cgroup`.
fn cgroup_limit(root: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own: PathBuf = root.join(own);
    let limits = own.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(|folder| {
        let text = fs::read_to_string(folder.join("memory.max")).ok()?;
        text.trim().parse().ok() // or "max"
    });
    limits.min()
}

/// How many file descriptors are open of so many that may be. Linux 6.2 and later tell; otherwise they are counted, for
/// which one is needed: where there is none left, all are open.
fn open_files(most: u64) -> Option<u64> {
    let told = fs::metadata("/proc/self/fd").ok()?.len();
    if told > 0 {
        return Some(told);
    }
    match fs::read_dir("/proc/self/fd") {
        Ok(files) => Some(files.count() as u64),
        Err(error) if error.raw_os_error() == Some(EMFILE) => Some(most),
        Err(_) => None,
    }
}

/// How many may be.
fn file_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The bytes in a line of a file of `/proc` that counts in KiB.
fn line(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_the_process_uses_and_may_use() {
        let used = resident().unwrap();
        assert!(used > 100_000, "{used}");
        assert!(memory_limit(Path::new("/sys/fs/cgroup")).unwrap() > used);
        let before = open_files(u64::MAX).unwrap();
        let held: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        let after = open_files(u64::MAX).unwrap();
        assert!(after >= before.saturating_sub(20) + 50 - 20, "{before} {after}");
        assert!(file_limit().unwrap() >= after);
        drop(held);
    }

    #[test]
    fn the_least_limit_of_all_cgroups_above_counts() {
        let root = std::env::temp_dir().join(format!("bidiway-cgroup-{}", std::process::id()));
        let own = root.join("kubepods/pod1/box");
        fs::create_dir_all(&own).unwrap();
        let set = |folder: &Path, text: &str| fs::write(folder.join("memory.max"), text).unwrap();
        let groups = "0::/kubepods/pod1/box\n";
        assert_eq!(cgroup_limit(&root, groups), None);
        set(&own, "max\n");
        set(&root.join("kubepods"), "2000000\n");
        assert_eq!(cgroup_limit(&root, groups), Some(2_000_000));
        set(&own, "1000000\n");
        assert_eq!(cgroup_limit(&root, groups), Some(1_000_000));
        assert_eq!(cgroup_limit(&root, "0::/\n"), None);
        assert_eq!(cgroup_limit(&root, "1:memory:/old\n"), None);
        fs::remove_dir_all(root).unwrap();
    }
}
