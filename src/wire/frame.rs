//! The session's frames and packets, as `proto/bidiway/v1/session.proto` defines them.
//!
//! The codec is written by hand for the frames that come with every message (data, half-close, credit, ack, ping,
//! pong, cancel); the others go through the generated types. A property test holds both against prost.

use std::{mem, ops::Range};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

use super::v1;

/// One frame: its stream (0 is the session) and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The stream, or 0.
    pub stream: u32,
    /// What it says.
    pub kind: FrameKind,
}

/// What a frame says. See the proto file for direction and meaning.
#[derive(Clone, Debug, PartialEq)]
pub enum FrameKind {
    /// `ack`: sequenced frames received.
    Ack(u64),
    /// `cancel`.
    Cancel,
    /// `credit`: more bytes on this stream.
    Credit(u64),
    /// `data`: a message or a piece of one.
    Data {
        /// The bytes; a slice of the packet.
        bytes: Bytes,
        /// Bytes of the same message still to come.
        remaining: u64,
        /// The client's last message.
        last: bool,
    },
    /// `go_away`.
    GoAway(Box<v1::GoAway>),
    /// `half_close`.
    HalfClose,
    /// `headers`.
    Headers(v1::Headers),
    /// `hello`.
    Hello(Box<v1::Hello>),
    /// `open`.
    Open(Box<v1::Open>),
    /// `ping`.
    Ping(u64),
    /// `pong`.
    Pong(u64),
    /// `refresh`.
    Refresh(v1::Refresh),
    /// `trailers`.
    Trailers(Box<v1::Trailers>),
    /// `welcome`.
    Welcome(Box<v1::Welcome>),
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The protobuf encoding is broken: a cut or overlong varint, a length past the end, a wrong wire type.
    #[error("the packet is not valid protobuf")]
    Malformed,
    /// A frame without a kind, or with one that this version does not know.
    #[error("a frame has no kind that this version knows")]
    NoKind,
    /// `remaining` or `last` on a frame without data, or `last` on an incomplete message.
    #[error("`remaining` and `last` do not fit the frame they stand on")]
    Misplaced,
}

/// Reads the frames of a packet one after the other. Nothing is allocated for a length that is not there: data is
/// a slice of the packet, and only the cold frames are built from the bytes that they really have.
#[derive(Debug)]
pub struct PacketReader {
    rest: Bytes,
}

impl PacketReader {
    /// A reader over one packet.
    pub fn new(packet: Bytes) -> Self {
        Self { rest: packet }
    }

    /// The next frame; `None` at the end of the packet. After an error the rest is unusable.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not end at the first error by itself"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let mut packet = Cursor { bytes: &self.rest, at: 0 };
        let body = loop {
            match packet.field()? {
                None => {
                    self.rest.clear();
                    return Ok(None);
                }
                Some((PACKET_FRAMES, LEN)) => break packet.length_delimited()?,
                Some((PACKET_FRAMES, _)) => return Err(FrameError::Malformed),
                Some((_, wire)) => packet.skip(wire)?,
            }
        };
        let fields = Fields::read(&self.rest, body.clone())?;
        let kind = match fields.kind {
            Kind::None => return Err(FrameError::NoKind),
            Kind::Data(range) => {
                let Fields { stream, remaining, last, .. } = fields;
                if last && remaining > 0 {
                    return Err(FrameError::Misplaced);
                }
                let bytes = self.take(range, body.end);
                return Ok(Some(Frame { stream, kind: FrameKind::Data { bytes, remaining, last } }));
            }
            Kind::Other(kind) => kind,
        };
        if fields.last || fields.remaining > 0 {
            return Err(FrameError::Misplaced);
        }
        self.rest.advance(body.end);
        Ok(Some(Frame { stream: fields.stream, kind }))
    }

    /// Takes `range` and leaves what follows `end`. The packet's last frame takes the packet itself: a packet with
    /// a single frame, the usual case under light load, is never shared and so costs no reference count.
    fn take(&mut self, range: Range<usize>, end: usize) -> Bytes {
        if end < self.rest.len() {
            let bytes = self.rest.slice(range);
            self.rest.advance(end);
            return bytes;
        }
        let mut bytes = mem::take(&mut self.rest);
        bytes.truncate(range.end);
        bytes.advance(range.start);
        bytes
    }
}

/// Appends a frame to a packet.
pub fn encode(frame: &Frame, packet: &mut BytesMut) {
    let stream = frame.stream;
    match &frame.kind {
        FrameKind::Ack(n) => encode_number(stream, field::ACK, *n, packet),
        FrameKind::Cancel => encode_message(stream, field::CANCEL, &v1::Cancel {}, packet),
        FrameKind::Credit(n) => encode_number(stream, field::CREDIT, *n, packet),
        FrameKind::Data { bytes, remaining, last } => encode_data(stream, bytes, *remaining, *last, packet),
        FrameKind::GoAway(message) => encode_message(stream, field::GO_AWAY, &**message, packet),
        FrameKind::HalfClose => encode_message(stream, field::HALF_CLOSE, &v1::HalfClose {}, packet),
        FrameKind::Headers(message) => encode_message(stream, field::HEADERS, message, packet),
        FrameKind::Hello(message) => encode_message(stream, field::HELLO, &**message, packet),
        FrameKind::Open(message) => encode_message(stream, field::OPEN, &**message, packet),
        FrameKind::Ping(n) => encode_number(stream, field::PING, *n, packet),
        FrameKind::Pong(n) => encode_number(stream, field::PONG, *n, packet),
        FrameKind::Refresh(message) => encode_message(stream, field::REFRESH, message, packet),
        FrameKind::Trailers(message) => encode_message(stream, field::TRAILERS, &**message, packet),
        FrameKind::Welcome(message) => encode_message(stream, field::WELCOME, &**message, packet),
    }
}

