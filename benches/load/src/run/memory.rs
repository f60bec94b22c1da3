//! Private memory of idle sockets, and after many streams have come and gone.

use std::{thread, time::Duration};

use serde_json::json;

use super::{Bench, driver::Driver, proc_fs, target::Target};
use crate::shape::{Dialect, Kind, Shape};

const SETTLE: Duration = Duration::from_secs(2);
/// Longer than the interval of pings.
const IDLE: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug)]
pub struct Idle {
    pub target: Target,
    pub streams: u32,
    /// KiB per socket once it is quiet, again after traffic, and left over when all are closed.
    pub quiet: f64,
    pub after_traffic: f64,
    pub after_close: f64,
    /// CPU microseconds per socket and second, without any stream.
    pub cpu: Option<f64>,
}

/// Private memory of the process, in KiB, before and between batches of calls.
#[derive(Clone, Debug)]
pub struct Churn {
    pub marks: Vec<(u64, u64)>,
}

const ECHO: Shape = Shape { kind: Kind::Echo, sockets: 1, streams: 1, window: 1, size: 100, rate: 0 };

pub fn measure_idle(bench: &mut Bench) -> anyhow::Result<Vec<Idle>> {
    let mut all = Vec::new();
    for target in [Target::Envoy, Target::Bidiway] {
        if !bench.programs.has(target) {
            continue;
        }
        for streams in [0, 1, 10] {
            // Envoy has connections without sessions; ten streams more tell nothing about ours.
            if target == Target::Envoy && streams > 1 {
                continue;
            }
            let idle = idle(bench, target, streams)?;
            bench.raw(&json!({
                "part": "idle", "target": target, "streams": streams, "sockets": bench.sockets,
                "quiet_kib": idle.quiet, "after_traffic_kib": idle.after_traffic,
                "after_close_kib": idle.after_close, "cpu_us_per_second": idle.cpu,
            }))?;
            bench.progress(&format!("{} with {streams} streams: {:.2} KiB", target.name(), idle.quiet));
            all.push(idle);
        }
    }
    Ok(all)
}

fn idle(bench: &Bench, target: Target, streams: u32) -> anyhow::Result<Idle> {
    let echo = bench.programs.echo(&[])?;
    let running = bench.programs.start(target, echo.address, &[])?;
    let pid = running.process.pid();
    let dialect = if target == Target::Bidiway { Dialect::Session } else { Dialect::H2 };
    // What is made once, such as the connection to the service, is not the sockets'.
    Driver::start(&bench.programs, running.address, dialect, ECHO, None)?.go(100)?;
    thread::sleep(SETTLE);
    let base = proc_fs::private_kib(pid)?;
    let each = |kib: u64| (kib as f64 - base as f64) / f64::from(bench.sockets);

    let shape = Shape { sockets: bench.sockets, streams, ..ECHO };
    let mut driver = Driver::start(&bench.programs, running.address, dialect, shape, None)?;
    thread::sleep(SETTLE);
    let quiet = each(proc_fs::private_kib(pid)?);
    let mut cpu = None;
    let mut after_traffic = quiet;
    if streams == 0 {
        if target == Target::Bidiway {
            let before = proc_fs::cpu_ns(pid)?;
            thread::sleep(IDLE);
            let spent = (proc_fs::cpu_ns(pid)? - before) as f64 / 1e3;
            cpu = Some(spent / f64::from(bench.sockets) / IDLE.as_secs_f64());
        }
    } else {
        driver.go(u64::from(bench.sockets) * 10)?;
        thread::sleep(SETTLE);
        after_traffic = each(proc_fs::private_kib(pid)?);
    }
    drop(driver);
    thread::sleep(SETTLE);
    Ok(Idle { target, streams, quiet, after_traffic, after_close: each(proc_fs::private_kib(pid)?), cpu })
}

pub fn idle_table(all: &[Idle], sockets: u32) -> String {
    let mut out = format!(
        "{sockets} sockets, private memory in KiB per socket.\n\n\
         | through | streams per socket | quiet | after traffic | after closing | idle CPU µs/s |\n\
         |---|--:|--:|--:|--:|--:|\n"
    );
    for idle in all {
        out += &format!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {} |\n",
            idle.target.name(),
            idle.streams,
            idle.quiet,
            idle.after_traffic,
            idle.after_close,
            idle.cpu.map_or(String::new(), |cpu| format!("{cpu:.2}"))
        );
    }
    out
}

pub fn measure_churn(bench: &mut Bench) -> anyhow::Result<Option<Churn>> {
    if !bench.programs.has(Target::Bidiway) {
        return Ok(None);
    }
    let echo = bench.programs.echo(&[])?;
    let running = bench.programs.start(Target::Bidiway, echo.address, &[])?;
    let pid = running.process.pid();
    let shape = Shape { kind: Kind::Unary, sockets: 10, streams: 10, ..ECHO };
    let method = Some("/bench.Echo/Bidi");
    let mut driver = Driver::start(&bench.programs, running.address, Dialect::Session, shape, method)?;
    let mut marks = vec![(0, proc_fs::private_kib(pid)?)];
    let batch = bench.churn / 10;
    for done in (1..=10).map(|n| n * batch) {
        driver.go(batch)?;
        thread::sleep(Duration::from_millis(200));
        marks.push((done, proc_fs::private_kib(pid)?));
    }
    bench.raw(&json!({ "part": "churn", "marks": marks }))?;
    bench.progress(&format!("{} streams opened and closed", bench.churn));
    Ok(Some(Churn { marks }))
}

impl Churn {
    /// How much was added between a fifth of the streams and all of them, as a share.
    pub fn growth(&self) -> f64 {
        let early = self.marks[2].1 as f64;
        self.marks.last().map_or(0.0, |last| last.1 as f64 / early - 1.0)
    }
}

pub fn churn_table(churn: &Churn) -> String {
    let mut out = String::from("| streams opened and closed | private KiB |\n|--:|--:|\n");
    for (done, kib) in &churn.marks {
        out += &format!("| {done} | {kib} |\n");
    }
    out
}
