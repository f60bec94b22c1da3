//! Resets of streams that a server may not have noticed yet, spread over time.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use h2::{Reason, SendStream};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Chunk, lock, pool::Slot};

/// How many go out at once in one [`PAUSE`]. Servers take many streams that are reset before they were accepted for an
/// attack (CVE-2023-44487) and end the connection, with everybody else's calls on it: h2, and with it tonic, at the 21st
/// that it finds in one go.
const AT_ONCE: u32 = 10;

/// How long those beyond wait at least: time for a server to accept their streams.
const PAUSE: Duration = Duration::from_millis(100);

/// The time between two of those: a server that is busy with a flood of calls must not find their ends in one go.
const SPACING: Duration = Duration::from_micros(500);

/// The longest wait, however many there are: a cancellation has to arrive within a second.
const LONGEST: Duration = Duration::from_millis(900);

/// The early resets of one connection.
#[derive(Default)]
pub(super) struct EarlyResets {
    state: Mutex<State>,
    /// The connection's task.
    task: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// In the order of `due`. Bounded by the server's stream limit, as each keeps its slot.
    waiting: VecDeque<Waiting>,
    /// How many went out at once since `since`.
    sent: u32,
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

struct Waiting {
    due: Instant,
    stream: SendStream<Chunk>,
    /// The stream is open as far as the server knows. Without its slot more streams would be opened than the server
    /// allows: they would wait in h2 behind this one, other clients' calls among them, and once there is room they
    /// would be reset right behind their HEADERS.
    _slot: Option<Slot>,
}

impl fmt::Debug for EarlyResets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyResets").field("waiting", &lock(&self.state).waiting.len()).finish()
    }
}

impl EarlyResets {
    /// Resets a stream now, or in its turn; its slot is free then.
    pub(super) fn push(&self, mut stream: SendStream<Chunk>, slot: Option<Slot>) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.since.is_none_or(|since| now - since >= PAUSE) {
            state.since = Some(now);
            state.sent = 0;
        }
        if state.sent < AT_ONCE {
            state.sent += 1;
            drop(state); // a slot that is dropped lets another call in
            return stream.send_reset(Reason::CANCEL);
        }
        let spaced = state.waiting.back().map_or(now, |last| last.due + SPACING);
        let due = spaced.clamp(now + PAUSE, now + LONGEST);
        state.waiting.push_back(Waiting { due, stream, _slot: slot });
        drop(state);
        self.task.wake();
    }

    /// To be polled by the connection's task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        self.task.register(cx.waker());
        loop {
            // Dropped outside the lock.
            let next = lock(&self.state).poll_next(cx);
            let Poll::Ready(Some(mut next)) = next else { return };
            next.stream.send_reset(Reason::CANCEL);
        }
    }

    /// The connection is over.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        drop(waiting); // outside the lock
    }
}

impl State {
    /// The next that is due; `None` when none waits.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Waiting>> {
        let Some(first) = self.waiting.front() else {
            self.waiting = VecDeque::new(); // a burst must not pin its room
            self.sleep = None;
            return Poll::Ready(None);
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(first.due)));
        if sleep.deadline() != first.due {
            sleep.as_mut().reset(first.due);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(self.waiting.pop_front())
    }
}
