//! What an HTTP carrier's requests and its session's task have in common.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::{Notify, futures::Notified, oneshot},
    time::Instant,
};

use super::Owner;
use crate::{
    downstream::carrier::link::{Incoming, Lost, PACKET_TARGET},
    session::CloseReason,
    wire::{Code, http_carrier},
};

/// One HTTP carrier: requests, on any worker, put in at one end what the session's task takes out at the other, and
/// the other way round. Each direction holds one packet at most.
///
/// The lock is held for a look and a move of pointers, never across anything that waits.
#[derive(Debug)]
pub(super) struct Line {
    /// A secret: who knows it may use the carrier.
    pub(super) name: Bytes,
    /// Who has opened it, and alone may use it.
    pub(super) owner: Owner,
    /// Each response down is complete.
    pub(super) polls: bool,
    ends: Mutex<Ends>,
    /// Told when a packet of the client's has been taken, or the carrier is over.
    taken: Notify,
}

#[derive(Debug)]
struct Ends {
    up: Up,
    down: Down,
    /// The proxy has closed the carrier: what the client still sends is thrown away.
    closing: bool,
    /// The session's task has let go of the carrier.
    over: bool,
}

#[derive(Debug)]
struct Up {
    /// The packet of the request that opened the carrier.
    first: Option<Bytes>,
    /// The packet of this number waits for the session.
    waiting: Option<Bytes>,
    /// Of the last packet that came.
    number: u64,
    /// The client broke the rules, or is gone. What came before is taken before.
    end: Option<End>,
    /// The client sent something that is no packet.
    alive: bool,
    reader: Option<Waker>,
}

#[derive(Debug)]
enum End {
    Closed(Option<u16>),
    Lost,
    Unfit(CloseReason),
    Violation(CloseReason),
}

#[derive(Debug)]
struct Down {
    /// What the client has not fetched.
    out: BytesMut,
    /// The padding was sent.
    padded: bool,
    /// Who waits for room in `out`.
    writer: Option<Waker>,
    /// The response that streams waits for something in `out`.
    body: Option<Waker>,
    poll: PollState,
}

/// The polls of a carrier that polls.
#[derive(Debug)]
struct PollState {
    /// Of the last poll. 0 is the request that opened the carrier.
    number: u64,
    /// Where its answer goes, while it waits.
    waiting: Option<oneshot::Sender<Bytes>>,
    /// Its answer, once there is one, in case that it was lost.
    answer: Option<Bytes>,
    /// When the last one stopped waiting.
    since: Instant,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits for the session, or an equal one does.
    Waits,
    /// It was taken before, or nobody wants it any more.
    Taken,
    /// Its number is not the next.
    Gap,
}

/// What becomes of a poll.
#[derive(Debug)]
pub(super) enum Asked {
    /// There was something to answer.
    Answer(Bytes),
    /// Something may come here.
    Waits(oneshot::Receiver<Bytes>),
    /// Later ones have come already.
    Old,
    /// Its number is not the next.
    Gap,
}

impl Line {
    /// A new carrier whose first packet is there; `crowded`: with more in it than Hello. If it polls, the receiver
    /// gets the answer to its opening.
    pub(super) fn new(
        name: Bytes,
        owner: Owner,
        polls: bool,
        first: Bytes,
        crowded: bool,
    ) -> (Self, oneshot::Receiver<Bytes>) {
        let (waiting, answer) = oneshot::channel();
        let end = crowded.then(|| {
            let text = "the request that opens a carrier holds Hello and nothing else";
            End::Violation(CloseReason::new(Code::INVALID_ARGUMENT, "malformed", text))
        });
        let first = (!crowded).then_some(first);
        let ends = Ends {
            up: Up { first, waiting: None, number: 0, end, alive: false, reader: None },
            down: Down {
                out: BytesMut::from(&http_carrier::opened(name.clone())[..]),
                padded: polls,
                writer: None,
                body: None,
                poll: PollState {
                    number: 0,
                    waiting: polls.then_some(waiting),
                    answer: None,
                    since: Instant::now(),
                },
            },
            closing: false,
            over: false,
        };
        (Self { name, owner, polls, ends: Mutex::new(ends), taken: Notify::new() }, answer)
    }

    // What requests do.

