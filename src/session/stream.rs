//! One stream: what it may still receive, and what it has still to send.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use bytes::Bytes;

use super::{FRAME_OVERHEAD, MAX_PIECE, StreamId, Violation, metadata};
use crate::wire::v1;

/// No side may hold more credit than this on a stream, so that the books fit in 32 bits everywhere (RFC 9113,
/// section 6.9.1 has the same bound).
pub(crate) const MAX_CREDIT: u32 = (1 << 31) - 1;

/// A new piece is taken while no more than one full piece waits: the bound is two, and the room offered is never
/// a silly remainder.
const OUTBOX_FULL: u32 = MAX_PIECE as u32 + FRAME_OVERHEAD;

/// A table by stream number.
pub type StreamTable<T> = HashMap<StreamId, T, BuildHasherDefault<IdHasher>>;

/// The table of streams.
pub(super) type Streams = StreamTable<Stream>;

/// One multiplication instead of SipHash. Numbers are handed out in order and gaps are a violation, so a peer
/// cannot choose keys that collide.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(self.0 as u32 ^ u32::from(byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// One stream of the table.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    /// The owner is done with it (or never saw it); it stays only until its last frame is on the wire, and what
    /// the peer still sends is ignored.
    pub(super) gone: bool,
}

impl Stream {
    pub(super) fn new(granted: u32, credit: u32) -> Self {
        Self { inbound: Inbound::new(granted), outbound: Outbound::new(credit), gone: false }
    }
}

/// The receiving half. Every byte of the window is granted to the peer, held by the owner, or owed to the peer:
/// `granted + held + owed` never changes.
#[derive(Debug)]
pub(super) struct Inbound {
    /// What the peer may still send.
    pub(super) granted: u32,
    /// Received, and not yet consumed by the owner.
    pub(super) held: u32,
    /// Consumed, and not yet given back to the peer.
    pub(super) owed: u32,
    /// Bytes of the current message still to come. 0: between messages.
    pub(super) left: u64,
    /// Half-closed: nothing more may come.
    pub(super) closed: bool,
    /// Client: Headers have come.
    pub(super) headers: bool,
    /// Something has come; Headers would be too late.
    pub(super) data: bool,
    /// A Credit frame waits in the session's `owing` list.
    pub(super) owing: bool,
}

impl Inbound {
    fn new(granted: u32) -> Self {
        Self { granted, held: 0, owed: 0, left: 0, closed: false, headers: false, data: false, owing: false }
    }

    /// Takes a piece into the books. Returns whether it begins a message.
    pub(super) fn take(
        &mut self,
        len: usize,
        remaining: u64,
        last: bool,
        max_message: u64,
    ) -> Result<bool, Violation> {
        if self.closed {
            return Err(Violation::DataAfterEnd);
        }
        let cost = u32::try_from(len).unwrap_or(u32::MAX).saturating_add(FRAME_OVERHEAD);
        if cost > self.granted {
            return Err(Violation::DataBeyondCredit { cost, credit: self.granted });
        }
        if len == 0 && remaining > 0 {
            return Err(Violation::EmptyPiece);
        }
        let first = self.left == 0;
        let size = remaining.saturating_add(len as u64);
        if first {
            if size > max_message {
                return Err(Violation::MessageTooLarge { size, limit: max_message });
            }
        } else if size != self.left {
            return Err(Violation::WrongRemaining { expected: self.left, got: size });
        }
        self.granted -= cost;
        self.held += cost;
        self.left = remaining;
        self.data = true;
        self.closed = last;
        Ok(first)
    }

    /// The owner has consumed so much. Returns whether credit is now due.
    ///
    /// It is given back in halves of the window. That cannot starve a sender: once everything is consumed, less
    /// than half is owed, so more than half is granted: at least 8 KiB, and no sender waits for more than
    /// `MIN_PIECE` and the overhead.
    pub(super) fn consume(&mut self, cost: u32) -> bool {
        debug_assert!(cost <= self.held, "consumed {cost} of {} held", self.held);
        let cost = cost.min(self.held);
        self.held -= cost;
        self.owed += cost;
        !self.closed && self.owed > 0 && self.owed >= self.window() / 2
    }

    /// What a Credit frame gives back now; 0 when nothing is due any more.
    pub(super) fn repay(&mut self) -> u32 {
        if self.closed {
            return 0;
        }
        let owed = std::mem::take(&mut self.owed);
        self.granted += owed;
        owed
    }

    pub(super) fn window(&self) -> u32 {
        self.granted + self.held + self.owed
    }
}

/// What opens a stream's way: always before its data.
#[derive(Debug)]
pub(super) enum Head {
    Headers(v1::Headers),
    Open(Box<v1::Open>),
}

