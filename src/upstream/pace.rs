//! Calls that may send only so fast.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::wire::envelope::PREFIX_LEN;

/// What is asked for at once of a long message, in bytes: a limit of bytes lets it pass evenly.
const PART: usize = 16 * 1024;

/// What tells a call how fast it may send.
pub trait Allowance: fmt::Debug + Send + Sync {
    /// Takes so many messages and bytes, which are then sent: now, or at the time that comes back.
    fn take(&self, messages: u32, bytes: usize) -> Option<Turn>;

    /// Gives back what was taken and is not sent: the call ended before its turn.
    fn give_back(&self, messages: u32, bytes: usize);

    /// A call has waited for so long because of a limit.
    fn waited(&self, limit: &'static str, time: Duration);
}

/// When a call's turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Not before this.
    pub at: Instant,
    /// Because of what.
    pub limit: &'static str,
}

/// One call's sending. It asks for each message when it comes to it, so that whoever sends many small ones in one piece
/// does not send them all on one word. Nothing is dropped: what may not go yet waits where it is, and its client, whose
/// bytes are not taken from it, waits too.
#[derive(Debug)]
pub(super) struct Pace {
    allowance: Arc<dyn Allowance>,
    /// Bytes that may be sent.
    granted: usize,
    /// Behind these.
    waiting: Option<Waiting>,
    /// What was asked for reaches so far: within a prefix, of which so much is here, or so many bytes before the end of
    /// a message.
    prefix: [u8; PREFIX_LEN],
    prefix_len: usize,
    left: usize,
}

