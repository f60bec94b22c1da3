//! Finds the messages in bytes that pass by.

use bytes::Bytes;

use crate::wire::envelope::{EnvelopeError, EnvelopeReader};

/// Reads along in one direction of a call: refuses what is no gRPC message or too large, and knows where messages
/// end. Nothing is copied or held.
#[derive(Debug)]
pub(crate) struct MessageMeter {
    reader: EnvelopeReader,
    /// The size of the message that has begun and not ended.
    open: Option<u64>,
}

/// What a chunk held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// How far the chunk's last complete message reaches; 0 when none ended in it.
    pub(crate) boundary: usize,
    /// What is wrong behind the boundary.
    pub(crate) error: Option<EnvelopeError>,
}

impl MessageMeter {
    /// A meter that refuses messages of more than `max_message` bytes.
    pub(crate) fn new(max_message: u64) -> Self {
        Self { reader: EnvelopeReader::new(max_message), open: None }
    }

    /// Reads a chunk, and tells `on_message` the size of each message that ends in it.
    pub(crate) fn measure(&mut self, chunk: &Bytes, mut on_message: impl FnMut(u64)) -> Measured {
        let mut rest = chunk.clone();
        let mut boundary = 0;
        loop {
            match self.reader.next(&mut rest, usize::MAX) {
                Ok(Some(piece)) => {
                    let size = self.open.unwrap_or(piece.bytes.len() as u64 + piece.remaining);
                    self.open = (piece.remaining > 0).then_some(size);
                    if self.open.is_none() {
                        boundary = chunk.len() - rest.len();
                        on_message(size);
                    }
                }
                Ok(None) => return Measured { boundary, error: None },
                Err(error) => return Measured { boundary, error: Some(error) },
            }
        }
    }

    /// The size of the message that has begun and not ended, once its prefix is complete.
    pub(crate) fn open(&self) -> Option<u64> {
        self.open
    }

    /// The stream has ended: fails unless it is between two messages.
    pub(crate) fn finish(&self) -> Result<(), EnvelopeError> {
        self.reader.finish()
    }
}
