//! gRPC's length-prefixed message (gRPC `doc/PROTOCOL-HTTP2.md`): one flag byte, a 32-bit big-endian length,
//! the message.

use bytes::Bytes;

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
/// anything but up to four bytes of a cut prefix.
#[derive(Debug)]
pub struct EnvelopeReader {
    _todo: (),
}

impl EnvelopeReader {
    /// A reader that refuses messages of more than `max_message` bytes.
    pub fn new(_max_message: u64) -> Self {
        todo!()
    }

    /// Takes the next piece from the front of `chunk`, leaving the rest there. `None` when `chunk` is used up
    /// (its bytes were part of a prefix, or it was empty). An empty message is one piece with no bytes. At most
    /// `max_piece` bytes are taken at a time.
    pub fn next(&mut self, _chunk: &mut Bytes, _max_piece: usize) -> Result<Option<Piece>, EnvelopeError> {
        todo!()
    }

    /// For bytes that pass through untouched: checks flags and sizes, and counts the messages completed in
    /// `chunk`.
    pub fn scan(&mut self, _chunk: &[u8]) -> Result<u64, EnvelopeError> {
        todo!()
    }

    /// The stream has ended: fails unless it is between two messages.
    pub fn finish(&self) -> Result<(), EnvelopeError> {
        todo!()
    }
}
