//! User instructions per echo, from callgrind: the slope between two runs of different length, in which start and
//! end cancel out. It repeats to a hundredth of a per cent where nothing is coalesced, hence shape A only.

use std::fs;

use anyhow::Context;
use serde_json::json;

use super::{Bench, driver::Driver, target::Target};
use crate::shape::{Dialect, Named};

const SHORT: u64 = 1_000;
const LONG: u64 = 3_000;

pub fn measure(bench: &mut Bench) -> anyhow::Result<Vec<(Target, f64)>> {
    let mut all = Vec::new();
    for target in [Target::Direct, Target::Relay, Target::Bidiway, Target::BidiwayH2] {
        if !bench.programs.has(target) {
            continue;
        }
        let short = total(bench, target, SHORT)?;
        let long = total(bench, target, LONG)?;
        let slope = (long as f64 - short as f64) / (LONG - SHORT) as f64;
        bench.raw(&json!({
            "part": "instructions", "target": target, "short": short, "long": long, "per_echo": slope,
        }))?;
        bench.progress(&format!("{}: {slope:.0} instructions per echo", target.name()));
        all.push((target, slope));
    }
    Ok(all)
}

/// All instructions of one life of the target with so many echoes in it.
fn total(bench: &Bench, target: Target, echoes: u64) -> anyhow::Result<u64> {
    let file = bench.programs.dir.join(format!("callgrind.{}.{echoes}", target.name()));
    let option = format!("--callgrind-out-file={}", file.display());
    let under = ["valgrind", "--tool=callgrind", &option];
    let echo = bench.programs.echo(&[])?;
    let running = bench.programs.start(target, echo.address, &under)?;
    let dialect = if target == Target::Bidiway { Dialect::Session } else { Dialect::H2 };
    let mut driver = Driver::named(&bench.programs, running.address, dialect, Named::A)?;
    driver.go(echoes)?;
    drop(driver);
    running.process.stop("-TERM")?;
    let text = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    Ok(line.context("callgrind wrote no totals")?.trim().parse()?)
}

pub fn table(all: &[(Target, f64)]) -> String {
    let mut out = String::from("| through | user instructions per echo |\n|---|--:|\n");
    for (target, slope) in all {
        out += &format!("| {} | {slope:.0} |\n", target.name());
    }
    out
}
