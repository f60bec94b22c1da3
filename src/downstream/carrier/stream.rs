//! One stream of a session, joined to its call.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::ready::KeyWaker;
use crate::{
    session::{MAX_PIECE, Session, StreamId},
    telemetry::CallRecord,
    upstream::{Call, Chunk, Received},
    wire::{
        Code, Outcome,
        envelope::{EnvelopeError, EnvelopeReader, Piece},
        metadata, v1,
    },
};

/// A payload up to this size that has to wait is copied, so that it does not keep a whole read buffer alive.
const COPY_WHEN_HELD: usize = 2 * 1024;

/// A call and what is on its way in either direction. A table entry, not a task.
#[derive(Debug)]
pub(super) struct Stream {
    id: StreamId,
    call: Call,
    waker: KeyWaker,
    /// `None` once the call has ended.
    record: Option<CallRecord>,
    max_message: u64,
    /// Pieces that wait for upstream's window. Bounded by the credit that the client has.
    up: VecDeque<Up>,
    /// The client has half-closed; told to the call when `up` is empty.
    up_ends: bool,
    up_ended: bool,
    /// Size of the request message that is arriving.
    up_size: u64,
    down: EnvelopeReader,
    /// Bytes from upstream that are not cut into pieces yet.
    chunk: Bytes,
    /// How much of upstream's window the chunk holds.
    held: usize,
    /// A piece that the client has no credit for yet.
    waiting: Option<Piece>,
    /// Size of the response message that is leaving.
    down_size: u64,
}

#[derive(Debug)]
struct Up {
    chunk: Chunk,
    /// Payload bytes to give credit back for when the chunk is gone.
    payload: usize,
}

impl Stream {
    pub(super) fn new(
        id: StreamId,
        call: Call,
        waker: KeyWaker,
        record: CallRecord,
        max_message: u64,
    ) -> Self {
        Self {
            id,
            call,
            waker,
            record: Some(record),
            max_message,
            up: VecDeque::new(),
            up_ends: false,
            up_ended: false,
            up_size: 0,
            down: EnvelopeReader::new(max_message),
            chunk: Bytes::new(),
            held: 0,
            waiting: None,
            down_size: 0,
        }
    }

    pub(super) fn waker(&self) -> &KeyWaker {
        &self.waker
    }

    /// A piece of a request message. It goes on at once if upstream has room for it.
    pub(super) fn push_up(
        &mut self,
        session: &mut Session,
        bytes: Bytes,
        remaining: u64,
        first: bool,
        last: bool,
    ) -> Result<(), Box<Outcome>> {
        let payload = bytes.len();
        let chunk = if first {
            self.up_size = payload as u64 + remaining;
            let size = u32::try_from(self.up_size).ok().filter(|_| self.up_size <= self.max_message);
            let Some(size) = size else {
                let message = format!(
                    "a request message of {} bytes is larger than the limit of {} bytes",
                    self.up_size, self.max_message
                );
                return Err(Box::new(Outcome::proxy(Code::RESOURCE_EXHAUSTED, message)));
            };
            Chunk::message(size, bytes)
        } else {
            Chunk::plain(bytes)
        };
        if remaining == 0
            && let Some(record) = &mut self.record
        {
            record.message_up(self.up_size);
        }
        self.up.push_back(Up { chunk, payload });
        self.up_ends |= last;
        self.pump_up(session);
        let waits = self.up.back_mut();
        if let Some(waits) = waits
            && payload <= COPY_WHEN_HELD
        {
            waits.chunk.unshare();
        }
        Ok(())
    }

    /// The client sends no more messages.
    pub(super) fn end_up(&mut self, session: &mut Session) {
        self.up_ends = true;
        self.pump_up(session);
    }

    /// Sends what upstream has room for, and gives the client its credit back.
    pub(super) fn pump_up(&mut self, session: &mut Session) {
        let cx = &mut Context::from_waker(self.waker.waker());
        while let Some(next) = self.up.front_mut() {
            let want = next.chunk.len();
            let Poll::Ready(room) = self.call.poll_room(cx, &next.chunk) else { return };
            if room == 0 {
                // The call takes no more: what is left is dropped, and the client may go on until it sees the end.
                for dropped in self.up.drain(..) {
                    session.consumed(self.id, dropped.payload, 1);
                }
                self.up_ended = true;
                return;
            }
            if room < want {
                let head = next.chunk.split_to(room);
                self.call.send(head, false);
                continue;
            }
            let Some(Up { chunk, payload }) = self.up.pop_front() else { return };
            let last = self.up_ends && self.up.is_empty();
            self.call.send(chunk, last);
            self.up_ended |= last;
            session.consumed(self.id, payload, 1);
        }
        if self.up_ends && !self.up_ended {
            self.up_ended = true;
            self.call.finish();
        }
    }

