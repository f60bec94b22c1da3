//! What the kernel says about a process.

use std::fs;

use anyhow::Context;

/// CPU time of all threads, user and kernel, in nanoseconds. A thread that has ended is not counted; none of the
/// measured programs ends one while it is loaded.
pub fn cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let field = text.split_whitespace().next().context("an empty schedstat")?;
        total += field.parse::<u64>()?;
    }
    Ok(total)
}

/// Memory that belongs to the process alone, in KiB.
pub fn private_kib(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let fields = text.lines().filter(|line| line.starts_with("Private_"));
    Ok(fields.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}

/// The load average of the last minute: what else ran.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}

/// Processor, kernel and memory, in a line.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    format!(
        "{cores} × {}, Linux {}, {} GiB",
        model.unwrap_or("unknown processor"),
        kernel.trim(),
        memory.div_ceil(1 << 20)
    )
}
