//! How a session is reached from outside of its task.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{link::Link, ready::KeyWaker};
use crate::{
    downstream::{ConnInfo, Visitor},
    session::Refusal,
    wire::v1::{self, ResumeFailure},
};

/// How many carriers may wait for one session. A client has one at a time; a few more may still be on their way that
/// it gave up.
const WAITING: usize = 4;

/// A carrier that asks for a session. Its task waits for the answer, so there is always one: also when this is
/// dropped.
pub(super) struct Arrival {
    /// What the client said on it. It holds the token: not for logs.
    pub(super) hello: v1::Hello,
    pub(super) conn: ConnInfo,
    pub(super) visitor: Visitor,
    /// Both are there until the answer is given.
    waiting: Option<(Link, oneshot::Sender<Answer>)>,
}

/// What becomes of a carrier that asks for a session.
#[derive(Debug)]
pub(super) enum Answer {
    /// The session has it now.
    Taken,
    /// It comes back; the session does not go on here.
    Refused(Link, Refusal),
    /// It comes back; too many ask for the same session at once.
    Busy(Link),
}

impl Arrival {
    /// And where its answer comes.
    pub(super) fn new(
        hello: v1::Hello,
        conn: ConnInfo,
        visitor: Visitor,
        link: Link,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        (Self { hello, conn, visitor, waiting: Some((link, answer)) }, answered)
    }

    /// The carrier is the session's.
    pub(super) fn accept(mut self) -> Option<Link> {
        let (link, answer) = self.waiting.take()?;
        let _ = answer.send(Answer::Taken);
        Some(link)
    }

    pub(super) fn refuse(mut self, refusal: Refusal) {
        self.give_back(|link| Answer::Refused(link, refusal));
    }

    pub(super) fn busy(mut self) {
        self.give_back(Answer::Busy);
    }

    fn give_back(&mut self, say: impl FnOnce(Link) -> Answer) {
        if let Some((link, answer)) = self.waiting.take() {
            let _ = answer.send(say(link));
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.give_back(|link| Answer::Refused(link, Refusal::Failure(ResumeFailure::StateLost)));
    }
}

/// Without the token.
impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("peer", &self.conn.peer).finish_non_exhaustive()
    }
}

/// What others have for a session's task; on any worker. Bounded.
#[derive(Debug)]
pub(super) struct Mailbox {
    waker: KeyWaker,
    letters: Mutex<Letters>,
}

/// What a task finds in its mailbox.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// Carriers that ask for the session.
    pub(super) arrivals: Vec<Arrival>,
    /// The session has lost this place among those that are parked: the last one that was taken from it. It may have
    /// another by now.
    pub(super) evicted: Option<u64>,
    closed: bool,
}

impl Mailbox {
    /// Its owner is woken by this key.
    pub(super) fn new(waker: KeyWaker) -> Self {
        Self { waker, letters: Mutex::default() }
    }

    /// Brings a carrier, or tells it that it cannot be taken.
    pub(super) fn deliver(&self, arrival: Arrival) {
        let mut letters = self.letters();
        if letters.closed {
            drop(letters);
            return; // dropped: the session's state is lost
        }
        if letters.arrivals.len() >= WAITING {
            drop(letters);
            return arrival.busy();
        }
        letters.arrivals.push(arrival);
        drop(letters);
        self.waker.wake();
    }

    /// Tells the session that it has lost the place of this number.
    pub(super) fn evict(&self, place: u64) {
        self.letters().evicted = Some(place);
        self.waker.wake();
    }

    /// The owner, when its key was woken: what there is.
    pub(super) fn open(&self) -> Letters {
        self.waker.arm();
        std::mem::take(&mut *self.letters())
    }

    /// The session is over: who still waits is told so.
    pub(super) fn close(&self) {
        let arrivals = {
            let mut letters = self.letters();
            letters.closed = true;
            std::mem::take(&mut letters.arrivals)
        };
        drop(arrivals);
    }

    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
