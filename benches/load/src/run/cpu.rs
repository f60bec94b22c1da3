//! CPU time per operation, in interleaved rounds.

use std::{collections::HashMap, thread, time::Duration};

use serde_json::json;

use super::{
    Bench,
    driver::Driver,
    proc_fs,
    target::{Running, Target},
};
use crate::shape::Named;

const TARGETS: [Target; 5] =
    [Target::Direct, Target::Relay, Target::Envoy, Target::Bidiway, Target::BidiwayH2];

/// The best of all rounds of one shape through one target. Other work on the machine only ever adds, so the least
/// is nearest to the truth.
#[derive(Clone, Copy, Debug)]
pub struct Best {
    /// CPU nanoseconds per operation.
    pub proxy: f64,
    pub client: f64,
    pub echo: f64,
    /// Operations a second.
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p99_count: u64,
}

#[derive(Debug, Default)]
pub struct Cpu {
    pub best: HashMap<(Named, Target), Best>,
    /// Shapes in which the relay's own figure moved, and by how much: what was measured beside it is doubtful.
    pub drift: Vec<(Named, f64)>,
}

pub fn measure(bench: &mut Bench) -> anyhow::Result<Cpu> {
    let echo = bench.programs.echo(&[])?;
    let mut running: HashMap<Target, Running> = HashMap::new();
    for target in TARGETS {
        if target != Target::Direct && bench.programs.has(target) {
            running.insert(target, bench.programs.start(target, echo.address, &[])?);
        }
    }
    let mut cpu = Cpu::default();
    for shape in bench.shapes.clone() {
        let mut floor = Vec::new();
        for round in 0..bench.rounds {
            for target in TARGETS {
                // Native gRPC has no gRPC-Web, and the light load is about the other figures' shape.
                if shape == Named::G && target == Target::BidiwayH2 {
                    continue;
                }
                let through = if target == Target::Direct { Some(&echo) } else { running.get(&target) };
                let Some(through) = through else { continue };
                let sample = round_of(bench, shape, target, through, &echo, round)?;
                if target == Target::Relay {
                    floor.push(sample.proxy);
                }
                let best = cpu.best.entry((shape, target)).or_insert(sample);
                *best = Best {
                    proxy: best.proxy.min(sample.proxy),
                    client: best.client.min(sample.client),
                    echo: best.echo.min(sample.echo),
                    rate: best.rate.max(sample.rate),
                    p50_us: best.p50_us.min(sample.p50_us),
                    p99_us: best.p99_us.min(sample.p99_us),
                    p99_count: sample.p99_count,
                };
            }
        }
        if let (Some(first), Some(last)) = (floor.first(), floor.last()) {
            let moved = last / first - 1.0;
            if moved.abs() > 0.1 {
                cpu.drift.push((shape, moved));
            }
        }
    }
    Ok(cpu)
}

fn round_of(
    bench: &mut Bench,
    shape: Named,
    target: Target,
    through: &Running,
    echo: &Running,
    round: u32,
) -> anyhow::Result<Best> {
    let dialect = target.dialect(shape);
    let operations = bench.operations(shape);
    let mut driver = Driver::named(&bench.programs, through.address, dialect, shape)?;
    driver.go(operations.div_ceil(20))?;

    let clocks = |driver: &Driver| -> anyhow::Result<[u64; 3]> {
        // What is left to do after the last answer belongs to the work, too.
        thread::sleep(Duration::from_millis(20));
        Ok([
            proc_fs::cpu_ns(through.process.pid())?,
            proc_fs::cpu_ns(driver.pid())?,
            proc_fs::cpu_ns(echo.process.pid())?,
        ])
    };
    let before = clocks(&driver)?;
    let result = driver.go(operations)?;
    let after = clocks(&driver)?;

    let per_op = |i: usize| (after[i] - before[i]) as f64 / operations as f64;
    bench.raw(&json!({
        "part": "cpu", "shape": shape, "target": target, "dialect": dialect, "round": round,
        "operations": operations, "wall_ns": result.wall_ns, "p50_ns": result.p50_ns, "p99_ns": result.p99_ns,
        "proxy_cpu_ns": after[0] - before[0], "client_cpu_ns": after[1] - before[1],
        "echo_cpu_ns": after[2] - before[2], "load_average": proc_fs::load_average(),
    }))?;
    bench.progress(&format!("{shape:?} {} round {}: {:.2} µs/op", target.name(), round + 1, per_op(0) / 1e3));
    Ok(Best {
        proxy: per_op(0),
        client: per_op(1),
        echo: per_op(2),
        rate: operations as f64 / (result.wall_ns as f64 / 1e9),
        p50_us: result.p50_ns as f64 / 1e3,
        p99_us: result.p99_ns as f64 / 1e3,
        p99_count: operations,
    })
}

pub fn table(cpu: &Cpu, shapes: &[Named]) -> String {
    let mut out = String::from(
        "| shape | through | spoken | CPU µs/op | × relay | × Envoy | op/s | p50 µs | p99 µs | client µs/op | service µs/op |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for &shape in shapes {
        for target in TARGETS {
            let Some(best) = cpu.best.get(&(shape, target)) else { continue };
            let ratio = |to| match cpu.best.get(&(shape, to)) {
                Some(other) if target != to => format!("{:.2}", best.proxy / other.proxy),
                _ => String::new(),
            };
            let name = if target == Target::Direct {
                format!("**{shape:?}** {}", shape.describe())
            } else {
                String::new()
            };
            out += &format!(
                "| {name} | {} | {} | {:.2} | {} | {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |\n",
                target.name(),
                super::spoken(target.dialect(shape)),
                best.proxy / 1e3,
                ratio(Target::Relay),
                ratio(Target::Envoy),
                best.rate,
                best.p50_us,
                best.p99_us,
                best.client / 1e3,
                best.echo / 1e3,
            );
        }
    }
    for (shape, moved) in &cpu.drift {
        out += &format!(
            "\nShape {shape:?}: the relay's own figure moved by {:+.0} % between the first and the last round.\n",
            moved * 100.0
        );
    }
    out
}
