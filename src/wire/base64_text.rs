//! The base64 of gRPC-Web text bodies, cut anywhere.

use bytes::{Bytes, BytesMut};

/// Decodes a base64 body that may be cut into chunks at any byte, and that may hold several padded segments one
/// after the other (each flush of a gRPC-Web peer may pad).
#[derive(Debug, Default)]
pub struct Base64Decoder {
    _todo: (),
}

impl Base64Decoder {
    /// Decodes what is complete of `chunk` and keeps up to three characters for the next. ASCII white space is an
    /// error, as is every character outside the standard alphabet.
    pub fn decode(&mut self, _chunk: &[u8]) -> Result<Bytes, InvalidBase64> {
        todo!()
    }

    /// The body has ended: fails when a quantum is incomplete.
    pub fn finish(&self) -> Result<(), InvalidBase64> {
        todo!()
    }
}

/// Appends `bytes` to `out` as one padded segment.
pub fn encode(_bytes: &[u8], _out: &mut BytesMut) {
    todo!()
}

/// The body is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBase64 {
    /// A character that base64 does not have, or padding in the wrong place.
    #[error("byte {byte:#04x} at offset {offset} of the text body is not valid base64")]
    Character {
        /// The character.
        byte: u8,
        /// Counted from the start of the body.
        offset: u64,
    },
    /// The body ended within a quantum of four characters.
    #[error("the text body ends in the middle of a base64 quantum")]
    Incomplete,
}
