//! WebSocket frames as a server reads and writes them (RFC 6455, section 5), without extensions. Two servers speak the
//! same frames with each other, and mask none.

use bytes::{Buf, Bytes, BytesMut};

/// The longest header of a frame that a server writes: it does not mask.
pub const HEADER_MAX: usize = 10;

/// The longest payload of a control frame (RFC 6455, section 5.5).
pub const CONTROL_MAX: usize = 125;

/// What a frame is for (RFC 6455, section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further part of a message.
    Continuation = 0x0,
    /// A text message, or its first part.
    Text = 0x1,
    /// A binary message, or its first part.
    Binary = 0x2,
    /// The sender goes.
    Close = 0x8,
    /// To be answered with a pong.
    Ping = 0x9,
    /// The answer.
    Pong = 0xa,
}

/// A message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A binary message.
    Binary(Bytes),
    /// The peer goes.
    Close {
        /// Its close code, if it gave one.
        code: Option<u16>,
        /// Its reason: UTF-8, perhaps empty.
        reason: Bytes,
    },
    /// To be answered with these bytes.
    Ping(Bytes),
    /// An answer to a ping.
    Pong,
    /// A text message. Whether it is UTF-8 is for those to see who take text at all.
    Text(Bytes),
}

/// What RFC 6455 does not allow, or what is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// A close frame with half a code, a code that must not be sent, or a reason that is not UTF-8.
    #[error("the close frame is not valid")]
    Close,
    /// A control frame that is cut in parts or has more than 125 bytes.
    #[error("a control frame is fragmented or longer than {CONTROL_MAX} bytes")]
    Control,
    /// A continuation without a message, or a new message inside another.
    #[error("a message is continued that was not begun, or not continued that was")]
    Fragment,
    /// A length in more bytes than it needs.
    #[error("a frame's length is not in its shortest form")]
    Length,
    /// A client's frame without a mask, or another server's with one.
    #[error("a frame from a client is not masked, or one from a server is")]
    Mask,
    /// An opcode that is not defined, or a reserved bit.
    #[error("a frame has an opcode or reserved bits that were not negotiated")]
    Reserved,
    /// A message larger than allowed; noticed at its header.
    #[error("a message is larger than {0} bytes")]
    TooLarge(usize),
}

/// Writes the header of an unmasked, unfragmented frame into the last bytes of `room`, and returns where it begins:
/// a payload that follows the room directly needs no second write.
pub fn write_header(opcode: Opcode, len: usize, room: &mut [u8; HEADER_MAX]) -> usize {
    let first = 0x80 | opcode as u8;
    let start = match len {
        0..=125 => {
            room[9] = len as u8;
            8
        }
        126..=0xffff => {
            room[8..].copy_from_slice(&(len as u16).to_be_bytes());
            room[7] = 126;
            6
        }
        _ => {
            room[2..].copy_from_slice(&(len as u64).to_be_bytes());
            room[1] = 127;
            0
        }
    };
    room[start] = first;
    start
}

/// The payload of a close frame; the reason is cut to what fits.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CONTROL_MAX - 2)]);
    payload
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    opcode: Opcode,
    last: bool,
    mask: [u8; 4],
    /// Its own length.
    size: usize,
    /// The payload's.
    len: usize,
}

impl Header {
    /// Reads a frame header; `None` when it is not complete.
    fn read(bytes: &[u8], max: usize, masked: bool) -> Result<Option<Self>, WebSocketError> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        let opcode = match first & 0x7f {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return Err(WebSocketError::Reserved),
        };
        let last = first & 0x80 != 0;
        if (second & 0x80 != 0) != masked {
            return Err(WebSocketError::Mask);
        }
        let short = usize::from(second & 0x7f);
        let control = first & 0x08 != 0;
        if control && (short > CONTROL_MAX || !last) {
            return Err(WebSocketError::Control);
        }
        let (len, at) = match short {
            126 => {
                let Some(&[a, b]) = bytes.get(2..4) else { return Ok(None) };
                (u64::from(u16::from_be_bytes([a, b])), 4)
            }
            127 => {
                let Some(&[a, b, c, d, e, f, g, h]) = bytes.get(2..10) else { return Ok(None) };
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10)
            }
            short => (short as u64, 2),
        };
        if (at == 4 && len < 126) || (at == 10 && len <= 0xffff) {
            return Err(WebSocketError::Length);
        }
        let len = usize::try_from(len).ok().filter(|&len| len <= max).ok_or(WebSocketError::TooLarge(max))?;
        if !masked {
            return Ok(Some(Self { opcode, last, mask: [0; 4], size: at, len }));
        }
        let Some(&[a, b, c, d]) = bytes.get(at..at + 4) else { return Ok(None) };
        Ok(Some(Self { opcode, last, mask: [a, b, c, d], size: at + 4, len }))
    }
}

