//! The session's frames and packets, as `proto/bidiway/v1/session.proto` defines them.
//!
//! The codec is written by hand for the frames that come with every message (data, half-close, credit, ack, ping,
//! pong, cancel); the others go through the generated types. A property test holds both against prost.

use bytes::{Bytes, BytesMut};

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

/// Reads the frames of a packet one after the other.
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
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let _ = &self.rest;
        todo!()
    }
}

/// Appends a frame to a packet.
pub fn encode(_frame: &Frame, _packet: &mut BytesMut) {
    todo!()
}

/// Appends a data frame to a packet without building a [`Frame`]: the hot path.
pub fn encode_data(_stream: u32, _bytes: &[u8], _remaining: u64, _last: bool, _packet: &mut BytesMut) {
    todo!()
}

/// The most bytes that [`encode_data`] writes besides the payload.
pub const DATA_OVERHEAD_MAX: usize = 1 + 10 + 1 + 5 + 1 + 10 + 2 + 1 + 10;
