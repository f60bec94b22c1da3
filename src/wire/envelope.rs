//! gRPC's length-prefixed message (gRPC `doc/PROTOCOL-HTTP2.md`): one flag byte, a 32-bit big-endian length,
//! the message.

use bytes::{Buf as _, Bytes};

/// The length of the prefix.
pub const PREFIX_LEN: usize = 5;

/// The prefix of an uncompressed message of `len` bytes.
pub fn prefix(len: u32) -> [u8; PREFIX_LEN] {
    let l = len.to_be_bytes();
    [0, l[0], l[1], l[2], l[3]]
}

/// A piece of a message: the bytes at hand, and how many are still to come. The first piece of a message tells
/// its size: `bytes.len() + remaining`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// This part of the message; a slice of what was fed, never a copy.
    pub bytes: Bytes,
    /// Bytes of the same message after this piece; 0: the message is complete.
    pub remaining: u64,
    /// Whether this piece begins a message.
    pub first: bool,
    /// Whether the prefix's flag byte said "compressed" (1).
    pub compressed: bool,
}

/// Why a byte stream is no valid sequence of gRPC messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A compressed message where none may be.
    #[error("a message is compressed, and the client cannot read that")]
    Compressed,
    /// The flag byte is neither 0 nor 1.
    #[error("a gRPC message begins with flag byte {0:#04x}; only 0 and 1 are defined")]
    Flag(u8),
    /// A message is larger than allowed. Noticed at its prefix, before any of it is held.
    #[error("a message of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Its announced size.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The stream ended within a message or its prefix.
    #[error("the stream ended in the middle of a message: {missing} bytes are missing")]
    Truncated {
        /// How many bytes are missing at least.
        missing: u64,
    },
}

/// Reads a stream of length-prefixed messages, however it is cut into chunks, without copying and without holding
/// anything but up to four bytes of a cut prefix. After an error it is of no further use.
#[derive(Debug)]
pub struct EnvelopeReader {
    max_message: u64,
    /// The part of a cut prefix that is here; `held` bytes of it.
    prefix: [u8; PREFIX_LEN],
    held: u8,
    /// Bytes of the current message that were not taken yet; 0 between messages.
    remaining: u64,
    /// The current message's prefix was read, but none of its bytes were given out.
    first: bool,
    compressed: bool,
}

impl EnvelopeReader {
    /// A reader that refuses messages of more than `max_message` bytes.
    pub fn new(max_message: u64) -> Self {
        Self { max_message, prefix: [0; PREFIX_LEN], held: 0, remaining: 0, first: false, compressed: false }
    }

