//! Resets of streams that a server may not have noticed yet, a few at a time.

use std::{collections::VecDeque, fmt, future::Future, pin::Pin, sync::Mutex, task::Context, time::Duration};

use futures_util::task::AtomicWaker;
use h2::{Reason, SendStream};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Chunk, lock};

/// How many go out in one interval. Servers take many streams that are reset before they were accepted for an attack
/// (CVE-2023-44487) and end the connection, with everybody else's calls on it: h2, and with it tonic, at the 21st that
/// it finds in one go.
const BURST: usize = 10;

/// The interval: time for a server to accept what it was sent. 200 calls that are opened and given up at once are
/// gone in less than half a second.
const INTERVAL: Duration = Duration::from_millis(20);

/// The early resets of one connection.
#[derive(Default)]
pub(super) struct EarlyResets {
    state: Mutex<State>,
    /// The connection's task.
    task: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// Bounded as open calls are; each is gone after its turn.
    waiting: VecDeque<SendStream<Chunk>>,
    /// How many went out in the interval that ends at `until`.
    sent: usize,
    until: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for EarlyResets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyResets").field("waiting", &lock(&self.state).waiting.len()).finish()
    }
}

impl EarlyResets {
    /// Resets a stream now, or in its turn.
    pub(super) fn push(&self, stream: SendStream<Chunk>) {
        let mut state = lock(&self.state);
        state.waiting.push_back(stream);
        if !state.send_some(Instant::now()) {
            drop(state);
            self.task.wake();
        }
    }

    /// To be polled by the connection's task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        self.task.register(cx.waker());
        let mut state = lock(&self.state);
        while !state.send_some(Instant::now()) {
            let Some(until) = state.until else { return };
            let sleep = state.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    /// The connection is over.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        drop(waiting); // outside the lock
    }
}

impl State {
    /// Sends what may be sent now. Returns whether nothing is left.
    fn send_some(&mut self, now: Instant) -> bool {
        if self.waiting.is_empty() {
            return true;
        }
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + INTERVAL);
            self.sent = 0;
        }
        while self.sent < BURST
            && let Some(mut stream) = self.waiting.pop_front()
        {
            stream.send_reset(Reason::CANCEL);
            self.sent += 1;
        }
        self.waiting.is_empty()
    }
}