/// Appends a data frame to a packet without building a [`Frame`]: the hot path. `last` goes with `remaining` 0
/// only.
pub fn encode_data(stream: u32, bytes: &[u8], remaining: u64, last: bool, packet: &mut BytesMut) {
    let mut head = Head::new();
    head.data(stream, bytes.len() as u64, remaining, last);
    packet.reserve(head.len + bytes.len());
    packet.put_slice(head.as_slice());
    packet.put_slice(bytes);
}

/// The most bytes that [`encode_data`] writes besides a payload of up to 4 GiB less 64 bytes. (A message of 100
/// bytes needs 6 on the first 127 streams, and 2 more when it is the last.)
pub const DATA_OVERHEAD_MAX: usize = (1 + 5) + (1 + 5) + (1 + 10) + (1 + 5);

/// A credit, ack, ping or pong.
fn encode_number(stream: u32, number: u32, n: u64, packet: &mut BytesMut) {
    let mut head = Head::new();
    let len = stream_len(stream) + 1 + varint_len(n);
    head.frame(len as u64, stream);
    head.key(number, VARINT);
    head.varint(n);
    packet.put_slice(head.as_slice());
}

/// A frame that is a message of its own.
fn encode_message(stream: u32, number: u32, message: &impl Message, packet: &mut BytesMut) {
    let mut head = Head::new();
    let message_len = message.encoded_len() as u64;
    let key_len = if number < 16 { 1 } else { 2 };
    let len = stream_len(stream) + key_len + varint_len(message_len);
    head.frame(len as u64 + message_len, stream);
    head.key(number, LEN);
    head.varint(message_len);
    packet.put_slice(head.as_slice());
    message.encode(packet).expect("a BytesMut grows as needed");
}

/// `Packet.frames`.
const PACKET_FRAMES: u32 = 1;

/// The fields of `Frame`.
mod field {
    pub(super) const STREAM: u32 = 1;
    pub(super) const REMAINING: u32 = 2;
    pub(super) const LAST: u32 = 3;
    pub(super) const DATA: u32 = 4;
    pub(super) const HALF_CLOSE: u32 = 5;
    pub(super) const OPEN: u32 = 6;
    pub(super) const HEADERS: u32 = 7;
    pub(super) const TRAILERS: u32 = 8;
    pub(super) const CANCEL: u32 = 9;
    pub(super) const CREDIT: u32 = 10;
    pub(super) const ACK: u32 = 11;
    pub(super) const PING: u32 = 12;
    pub(super) const PONG: u32 = 13;
    pub(super) const HELLO: u32 = 14;
    pub(super) const WELCOME: u32 = 15;
    pub(super) const GO_AWAY: u32 = 16;
    pub(super) const REFRESH: u32 = 17;
}

// Protobuf's wire types. The two of groups (3 and 4) are refused everywhere: nothing that speaks proto3 sends them.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LEN: u32 = 2;
const FIXED32: u32 = 5;

/// A frame's fields, as far as they were read.
struct Fields {
    stream: u32,
    remaining: u64,
    last: bool,
    kind: Kind,
}

enum Kind {
    None,
    /// Where the data lies in the packet.
    Data(Range<usize>),
    Other(FrameKind),
}

impl Fields {
    /// Reads the frame that `body` of `packet` holds. Of a field or kind that is there twice, the last counts, and
    /// a message of the same kind is merged into the one before: protobuf's own rules.
    fn read(packet: &[u8], body: Range<usize>) -> Result<Self, FrameError> {
        let mut cursor = Cursor { bytes: &packet[..body.end], at: body.start };
        let mut fields = Self { stream: 0, remaining: 0, last: false, kind: Kind::None };
        while let Some((number, wire)) = cursor.field()? {
            match (number, wire) {
                // Protobuf cuts what is too large for 32 bits.
                (field::STREAM, VARINT) => fields.stream = cursor.varint()? as u32,
                (field::REMAINING, VARINT) => fields.remaining = cursor.varint()?,
                (field::LAST, VARINT) => fields.last = cursor.varint()? != 0,
                (field::DATA, LEN) => fields.kind = Kind::Data(cursor.length_delimited()?),
                (field::CREDIT..=field::PONG, VARINT) => {
                    let n = cursor.varint()?;
                    fields.kind = Kind::Other(match number {
                        field::CREDIT => FrameKind::Credit(n),
                        field::ACK => FrameKind::Ack(n),
                        field::PING => FrameKind::Ping(n),
                        _ => FrameKind::Pong(n),
                    });
                }
                (field::HALF_CLOSE..=field::CANCEL | field::HELLO..=field::REFRESH, LEN) => {
                    let range = cursor.length_delimited()?;
                    fields.merge_message(number, &packet[range])?;
                }
                (field::STREAM..=field::REFRESH, _) => return Err(FrameError::Malformed),
                _ => cursor.skip(wire)?,
            }
        }
        Ok(fields)
    }