#[derive(Debug)]
struct Waiting {
    messages: u32,
    bytes: usize,
    since: Instant,
    limit: &'static str,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    pub(super) fn new(allowance: Arc<dyn Allowance>) -> Self {
        Self { allowance, granted: 0, waiting: None, prefix: [0; PREFIX_LEN], prefix_len: 0, left: 0 }
    }

    /// How many of the `next` bytes may be sent now. These must be what follows what was sent; more of them may come.
    pub(super) fn poll<B: Buf + Clone>(&mut self, cx: &mut Context<'_>, next: &B) -> Poll<usize> {
        let len = next.remaining();
        loop {
            if let Some(waiting) = &mut self.waiting {
                if waiting.timer.as_mut().poll(cx).is_pending() {
                    return if self.granted > 0 { Poll::Ready(self.granted.min(len)) } else { Poll::Pending };
                }
                self.granted += waiting.bytes;
                self.end_wait();
            }
            if self.granted >= len {
                return Poll::Ready(len);
            }
            let mut rest = next.clone();
            rest.advance(self.granted);
            let (messages, bytes) = self.part(rest);
            match self.allowance.take(messages, bytes) {
                None => self.granted += bytes,
                Some(Turn { at, limit }) => {
                    let timer = Box::pin(sleep_until(at));
                    self.waiting = Some(Waiting { messages, bytes, since: Instant::now(), limit, timer });
                }
            }
        }
    }

    /// So many bytes were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.granted = self.granted.saturating_sub(bytes);
    }

    /// What is asked for next: how many messages begin in it, and its bytes. A message begins where its size is known.
    fn part(&mut self, mut next: impl Buf) -> (u32, usize) {
        let (mut messages, mut taken) = (0, 0);
        if self.left == 0 {
            taken = next.remaining().min(PREFIX_LEN - self.prefix_len);
            next.copy_to_slice(&mut self.prefix[self.prefix_len..self.prefix_len + taken]);
            self.prefix_len += taken;
            if self.prefix_len < PREFIX_LEN {
                return (0, taken);
            }
            let [_, size @ ..] = self.prefix;
            self.prefix_len = 0;
            self.left = u32::from_be_bytes(size) as usize;
            messages = 1;
        }
        let body = next.remaining().min(self.left).min(PART);
        self.left -= body;
        (messages, taken + body)
    }

    fn end_wait(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.allowance.waited(waiting.limit, waiting.since.elapsed());
        }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(Waiting { messages, bytes, .. }) = self.waiting {
            self.allowance.give_back(messages, bytes);
        }
        self.end_wait();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Mutex};

    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::{upstream::Chunk, wire::envelope::prefix};

    const SECOND: Duration = Duration::from_secs(1);

    /// Lets one message pass each second, and notes what it is asked.
    #[derive(Debug)]
    struct Slow {
        next: Mutex<Instant>,
        asked: Mutex<Vec<(u32, usize)>>,
        waited: Mutex<Duration>,
        given_back: Mutex<Vec<(u32, usize)>>,
    }

    impl Allowance for Slow {
        fn take(&self, messages: u32, bytes: usize) -> Option<Turn> {
            self.asked.lock().unwrap().push((messages, bytes));
            if messages == 0 {
                return None;
            }
            let mut next = self.next.lock().unwrap();
            let at = *next;
            *next += SECOND * messages;
            (at > Instant::now()).then_some(Turn { at, limit: "test" })
        }

        fn give_back(&self, messages: u32, bytes: usize) {
            self.given_back.lock().unwrap().push((messages, bytes));
        }

        fn waited(&self, limit: &'static str, time: Duration) {
            assert_eq!(limit, "test");
            *self.waited.lock().unwrap() += time;
        }
    }

    fn slow() -> (Arc<Slow>, Pace) {
        let next = Mutex::new(Instant::now());
        let (asked, waited, given_back) = (Mutex::default(), Mutex::default(), Mutex::default());
        let slow = Arc::new(Slow { next, asked, waited, given_back });
        (slow.clone(), Pace::new(slow))
    }

    /// Sends all of it; when each part went.
    async fn send(pace: &mut Pace, mut next: Bytes) -> Vec<(Duration, usize)> {
        let begun = Instant::now();
        let mut sent = Vec::new();
        while !next.is_empty() {
            let may = poll_fn(|cx| pace.poll(cx, &next)).await;
            assert!(may > 0 && may <= next.len());
            next.advance(may);
            pace.sent(may);
            sent.push((begun.elapsed(), may));
        }
        sent
    }

    fn messages(sizes: &[usize]) -> Bytes {
        sizes.iter().flat_map(|size| [&prefix(*size as u32)[..], &vec![7; *size]].concat()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn messages_in_one_piece_pass_one_by_one() {
        let (slow, mut pace) = slow();
        let sent = send(&mut pace, messages(&[3, 0, 10])).await;
        let ms = Duration::from_millis;
        assert_eq!(sent.len(), 3);
        for (n, ((at, bytes), expected)) in sent.into_iter().zip([8, 5, 15]).enumerate() {
            assert!(at >= SECOND * n as u32 && at <= SECOND * n as u32 + ms(2), "{at:?}");
            assert_eq!(bytes, expected);
        }
        let waited = *slow.waited.lock().unwrap();
        assert!(waited >= SECOND * 2 && waited <= SECOND * 2 + ms(4), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn wherever_the_bytes_are_cut_the_same_messages_are_counted() {
        let whole = messages(&[3, 0, 10]);
        for cut in 0..=whole.len() {
            let (slow, mut pace) = slow();
            for part in [whole.slice(..cut), whole.slice(cut..)] {
                send(&mut pace, part).await;
            }
            let asked = slow.asked.lock().unwrap();
            let sum = asked.iter().fold((0, 0), |(a, b), (messages, bytes)| (a + messages, b + bytes));
            assert_eq!(sum, (3, whole.len()), "cut at {cut}: {asked:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_message_is_one_in_many_parts_and_what_is_not_sent_is_not_asked_for_again() {
        let (slow, mut pace) = slow();
        let mut chunk = Chunk::message(2 * PART as u32 + 10, Bytes::from(vec![7; 2 * PART + 10]));
        let may = poll_fn(|cx| pace.poll(cx, &chunk)).await;
        assert_eq!(may, chunk.len());
        // Upstream takes little of it.
        pace.sent(chunk.split_to(100).len());
        assert_eq!(poll_fn(|cx| pace.poll(cx, &chunk)).await, chunk.len());
        assert_eq!(*slow.asked.lock().unwrap(), [(1, PART + 5), (0, PART), (0, 10)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_has_waited_until_then_and_gives_back_what_it_has_not_sent() {
        let (slow, mut pace) = slow();
        let next = messages(&[1, 1]);
        assert_eq!(poll_fn(|cx| pace.poll(cx, &next)).await, 6);
        pace.sent(6);
        let next = next.slice(6..);
        assert!(poll_fn(|cx| pace.poll(cx, &next)).now_or_never().is_none());
        tokio::time::sleep(SECOND / 2).await;
        drop(pace);
        let waited = *slow.waited.lock().unwrap();
        assert!(waited >= SECOND / 2 && waited < SECOND, "{waited:?}");
        assert_eq!(*slow.given_back.lock().unwrap(), [(1, 6)]);
    }
}
