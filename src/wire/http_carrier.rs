//! The bodies of the HTTP carrier (docs/protocol.md, section 20), as far as generated code does not do: what is written
//! piece by piece into a response that streams, and what is read from a request that is not whole.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint},
};

use super::v1::{HttpClose, HttpDown, HttpOpened};

/// The largest packet, and so much more for the fields beside it.
pub const MAX_BODY: usize = 262_144 + 1024;

/// The room that [`packet_field`] needs before a packet: a tag and the longest length.
pub const FIELD_MAX: usize = 1 + 5;

/// What the proxy sends where nothing else is due: an empty `HttpDown.padding`.
pub const HEARTBEAT: &[u8] = &[0x22, 0];

/// How much padding follows the first packet.
pub const PADDING: usize = 2048;

const PACKET: u32 = 1;
const PADDING_FIELD: u32 = 4;

/// Writes what stands before a packet of `len` bytes, in an `HttpDown`, to the end of `room`; where it begins there.
pub fn packet_field(len: usize, room: &mut [u8]) -> usize {
    let start = room.len() - 1 - encoded_len_varint(len as u64);
    let mut field = &mut room[start..];
    encode_key(PACKET, WireType::LengthDelimited, &mut field);
    encode_varint(len as u64, &mut field);
    start
}

/// The name of a new carrier, as the first field of a response.
pub fn opened(carrier: Bytes) -> Vec<u8> {
    HttpDown { opened: Some(HttpOpened { carrier }), ..HttpDown::default() }.encode_to_vec()
}

/// The last field of a carrier.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let close = HttpClose { code: code.into(), reason: reason.to_owned() };
    HttpDown { close: Some(close), ..HttpDown::default() }.encode_to_vec()
}

/// What pushes the first packet through a middlebox that waits for more.
pub fn padding(out: &mut BytesMut) {
    encode_key(PADDING_FIELD, WireType::LengthDelimited, out);
    encode_varint(PADDING as u64, out);
    out.put_bytes(0, PADDING);
}

/// The carrier that a request names, if that is the first thing in it: for bodies of which only the beginning was
/// read.
pub fn leading_carrier(mut body: &[u8]) -> Option<&[u8]> {
    const CARRIER: u32 = 1;
    let body = &mut body;
    let (CARRIER, WireType::LengthDelimited) = decode_key(body).ok()? else { return None };
    let len = decode_varint(body).ok()?;
    body.get(..usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1::HttpUp;

    #[test]
    fn what_is_written_piece_by_piece_is_one_http_down() {
        for len in [0, 1, 127, 128, 16_384, 262_144] {
            let packet = vec![7; len];
            let mut body = BytesMut::from(&opened(Bytes::from_static(b"name"))[..]);
            let mut room = [0; FIELD_MAX];
            let start = packet_field(len, &mut room);
            body.extend_from_slice(&room[start..]);
            body.extend_from_slice(&packet);
            padding(&mut body);
            body.extend_from_slice(HEARTBEAT);
            body.extend_from_slice(&close(4003, "why"));
            let read = HttpDown::decode(body.freeze()).unwrap();
            assert_eq!(read.opened.unwrap().carrier, "name");
            assert_eq!(read.packet, [packet]);
            assert_eq!(read.padding.iter().map(Bytes::len).collect::<Vec<_>>(), [2048, 0]);
            assert_eq!(read.close, Some(HttpClose { code: 4003, reason: "why".into() }));
        }
    }

    #[test]
    fn a_carrier_is_found_at_the_beginning_of_a_body_and_nowhere_else() {
        let up = HttpUp { carrier: Bytes::from_static(b"name"), number: 7, ..HttpUp::default() };
        let body = up.encode_to_vec();
        assert_eq!(leading_carrier(&body), Some(&b"name"[..]));
        for len in 0..6 {
            assert_eq!(leading_carrier(&body[..len]), None, "{len}");
        }
        assert_eq!(leading_carrier(&[&[0x10, 7], &body[..]].concat()), None);
    }
}
