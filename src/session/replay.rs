//! Frames that were sent and may have to be sent again.

use std::{collections::VecDeque, ops::Range};

use bytes::{BufMut as _, Bytes, BytesMut};

/// Payloads of this size are kept as they are, not copied. Smaller ones are: they would pin the buffer that they were
/// read into, which may be much larger than they.
const SHARED: usize = 8 * 1024;

/// Credit may pass the limit by so much: it is small, and lets the peer's data go on while ours waits for an Ack.
const CREDIT_RESERVE: usize = 16 * 1024;

/// Sequenced frames that the peer has not acknowledged, encoded, in the order of their numbers.
///
/// Frames are counted, not numbered: the first frame that is kept has number `acked` + 1 of the session's
/// [`super::sequence::Sequence`]. Where it ends is what its own length says.
#[derive(Debug)]
pub(super) struct Replay {
    /// The frames, without the payloads that are shared.
    bytes: VecDeque<u8>,
    /// Payloads that end the frames with these numbers. A frame's number counts from 1.
    shared: VecDeque<(u64, Bytes)>,
    /// The number of the frame before the first.
    before: u64,
    /// Encoded bytes, those of `shared` included.
    held: usize,
    limit: usize,
    /// Where the packet that is being filled has not been kept yet.
    mark: usize,
    /// The carrier is new: what comes next of it.
    again: Option<Cursor>,
}

/// A place between two frames.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Frames between the first and here.
    frames: u64,
    /// Bytes of `bytes` between the first and here.
    at: usize,
    /// Entries of `shared` between the first and here.
    shared: usize,
}

impl Replay {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            shared: VecDeque::new(),
            before: 0,
            held: 0,
            limit,
            mark: 0,
            again: None,
        }
    }

    /// Bytes that are kept.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// How many more bytes may be sent before the peer has acknowledged some.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.held)
    }

    /// The same for Credit.
    pub(super) fn room_for_credit(&self) -> usize {
        (self.limit + CREDIT_RESERVE).saturating_sub(self.held)
    }

    /// A packet of `len` bytes gets new frames from here on.
    pub(super) fn begin(&mut self, len: usize) {
        debug_assert!(self.again.is_none(), "new frames come after the old ones");
        self.mark = len;
    }

    /// The frame with this number was appended to the packet, and `payload` is its end.
    pub(super) fn keep_payload(&mut self, packet: &[u8], number: u64, payload: Bytes) {
        if payload.len() < SHARED {
            return; // `keep` takes it with the rest
        }
        self.keep(&packet[..packet.len() - payload.len()]);
        self.mark = packet.len();
        self.held += payload.len();
        self.shared.push_back((number, payload));
    }

    /// Keeps what was appended to the packet since `begin`.
    pub(super) fn keep(&mut self, packet: &[u8]) {
        let new = &packet[self.mark..];
        self.mark = packet.len();
        self.held += new.len();
        self.bytes.extend(new);
    }

    /// The peer has received all frames up to this number, which is not beyond [`Replay::reached`].
    pub(super) fn forget(&mut self, acked: u64) {
        let frames = acked - self.before;
        if frames == 0 {
            return;
        }
        let mut cursor = Cursor::default();
        let mut payloads = 0;
        while cursor.frames < frames {
            payloads += self.step(&mut cursor).map_or(0, |payload| payload.len());
        }
        self.bytes.drain(..cursor.at);
        self.shared.drain(..cursor.shared);
        self.held -= cursor.at + payloads;
        self.before = acked;
        if let Some(again) = &mut self.again {
            again.frames -= frames;
            again.at -= cursor.at;
            again.shared -= cursor.shared;
        }
        if self.held == 0 && self.bytes.capacity() > SHARED {
            self.bytes = VecDeque::new(); // a burst must not pin its room in an idle session
        } else if self.bytes.capacity() > SHARED.max(4 * self.bytes.len()) {
            self.bytes.shrink_to(2 * self.bytes.len()); // nor in one that waits for its client
        }
    }

    /// The carrier is new: what the peer has not received is to be sent again.
    pub(super) fn rewind(&mut self, received: u64) {
        self.again = None;
        self.forget(received);
        self.again = (self.held > 0).then_some(Cursor::default());
    }

    /// The number of the last frame that was sent again on this carrier, while more are to follow.
    pub(super) fn reached(&self) -> Option<u64> {
        self.again.map(|cursor| self.before + cursor.frames)
    }

    /// Appends what is to be sent again, until the packet holds `target` bytes. Returns whether that was all.
    pub(super) fn send_again(&mut self, packet: &mut BytesMut, target: usize) -> bool {
        let Some(mut cursor) = self.again.take() else { return true };
        while cursor.at < self.bytes.len() {
            if packet.len() >= target {
                self.again = Some(cursor);
                return false;
            }
            let start = cursor.at;
            let payload = self.step(&mut cursor);
            for part in self.parts(start..cursor.at) {
                packet.put_slice(part);
            }
            if let Some(payload) = payload {
                packet.put_slice(payload);
            }
        }
        true
    }

    /// Moves a cursor over one frame; its payload, if that is shared.
    fn step(&self, cursor: &mut Cursor) -> Option<&Bytes> {
        // `0a`, the frame's length as a varint, the frame: we wrote it, so there is no doubt.
        let (mut len, mut head) = (0, 1);
        loop {
            let byte = self.bytes[cursor.at + head];
            len |= usize::from(byte & 0x7f) << (7 * (head - 1));
            head += 1;
            if byte < 0x80 {
                break;
            }
        }
        cursor.frames += 1;
        let number = self.before + cursor.frames;
        let payload =
            self.shared.get(cursor.shared).filter(|(n, _)| *n == number).map(|(_, payload)| payload);
        cursor.shared += usize::from(payload.is_some());
        cursor.at += head + len - payload.map_or(0, Bytes::len);
        payload
    }

    fn parts(&self, range: Range<usize>) -> [&[u8]; 2] {
        let (front, back) = self.bytes.as_slices();
        let cut = |range: Range<usize>, of: &'_ [u8]| range.start.min(of.len())..range.end.min(of.len());
        let in_front = cut(range.clone(), front);
        let shift = front.len();
        let in_back = cut(range.start.saturating_sub(shift)..range.end.saturating_sub(shift), back);
        [&front[in_front], &back[in_back]]
    }

    /// Checks what must hold when `acked` frames are acknowledged of `sent`.
    pub(super) fn check_invariants(&self, acked: u64, sent: u64) {
        assert_eq!(self.before, acked, "what is acknowledged is not kept");
        let mut cursor = Cursor::default();
        let mut payloads = 0;
        let mut seen = false;
        while cursor.at < self.bytes.len() {
            seen |= self.again.is_some_and(|again| (again.frames, again.at) == (cursor.frames, cursor.at));
            payloads += self.step(&mut cursor).map_or(0, |payload| payload.len());
        }
        assert_eq!(cursor.frames, sent - acked, "all that is not acknowledged is kept");
        assert_eq!((cursor.at, cursor.shared), (self.bytes.len(), self.shared.len()), "nothing else is kept");
        assert_eq!(self.held, cursor.at + payloads, "what is kept is counted");
        assert!(self.again.is_none() || seen, "sending again goes on between two frames that are kept");
    }
}
