//! One side of a session.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{CloseReason, Event, Settings, StreamId};
use crate::wire::{Code, v1};

/// Which side of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Client,
    /// Serves them.
    Proxy,
}

/// Why a stream cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams as the proxy allows are open.
    #[error("the session has {0} open streams, which is all that the proxy allows")]
    Full(u32),
    /// The proxy sent GoAway, or the session is closed.
    #[error("the session takes no new streams")]
    GoingAway,
    /// The numbers are used up (2^32 - 1 streams).
    #[error("the session has used up its stream numbers")]
    Exhausted,
}

/// One side of a session: a state machine that owns everything and waits for nothing.
#[derive(Debug)]
pub struct Session {
    _todo: (),
}

impl Session {
    /// A session that has just got its carrier. The client's Hello is ready to be polled.
    pub fn new(_side: Side, _settings: Settings, _now: Instant) -> Self {
        todo!()
    }

    /// In: one carrier message.
    pub fn handle_packet(&mut self, _packet: Bytes, _now: Instant) {
        todo!()
    }

    /// In: a sign of life that is no packet (a WebSocket ping or pong).
    pub fn handle_activity(&mut self, _now: Instant) {
        todo!()
    }

    /// In: a text message, which `bidiway.v1` does not have. A violation.
    pub fn handle_text(&mut self, _now: Instant) {
        todo!()
    }

    /// In: time has passed. Call it at or after `poll_timeout`.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// Client: opens a stream. Data may be sent on it at once.
    pub fn open(&mut self, _open: v1::Open) -> Result<StreamId, OpenError> {
        todo!()
    }

    /// Client: new default metadata.
    pub fn refresh(&mut self, _metadata: Vec<v1::Metadata>) {
        todo!()
    }

    /// Proxy: initial metadata of a stream. Ignored when the stream is gone.
    pub fn send_headers(&mut self, _stream: StreamId, _headers: v1::Headers) {
        todo!()
    }

    /// How many payload bytes `send` takes on this stream now: what credit and the bounded outbox leave, at most
    /// [`super::MAX_PIECE`]. `None`: not even an empty message; `Some(0)`: an empty message only. When the answer
    /// was too little, a `Writable` event (credit) or the draining of `poll_packet` (outbox) makes it worth asking
    /// again. For a stream that is gone: `None`.
    pub fn capacity(&self, _stream: StreamId) -> Option<usize> {
        todo!()
    }

    /// Sends a message or a piece of one; `bytes` must fit `capacity`. `last` (client only, `remaining` 0): no more
    /// messages follow. Ignored when the stream is gone.
    pub fn send(&mut self, _stream: StreamId, _bytes: Bytes, _remaining: u64, _last: bool) {
        todo!()
    }

    /// Client: no more messages on this stream.
    pub fn finish(&mut self, _stream: StreamId) {
        todo!()
    }

    /// Proxy: ends a stream, after all that was sent on it. The stream is gone once its Trailers are on the wire;
    /// for the owner it is gone now.
    pub fn end(&mut self, _stream: StreamId, _trailers: v1::Trailers) {
        todo!()
    }

    /// Client: gives a stream up. What waits in the outbox for it is dropped.
    pub fn cancel(&mut self, _stream: StreamId) {
        todo!()
    }

    /// The owner has passed on a piece of `bytes` payload bytes (one `Data` event or part of it: `frames` tells how
    /// many whole events were finished): credit goes back to the peer, in halves.
    pub fn consumed(&mut self, _stream: StreamId, _bytes: usize, _frames: u32) {
        todo!()
    }

    /// Proxy: takes no new streams from now on; those that run go on.
    pub fn go_away(&mut self, _code: Code, _message: &str, _reconnect_delay_ms: u32) {
        todo!()
    }

    /// Ends the session. A `Closed` event follows; nothing is sent after it but what waits already.
    pub fn close(&mut self, _reason: CloseReason) {
        todo!()
    }

    /// Out: fills `packet` with frames that are ready: the session's own first, then the streams in turn, a piece
    /// each, until nothing is ready or `packet` holds `target` bytes (it may end up to one piece longer). Returns
    /// whether anything was written.
    pub fn poll_packet(&mut self, _packet: &mut BytesMut, _target: usize) -> bool {
        todo!()
    }

    /// Out: the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// Out: when `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        todo!()
    }

    /// Which side this is.
    pub fn side(&self) -> Side {
        todo!()
    }

    /// Checks what must always hold. Called by tests after every mutation.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        todo!()
    }
}
