//! gRPC in WebSocket messages as `@improbable-eng/grpc-web` writes it: one call on a socket (`grpc-websockets`), and
//! Deephaven's form with many (`grpc-websockets-multiplex`). `docs/grpc-websockets.md` is the description.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    envelope::PREFIX_LEN,
    grpc_web::{self, InvalidLine, TRAILER_FLAG},
};

/// The subprotocol with one call on a socket.
pub const SUBPROTOCOL: &str = "grpc-websockets";

/// The subprotocol with many calls on a socket.
pub const MULTIPLEX_SUBPROTOCOL: &str = "grpc-websockets-multiplex";

/// Names the method in a multiplexed call's header block: `pkg.Service/Method`.
pub const PATH_HEADER: HeaderName = HeaderName::from_static("grpc-websockets-path");

/// The stream number that means the socket itself: the proxy says GOAWAY with it, and the client acknowledges.
pub const GOAWAY: u32 = 0x7fff_ffff;

/// The bit of a stream number that marks the sender's last message.
const LAST: u32 = 0x8000_0000;

/// The first byte of a message that holds request bytes.
const DATA: u8 = 0;

/// The only byte of a message that ends a request.
const HALF_CLOSE: u8 = 1;

/// What a client says on a call after its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes of its length-prefixed messages, cut anywhere.
    Data(Bytes),
    /// No more messages.
    HalfClose,
}

/// A message of a multiplexed socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The stream, without the mark.
    pub stream: u32,
    /// Whether it is the sender's last on this stream.
    pub last: bool,
    /// A header block, or what [`read_request`] takes.
    pub payload: Bytes,
}

/// What is wrong with a client's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// The first message of a call is no block of headers.
    #[error("the first message of a call must be its header block: {0}")]
    Headers(#[from] InvalidLine),
    /// A header block with more entries than a header map holds.
    #[error("the header block has too many lines")]
    TooMany,
    /// A message that is neither request bytes nor a half-close.
    #[error(
        "a message after the headers begins with byte {0:#04x}; 0x00 and the bytes of a gRPC message, or 0x01 alone, \
         are defined"
    )]
    Prefix(u8),
    /// A multiplexed message too short for a stream number and something behind it.
    #[error("a message of {0} bytes has no room for a stream number and what belongs to it")]
    Short(usize),
}