    /// Takes the next piece from the front of `chunk`, leaving the rest there. `None` when `chunk` is used up
    /// (its bytes were part of a prefix, or it was empty). An empty message is one piece with no bytes. At most
    /// `max_piece` bytes are taken at a time; with 0, an empty message is still given, and `None` then means that
    /// the next piece needs more room.
    pub fn next(&mut self, chunk: &mut Bytes, max_piece: usize) -> Result<Option<Piece>, EnvelopeError> {
        if self.remaining == 0 {
            let taken = self.read_prefix(chunk)?;
            chunk.advance(taken);
            if usize::from(self.held) < PREFIX_LEN {
                return Ok(None);
            }
            self.held = 0;
            if self.remaining == 0 {
                return Ok(Some(self.piece(Bytes::new())));
            }
        }
        let len = chunk.len().min(max_piece).min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(None);
        }
        self.remaining -= len as u64;
        Ok(Some(self.piece(chunk.split_to(len))))
    }

    /// The stream has ended: fails unless it is between two messages.
    pub fn finish(&self) -> Result<(), EnvelopeError> {
        if self.remaining > 0 {
            return Err(EnvelopeError::Truncated { missing: self.remaining });
        }
        if self.held > 0 {
            return Err(EnvelopeError::Truncated { missing: (PREFIX_LEN as u64) - u64::from(self.held) });
        }
        Ok(())
    }

    /// Fills up the prefix from the front of `chunk`; returns how many bytes it took. When the prefix is complete,
    /// it is checked, and the fields say what it says.
    fn read_prefix(&mut self, chunk: &[u8]) -> Result<usize, EnvelopeError> {
        let held = usize::from(self.held);
        let taken = chunk.len().min(PREFIX_LEN - held);
        self.prefix[held..held + taken].copy_from_slice(&chunk[..taken]);
        self.held += taken as u8;
        let [flag, length @ ..] = self.prefix;
        // The flag is judged as soon as it is here: garbage is then not waited for.
        if self.held > 0 && flag > 1 {
            return Err(EnvelopeError::Flag(flag));
        }
        if usize::from(self.held) == PREFIX_LEN {
            let size = u64::from(u32::from_be_bytes(length));
            if size > self.max_message {
                return Err(EnvelopeError::TooLarge { size, limit: self.max_message });
            }
            self.remaining = size;
            self.first = true;
            self.compressed = flag == 1;
        }
        Ok(taken)
    }

    fn piece(&mut self, bytes: Bytes) -> Piece {
        let first = std::mem::take(&mut self.first);
        Piece { bytes, remaining: self.remaining, first, compressed: self.compressed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const NO_LIMIT: u64 = u64::MAX;

    /// The stream of these messages.
    fn stream(messages: &[(bool, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (compressed, message) in messages {
            let mut head = prefix(message.len() as u32);
            head[0] = u8::from(*compressed);
            out.extend_from_slice(&head);
            out.extend_from_slice(message);
        }
        out
    }

    /// Reads chunks to their end and puts the pieces together again.
    fn messages(chunks: &[&[u8]], max_piece: usize) -> Result<Vec<(bool, Vec<u8>)>, EnvelopeError> {
        let mut reader = EnvelopeReader::new(NO_LIMIT);
        let mut out: Vec<(bool, Vec<u8>)> = Vec::new();
        let mut expected = 0;
        for chunk in chunks {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(piece) = reader.next(&mut chunk, max_piece)? {
                assert!(piece.bytes.len() <= max_piece);
                if piece.first {
                    assert_eq!(expected, 0, "a message began within another");
                    out.push((piece.compressed, Vec::new()));
                    expected = piece.bytes.len() as u64 + piece.remaining;
                }
                let (compressed, message) = out.last_mut().expect("the first piece says so");
                assert_eq!(*compressed, piece.compressed);
                message.extend_from_slice(&piece.bytes);
                expected -= piece.bytes.len() as u64;
                assert_eq!(expected, piece.remaining);
            }
            assert!(chunk.is_empty(), "the reader left bytes behind");
        }
        reader.finish().map(|()| out)
    }

    #[test]
    fn a_message_larger_than_the_limit_is_refused_at_its_prefix() {
        let refused = Err(EnvelopeError::TooLarge { size: 11, limit: 10 });
        let mut chunk = Bytes::copy_from_slice(&prefix(11));
        assert_eq!(EnvelopeReader::new(10).next(&mut chunk, 100), refused);
    }

    #[test]
    fn an_undefined_flag_is_refused_at_its_byte() {
        for flag in [2, 0x80, 0xff] {
            let mut chunk = Bytes::copy_from_slice(&[flag]);
            assert_eq!(EnvelopeReader::new(10).next(&mut chunk, 100), Err(EnvelopeError::Flag(flag)));
        }
    }

    #[test]
    fn a_stream_that_ends_early_says_how_much_is_missing() {
        for (bytes, missing) in
            [(&[0u8][..], 4), (&[0, 0, 0, 0], 1), (&[0, 0, 0, 0, 3], 3), (&[0, 0, 0, 0, 3, 9], 2)]
        {
            assert_eq!(messages(&[bytes], 100), Err(EnvelopeError::Truncated { missing }), "{bytes:?}");
        }
        assert_eq!(messages(&[], 100), Ok(vec![]));
    }

    #[test]
    fn pieces_are_slices_of_the_chunk() {
        let mut chunk = Bytes::from(stream(&[(false, b"hello".to_vec())]));
        let start = chunk.as_ptr();
        let piece = EnvelopeReader::new(NO_LIMIT).next(&mut chunk, 100).unwrap().unwrap();
        assert_eq!(piece.bytes.as_ptr(), start.wrapping_add(PREFIX_LEN));
    }

    #[test]
    fn without_room_only_an_empty_message_passes() {
        let mut reader = EnvelopeReader::new(NO_LIMIT);
        let mut chunk = Bytes::from(stream(&[(false, vec![]), (false, b"x".to_vec())]));
        assert_eq!(reader.next(&mut chunk, 0).unwrap().unwrap().remaining, 0);
        assert_eq!(reader.next(&mut chunk, 0), Ok(None));
        assert_eq!(reader.next(&mut chunk, 0), Ok(None));
        let piece = reader.next(&mut chunk, 1).unwrap().unwrap();
        assert_eq!((&piece.bytes[..], piece.first), (&b"x"[..], true));
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same_messages(
            sent in vec((any::<bool>(), vec(any::<u8>(), 0..30)), 0..6),
            step in 1usize..12,
            max_piece in 1usize..40,
        ) {
            let bytes = stream(&sent);
            for cut in 0..=bytes.len() {
                let halves = [&bytes[..cut], &bytes[cut..]];
                prop_assert_eq!(&messages(&halves, max_piece).unwrap(), &sent);
            }
            let steps: Vec<&[u8]> = bytes.chunks(step).collect();
            prop_assert_eq!(&messages(&steps, max_piece).unwrap(), &sent);
        }

        #[test]
        fn any_bytes_are_the_same_messages_or_the_same_error_however_they_are_cut(
            bytes in vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..60),
        ) {
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(messages(&[&bytes], usize::MAX), messages(&single, usize::MAX));
        }
    }
}