    /// Brings what upstream sends to the session as far as credit goes. `Some` when the call has ended.
    pub(super) fn pump_down(&mut self, session: &mut Session) -> Option<Outcome> {
        let waker = self.waker.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        loop {
            match self.forward(session) {
                Ok(true) => {}
                Ok(false) => {
                    return match self.call.poll_deadline(cx) {
                        Poll::Ready(outcome) => Some(*outcome),
                        Poll::Pending => None,
                    };
                }
                Err(outcome) => return Some(*outcome),
            }
            match self.call.poll_receive(cx) {
                Poll::Pending => return None,
                Poll::Ready(Received::Headers(mut headers)) => {
                    // HTTP's business: a session's Open has said the codec.
                    headers.remove(http::header::CONTENT_TYPE);
                    if let Some(record) = &mut self.record {
                        record.headers();
                    }
                    let metadata = metadata::to_entries(&headers);
                    session.send_headers(self.id, v1::Headers { metadata });
                }
                Poll::Ready(Received::Data(bytes)) => {
                    self.held += bytes.len();
                    self.chunk = bytes;
                }
                Poll::Ready(Received::End(outcome)) => return Some(self.checked(*outcome)),
            }
        }
    }

    /// Sends the chunk at hand piece by piece. `Ok(true)` when all of it is sent.
    fn forward(&mut self, session: &mut Session) -> Result<bool, Box<Outcome>> {
        loop {
            let piece = match self.waiting.take() {
                Some(piece) => piece,
                None => match self.down.next(&mut self.chunk, MAX_PIECE) {
                    Ok(Some(piece)) => piece,
                    Ok(None) => break,
                    Err(error) => return Err(Box::new(broken_response(error))),
                },
            };
            if let Some(rest) = self.send_piece(session, piece)? {
                self.waiting = Some(rest);
                return Ok(false);
            }
        }
        if self.held > 0 {
            self.call.release(std::mem::take(&mut self.held));
        }
        Ok(true)
    }

    /// Sends a piece as far as credit goes; what is left of it comes back.
    fn send_piece(&mut self, session: &mut Session, mut piece: Piece) -> Result<Option<Piece>, Box<Outcome>> {
        if piece.first {
            if piece.compressed {
                let message =
                    "the service sent a compressed message, but the session did not offer compression";
                return Err(Box::new(Outcome::proxy(Code::INTERNAL, message)));
            }
            self.down_size = piece.bytes.len() as u64 + piece.remaining;
        }
        let Some(room) = session.piece(self.id, piece.bytes.len()) else { return Ok(Some(held(piece))) };
        if room < piece.bytes.len() {
            let head = piece.bytes.split_to(room);
            let remaining = piece.remaining + piece.bytes.len() as u64;
            session.send(self.id, head, remaining, false);
            piece.first = false;
            return self.send_piece(session, piece);
        }
        let complete = piece.remaining == 0;
        session.send(self.id, piece.bytes, piece.remaining, false);
        if complete && let Some(record) = &mut self.record {
            record.message_down(self.down_size);
        }
        Ok(None)
    }

    /// An OK that comes in the middle of a message is none.
    fn checked(&self, outcome: Outcome) -> Outcome {
        match self.down.finish() {
            Err(error) if outcome.status.code == Code::OK => broken_response(error),
            _ => outcome,
        }
    }

    /// Bytes that are on their way in either direction, outside of the session.
    pub(super) fn held_bytes(&mut self) -> usize {
        let up: usize = self.up.iter().map(|up| up.chunk.len()).sum();
        up + self.call.buffered()
    }

    /// Counts and logs the end.
    pub(super) fn close(mut self, outcome: &Outcome) {
        if let Some(record) = self.record.take() {
            record.end(outcome);
        }
    }
}

fn broken_response(error: EnvelopeError) -> Outcome {
    let code = match error {
        EnvelopeError::TooLarge { .. } => Code::RESOURCE_EXHAUSTED,
        EnvelopeError::Compressed | EnvelopeError::Flag(_) | EnvelopeError::Truncated { .. } => {
            Code::INTERNAL
        }
    };
    Outcome::proxy(code, format!("the response of the service is not valid: {error}"))
}

/// A small piece that has to wait lets go of the buffer it is a slice of.
fn held(mut piece: Piece) -> Piece {
    if piece.bytes.len() <= COPY_WHEN_HELD {
        piece.bytes = Bytes::copy_from_slice(&piece.bytes);
    }
    piece
}
