//! Any bytes, cut anywhere, as gRPC messages: reading whole and reading in pieces agree.
#![no_main]

use bidiway::wire::envelope::{EnvelopeError, EnvelopeReader};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const MAX_MESSAGE: u64 = 1000;

fuzz_target!(|input: &[u8]| {
    // The first two bytes say how the rest is cut.
    let [chunk, piece, stream @ ..] = input else { return };
    let chunk = usize::from(*chunk) + 1;
    let whole = read(stream, stream.len().max(1), usize::MAX);
    let cut = read(stream, chunk, usize::from(*piece) + 1);
    assert_eq!(whole, cut);
});

fn read(stream: &[u8], chunk: usize, piece: usize) -> Result<Vec<Vec<u8>>, EnvelopeError> {
    let mut reader = EnvelopeReader::new(MAX_MESSAGE);
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for chunk in stream.chunks(chunk) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        while let Some(piece) = reader.next(&mut chunk, piece)? {
            if piece.first {
                assert!(piece.bytes.len() as u64 + piece.remaining <= MAX_MESSAGE);
                messages.push(Vec::new());
            }
            messages.last_mut().expect("a message begins with a first piece").extend_from_slice(&piece.bytes);
        }
        assert!(chunk.is_empty());
    }
    reader.finish().map(|()| messages)
}