    /// A packet has come.
    pub(super) fn put(&self, number: u64, packet: Bytes) -> Put {
        let mut ends = self.ends();
        if ends.closing {
            return Put::Taken;
        }
        let up = &mut ends.up;
        if number <= up.number {
            up.hear();
            return if number == up.number && up.waiting.is_some() { Put::Waits } else { Put::Taken };
        }
        if number != up.number + 1 || up.waiting.is_some() {
            let expected = up.number + 1;
            let text = format!("packet {number} came where {expected} was due, or before its turn");
            up.fail(End::Unfit(CloseReason::new(Code::UNAVAILABLE, "carrier_gap", text)));
            return Put::Gap;
        }
        up.number = number;
        up.waiting = Some(packet);
        up.wake();
        Put::Waits
    }

    /// Completes when the packet of this number has been taken. False: it never will be.
    pub(super) async fn taken(&self, number: u64) -> bool {
        loop {
            let taken: Notified<'_> = self.taken.notified();
            {
                let ends = self.ends();
                if ends.closing || ends.up.number > number || ends.up.waiting.is_none() {
                    return true;
                }
                if ends.over {
                    return false;
                }
            }
            taken.await;
        }
    }

    /// The client closes the carrier.
    pub(super) fn hang_up(&self, code: Option<u16>) {
        self.ends().up.fail(End::Closed(code));
    }

    /// The client did what ends its session.
    pub(super) fn violate(&self, reason: CloseReason) {
        self.ends().up.fail(End::Violation(reason));
    }

    /// A poll has come.
    pub(super) fn ask(&self, number: u64) -> Asked {
        let mut ends = self.ends();
        let Ends { up, down, .. } = &mut *ends;
        let poll = &mut down.poll;
        up.hear();
        if number < poll.number {
            return Asked::Old;
        }
        if number > poll.number + 1 {
            let text = format!("poll {number} came where {} was due", poll.number + 1);
            up.fail(End::Unfit(CloseReason::new(Code::UNAVAILABLE, "carrier_gap", text)));
            return Asked::Gap;
        }
        if number == poll.number {
            if let Some(answer) = &poll.answer {
                return Asked::Answer(answer.clone());
            }
        } else {
            poll.number = number;
            poll.answer = None;
            if !down.out.is_empty() {
                return Asked::Answer(down.answer());
            }
        }
        let (sender, receiver) = oneshot::channel();
        // The one that waited, if there was one, learns that by its channel.
        down.poll.waiting = Some(sender);
        Asked::Waits(receiver)
    }