/// XORs a payload with its mask (RFC 6455, section 5.3), eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Ok(bytes) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// Reads messages from bytes that come in any pieces. Holds nothing between two messages.
#[derive(Debug)]
pub struct MessageReader {
    /// What has come and is not decoded: at most one frame, and what was read along with it.
    bytes: BytesMut,
    /// The parts of a fragmented message that have come.
    parts: BytesMut,
    /// A message has begun and is not complete.
    open: Option<Opcode>,
    max_message: usize,
    masked: bool,
}

impl MessageReader {
    /// A reader of a client's messages, that refuses those of more than `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        Self { bytes: BytesMut::new(), parts: BytesMut::new(), open: None, max_message, masked: true }
    }

    /// The same for another server's messages, which are not masked.
    pub fn unmasked(max_message: usize) -> Self {
        Self { masked: false, ..Self::new(max_message) }
    }

    /// Bytes that have come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The buffer to read into directly, and how many bytes the frame at hand still lacks: worth it for a large frame.
    /// Reading more than these would make the rest of the buffer move.
    pub fn missing(&mut self) -> Option<(&mut BytesMut, usize)> {
        let header = Header::read(&self.bytes, self.max_message, self.masked).ok()??;
        let missing = (header.size + header.len).checked_sub(self.bytes.len()).filter(|&n| n > 0)?;
        Some((&mut self.bytes, missing))
    }

    /// The next message or control frame; `None`: more bytes are needed. After an error nothing more can be read.
    pub fn next_message(&mut self) -> Result<Option<Message>, WebSocketError> {
        loop {
            let Some((header, payload)) = self.frame()? else { return Ok(None) };
            let message = match header.opcode {
                Opcode::Close => close(payload)?,
                Opcode::Ping => Message::Ping(payload),
                Opcode::Pong => Message::Pong,
                Opcode::Binary | Opcode::Text | Opcode::Continuation => match self.part(header, payload)? {
                    Some(message) => message,
                    None => continue,
                },
            };
            return Ok(Some(message));
        }
    }

    /// The next whole frame, unmasked.
    fn frame(&mut self) -> Result<Option<(Header, Bytes)>, WebSocketError> {
        let Some(header) = Header::read(&self.bytes, self.max_message, self.masked)? else { return Ok(None) };
        let size = header.size + header.len;
        if self.bytes.len() < size {
            return Ok(None);
        }
        // Most often the frame is all there is: then the buffer goes with it, and an idle reader holds none.
        let mut frame = if self.bytes.len() == size {
            std::mem::take(&mut self.bytes)
        } else {
            self.bytes.split_to(size)
        };
        frame.advance(header.size);
        if self.masked {
            unmask(&mut frame, header.mask);
        }
        Ok(Some((header, frame.freeze())))
    }

    /// A part of a message; the message, if this completes it.
    fn part(&mut self, header: Header, payload: Bytes) -> Result<Option<Message>, WebSocketError> {
        if (header.opcode == Opcode::Continuation) != self.open.is_some() {
            return Err(WebSocketError::Fragment);
        }
        let whole = |opcode, payload| match opcode {
            Opcode::Text => Message::Text(payload),
            _ => Message::Binary(payload),
        };
        if header.last && self.open.is_none() {
            return Ok(Some(whole(header.opcode, payload)));
        }
        let opcode = *self.open.get_or_insert(header.opcode);
        if self.parts.len() + payload.len() > self.max_message {
            return Err(WebSocketError::TooLarge(self.max_message));
        }
        self.parts.extend_from_slice(&payload);
        if !header.last {
            return Ok(None);
        }
        self.open = None;
        Ok(Some(whole(opcode, std::mem::take(&mut self.parts).freeze())))
    }
}

