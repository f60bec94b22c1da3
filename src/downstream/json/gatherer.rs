//! Puts response messages together.

use bytes::{Bytes, BytesMut};

use crate::wire::envelope::{EnvelopeError, EnvelopeReader};

/// Whole messages out of the bytes that upstream sends. JSON cannot be written of half a message, so one message is
/// held, at most; what came behind it stays in upstream's window.
#[derive(Debug)]
pub(super) struct Gatherer {
    reader: EnvelopeReader,
    /// What has come and is not read.
    chunk: Bytes,
    /// The message that has begun.
    parts: BytesMut,
    /// How much of upstream's window is not given back.
    held: usize,
}

impl Gatherer {
    pub(super) fn new(max_message: u64) -> Self {
        Self {
            reader: EnvelopeReader::new(max_message),
            chunk: Bytes::new(),
            parts: BytesMut::new(),
            held: 0,
        }
    }

    /// Bytes of upstream; only when `next` has said `None`.
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.held += chunk.len();
        self.chunk = chunk;
    }

    /// The next whole message. `None`: more bytes are needed, and [`Gatherer::release`] tells how many may come for
    /// those that are used up.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, EnvelopeError> {
        while let Some(piece) = self.reader.next(&mut self.chunk, usize::MAX)? {
            if piece.compressed {
                return Err(EnvelopeError::Compressed);
            }
            if piece.first && piece.remaining == 0 {
                return Ok(Some(piece.bytes));
            }
            self.parts.extend_from_slice(&piece.bytes);
            if piece.remaining == 0 {
                return Ok(Some(std::mem::take(&mut self.parts).freeze()));
            }
        }
        Ok(None)
    }

    /// Bytes of the message that has begun, and of what came behind it.
    pub(super) fn len(&self) -> usize {
        self.parts.len() + self.chunk.len()
    }

    /// Bytes of upstream's window to be given back.
    pub(super) fn release(&mut self) -> usize {
        std::mem::take(&mut self.held)
    }

    /// Upstream's bytes have ended: fails unless the last message is whole.
    pub(super) fn finish(&self) -> Result<(), EnvelopeError> {
        self.reader.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::prefix;

    fn stream(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|m| [&prefix(m.len() as u32)[..], m].concat()).collect()
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let bytes = stream(&[b"abc", b"", b"defgh"]);
        for cut in 0..=bytes.len() {
            let mut gatherer = Gatherer::new(5);
            let mut messages = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                gatherer.push(Bytes::copy_from_slice(part));
                while let Some(message) = gatherer.next().unwrap() {
                    messages.push(message);
                }
                assert_eq!(gatherer.release(), part.len());
            }
            assert_eq!(messages, [&b"abc"[..], b"", b"defgh"], "cut at {cut}");
            assert_eq!(gatherer.finish(), Ok(()));
        }
    }

    #[test]
    fn what_is_compressed_too_large_or_cut_is_no_message() {
        let mut gatherer = Gatherer::new(2);
        gatherer.push(Bytes::from(stream(&[b"abc"])));
        assert_eq!(gatherer.next(), Err(EnvelopeError::TooLarge { size: 3, limit: 2 }));
        let mut gatherer = Gatherer::new(2);
        gatherer.push(Bytes::from_static(b"\x01\0\0\0\x02ab"));
        assert_eq!(gatherer.next(), Err(EnvelopeError::Compressed));
        let mut gatherer = Gatherer::new(2);
        gatherer.push(Bytes::from_static(b"\0\0\0\0\x02a"));
        assert_eq!(gatherer.next(), Ok(None));
        assert_eq!(gatherer.finish(), Err(EnvelopeError::Truncated { missing: 1 }));
    }
}
