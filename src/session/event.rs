//! What a session tells its owner.

use bytes::Bytes;

use super::StreamId;
use crate::wire::{Code, v1};

/// Something that the owner has to act on.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Proxy: the client gave the stream up, or it was ended for a violation on it (then Trailers are already on
    /// their way). The stream is gone from the session: cancel the call upstream.
    Cancelled {
        /// The stream.
        stream: StreamId,
        /// CANCELLED, or the code that the Trailers tell the client.
        code: Code,
        /// Why, in a word for logs.
        reason: &'static str,
    },
    /// The session is over; close the carrier after sending what `poll_packet` still gives. Nothing follows.
    Closed(CloseReason),
    /// A message or a piece of one. The credit for it (its length plus the overhead) is the owner's to return
    /// with `consumed`.
    Data {
        /// The stream.
        stream: StreamId,
        /// The bytes.
        bytes: Bytes,
        /// Bytes of the same message still to come.
        remaining: u64,
        /// Whether this piece begins a message; its size is then `bytes.len() + remaining`.
        first: bool,
        /// No more messages follow (client → proxy: the `last` flag). No `HalfClosed` event follows.
        last: bool,
    },
    /// The session has given its carrier up (it fell silent, or no Welcome came on it), and goes on without one: close
    /// the carrier with this reason. Not said when the owner calls `detach`.
    Detached(CloseReason),
    /// Client: the call is over. The stream is gone from the session.
    Ended {
        /// The stream.
        stream: StreamId,
        /// How.
        trailers: Box<v1::Trailers>,
    },
    /// Client: the proxy takes no new streams. Those above `last_stream` were not processed.
    GoAway(Box<v1::GoAway>),
    /// Proxy: the client sends no more messages on this stream.
    HalfClosed {
        /// The stream.
        stream: StreamId,
    },
    /// Client: initial metadata.
    Headers {
        /// The stream.
        stream: StreamId,
        /// The metadata.
        headers: v1::Headers,
    },
    /// Proxy: a new call. Default metadata (of Hello or Refresh) is merged in already.
    Opened {
        /// The stream.
        stream: StreamId,
        /// Method, metadata, timeout, codec.
        open: Box<v1::Open>,
    },
    /// Proxy: the client introduced itself; its Welcome is on its way.
    Greeted {
        /// `Hello.agent`, cut to 128 characters.
        agent: String,
    },
    /// Proxy: the client's default metadata is another from now on.
    Refreshed,
    /// Proxy: this carrier asks to go on with another session. Nothing is handled or sent until the owner has called
    /// that session's `attach` with this Hello and given it the carrier, or has called `refuse_resume` here. It holds
    /// the token: not for logs.
    ResumeAsked(Box<v1::Hello>),
    /// The session goes on, on a new carrier.
    Resumed {
        /// How many frames are sent again to the peer.
        frames: u64,
        /// How many bytes these are.
        bytes: usize,
    },
    /// Proxy: this token opens the session no more; forget it. Another one does.
    TokenRetired {
        /// The token.
        token: Bytes,
    },
    /// Client: the proxy answered, and a new session begins. After `reattach`: the old one is lost, all its streams
    /// have ended (`Ended` came before this), and numbers begin again at 1.
    Welcomed(Box<v1::Welcome>),
    /// Credit arrived, or the outbox has room again, on a stream whose `capacity` was too small for a send; it may be
    /// tried again. Comes out of `handle_packet` and of `poll_packet`.
    Writable {
        /// The stream.
        stream: StreamId,
    },
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The WebSocket close code: 1000, 1001, or 4000 + a gRPC code.
    pub close_code: u16,
    /// The gRPC code behind it; OK for a normal end.
    pub code: Code,
    /// A sentence for the close frame, at most 123 bytes of UTF-8.
    pub message: String,
    /// A stable word for metrics and logs, such as `violation`, `silent`, `hello_timeout`, `drained`.
    pub label: &'static str,
}

impl CloseReason {
    /// A close frame takes at most 125 bytes of payload (RFC 6455, section 5.5), two of them the code.
    pub const MAX_MESSAGE: usize = 123;

    /// A session-level failure: close code 4000 + `code`; `message` is cut to fit a close frame.
    pub fn new(code: Code, label: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(Self::MAX_MESSAGE));
        Self { close_code: code.to_close(), code, message, label }
    }

    /// The peer broke the carrier's own protocol: close code 1002 (RFC 6455, section 7.4.1).
    pub fn carrier(message: impl Into<String>) -> Self {
        Self { close_code: 1002, ..Self::new(Code::INVALID_ARGUMENT, "carrier", message) }
    }
}