/// What ends it: always after its data.
#[derive(Debug)]
pub(super) enum Tail {
    Cancel,
    HalfClose,
    Trailers(Box<v1::Trailers>),
}

/// A piece of a message that waits. It is paid for: its credit is already taken.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) remaining: u64,
    pub(super) last: bool,
}

/// The sending half: the credit, and what waits, in the only order there is: head, data, tail.
#[derive(Debug)]
pub(super) struct Outbound {
    /// What the peer allows.
    pub(super) credit: u32,
    /// What the waiting data costs.
    pub(super) cost: u32,
    pub(super) head: Option<Head>,
    pub(super) data: VecDeque<Piece>,
    pub(super) tail: Option<Tail>,
    /// Bytes of the current message that the owner has still to send.
    pub(super) left: u64,
    /// The owner sends no more data.
    pub(super) finished: bool,
    /// Proxy: Headers were sent already.
    pub(super) headers: bool,
    /// It stands in the session's `ready` list.
    pub(super) ready: bool,
    /// The owner has asked for this much room and got none: it waits for `Writable`.
    pub(super) denied: Option<usize>,
}

impl Outbound {
    fn new(credit: u32) -> Self {
        Self {
            credit,
            cost: 0,
            head: None,
            data: VecDeque::new(),
            tail: None,
            left: 0,
            finished: false,
            headers: false,
            ready: false,
            denied: None,
        }
    }

    pub(super) fn capacity(&self) -> Option<usize> {
        if self.finished || self.is_full() {
            return None;
        }
        self.credit.checked_sub(FRAME_OVERHEAD).map(|bytes| (bytes as usize).min(MAX_PIECE))
    }

    /// Whether the outbox takes no new piece until one has left.
    pub(super) fn is_full(&self) -> bool {
        self.cost > OUTBOX_FULL
    }

    pub(super) fn push(&mut self, bytes: Bytes, remaining: u64, last: bool) {
        debug_assert!(self.capacity().is_some_and(|c| bytes.len() <= c), "a piece beyond the capacity");
        debug_assert!(
            self.left == 0 || self.left == remaining + bytes.len() as u64,
            "a piece that does not go on with its message"
        );
        debug_assert!(remaining == 0 || !bytes.is_empty(), "an empty piece inside a message");
        let cost = bytes.len() as u32 + FRAME_OVERHEAD;
        self.credit = self.credit.saturating_sub(cost);
        self.cost += cost;
        self.left = remaining;
        self.finished = last;
        self.data.push_back(Piece { bytes, remaining, last });
    }

    pub(super) fn pop(&mut self) -> Option<Piece> {
        let piece = self.data.pop_front()?;
        self.cost -= piece.bytes.len() as u32 + FRAME_OVERHEAD;
        if self.data.is_empty() && self.data.capacity() > 64 {
            self.data = VecDeque::new(); // a burst of tiny messages must not pin its room for ever
        }
        Some(piece)
    }

    /// Adds credit. Returns whether the owner has been waiting for it.
    pub(super) fn allow(&mut self, more: u64) -> Result<bool, Violation> {
        if more == 0 {
            return Err(Violation::CreditZero);
        }
        let sum = u64::from(self.credit).saturating_add(more);
        if sum > u64::from(MAX_CREDIT) {
            return Err(Violation::CreditBeyondCap { sum });
        }
        self.credit = sum as u32;
        Ok(self.relent())
    }

    /// Whether an owner that was denied room should ask again now.
    pub(super) fn relent(&mut self) -> bool {
        let Some(least) = self.denied else { return false };
        let relents = self.capacity().is_some_and(|capacity| capacity >= least);
        if relents {
            self.denied = None;
        }
        relents
    }

    /// Drops what waits, except an Open: numbers have no gaps, so it must reach the proxy.
    pub(super) fn clear(&mut self) {
        if matches!(self.head, Some(Head::Headers(_))) {
            self.head = None;
        }
        self.data = VecDeque::new();
        self.cost = 0;
        self.tail = None;
        self.finished = true;
    }

    /// Bytes that wait: data as it costs credit, and metadata as its limits count it.
    pub(super) fn held_bytes(&self) -> usize {
        let head = match &self.head {
            Some(Head::Headers(v1::Headers { metadata })) => metadata::size(metadata),
            Some(Head::Open(open)) => open.method.len() + metadata::size(&open.metadata),
            None => 0,
        };
        let tail = match &self.tail {
            Some(Tail::Trailers(trailers)) => {
                let v1::Trailers { message, details, metadata, .. } = &**trailers;
                FRAME_OVERHEAD as usize + message.len() + details.len() + metadata::size(metadata)
            }
            Some(Tail::Cancel | Tail::HalfClose) | None => 0,
        };
        head + self.cost as usize + tail
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none() && self.data.is_empty() && self.tail.is_none()
    }
}