/// A close frame's payload (RFC 6455, sections 5.5.1 and 7.4).
fn close(mut payload: Bytes) -> Result<Message, WebSocketError> {
    let (code, reason) = match &payload[..] {
        [] => return Ok(Message::Close { code: None, reason: payload }),
        [_] => return Err(WebSocketError::Close),
        [a, b, reason @ ..] => (u16::from_be_bytes([*a, *b]), reason),
    };
    let sendable = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !sendable || std::str::from_utf8(reason).is_err() {
        return Err(WebSocketError::Close);
    }
    payload.advance(2);
    Ok(Message::Close { code: Some(code), reason: payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{
        self,
        protocol::{Role, WebSocketConfig, WebSocketContext},
    };

    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            n @ 0..=125 => bytes.push(0x80 | n as u8),
            n @ 126..=0xffff => {
                bytes.push(0x80 | 126);
                bytes.extend((n as u16).to_be_bytes());
            }
            n => {
                bytes.push(0x80 | 127);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    fn read_all(reader: &mut MessageReader) -> Result<Vec<Message>, WebSocketError> {
        let mut messages = Vec::new();
        while let Some(message) = reader.next_message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Message>, WebSocketError> {
        let mut reader = MessageReader::new(1 << 20);
        reader.feed(bytes);
        read_all(&mut reader)
    }

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 6455, section 5.7: a masked "Hello", and a masked pong with the same body.
        let text = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(read(&text), Ok(vec![Message::Text(Bytes::from_static(b"Hello"))]));
        let mut binary = text;
        binary[0] = 0x82;
        assert_eq!(read(&binary), Ok(vec![Message::Binary("Hello".into())]));
        let mut pong = text;
        pong[0] = 0x8a;
        assert_eq!(read(&pong), Ok(vec![Message::Pong]));
    }

    #[test]
    fn headers_are_written_in_the_shortest_form() {
        let write = |len| {
            let mut room = [0; HEADER_MAX];
            let start = write_header(Opcode::Binary, len, &mut room);
            room[start..].to_vec()
        };
        assert_eq!(write(0), [0x82, 0]);
        assert_eq!(write(125), [0x82, 125]);
        assert_eq!(write(126), [0x82, 126, 0, 126]);
        assert_eq!(write(65_535), [0x82, 126, 0xff, 0xff]);
        assert_eq!(write(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn fragments_become_one_message_and_control_frames_pass_between_them() {
        let bytes = [
            frame(0x02, b"one ", MASK),
            frame(0x89, b"ping", MASK),
            frame(0x00, b"two ", [9; 4]),
            frame(0x80, b"three", MASK),
        ]
        .concat();
        let expected = vec![Message::Ping("ping".into()), Message::Binary("one two three".into())];
        assert_eq!(read(&bytes), Ok(expected));
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        let mut unmasked = frame(0x82, b"x", MASK);
        unmasked[1] &= 0x7f;
        let mut long = vec![0x82, 0xfe, 0, 125];
        long.extend([0; 129]);
        let cases = [
            ("unmasked", unmasked, WebSocketError::Mask),
            ("rsv1", frame(0xc2, b"x", MASK), WebSocketError::Reserved),
            ("opcode 3", frame(0x83, b"x", MASK), WebSocketError::Reserved),
            ("opcode 11", frame(0x8b, b"x", MASK), WebSocketError::Reserved),
            ("a fragmented ping", frame(0x09, b"x", MASK), WebSocketError::Control),
            ("a ping of 126 bytes", frame(0x89, &[0; 126], MASK), WebSocketError::Control),
            ("a continuation of nothing", frame(0x80, b"x", MASK), WebSocketError::Fragment),
            (
                "a message inside a message",
                [frame(0x02, b"x", MASK), frame(0x82, b"y", MASK)].concat(),
                WebSocketError::Fragment,
            ),
            ("a length in too many bytes", long, WebSocketError::Length),
            ("half a close code", frame(0x88, &[3], MASK), WebSocketError::Close),
            ("close 1005", frame(0x88, &1005_u16.to_be_bytes(), MASK), WebSocketError::Close),
            ("close 999", frame(0x88, &999_u16.to_be_bytes(), MASK), WebSocketError::Close),
            ("a reason that is not UTF-8", frame(0x88, &[3, 0xe8, 0xff], MASK), WebSocketError::Close),
        ];
        for (name, bytes, error) in cases {
            assert_eq!(read(&bytes), Err(error), "{name}");
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_at_its_header() {
        let mut reader = MessageReader::new(1000);
        reader.feed(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reader.next_message(), Err(WebSocketError::TooLarge(1000)));

        let mut reader = MessageReader::new(1000);
        reader.feed(&frame(0x02, &[0; 600], MASK));
        reader.feed(&frame(0x80, &[0; 401], MASK));
        assert_eq!(reader.next_message(), Err(WebSocketError::TooLarge(1000)));
    }

    #[test]
    fn between_two_messages_no_buffer_is_held() {
        let mut reader = MessageReader::new(1 << 20);
        reader.feed(&frame(0x82, &[7; 5000], MASK));
        assert!(matches!(reader.next_message(), Ok(Some(Message::Binary(_)))));
        assert_eq!(reader.next_message(), Ok(None));
        assert_eq!(reader.bytes.capacity(), 0);
    }

    #[test]
    fn a_large_frame_says_how_much_of_it_is_missing() {
        let bytes = frame(0x82, &[7; 5000], MASK);
        let mut reader = MessageReader::new(1 << 20);
        reader.feed(&bytes[..3]);
        assert!(reader.missing().is_none(), "the header is not complete");
        reader.feed(&bytes[3..100]);
        let (buffer, missing) = reader.missing().unwrap();
        assert_eq!(missing, bytes.len() - 100);
        buffer.extend_from_slice(&bytes[100..]);
        assert!(reader.missing().is_none());
        assert_eq!(reader.next_message(), Ok(Some(Message::Binary(vec![7; 5000].into()))));
    }

    #[test]
    fn a_reason_is_cut_to_whole_characters_that_fit() {
        let payload = close_payload(4014, &"é".repeat(100));
        assert_eq!(payload.len(), 2 + 122);
        assert!(std::str::from_utf8(&payload[2..]).is_ok());
    }

    /// What tungstenite makes of the same bytes.
    fn oracle(bytes: &[u8]) -> Result<Vec<Message>, ()> {
        struct Input<'a>(&'a [u8]);
        impl std::io::Read for Input<'_> {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                match self.0.read(buf)? {
                    0 if !buf.is_empty() => Err(std::io::ErrorKind::WouldBlock.into()),
                    n => Ok(n),
                }
            }
        }
        impl std::io::Write for Input<'_> {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                Ok(buf.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let config = WebSocketConfig::default().max_message_size(Some(1 << 20)).max_frame_size(Some(1 << 20));
        let mut context = WebSocketContext::new(Role::Server, Some(config));
        let mut input = Input(bytes);
        let mut messages = Vec::new();
        loop {
            messages.push(match context.read(&mut input) {
                Ok(tungstenite::Message::Binary(bytes)) => Message::Binary(bytes),
                Ok(tungstenite::Message::Text(text)) => Message::Text(text.into()),
                Ok(tungstenite::Message::Ping(bytes)) => Message::Ping(bytes),
                Ok(tungstenite::Message::Pong(_)) => Message::Pong,
                Ok(tungstenite::Message::Close(frame)) => match frame {
                    None => Message::Close { code: None, reason: Bytes::new() },
                    Some(frame) => Message::Close {
                        code: Some(frame.code.into()),
                        reason: Bytes::copy_from_slice(frame.reason.as_bytes()),
                    },
                },
                Ok(tungstenite::Message::Frame(_)) => unreachable!("not read"),
                Err(tungstenite::Error::Io(_) | tungstenite::Error::ConnectionClosed) => return Ok(messages),
                Err(_) => return Err(()),
            });
        }
    }

    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let one = (
            prop_oneof![8 => Just(0x82_u8), 2 => Just(0x02), 2 => Just(0x00), 2 => Just(0x80), 1 => Just(0x89), 1 => Just(0x8a), 1 => any::<u8>()],
            prop_oneof![4 => 0..130_usize, 1 => 65_500..65_600_usize],
            any::<[u8; 4]>(),
        )
            .prop_map(|(first, len, mask)| frame(first, &vec![b'a'; len], mask));
        prop::collection::vec(one, 0..8).prop_map(|frames| frames.concat())
    }

    proptest! {
        #[test]
        fn frames_are_read_as_tungstenite_reads_them(bytes in frames()) {
            match (read(&bytes), oracle(&bytes)) {
                (Ok(ours), Ok(theirs)) => {
                    // tungstenite reads nothing behind a close frame.
                    let end = ours.iter().position(|m| matches!(m, Message::Close { .. })).map_or(ours.len(), |at| at + 1);
                    prop_assert!(ours[..end] == theirs[..]);
                }
                (ours, theirs) => prop_assert!(
                    ours.is_err() == theirs.is_err() || ours == Err(WebSocketError::Close),
                    "{:?} {:?}",
                    ours.err(),
                    theirs.err()
                ),
            }
        }

        #[test]
        fn bytes_that_come_in_any_pieces_are_the_same_messages(bytes in frames(), cuts in prop::collection::vec(1..3000_usize, 1..20)) {
            let whole = read(&bytes);
            let mut reader = MessageReader::new(1 << 20);
            let mut pieces = Vec::new();
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            let mut result = Ok(());
            while !rest.is_empty() && result.is_ok() {
                let (piece, left) = rest.split_at(rest.len().min(*cuts.next().unwrap_or(&1)));
                rest = left;
                match reader.missing() {
                    Some((buffer, missing)) if missing >= piece.len() => buffer.extend_from_slice(piece),
                    _ => reader.feed(piece),
                }
                loop {
                    match reader.next_message() {
                        Ok(Some(message)) => pieces.push(message),
                        Ok(None) => break,
                        Err(error) => { result = Err(error); break }
                    }
                }
            }
            prop_assert!(result.map(|()| pieces) == whole);
        }
    }
}