    fn merge_message(&mut self, number: u32, bytes: &[u8]) -> Result<(), FrameError> {
        /// The message of a kind: the one that is there already, or a new one.
        macro_rules! merge {
            ($variant:ident) => {{
                let mut message = match mem::replace(&mut self.kind, Kind::None) {
                    Kind::Other(FrameKind::$variant(message)) => message,
                    _ => Default::default(),
                };
                message.merge(bytes).map_err(|_| FrameError::Malformed)?;
                FrameKind::$variant(message)
            }};
        }
        self.kind = Kind::Other(match number {
            field::HALF_CLOSE => {
                v1::HalfClose::decode(bytes).map_err(|_| FrameError::Malformed)?;
                FrameKind::HalfClose
            }
            field::CANCEL => {
                v1::Cancel::decode(bytes).map_err(|_| FrameError::Malformed)?;
                FrameKind::Cancel
            }
            field::OPEN => merge!(Open),
            field::HEADERS => merge!(Headers),
            field::TRAILERS => merge!(Trailers),
            field::HELLO => merge!(Hello),
            field::WELCOME => merge!(Welcome),
            field::GO_AWAY => merge!(GoAway),
            _ => merge!(Refresh),
        });
        Ok(())
    }
}

/// Reads protobuf fields, and never past the end of `bytes`.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// The next field's number and wire type; `None` at the end.
    fn field(&mut self) -> Result<Option<(u32, u32)>, FrameError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| FrameError::Malformed)?;
        match key >> 3 {
            0 => Err(FrameError::Malformed),
            number => Ok(Some((number, key & 7))),
        }
    }

    /// Nearly all are of one byte.
    #[inline]
    fn varint(&mut self) -> Result<u64, FrameError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0;
        for (i, &byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                // Nine bytes hold 63 bits; the tenth has room for one more.
                if i == 9 && byte > 1 {
                    break;
                }
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(FrameError::Malformed)
    }

    /// Where a length-delimited field's bytes are; they are passed over.
    fn length_delimited(&mut self) -> Result<Range<usize>, FrameError> {
        let len = self.varint()?;
        let start = self.at;
        self.advance(len)?;
        Ok(start..self.at)
    }

    /// Passes over the value of an unknown field.
    fn skip(&mut self, wire: u32) -> Result<(), FrameError> {
        match wire {
            VARINT => self.varint().map(drop),
            FIXED64 => self.advance(8),
            LEN => self.length_delimited().map(drop),
            FIXED32 => self.advance(4),
            _ => Err(FrameError::Malformed),
        }
    }

    fn advance(&mut self, len: u64) -> Result<(), FrameError> {
        if len > (self.bytes.len() - self.at) as u64 {
            return Err(FrameError::Malformed);
        }
        self.at += len as usize;
        Ok(())
    }
}

/// What stands before a frame's bytes, put together on the stack so that it is appended at once.
struct Head {
    bytes: [u8; DATA_OVERHEAD_MAX],
    len: usize,
}

impl Head {
    fn new() -> Self {
        Self { bytes: [0; DATA_OVERHEAD_MAX], len: 0 }
    }

    /// The head of a data frame whose payload has `len` bytes.
    fn data(&mut self, stream: u32, len: u64, remaining: u64, last: bool) {
        debug_assert!(!last || remaining == 0, "only a complete message can be the last");
        let mut frame_len = stream_len(stream) as u64 + 1 + varint_len(len) as u64 + len;
        if remaining > 0 {
            frame_len += 1 + varint_len(remaining) as u64;
        }
        if last {
            frame_len += 2;
        }
        self.frame(frame_len, stream);
        if remaining > 0 {
            self.key(field::REMAINING, VARINT);
            self.varint(remaining);
        }
        if last {
            self.key(field::LAST, VARINT);
            self.varint(1);
        }
        self.key(field::DATA, LEN);
        self.varint(len);
    }

    /// The packet's field, the frame's length and its stream.
    fn frame(&mut self, len: u64, stream: u32) {
        self.key(PACKET_FRAMES, LEN);
        self.varint(len);
        if stream != 0 {
            self.key(field::STREAM, VARINT);
            self.varint(stream.into());
        }
    }

    fn key(&mut self, number: u32, wire: u32) {
        self.varint((number << 3 | wire).into());
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The encoded length of a frame's stream field.
fn stream_len(stream: u32) -> usize {
    if stream == 0 { 0 } else { 1 + varint_len(stream.into()) }
}

fn varint_len(value: u64) -> usize {
    // 7 bits a byte, at least one: (bits + 6) / 7 without a division.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    (bits * 9 + 64) / 64
}

#[cfg(test)]
mod tests;
