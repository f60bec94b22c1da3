//! Chance, by a seed.

use std::sync::LazyLock;

use bidiway::session::MAX_PIECE;
use bytes::Bytes;

use crate::world::MAX_MESSAGE;

/// What messages are cut from: at another place there are other bytes, so that a piece that is lost, doubled or in the
/// wrong place is seen. Making the bytes of each message anew would take most of a run's time.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = Rng(0);
    (0..MAX_MESSAGE / 4).flat_map(|_| rng.next().to_le_bytes()).collect()
});

/// Sebastiano Vigna's splitmix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }

    pub(crate) fn message(&mut self) -> Bytes {
        let size = match self.below(20) {
            0..3 => 0,
            3..11 => self.below(200),
            11..14 => 900 + self.below(300),
            14..17 => MAX_PIECE - 100 + self.below(200),
            17..19 => self.below(100_000),
            _ => self.below(MAX_MESSAGE),
        };
        let at = self.below(NOISE.len() - size);
        Bytes::from_static(&NOISE[at..at + size])
    }
}
