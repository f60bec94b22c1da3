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
    /// Whether compressed messages are refused.
    plain: bool,
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
        Self { reader: EnvelopeReader::new(max_message), open: None, plain: false }
    }

    /// The same, but it refuses compressed messages too.
    pub(crate) fn uncompressed(max_message: u64) -> Self {
        Self { plain: true, ..Self::new(max_message) }
    }

    /// Reads a chunk, and tells `on_message` the size of each message that ends in it.
    pub(crate) fn measure(&mut self, chunk: &Bytes, mut on_message: impl FnMut(u64)) -> Measured {
        let mut rest = chunk.clone();
        let mut boundary = 0;
        loop {
            match self.reader.next(&mut rest, usize::MAX) {
                Ok(Some(piece)) if piece.compressed && self.plain => {
                    return Measured { boundary, error: Some(EnvelopeError::Compressed) };
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"\0\0\0\0\x03abc\0\0\0\0\0";

    fn measure(meter: &mut MessageMeter, chunk: &'static [u8]) -> (Measured, Vec<u64>) {
        let mut sizes = Vec::new();
        let measured = meter.measure(&Bytes::from_static(chunk), |size| sizes.push(size));
        (measured, sizes)
    }

    #[test]
    fn every_message_is_told_with_its_size_wherever_the_stream_is_cut() {
        for cut in 0..=TWO.len() {
            let mut meter = MessageMeter::new(100);
            let (_, mut sizes) = measure(&mut meter, &TWO[..cut]);
            let (_, more) = measure(&mut meter, &TWO[cut..]);
            sizes.extend(more);
            assert_eq!(sizes, [3, 0], "cut at {cut}");
            assert_eq!(meter.finish(), Ok(()));
        }
    }

    #[test]
    fn the_boundary_is_where_the_last_whole_message_ends() {
        for (cut, boundary) in [(0, 0), (4, 0), (7, 0), (8, 8), (12, 8), (13, 13)] {
            let mut meter = MessageMeter::new(100);
            assert_eq!(
                measure(&mut meter, &TWO[..cut]).0,
                Measured { boundary, error: None },
                "cut at {cut}"
            );
            assert_eq!(meter.finish().is_ok(), cut == boundary, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_wrong_lies_behind_the_boundary() {
        let mut meter = MessageMeter::new(3);
        let (measured, sizes) = measure(&mut meter, b"\0\0\0\0\x03abc\0\0\0\0\x04abcd");
        assert_eq!(
            measured,
            Measured { boundary: 8, error: Some(EnvelopeError::TooLarge { size: 4, limit: 3 }) }
        );
        assert_eq!(sizes, [3]);
        let mut meter = MessageMeter::new(3);
        let (measured, _) = measure(&mut meter, b"\x80\0\0\0\0");
        assert_eq!(measured, Measured { boundary: 0, error: Some(EnvelopeError::Flag(0x80)) });
    }

    #[test]
    fn compressed_messages_pass_unless_they_are_not_wanted() {
        const COMPRESSED: &[u8] = b"\0\0\0\0\0\x01\0\0\0\x03zip";
        let (measured, sizes) = measure(&mut MessageMeter::new(100), COMPRESSED);
        assert_eq!((measured, &sizes[..]), (Measured { boundary: 13, error: None }, &[0, 3][..]));
        let (measured, sizes) = measure(&mut MessageMeter::uncompressed(100), COMPRESSED);
        let error = Some(EnvelopeError::Compressed);
        assert_eq!((measured, &sizes[..]), (Measured { boundary: 5, error }, &[0][..]));
    }
}
