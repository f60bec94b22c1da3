//! The goals, and how far each is met.

use super::{
    cpu::Cpu,
    memory::{Churn, Idle},
    syscalls::Counts,
    target::Target,
};
use crate::shape::Named;

/// All that was measured; what was not is empty.
#[derive(Debug, Default)]
pub struct Measured {
    pub cpu: Cpu,
    pub syscalls: Vec<Counts>,
    pub instructions: Vec<(Target, f64)>,
    pub idle: Vec<Idle>,
    pub churn: Option<Churn>,
}

impl Measured {
    fn cpu_ns(&self, shape: Named, target: Target) -> Option<f64> {
        Some(self.cpu.best.get(&(shape, target))?.proxy)
    }

    fn ratio(&self, shape: Named, to: Target) -> Option<f64> {
        Some(self.cpu_ns(shape, Target::Bidiway)? / self.cpu_ns(shape, to)?)
    }

    fn syscalls(&self, shape: Named) -> Option<&Counts> {
        self.syscalls.iter().find(|c| c.shape == shape && c.target == Target::Bidiway)
    }

    fn quiet(&self, streams: u32) -> Option<f64> {
        let idle = self.idle.iter().find(|i| i.target == Target::Bidiway && i.streams == streams);
        idle.map(|idle| idle.quiet)
    }

    /// What Bidiway adds to the median latency of shape A, over what the relay adds.
    fn added_p50(&self) -> Option<f64> {
        let p50 = |target| Some(self.cpu.best.get(&(Named::A, target))?.p50_us);
        let added = |target| Some(p50(target)? - p50(Target::Direct)?);
        Some(added(Target::Bidiway)? / added(Target::Relay)?)
    }
}

/// The table of goals. The finer ones, from shape A's ratio to the relay on, were set from figures of another
/// machine, and are held as the ratios that they were there.
pub fn table(measured: &Measured) -> String {
    use Named::{A, B, C, D, E, G, U, V, W};
    use Target::{Bidiway, Envoy, Relay};
    let instructions = measured.instructions.iter().find(|(t, _)| *t == Bidiway).map(|(_, n)| *n);
    let further = measured.quiet(10).zip(measured.quiet(1)).map(|(ten, one)| (ten - one) / 9.0);
    let idle_cpu = measured.idle.iter().find_map(|idle| idle.cpu);
    let growth = measured.churn.as_ref().map(|churn| churn.growth() * 100.0);
    let rows: [(&str, &str, f64, Option<f64>); 20] = [
        ("B: echo, 50 × 1, CPU", "× relay", 1.45, measured.ratio(B, Relay)),
        ("B: echo, 50 × 1, CPU", "× Envoy", 0.75, measured.ratio(B, Envoy)),
        ("C: echo, 1 × 100, CPU", "× Envoy", 0.5, measured.ratio(C, Envoy)),
        ("A: echo, 1 × 1", "user instructions", 14_000.0, instructions),
        ("B: sends per echo", "", 1.15, measured.syscalls(B).map(|c| c.sends)),
        ("B: receives per echo", "", 1.3, measured.syscalls(B).map(|c| c.receives)),
        ("E: echo of 1 MiB, CPU", "× relay", 1.4, measured.ratio(E, Relay)),
        ("G: gRPC-Web unary, CPU", "× Envoy", 0.35, measured.ratio(G, Envoy)),
        ("idle socket, private memory", "KiB", 4.0, measured.quiet(0)),
        ("idle socket with one open stream", "KiB", 8.0, measured.quiet(1)),
        ("each further open stream", "KiB", 2.5, further),
        ("growth over 100,000 opened and closed streams", "%", 2.0, growth),
        ("A: echo, 1 × 1, CPU", "× relay", 1.32, measured.ratio(A, Relay)),
        ("A: echo, 1 × 1, CPU", "× Envoy", 0.77, measured.ratio(A, Envoy)),
        ("A: added p50", "× the relay's", 1.55, measured.added_p50()),
        ("D: echo, 10 × 10, 16 in flight, CPU", "× Envoy", 0.5, measured.ratio(D, Envoy)),
        ("U: unary, 10 × 5, CPU", "× Envoy", 0.36, measured.ratio(U, Envoy)),
        ("V: unary, 1 × 50, CPU", "× Envoy", 0.24, measured.ratio(V, Envoy)),
        ("W: unary, 50 × 1, CPU", "× Envoy", 0.48, measured.ratio(W, Envoy)),
        ("idle socket, CPU per second", "µs", 2.0, idle_cpu),
    ];
    let mut out = String::from("| what | goal, at most | measured | met |\n|---|--:|--:|---|\n");
    for (what, unit, goal, value) in rows {
        let (value, met) = match value {
            Some(value) => (format!("{value:.2}"), if value <= goal { "yes" } else { "**no**" }),
            None => ("not measured".to_owned(), ""),
        };
        out += &format!("| {what} | {goal} {unit} | {value} | {met} |\n");
    }
    out
}
