//! Any bytes, cut anywhere, as a base64 body: the cut changes nothing, and what is decoded can be encoded again.
#![no_main]

use bidiway::wire::base64_text::{self, Base64Decoder, InvalidBase64};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&chunk, text)) = input.split_first() else { return };
    let whole = decode(text, text.len().max(1));
    assert_eq!(whole, decode(text, usize::from(chunk) + 1));
    if let Ok(bytes) = whole {
        let mut again = BytesMut::new();
        base64_text::encode(&bytes, &mut again);
        assert_eq!(decode(&again, 3), Ok(bytes));
    }
});

fn decode(text: &[u8], chunk: usize) -> Result<Vec<u8>, InvalidBase64> {
    let mut decoder = Base64Decoder::default();
    let mut bytes = Vec::new();
    for chunk in text.chunks(chunk) {
        bytes.extend_from_slice(&decoder.decode(chunk)?);
    }
    decoder.finish().map(|()| bytes)
}
