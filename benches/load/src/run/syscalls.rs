//! System calls per operation, counted by strace.

use std::{collections::BTreeMap, fs};

use serde_json::json;

use super::{Bench, driver::Driver, process::Process, target::Target};
use crate::shape::Named;

const SENDS: [&str; 5] = ["sendto", "sendmsg", "sendmmsg", "write", "writev"];
const RECEIVES: [&str; 5] = ["recvfrom", "recvmsg", "recvmmsg", "read", "readv"];

/// Calls per operation.
#[derive(Clone, Debug)]
pub struct Counts {
    pub shape: Named,
    pub target: Target,
    pub sends: f64,
    pub receives: f64,
    pub waits: f64,
    pub others: Vec<(String, f64)>,
}

pub fn measure(bench: &mut Bench) -> anyhow::Result<Vec<Counts>> {
    let mut all = Vec::new();
    let echo = bench.programs.echo(&[])?;
    for shape in [Named::A, Named::B, Named::C, Named::E, Named::V, Named::G] {
        for target in [Target::Relay, Target::Envoy, Target::Bidiway] {
            if !bench.programs.has(target) {
                continue;
            }
            let running = bench.programs.start(target, echo.address, &[])?;
            let dialect = target.dialect(shape);
            let mut driver = Driver::named(&bench.programs, running.address, dialect, shape)?;
            let operations = bench.operations(shape) / 10;
            driver.go(operations.div_ceil(20))?;

            let file = bench.programs.dir.join("strace.txt");
            let path = file.to_string_lossy().into_owned();
            let pid = running.process.pid().to_string();
            let words = ["strace", "-f", "-c", "-o", &path, "-p", &pid];
            let strace = Process::start(&bench.programs.dir, "strace", &words)?;
            strace.wait_for_log("attached")?;
            driver.go(operations)?;
            strace.stop("-INT")?;

            let counts = parse(&fs::read_to_string(&file)?);
            bench.raw(&json!({
                "part": "syscalls", "shape": shape, "target": target, "operations": operations, "calls": counts,
            }))?;
            let per_op = |names: &[&str]| {
                names.iter().filter_map(|&name| counts.get(name)).sum::<u64>() as f64 / operations as f64
            };
            let waits = ["epoll_wait", "epoll_pwait", "epoll_pwait2"];
            let known = [&SENDS[..], &RECEIVES[..], &waits[..]].concat();
            let others = counts.iter().filter(|(name, _)| !known.contains(&name.as_str()));
            all.push(Counts {
                shape,
                target,
                sends: per_op(&SENDS),
                receives: per_op(&RECEIVES),
                waits: per_op(&waits),
                others: others.map(|(name, &n)| (name.clone(), n as f64 / operations as f64)).collect(),
            });
            bench.progress(&format!("{shape:?} {}: system calls counted", target.name()));
        }
    }
    Ok(all)
}

/// Calls by name, from the table of `strace -c`: time, seconds, each, calls, errors if any, name.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let rows = text.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let name = *fields.last()?;
        let calls = fields.get(3)?.parse().ok()?;
        (fields.len() >= 5 && name != "total").then(|| (name.to_owned(), calls))
    });
    rows.collect()
}

pub fn table(all: &[Counts]) -> String {
    let mut out =
        String::from("| shape | through | sends | receives | waits | others |\n|---|---|--:|--:|--:|---|\n");
    for counts in all {
        let others = counts.others.iter().filter(|(_, n)| *n >= 0.01);
        let others: Vec<_> = others.map(|(name, n)| format!("{name} {n:.2}")).collect();
        out += &format!(
            "| {:?} | {} | {:.2} | {:.2} | {:.2} | {} |\n",
            counts.shape,
            counts.target.name(),
            counts.sends,
            counts.receives,
            counts.waits,
            others.join(", ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            60.00    0.001234          10       120           sendto\n \
            40.00    0.000800           5       160        40 recvfrom\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.002034           7       280        40 total\n";
        let counts = parse(text);
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            [("recvfrom".into(), 160), ("sendto".into(), 120)]
        );
    }
}
