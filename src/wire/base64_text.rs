//! The base64 of gRPC-Web text bodies, cut anywhere.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};

/// Decodes a base64 body that may be cut into chunks at any byte, and that may hold several padded segments one
/// after the other (each flush of a gRPC-Web peer may pad).
#[derive(Debug, Default)]
pub struct Base64Decoder {
    /// The bits of the open quantum's characters.
    bits: u32,
    /// How many characters of the open quantum are here, padding included: 0 to 3.
    held: u8,
    /// The third character of the open quantum was padding; the fourth has to be, too.
    padded: bool,
    /// Characters read since the start of the body.
    offset: u64,
}

impl Base64Decoder {
    /// Decodes what is complete of `chunk` and keeps up to three characters for the next. ASCII white space is an
    /// error, as is every character outside the standard alphabet.
    pub fn decode(&mut self, chunk: &[u8]) -> Result<Bytes, InvalidBase64> {
        let mut out = BytesMut::with_capacity((usize::from(self.held) + chunk.len()) / 4 * 3);
        let mut rest = chunk;
        while let Some((&byte, after)) = rest.split_first() {
            if self.held == 0 {
                let plain = decode_plain(rest, &mut out);
                self.offset += plain as u64;
                rest = &rest[plain..];
                if plain > 0 {
                    continue;
                }
            }
            self.push(byte, &mut out)?;
            rest = after;
        }
        Ok(out.freeze())
    }

    /// The body has ended: fails when a quantum is incomplete.
    pub fn finish(&self) -> Result<(), InvalidBase64> {
        if self.held == 0 { Ok(()) } else { Err(InvalidBase64::Incomplete) }
    }

    /// One character: the way of all that is not a whole quantum without padding.
    fn push(&mut self, byte: u8, out: &mut BytesMut) -> Result<(), InvalidBase64> {
        let value = VALUES[usize::from(byte)];
        match (self.held, byte) {
            (2, b'=') => self.padded = true,
            (3, b'=') if self.padded => out.put_u8((self.bits >> 4) as u8),
            (3, b'=') => out.put_slice(&[(self.bits >> 10) as u8, (self.bits >> 2) as u8]),
            _ if value == INVALID || self.padded => {
                return Err(InvalidBase64::Character { byte, offset: self.offset });
            }
            (held, _) => {
                self.bits = self.bits << 6 | u32::from(value);
                if held == 3 {
                    out.put_slice(&self.bits.to_be_bytes()[1..]);
                }
            }
        }
        self.offset += 1;
        self.held = (self.held + 1) % 4;
        if self.held == 0 {
            self.bits = 0;
            self.padded = false;
        }
        Ok(())
    }
}

/// Appends `bytes` to `out` as one padded segment.
pub fn encode(bytes: &[u8], out: &mut BytesMut) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("four characters were reserved for every three bytes");
}

/// Decodes whole quanta without padding from the front of `text`; returns how many characters it took.
fn decode_plain(text: &[u8], out: &mut BytesMut) -> usize {
    let mut taken = 0;
    for quantum in text.chunks_exact(4) {
        let values = [0, 1, 2, 3].map(|i| VALUES[usize::from(quantum[i])]);
        if values.contains(&INVALID) {
            break;
        }
        let bits = values.iter().fold(0u32, |bits, &value| bits << 6 | u32::from(value));
        out.put_slice(&bits.to_be_bytes()[1..]);
        taken += 4;
    }
    taken
}

const INVALID: u8 = 0xff;

/// The value of each character of the standard alphabet (RFC 4648, section 4).
const VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [INVALID; 256];
    let mut i = 0;
    while i < alphabet.len() {
        values[alphabet[i] as usize] = i as u8;
        i += 1;
    }
    values
};

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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn decode_in(chunks: &[&[u8]]) -> Result<Vec<u8>, InvalidBase64> {
        let mut decoder = Base64Decoder::default();
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(&decoder.decode(chunk)?);
        }
        decoder.finish().map(|()| out)
    }

    #[test]
    fn each_padding_is_decoded() {
        for (text, bytes) in [("", ""), ("QQ==", "A"), ("QUI=", "AB"), ("QUJD", "ABC"), ("QUJDRA==", "ABCD")]
        {
            assert_eq!(decode_in(&[text.as_bytes()]), Ok(bytes.into()), "{text}");
        }
    }

    #[test]
    fn padded_segments_may_follow_each_other() {
        assert_eq!(decode_in(&[b"QQ==QUI=QUJDQQ=="]), Ok(b"AABABCA".to_vec()));
    }

    #[test]
    fn missing_final_padding_is_an_error_at_the_end() {
        for text in ["Q", "QQ", "QQ=", "QUI", "QUJDQ"] {
            assert_eq!(decode_in(&[text.as_bytes()]), Err(InvalidBase64::Incomplete), "{text}");
        }
    }

    #[test]
    fn a_wrong_character_is_named_with_its_place_in_the_body() {
        for (text, byte, offset) in [
            ("QUJDQU\nD", b'\n', 6),
            ("QUJD QUJD", b' ', 4),
            ("QUJDQU-_", b'-', 6),
            ("=", b'=', 0),
            ("Q=", b'=', 1),
            ("QUJD====", b'=', 4),
            ("QQ=Q", b'Q', 3),
            ("QQ===", b'=', 4),
            ("QQ==\0", 0, 4),
        ] {
            let expected = Err(InvalidBase64::Character { byte, offset });
            assert_eq!(decode_in(&[text.as_bytes()]), expected, "{text:?} whole");
            let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(decode_in(&single), expected, "{text:?} byte by byte");
        }
    }

    #[test]
    fn encoding_appends_one_padded_segment() {
        let mut out = BytesMut::from(&b"kept"[..]);
        encode(b"A", &mut out);
        encode(b"", &mut out);
        encode(b"ABC", &mut out);
        assert_eq!(out, b"keptQQ==QUJD"[..]);
    }

    proptest! {
        #[test]
        fn segments_survive_every_cut(segments in vec(vec(any::<u8>(), 0..20), 0..5), step in 1usize..9) {
            let mut text = BytesMut::new();
            for segment in &segments {
                encode(segment, &mut text);
            }
            let expected: Vec<u8> = segments.concat();
            for cut in 0..=text.len() {
                let (front, back) = text.split_at(cut);
                prop_assert_eq!(decode_in(&[front, back]).unwrap(), expected.as_slice());
            }
            let steps: Vec<&[u8]> = text.chunks(step).collect();
            prop_assert_eq!(decode_in(&steps).unwrap(), expected);
        }

        #[test]
        fn a_cut_never_changes_the_verdict(text in "[AQ=+/ ]{0,16}") {
            let text = text.as_bytes();
            let whole = decode_in(&[text]);
            for cut in 0..=text.len() {
                prop_assert_eq!(decode_in(&[&text[..cut], &text[cut..]]), whole.clone());
            }
        }

        #[test]
        fn one_segment_is_read_as_the_base64_crate_reads_it(bytes in vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode_in(&[STANDARD.encode(&bytes).as_bytes()]).unwrap(), bytes);
        }
    }
}
