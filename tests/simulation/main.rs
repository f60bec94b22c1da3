//! Two sides of a session over carriers that delay, split, merge and are cut, replaced and doubled, against a model of
//! what each call may see. Deterministic: the same seed does the same things, and a failure names its seed.
//!
//! `SIM_SEED=n` runs one seed, `SIM_SEEDS=n` the first n (default 128), `SIM_STEPS=n` so many steps each.

mod call;
mod carriers;
mod events;
mod pipe;
mod rng;
mod world;

use std::{collections::BTreeMap, time::Instant};

use rng::Rng;
use world::World;

/// How often each thing was exercised.
pub(crate) type Coverage = BTreeMap<&'static str, u64>;

/// What must have happened at least once when all seeds have run.
const EXPECTED: &[&str] = &[
    "Ack up",
    "Ack down",
    "Cancel",
    "Credit up",
    "Credit down",
    "data up",
    "data down",
    "GoAway",
    "HalfClose",
    "Headers",
    "Hello",
    "Open",
    "Ping",
    "Pong",
    "Refresh",
    "Trailers",
    "Welcome",
    "cut",
    "drained",
    "oversized",
    "refused while going away",
    "refused for too many",
    "writable",
    // Of sessions that can be resumed.
    "Hello came twice",
    "a late Hello was refused",
    "a late packet was thrown away",
    "attached",
    "cut before a resume was answered",
    "cut before the first Welcome",
    "cut for both",
    "cut for the client",
    "cut for the proxy",
    "cut while the client sent again",
    "cut while the proxy sent again",
    "drained by a resume",
    "drained while the client was away",
    "lost, and not processed",
    "much is kept",
    "resumed",
    "resumed when nothing had been received",
    "sent again down",
    "sent again up",
    "silence for the client",
    "silence for the proxy",
    "started over",
    "started over with open calls",
    "taken over by a Hello that nobody waits for",
    "the client gave the session up",
    "the proxy gave the session up",
    "the same token was announced again",
    "took over from a carrier that seemed alive",
];

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

/// Says which seed it was when a run fails.
struct Seed(u64, usize);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the seed is what a failure is about")]
            {
                eprintln!("the run that failed: SIM_SEED={} SIM_STEPS={}", self.0, self.1);
            }
        }
    }
}

#[test]
fn whatever_happens_every_call_sees_what_it_should() {
    let steps = setting("SIM_STEPS").map_or(2000, |n| n as usize);
    let seeds = match setting("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("SIM_SEEDS").unwrap_or(128),
    };
    let mut coverage = Coverage::new();
    let enough = seeds.end - seeds.start >= 64;
    for seed in seeds {
        let seed = Seed(seed, steps);
        run(seed.0, seed.1, &mut coverage);
    }
    println!("{coverage:#?}");
    if enough {
        let missing: Vec<_> = EXPECTED.iter().filter(|what| !coverage.contains_key(**what)).collect();
        assert!(missing.is_empty(), "the simulation never did: {missing:?}");
    }
}

#[test]
fn a_seed_does_the_same_things_every_time() {
    let (mut one, mut two) = (Coverage::new(), Coverage::new());
    run(7, 500, &mut one);
    run(7, 500, &mut two);
    assert_eq!(one, two);
}
