//! The measurement: starts everything, loads each in turn, prints the tables.

mod cpu;
mod driver;
mod goals;
mod instructions;
mod memory;
mod proc_fs;
mod process;
mod syscalls;
mod target;

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::Command,
};

use anyhow::Context;
use clap::ValueEnum;

use crate::shape::{Dialect, Named};
use goals::Measured;
use target::Programs;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The proxy's binary; without it only the relay and Envoy are measured.
    #[arg(long)]
    bidiway: Option<PathBuf>,
    /// Envoy's binary; without it there is no comparison with Envoy.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Rounds of the CPU measurement; the least of each counts.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// A short run: a tenth of the load, two rounds. Its figures are for a first look.
    #[arg(long)]
    quick: bool,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// The shapes of the CPU measurement.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Named::ALL)]
    shapes: Vec<Named>,
    /// Sockets of the memory measurement.
    #[arg(long, default_value_t = 4_000)]
    sockets: u32,
    /// Streams that are opened and closed.
    #[arg(long, default_value_t = 100_000)]
    churn: u64,
    /// Where every single reading goes, as lines of JSON.
    #[arg(long, default_value = "bench.jsonl")]
    raw: PathBuf,
    /// Where configurations, logs and callgrind's files go, and stay. By default they are thrown away.
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU time per operation and latency, of all shapes.
    Cpu,
    /// System calls per operation; needs strace and the right to attach.
    Syscalls,
    /// User instructions per echo; needs valgrind.
    Instructions,
    /// Memory of idle sockets.
    Memory,
    /// Memory after many streams have come and gone.
    Churn,
}

impl Part {
    const ALL: [Self; 5] = [Self::Cpu, Self::Syscalls, Self::Instructions, Self::Memory, Self::Churn];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What the parts of the measurement share.
#[derive(Debug)]
struct Bench {
    programs: Programs,
    shapes: Vec<Named>,
    rounds: u32,
    sockets: u32,
    churn: u64,
    quick: bool,
    raw: File,
}

impl Bench {
    fn operations(&self, shape: Named) -> u64 {
        if self.quick { shape.operations() / 10 } else { shape.operations() }
    }

    fn raw(&mut self, line: &serde_json::Value) -> anyhow::Result<()> {
        Ok(writeln!(self.raw, "{line}")?)
    }

    #[expect(clippy::unused_self, reason = "reads as what it is: the bench says how far it is")]
    fn progress(&self, line: &str) {
        eprintln!("{line}");
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = match &args.keep {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("bidiway-load.{}", std::process::id())),
    };
    fs::create_dir_all(&dir)?;
    let done = measure(args, dir.clone());
    if args.keep.is_none() && done.is_ok() {
        fs::remove_dir_all(&dir)?;
    }
    done.with_context(|| format!("the files of the run are in {}", dir.display()))
}

fn measure(args: &Args, dir: PathBuf) -> anyhow::Result<()> {
    let text = |path: &PathBuf| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
    let programs = Programs {
        load: text(&std::env::current_exe()?)?,
        bidiway: args.bidiway.as_ref().map(text).transpose()?,
        envoy: args.envoy.as_ref().map(text).transpose()?,
        dir,
    };
    let mut bench = Bench {
        shapes: args.shapes.clone(),
        rounds: if args.quick { 2 } else { args.rounds },
        sockets: if args.quick { args.sockets / 4 } else { args.sockets },
        churn: if args.quick { args.churn / 10 } else { args.churn },
        quick: args.quick,
        raw: File::create(&args.raw).with_context(|| format!("cannot write {}", args.raw.display()))?,
        programs,
    };
    println!("## Measured\n\n{}\n", machine(&bench));
    let wants = |part| args.only.contains(&part);
    let mut measured = Measured::default();
    if wants(Part::Cpu) {
        measured.cpu = cpu::measure(&mut bench)?;
        println!("### CPU and latency\n\n{}", cpu::table(&measured.cpu, &bench.shapes));
    }
    if wants(Part::Syscalls) {
        measured.syscalls = syscalls::measure(&mut bench)?;
        println!("### System calls per operation\n\n{}", syscalls::table(&measured.syscalls));
    }
    if wants(Part::Instructions) {
        measured.instructions = instructions::measure(&mut bench)?;
        println!("### Instructions, shape A\n\n{}", instructions::table(&measured.instructions));
    }
    if wants(Part::Memory) {
        measured.idle = memory::measure_idle(&mut bench)?;
        println!("### Idle sockets\n\n{}", memory::idle_table(&measured.idle, bench.sockets));
    }
    if wants(Part::Churn) {
        measured.churn = memory::measure_churn(&mut bench)?;
        if let Some(churn) = &measured.churn {
            println!("### Streams opened and closed\n\n{}", memory::churn_table(churn));
        }
    }
    println!("### Goals\n\n{}", goals::table(&measured));
    println!(
        "Load average at the end: {:.1}. Every reading: {}.",
        proc_fs::load_average(),
        args.raw.display()
    );
    Ok(())
}

/// On what, and with what.
fn machine(bench: &Bench) -> String {
    let version = |program: &Option<String>, none: &str| -> String {
        let Some(program) = program else { return none.to_owned() };
        let output = Command::new(program).arg("--version").output();
        let text =
            output.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
        text.lines().last().unwrap_or_default().rsplit("version: ").next().unwrap_or_default().to_owned()
    };
    format!(
        "{}. Load average {:.1}. {} rounds{}. Bidiway: {}. Envoy: {}.",
        proc_fs::machine(),
        proc_fs::load_average(),
        bench.rounds,
        if bench.quick { " (quick: a tenth of the load)" } else { "" },
        version(&bench.programs.bidiway, "none"),
        version(&bench.programs.envoy, "none"),
    )
}

fn spoken(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Session => "session",
        Dialect::SessionHttp => "session (HTTP)",
        Dialect::H2 => "gRPC",
        Dialect::GrpcWeb => "gRPC-Web",
    }
}