    /// A poll has waited long enough. Its answer, which may have come just now; `None`: another one waits in its place.
    pub(super) fn stop_waiting(&self, mut receiver: oneshot::Receiver<Bytes>) -> Option<Bytes> {
        let mut ends = self.ends();
        match receiver.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Closed) => None,
            Err(oneshot::error::TryRecvError::Empty) => Some(ends.down.answer()),
        }
    }

    /// The next bytes of the response that streams; `None` at its end.
    pub(super) fn poll_body(&self, waker: &Waker) -> Poll<Option<Bytes>> {
        let mut ends = self.ends();
        let (over, closing) = (ends.over, ends.closing);
        let down = &mut ends.down;
        if !down.out.is_empty() {
            return Poll::Ready(Some(down.take()));
        }
        if over || closing {
            return Poll::Ready(None);
        }
        set(&mut down.body, waker);
        Poll::Pending
    }

    /// The response that streams is gone.
    pub(super) fn body_dropped(&self) {
        let mut ends = self.ends();
        ends.up.fail(End::Lost);
        ends.down.out = BytesMut::new();
        wake(&mut ends.down.writer);
    }

    // What the session's task does.

    pub(super) fn poll_read(&self, waker: &Waker) -> Poll<Incoming> {
        let mut ends = self.ends();
        let up = &mut ends.up;
        if let Some(first) = up.first.take() {
            return Poll::Ready(Incoming::Packet(first));
        }
        if let Some(packet) = up.waiting.take() {
            // It is handled as soon as this returns.
            self.taken.notify_waiters();
            return Poll::Ready(Incoming::Packet(packet));
        }
        if let Some(end) = up.end.take() {
            return Poll::Ready(match end {
                End::Closed(code) => Incoming::Closed(code),
                End::Lost => Incoming::Lost,
                End::Unfit(reason) => Incoming::Unfit(reason),
                End::Violation(reason) => Incoming::Violation(reason),
            });
        }
        if mem::take(&mut up.alive) {
            return Poll::Ready(Incoming::Alive);
        }
        set(&mut up.reader, waker);
        Poll::Pending
    }

    /// Since when no poll waits; `None` while one does.
    pub(super) fn unasked_since(&self) -> Option<Instant> {
        let mut ends = self.ends();
        let poll = &mut ends.down.poll;
        if poll.waiting.as_ref().is_some_and(oneshot::Sender::is_closed) {
            poll.waiting = None;
            poll.since = Instant::now();
        }
        poll.waiting.is_none().then_some(poll.since)
    }

    /// Ready when `out` is not full.
    pub(super) fn poll_room(&self, waker: &Waker) -> Poll<Result<(), Lost>> {
        let mut ends = self.ends();
        if matches!(ends.up.end, Some(End::Lost)) {
            return Poll::Ready(Err(Lost));
        }
        let down = &mut ends.down;
        if down.out.len() < PACKET_TARGET {
            return Poll::Ready(Ok(()));
        }
        set(&mut down.writer, waker);
        Poll::Pending
    }

    /// How many bytes wait for the client.
    pub(super) fn waiting(&self) -> usize {
        self.ends().down.out.len()
    }

    /// A packet in its field, for the client.
    pub(super) fn send(&self, field: &[u8]) {
        let mut ends = self.ends();
        if ends.closing {
            return;
        }
        let down = &mut ends.down;
        down.out.extend_from_slice(field);
        if !mem::replace(&mut down.padded, true) {
            http_carrier::padding(&mut down.out);
        }
        down.offer();
    }

    /// The last field, for the client.
    pub(super) fn close(&self, code: u16, reason: &str) {
        let mut ends = self.ends();
        if mem::replace(&mut ends.closing, true) {
            return;
        }
        ends.up.waiting = None;
        self.taken.notify_waiters();
        ends.down.out.extend_from_slice(&http_carrier::close(code, reason));
        ends.down.offer();
        wake(&mut ends.down.body);
    }

    /// After `close`: ready when the client has fetched everything, or is gone.
    pub(super) fn poll_fetched(&self, waker: &Waker) -> Poll<()> {
        let mut ends = self.ends();
        let down = &mut ends.down;
        if down.out.is_empty() {
            return Poll::Ready(());
        }
        set(&mut down.writer, waker);
        Poll::Pending
    }

    /// The session's task has let go of the carrier.
    pub(super) fn is_over(&self) -> bool {
        self.ends().over
    }

    /// The session's task lets go of the carrier.
    pub(super) fn end(&self) {
        let mut ends = self.ends();
        ends.over = true;
        // Nobody fetches it any more, or it was fetched.
        ends.down.out = BytesMut::new();
        ends.down.poll.waiting = None;
        wake(&mut ends.down.body);
        self.taken.notify_waiters();
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Up {
    fn hear(&mut self) {
        self.alive = true;
        self.wake();
    }

    /// The first reason counts.
    fn fail(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
        }
        self.wake();
    }

    fn wake(&mut self) {
        wake(&mut self.reader);
    }
}

impl Down {
    /// All that waits for the client.
    fn take(&mut self) -> Bytes {
        wake(&mut self.writer);
        mem::take(&mut self.out).freeze()
    }

    /// All that waits, as the answer to the last poll.
    fn answer(&mut self) -> Bytes {
        let answer = self.take();
        self.poll.waiting = None;
        self.poll.answer = Some(answer.clone());
        self.poll.since = Instant::now();
        answer
    }

    /// There is something in `out`: whoever waits for it gets it.
    fn offer(&mut self) {
        wake(&mut self.body);
        match self.poll.waiting.take() {
            // Its request is gone; the next one gets it.
            Some(waiting) if waiting.is_closed() => self.poll.since = Instant::now(),
            Some(waiting) => {
                let _ = waiting.send(self.answer());
            }
            None => {}
        }
    }
}

fn set(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

fn wake(place: &mut Option<Waker>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}

/// How long the proxy waits at least before it answers a poll with nothing.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_secs(1);
