//! Two sides of a session over carriers that delay, split, merge and are cut, replaced and doubled, against a model of
//! what each call may see. Deterministic: the same seed does the same things, and a failure names its seed.
//!
//! `SIM_SEED=n` runs one seed, `SIM_SEEDS=n` the first n (default 2,048), `SIM_STEPS=n` so many steps each.

mod call;
mod carriers;
mod coverage;
mod events;
mod pipe;
mod rng;
mod world;

use std::{
    io::Write as _,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use coverage::Coverage;
use rng::Rng;
use world::World;

/// How many seeds are run unless somebody says otherwise.
const SEEDS: u64 = 2048;

#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; only differences matter")]
fn epoch() -> Instant {
    Instant::now()
}

fn run(seed: u64, steps: usize, coverage: &mut Coverage) {
    let mut rng = Rng(seed);
    let mut left = steps;
    while left > 0 {
        let mut world = World::new(&mut rng, coverage, epoch());
        while left > 0 && world.step() {
            left -= 1;
        }
        left = left.saturating_sub(1);
        if !world.client_closed {
            world.finale();
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Says which seed it was when a run fails, and lets no other begin.
struct Seed<'a>(u64, usize, &'a AtomicU64);

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.2.store(u64::MAX, Ordering::Relaxed);
            #[expect(clippy::print_stderr, reason = "the seed is what a failure is about")]
            {
                eprintln!("the run that failed: SIM_SEED={} SIM_STEPS={}", self.0, self.1);
            }
        }
    }
}

/// Runs all seeds from `next` to `end`, together with whoever else takes from `next`.
fn run_some(next: &AtomicU64, end: u64, steps: usize) -> Coverage {
    let mut coverage = Coverage::default();
    loop {
        let seed =
            next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seed| (seed < end).then_some(seed + 1));
        let Ok(seed) = seed else { return coverage };
        let _said_when_it_fails = Seed(seed, steps, next);
        run(seed, steps, &mut coverage);
    }
}

#[test]
fn whatever_happens_every_call_sees_what_it_should() {
    let steps = setting("SIM_STEPS").map_or(2000, |n| n as usize);
    let seeds = match setting("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let next = AtomicU64::new(seeds.start);
    let coverage = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let threads: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| run_some(&next, seeds.end, steps))).collect();
        let mut all = Coverage::default();
        for thread in threads {
            match thread.join() {
                Ok(coverage) => all.add(coverage),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    // Past the test harness, which would keep it to itself.
    let count = seeds.end - seeds.start;
    let report = format!("{count} seeds of {steps} steps\n{coverage}");
    std::io::stdout().write_all(report.as_bytes()).expect("standard output takes it");
    if count >= 512 {
        let missing = coverage.missing();
        assert!(missing.is_empty(), "the simulation never did: {missing:?}");
    }
}

#[test]
fn a_seed_does_the_same_things_every_time() {
    let (mut one, mut two) = (Coverage::default(), Coverage::default());
    run(7, 500, &mut one);
    run(7, 500, &mut two);
    assert_eq!(one, two);
}
