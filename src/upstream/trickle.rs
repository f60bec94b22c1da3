//! Against silly windows: a server that opens its window byte by byte is not sent a frame for each.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// What is sent at once where the window allows it, in bytes: next to this a frame's header is nothing.
const ENOUGH: usize = 1024;

/// The longest wait for more. A server may give no more before it has what it gave room for: it must get that, and not
/// much later (RFC 9293, section 3.8.6.2.1, has such a time too, for TCP).
const PATIENCE: Duration = Duration::from_millis(20);

/// After so many frames twice as much is waited for, as the server may have become quicker. Each time that this was in
/// vain, twice as many later.
const FIRST_TRY: u8 = 8;
const LAST_TRY: u8 = 64;

/// How a call's window opens: sending waits until there is room for what is left, for [`ENOUGH`], or for half of what
/// this server is known to give.
#[derive(Debug)]
pub(super) struct Trickle {
    enough: usize,
    /// Frames to go until more is tried, and how many it will be after the next failure.
    tries: (u8, u8),
    patience: Option<Pin<Box<Sleep>>>,
}

impl Default for Trickle {
    fn default() -> Self {
        Self { enough: ENOUGH, tries: (0, FIRST_TRY), patience: None }
    }
}

impl Trickle {
    /// Whether so much room is worth a frame, of the `want` that there is to send.
    pub(super) fn is_enough(&mut self, room: usize, want: usize) -> bool {
        if room == 0 {
            self.patience = None;
            return false;
        }
        if room >= self.enough && self.enough < ENOUGH {
            match &mut self.tries.0 {
                0 => self.enough *= 2,
                left => *left -= 1,
            }
            self.enough = self.enough.max(room / 2).min(ENOUGH);
        } else if room < want.min(self.enough) {
            return false;
        }
        self.patience = None;
        true
    }

    /// Ready when there was no more than this room for long enough. Half of it will do from then on, as this may be all
    /// that the server ever gives; but no less than a quarter of what was waited for, as it may just have been slow.
    pub(super) fn poll_patience(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<()> {
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        ready!(patience.as_mut().poll(cx));
        self.patience = None;
        self.enough = (room / 2).max(self.enough / 4).max(1);
        self.tries = (self.tries.1, self.tries.1.saturating_mul(2).min(LAST_TRY));
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn small_room_is_waited_with_but_not_for_ever() {
        let mut trickle = Trickle::default();
        assert!(!trickle.is_enough(0, 10) && !trickle.is_enough(100, 5000));
        assert!(trickle.is_enough(10, 10), "all that is left");
        assert!(trickle.is_enough(1024, 5000));
        let begin = Instant::now();
        poll_fn(|cx| trickle.poll_patience(cx, 100)).await;
        assert_eq!(begin.elapsed(), PATIENCE);
        assert!(!trickle.is_enough(100, 5000), "not before a quarter of what it was");
        poll_fn(|cx| trickle.poll_patience(cx, 100)).await;
        assert!(
            !trickle.is_enough(63, 5000) && trickle.is_enough(64, 5000),
            "a window of 100 is what there is"
        );
        assert!(trickle.is_enough(4000, 5000) && !trickle.is_enough(1000, 5000), "and a larger one another");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_window_costs_patience_seldom_and_a_moments_slowness_is_forgotten() {
        let mut trickle = Trickle::default();
        let (mut frames, mut waits) = (0, 0);
        while frames < 1000 {
            if !trickle.is_enough(100, 5000) {
                waits += 1;
                poll_fn(|cx| trickle.poll_patience(cx, 100)).await;
            }
            frames += 1;
        }
        assert!((2..30).contains(&waits), "{waits} waits for 1000 frames of 100 bytes");

        let mut trickle = Trickle::default();
        poll_fn(|cx| trickle.poll_patience(cx, 1)).await;
        // Now the window opens quickly, byte by byte.
        for _ in 0..20 {
            let mut room = 1;
            while !trickle.is_enough(room, 5000) {
                room += 1;
            }
        }
        assert!(!trickle.is_enough(1023, 5000), "after 20 frames all is as before");
    }
}
