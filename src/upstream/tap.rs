//! Somebody who looks on while a call's bytes pass.

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use tokio::sync::mpsc;

use super::{Chunk, Received};
use crate::wire::Outcome;

/// How many things may wait to be looked at.
const ROOM: usize = 64;

/// What passed.
#[derive(Debug)]
pub enum Passed {
    /// Bytes for upstream.
    Up(Bytes),
    /// Initial metadata.
    Headers(HeaderMap),
    /// Bytes from upstream.
    Down(Bytes),
    /// The end, as it was seen here: calls that the client gives up have none.
    End(Box<Outcome>),
}

/// Shows what passes. A call never waits for whoever looks on: should he be too slow, he sees no more of it.
#[derive(Clone, Debug)]
pub struct Tap(mpsc::Sender<Passed>);

impl Tap {
    /// A tap, and where what passes comes out. It ends with the call, or earlier when more has passed than waits here.
    pub fn new() -> (Self, mpsc::Receiver<Passed>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        (Self(sender), receiver)
    }

    /// Shows a part of the request. Whether more is wanted.
    pub(super) fn up(&self, chunk: &Chunk) -> bool {
        let mut chunk = chunk.clone();
        self.0.try_send(Passed::Up(chunk.copy_to_bytes(chunk.remaining()))).is_ok()
    }

    /// Shows a part of the response. Whether more is wanted.
    pub(super) fn down(&self, received: &Received) -> bool {
        let passed = match received {
            Received::Headers(headers) => Passed::Headers(headers.clone()),
            // Copied: what waits here must not keep a read buffer alive, whose room is the call's.
            Received::Data(bytes) => Passed::Down(Bytes::copy_from_slice(bytes)),
            Received::End(outcome) => Passed::End(outcome.clone()),
        };
        self.0.try_send(passed).is_ok()
    }
}
