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

/// How a call's window opens: sending waits until there is room for what is left, for [`ENOUGH`], or for half of what
/// this server is known to give.
#[derive(Debug)]
pub(super) struct Trickle {
    enough: usize,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Default for Trickle {
    fn default() -> Self {
        Self { enough: ENOUGH, patience: None }
    }
}

impl Trickle {
    /// Whether so much room is worth a frame, of the `want` that there is to send.
    pub(super) fn is_enough(&mut self, room: usize, want: usize) -> bool {
        self.enough = self.enough.max(room / 2).min(ENOUGH);
        let enough = room > 0 && room >= want.min(self.enough);
        if enough || room == 0 {
            self.patience = None;
        }
        enough
    }

    /// Ready when there was no more than this room for long enough. Half of it will do from then on: this may be all
    /// that the server ever gives.
    pub(super) fn poll_patience(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<()> {
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        ready!(patience.as_mut().poll(cx));
        self.patience = None;
        self.enough = (room / 2).max(1);
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
        assert!(
            !trickle.is_enough(49, 5000) && trickle.is_enough(50, 5000),
            "a window of 100 is what there is"
        );
        assert!(trickle.is_enough(4000, 5000) && !trickle.is_enough(1000, 5000), "and a larger one another");
    }
}
