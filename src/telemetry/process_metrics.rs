//! The process in metrics, under the names that Prometheus' client libraries give them: read when somebody scrapes.

use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// Ticks of `/proc/self/stat` in a second: Linux shows user space 100 on every architecture.
const USER_HZ: f64 = 100.0;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// What is known of the build.
pub(super) fn register_build(r: &mut Registry) {
    let build_info: Family<BuildLabels, Gauge> = Family::default();
    build_info.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
    r.register("build_info", "Always 1; which Bidiway this is", build_info);
}

/// The metrics of the process itself, in a registry of their own: their names have no prefix.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process { started: started().unwrap_or_else(now) }));
    registry
}

/// Reads `/proc`. Where there is none, only the start is told.
#[derive(Debug)]
struct Process {
    /// In Unix time.
    started: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name, help, value: Option<f64>| match value {
            None => Ok(()),
            Some(value) => {
                let gauge = ConstGauge::new(value);
                let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
                gauge.encode(metric)
            }
        };
        gauge("process_start_time_seconds", "When the process began, in Unix time.", Some(self.started))?;
        gauge("process_resident_memory_bytes", "Memory that the process has in RAM.", resident())?;
        gauge("process_open_fds", "File descriptors that are open now.", open_files())?;
        gauge("process_max_fds", "File descriptors that may be open.", max_files())?;
        if let Some(seconds) = cpu() {
            let counter = ConstCounter::new(seconds);
            let (name, help) = ("process_cpu_seconds", "CPU time used, of user and system together.");
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The fields of `/proc/self/stat` behind the command, which may hold anything: the first is field 3 of proc(5).
fn stat() -> Option<Vec<u64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace().map(|field| field.parse().unwrap_or_default()).collect())
}

/// utime and stime.
fn cpu() -> Option<f64> {
    let stat = stat()?;
    Some((stat.get(11)? + stat.get(12)?) as f64 / USER_HZ)
}

/// starttime, which counts from the boot.
fn started() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(boot + *stat()?.get(19)? as f64 / USER_HZ)
}

fn resident() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
}

/// One of them is the directory's own.
fn open_files() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_files() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_tells_is_within_reason() {
        let resident = resident().unwrap();
        assert!((1e6..1e11).contains(&resident), "{resident} bytes");
        let open = open_files().unwrap();
        let _file = fs::File::open("/proc/self/status").unwrap();
        assert!(open >= 3.0 && open < max_files().unwrap(), "{open} files");
        let started = started().unwrap();
        assert!(now() - started < 86_400.0 && started <= now() + 1.0, "started at {started}");
        let begin = cpu().unwrap();
        while cpu().unwrap() < begin + 0.02 {}
    }
}