/// Reads a header block: `name: value` lines, names in any case, values of a name in several lines or joined by
/// commas. Joined `-bin` values become entries of their own, as services decode each by itself. A block may be empty.
pub fn read_headers(block: &[u8]) -> Result<HeaderMap, InvalidMessage> {
    let lines = grpc_web::parse_lines(block)?;
    let is_joined = |name: &HeaderName, value: &HeaderValue| {
        name.as_str().ends_with("-bin") && value.as_bytes().contains(&b',')
    };
    if !lines.iter().any(|(name, value)| is_joined(name, value)) {
        return Ok(lines);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &lines {
        if !is_joined(name, value) {
            headers.try_append(name.clone(), value.clone()).map_err(|_| InvalidMessage::TooMany)?;
            continue;
        }
        for part in value.as_bytes().split(|&byte| byte == b',') {
            let part = HeaderValue::from_bytes(part.trim_ascii()).expect("a part of a value is a value");
            headers.try_append(name.clone(), part).map_err(|_| InvalidMessage::TooMany)?;
        }
    }
    Ok(headers)
}

/// Reads a message after the headers. `None`: it is empty, which says nothing.
pub fn read_request(mut message: Bytes) -> Result<Option<Request>, InvalidMessage> {
    match *message {
        [] => Ok(None),
        [HALF_CLOSE] => Ok(Some(Request::HalfClose)),
        [DATA, ..] => Ok(Some(Request::Data(message.split_off(1)))),
        [other, ..] => Err(InvalidMessage::Prefix(other)),
    }
}

/// Whether a payload can only stand after the headers of a call: request bytes, or a half-close.
pub fn is_request(payload: &[u8]) -> bool {
    matches!(payload, [DATA | HALF_CLOSE, ..])
}

/// Takes a multiplexed message apart.
pub fn read_frame(mut message: Bytes) -> Result<Frame, InvalidMessage> {
    let &[a, b, c, d, ..] = &message[..] else { return Err(InvalidMessage::Short(message.len())) };
    let number = u32::from_be_bytes([a, b, c, d]);
    let (stream, last) = (number & !LAST, number & LAST != 0);
    let payload = message.split_off(4);
    // The mark alone says that there are no more messages; nothing at all says nothing.
    if payload.is_empty() && !last {
        return Err(InvalidMessage::Short(message.len()));
    }
    Ok(Frame { stream, last, payload })
}

/// The number in front of a multiplexed message.
pub fn stream_number(stream: u32, last: bool) -> [u8; 4] {
    (stream | if last { LAST } else { 0 }).to_be_bytes()
}

/// Writes a block of headers or trailers behind what `out` holds. Values with bytes that these clients cannot read
/// (they fail the call on anything but printable ASCII) are left out.
pub fn write_block(headers: &HeaderMap, out: &mut BytesMut) {
    let start = out.len();
    out.put_slice(&[TRAILER_FLAG, 0, 0, 0, 0]);
    for (name, value) in headers {
        if !value.as_bytes().iter().all(|byte| matches!(byte, b' '..=b'~')) {
            continue;
        }
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    let length = out.len() - start - PREFIX_LEN;
    let length = u32::try_from(length).expect("a header map is bounded far below 4 GiB");
    out[start + 1..start + PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_header_block_is_read_as_the_client_writes_it() {
        let block = b"x-custom: a, b\r\nx-bin-bin: AQID\r\nContent-Type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n";
        let headers = read_headers(block).unwrap();
        assert_eq!(headers["x-custom"], "a, b");
        assert_eq!(headers["x-bin-bin"], "AQID");
        assert_eq!(headers["content-type"], "application/grpc-web+proto");
        assert_eq!(read_headers(b""), Ok(HeaderMap::new()));
    }

    #[test]
    fn values_of_a_name_may_stand_in_lines_of_their_own() {
        let headers = read_headers(b"x: 1\r\nx: 2\r\ny-bin: AA\r\ny-bin: AQ, Ag\r\n").unwrap();
        assert_eq!(headers.get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers.get_all("y-bin").iter().collect::<Vec<_>>(), ["AA", "AQ", "Ag"]);
    }

    #[test]
    fn what_is_no_header_block_is_refused_with_the_line() {
        for (block, line) in
            [(&b"\x01"[..], 1), (b"\0\0\0\0\x02ab", 1), (b"a: b\r\nno colon\r\n", 2), (b"a b: c\r\n", 1)]
        {
            let error = read_headers(block).unwrap_err();
            assert_eq!(error, InvalidMessage::Headers(InvalidLine { line }), "{block:?}");
        }
    }

    #[test]
    fn messages_after_the_headers_are_data_or_the_half_close() {
        let read = |bytes: &'static [u8]| read_request(Bytes::from_static(bytes));
        assert_eq!(read(b""), Ok(None));
        assert_eq!(read(b"\x01"), Ok(Some(Request::HalfClose)));
        assert_eq!(read(b"\0"), Ok(Some(Request::Data(Bytes::new()))));
        assert_eq!(read(b"\0\0\0\0\0\0"), Ok(Some(Request::Data(Bytes::from_static(&[0; 5])))));
        assert_eq!(read(b"\x01\0"), Err(InvalidMessage::Prefix(1)));
        assert_eq!(read(b"x: y"), Err(InvalidMessage::Prefix(b'x')));
    }

    #[test]
    fn the_highest_bit_of_a_stream_number_marks_the_last_message() {
        let read = |bytes: &'static [u8]| read_frame(Bytes::from_static(bytes));
        let frame = |stream, last, payload: &'static [u8]| {
            Ok(Frame { stream, last, payload: Bytes::from_static(payload) })
        };
        assert_eq!(read(b"\0\0\0\x07\0"), frame(7, false, b"\0"));
        assert_eq!(read(b"\x80\0\0\x07\x01"), frame(7, true, b"\x01"));
        assert_eq!(read(b"\x80\0\0\x07"), frame(7, true, b""));
        assert_eq!(read(b"\xff\xff\xff\xff\x01"), frame(GOAWAY, true, b"\x01"));
        for short in [&b""[..], b"\0\0\0", b"\0\0\0\x07"] {
            assert_eq!(read_frame(Bytes::from_static(short)), Err(InvalidMessage::Short(short.len())));
        }
    }

    #[test]
    fn a_block_leaves_out_what_clients_cannot_read() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        headers.insert("b", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let mut out = BytesMut::from(&b"before"[..]);
        write_block(&headers, &mut out);
        assert_eq!(&out[..], b"before\x80\0\0\0\x06a: 1\r\n");
    }

    proptest! {
        #[test]
        fn a_block_that_was_written_reads_as_what_it_was(
            entries in vec(("[a-z][a-z0-9_.-]{0,8}", "([!-+.-~]([ -+.-~]{0,10}[!-+.-~])?)?"), 0..8),
        ) {
            let headers: HeaderMap = entries
                .iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
                .collect();
            let mut block = BytesMut::new();
            write_block(&headers, &mut block);
            prop_assert_eq!(block[0], TRAILER_FLAG);
            let length = u32::from_be_bytes(block[1..5].try_into().unwrap());
            prop_assert_eq!(length as usize, block.len() - 5);
            prop_assert_eq!(read_headers(&block[5..]).unwrap(), headers);
        }

        #[test]
        fn a_frame_is_its_number_and_its_payload(stream in 0..=GOAWAY, last: bool, payload in vec(any::<u8>(), 1..20)) {
            let bytes = [&stream_number(stream, last)[..], &payload].concat();
            let frame = read_frame(bytes.into()).unwrap();
            prop_assert_eq!(frame, Frame { stream, last, payload: payload.into() });
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..40)) {
            let _ = read_headers(&bytes);
            let bytes = Bytes::from(bytes);
            if let Ok(Some(Request::Data(data))) = read_request(bytes.clone()) {
                prop_assert!(is_request(&bytes));
                prop_assert_eq!(&data[..], &bytes[1..]);
            }
            if let Ok(frame) = read_frame(bytes.clone()) {
                prop_assert_eq!(4 + frame.payload.len(), bytes.len());
            }
        }
    }
}
