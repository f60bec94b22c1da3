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

    /// The same, but it refuses compressed messages too.
    pub(crate) fn uncompressed(max_message: u64) -> Self {
        Self { meter: MessageMeter::uncompressed(max_message), ..Self::new(max_message) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::prefix;

    fn message(size: usize) -> Vec<u8> {
        let mut message = prefix(size as u32).to_vec();
        message.extend((0..size).map(|i| i as u8));
        message
    }

    fn push(gate: &mut MessageGate, chunk: &[u8]) -> Gated {
        gate.push(Bytes::copy_from_slice(chunk), |_| ())
    }

    #[test]
    fn only_whole_small_messages_come_out_however_upstream_cuts_them() {
        let stream: Vec<u8> = [message(3), message(0), message(300)].concat();
        let ends = [8, 13, 318];
        for first in 0..=stream.len() {
            for second in [first, (first + 1).min(stream.len()), stream.len()] {
                let mut gate = MessageGate::new(1000);
                let mut out = Vec::new();
                for chunk in [&stream[..first], &stream[first..second], &stream[second..]] {
                    out.extend(push(&mut gate, chunk).out);
                    assert!(out.is_empty() || ends.contains(&out.len()), "{first} {second}: {}", out.len());
                    assert!(gate.is_between_messages());
                }
                assert_eq!(out, stream, "{first} {second}");
            }
        }
    }

    #[test]
    fn what_is_kept_and_what_comes_out_add_up() {
        let mut gate = MessageGate::new(1000);
        let gated = push(&mut gate, &[message(3), message(10)[..7].to_vec()].concat());
        assert_eq!((gated.out.len(), gated.kept), (8, 7));
        let gated = push(&mut gate, &message(10)[7..]);
        assert_eq!((gated.out.len(), gated.kept), (15, 0));
    }

    #[test]
    fn a_whole_message_passes_without_a_copy() {
        let mut gate = MessageGate::new(1000);
        let chunk = Bytes::from(message(100));
        let gated = gate.push(chunk.clone(), |_| ());
        assert_eq!(gated.out.as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn a_large_message_passes_in_pieces_and_trailers_must_wait_for_its_end() {
        let size = HELD_MAX as usize + 1;
        let stream = message(size);
        let mut gate = MessageGate::new(1 << 20);
        assert_eq!(push(&mut gate, &stream[..3]).out.len(), 0, "its size is not known yet");
        assert_eq!(push(&mut gate, &stream[3..100]).out.len(), 100);
        assert!(!gate.is_between_messages());
        assert!(gate.finish().is_err());
        let last = push(&mut gate, &[&stream[100..], &message(9)[..6]].concat());
        assert_eq!((last.out.len(), last.kept), (stream.len() - 100, 6));
        assert!(gate.is_between_messages());
    }

    #[test]
    fn nothing_of_a_refused_message_comes_out() {
        let mut gate = MessageGate::new(10);
        assert_eq!(push(&mut gate, &[message(3), message(11)[..2].to_vec()].concat()).out.len(), 8);
        let gated = push(&mut gate, &message(11)[2..]);
        assert_eq!(gated.error, Some(EnvelopeError::TooLarge { size: 11, limit: 10 }));
        assert!(gated.out.is_empty());
        assert!(gate.is_between_messages());
    }
}
