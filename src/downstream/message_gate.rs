//! Keeps a gRPC-Web body in a state in which its trailers can follow.

use bytes::{Bytes, BytesMut};

use super::message_meter::MessageMeter;
use crate::wire::envelope::EnvelopeError;

/// The largest message that is held until it is whole. Larger ones pass in pieces.
pub(crate) const HELD_MAX: u64 = 32 * 1024;

/// Lets messages from upstream out into a gRPC-Web body, where trailers are one more frame: behind half a message a
/// client would read them as the other half, and would never learn the status. So the part of a message that ends a
/// chunk waits here for the rest, if the message is small; upstream can then die at any byte, and the status still
/// arrives. A message larger than [`HELD_MAX`] passes as it comes: if upstream dies in it, the body has to break.
#[derive(Debug)]
pub(crate) struct MessageGate {
    meter: MessageMeter,
    held: BytesMut,
    /// Whether part of a large message is out and the rest is not.
    amid: bool,
}

/// What comes out of the gate for a chunk.
#[derive(Debug)]
pub(crate) struct Gated {
    /// What may go on.
    pub(crate) out: Bytes,
    /// How many bytes of the chunk are not in `out`.
    pub(crate) kept: usize,
    /// What is wrong behind `out`; the rest of the stream is unusable.
    pub(crate) error: Option<EnvelopeError>,
}

impl MessageGate {
    /// A gate that refuses messages of more than `max_message` bytes.
    pub(crate) fn new(max_message: u64) -> Self {
        Self { meter: MessageMeter::new(max_message), held: BytesMut::new(), amid: false }
    }

    /// Takes a chunk, and tells `on_message` the size of each message that ends in it.
    pub(crate) fn push(&mut self, mut chunk: Bytes, on_message: impl FnMut(u64)) -> Gated {
        let measured = self.meter.measure(&chunk, on_message);
        let whole = chunk.len();
        self.amid = self.meter.open().is_some_and(|size| size > HELD_MAX);
        let passing = if self.amid { whole } else { measured.boundary };
        let mut out = chunk.split_to(passing);
        if !self.held.is_empty() && !out.is_empty() {
            self.held.extend_from_slice(&out);
            out = self.held.split().freeze();
        }
        // Copied: a few bytes must not pin a whole read buffer.
        self.held.extend_from_slice(&chunk);
        Gated { out, kept: whole - passing, error: measured.error }
    }

    /// Whether trailers may follow what has come out.
    pub(crate) fn is_between_messages(&self) -> bool {
        !self.amid
    }

    /// Upstream's bytes have ended: fails unless the last message is whole.
    pub(crate) fn finish(&self) -> Result<(), EnvelopeError> {
        self.meter.finish()
    }
}
