//! Everything a peer can do wrong, and the one answer to each.

use super::StreamId;
use crate::wire::{Code, frame::FrameError};

/// A breach of the protocol by the peer; one variant each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// An Ack smaller than an earlier one.
    #[error("Ack went back from {before} to {acked} frames")]
    AckBackwards {
        /// What it says.
        acked: u64,
        /// What was acknowledged before.
        before: u64,
    },
    /// An Ack for frames that were never sent.
    #[error("Ack of {acked} frames, but only {sent} were sent")]
    AckBeyondSent {
        /// What it says.
        acked: u64,
        /// How many sequenced frames were sent.
        sent: u64,
    },
    /// A frame behind a Hello that asks for another session.
    #[error("{0} before Welcome; when resuming, nothing follows Hello until Welcome has come")]
    BeforeWelcome(&'static str),
    /// A stream's credit would pass 2^31 - 1.
    #[error("credit of {sum} bytes on one stream; the most is 2147483647")]
    CreditBeyondCap {
        /// What it would be.
        sum: u64,
    },
    /// Hello or Welcome announces less stream credit than the protocol allows.
    #[error("stream_credit is {credit}; it must be at least {least}")]
    CreditTooSmall {
        /// What was announced.
        credit: u32,
        /// The least.
        least: u32,
    },
    /// A Credit frame that gives nothing.
    #[error("a Credit frame of 0 bytes")]
    CreditZero,
    /// Data after HalfClose or after a frame with `last`.
    #[error("data after the last message")]
    DataAfterEnd,
    /// More data than was allowed.
    #[error("a data frame costs {cost} bytes, but the stream has credit for {credit}")]
    DataBeyondCredit {
        /// Its length and the overhead.
        cost: u32,
        /// What was left.
        credit: u32,
    },
    /// The default metadata of Hello or Refresh is larger than `max_metadata`.
    #[error("default metadata of {size} bytes; the limit is {limit}")]
    DefaultMetadataTooLarge {
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: u32,
    },
    /// A piece without bytes that does not complete its message.
    #[error("an empty piece inside an unfinished message")]
    EmptyPiece,
    /// The client's first frame is not Hello.
    #[error("the first frame must be Hello, not {0}")]
    FirstNotHello(&'static str),
    /// The proxy's first frame is not Welcome.
    #[error("the first frame must be Welcome, not {0}")]
    FirstNotWelcome(&'static str),
    /// HalfClose while a message is incomplete.
    #[error("HalfClose inside a message: {missing} bytes are missing")]
    HalfCloseInsideMessage {
        /// How many bytes of it were still to come.
        missing: u64,
    },
    /// HalfClose after HalfClose or after a frame with `last`.
    #[error("HalfClose on a stream that is half-closed already")]
    HalfCloseTwice,
    /// Headers after data.
    #[error("Headers after data")]
    HeadersAfterData,
    /// Headers a second time.
    #[error("Headers a second time")]
    HeadersTwice,
    /// A second Hello.
    #[error("a second Hello")]
    HelloTwice,
    /// `last` from the proxy, whose streams end with Trailers.
    #[error("`last` on data from the proxy")]
    LastFromProxy,
    /// The bytes are no packet.
    #[error("{0}")]
    Malformed(#[from] FrameError),
    /// A message larger than `max_message`, noticed at its first piece.
    #[error("a message of {size} bytes is larger than the limit of {limit} bytes")]
    MessageTooLarge {
        /// Its announced size.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The metadata of an Open, with the defaults merged in, is larger than `max_metadata`.
    #[error("metadata of {size} bytes is larger than the limit of {limit} bytes")]
    MetadataTooLarge {
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: u32,
    },
    /// No version in common.
    #[error("no common protocol version: the client speaks {offered}, this proxy speaks 1")]
    NoCommonVersion {
        /// `Hello.versions`, as text.
        offered: String,
    },
    /// Streams are opened past every limit without waiting for the answers.
    #[error("streams are opened much faster than their refusals are read")]
    OpenFlood,
    /// Hello or Welcome of a resumed session says less than was acknowledged already.
    #[error("resuming after {received} frames, but {acked} were acknowledged")]
    ReceivedBackwards {
        /// What it says.
        received: u64,
        /// What was acknowledged before.
        acked: u64,
    },
    /// Hello or Welcome of a resumed session says more than was sent.
    #[error("resuming after {received} frames, but only {sent} were sent")]
    ReceivedBeyondSent {
        /// What it says.
        received: u64,
        /// How many sequenced frames were sent.
        sent: u64,
    },
    /// Welcome says that a session goes on which nobody asked for.
    #[error("Welcome resumes a session, but Hello did not ask for one")]
    ResumedUnasked,
    /// Welcome says that the session goes on, and brings no token.
    #[error("Welcome resumes the session without a token")]
    ResumedWithoutToken,
    /// A frame that belongs to the session, with a stream number.
    #[error("{kind} belongs to the session, not to stream {stream}")]
    SessionFrameOnStream {
        /// The frame.
        kind: &'static str,
        /// The number on it.
        stream: StreamId,
    },
    /// A frame that belongs to a stream, without a number.
    #[error("{0} needs a stream number")]
    StreamFrameOnSession(&'static str),
    /// Open with a number that is not the next one.
    #[error("Open has stream number {got}; the next is {expected}")]
    StreamNumber {
        /// The next number.
        expected: u64,
        /// The number on the frame.
        got: StreamId,
    },
    /// A frame for a stream that was never opened.
    #[error("{kind} on stream {stream}, which was never opened")]
    StreamUnknown {
        /// The frame.
        kind: &'static str,
        /// The number on it.
        stream: StreamId,
    },
    /// A text message, which `bidiway.v1` does not have.
    #[error("a text message; bidiway.v1 has binary messages only")]
    Text,
    /// More streams than are allowed at once.
    #[error("{limit} streams are open, which is all that are allowed at once")]
    TooManyStreams {
        /// What is allowed.
        limit: u32,
    },
    /// Trailers that say OK while a message is incomplete.
    #[error("Trailers with OK inside a message: {missing} bytes are missing")]
    TrailersInsideMessage {
        /// How many bytes of it were still to come.
        missing: u64,
    },
    /// Welcome names a version that Hello did not offer.
    #[error("Welcome chose version {0}, which was not offered")]
    VersionNotOffered(u32),
    /// A second Welcome.
    #[error("a second Welcome")]
    WelcomeTwice,
    /// A frame that only the other side may send.
    #[error("{0} is not for this side to send")]
    WrongDirection(&'static str),
    /// A piece that does not go on where the one before ended.
    #[error("a piece claims {got} bytes to the end of its message; it was {expected}")]
    WrongRemaining {
        /// What was still to come.
        expected: u64,
        /// The piece's length and its `remaining`.
        got: u64,
    },
}

/// What follows a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// End the session: close code 4000 + this code.
    Close(Code),
    /// End the stream with this code; the session goes on.
    Reset(Code),
}

impl Violation {
    /// The answer to each violation.
    ///
    /// A stream is reset where the breach concerns it alone and both sides still agree about everything else. The
    /// session is closed where they do not (numbers, counts, framing), or where what protects the receiver's
    /// memory is not kept (credit, floods): the peer would do the same on the next stream.
    pub fn verdict(&self) -> Verdict {
        use Verdict::{Close, Reset};
        match self {
            Self::AckBackwards { .. }
            | Self::AckBeyondSent { .. }
            | Self::BeforeWelcome(_)
            | Self::CreditTooSmall { .. }
            | Self::FirstNotHello(_)
            | Self::FirstNotWelcome(_)
            | Self::HelloTwice
            | Self::Malformed(_)
            | Self::ReceivedBackwards { .. }
            | Self::ReceivedBeyondSent { .. }
            | Self::ResumedUnasked
            | Self::ResumedWithoutToken
            | Self::SessionFrameOnStream { .. }
            | Self::StreamFrameOnSession(_)
            | Self::StreamNumber { .. }
            | Self::StreamUnknown { .. }
            | Self::Text
            | Self::WelcomeTwice
            | Self::WrongDirection(_) => Close(Code::INVALID_ARGUMENT),
            Self::DataBeyondCredit { .. } | Self::DefaultMetadataTooLarge { .. } | Self::OpenFlood => {
                Close(Code::RESOURCE_EXHAUSTED)
            }
            Self::NoCommonVersion { .. } | Self::VersionNotOffered(_) => Close(Code::FAILED_PRECONDITION),
            Self::CreditBeyondCap { .. }
            | Self::CreditZero
            | Self::DataAfterEnd
            | Self::EmptyPiece
            | Self::HalfCloseInsideMessage { .. }
            | Self::HalfCloseTwice
            | Self::WrongRemaining { .. } => Reset(Code::INVALID_ARGUMENT),
            Self::HeadersAfterData
            | Self::HeadersTwice
            | Self::LastFromProxy
            | Self::TrailersInsideMessage { .. } => Reset(Code::INTERNAL),
            Self::MessageTooLarge { .. } | Self::MetadataTooLarge { .. } | Self::TooManyStreams { .. } => {
                Reset(Code::RESOURCE_EXHAUSTED)
            }
        }
    }

    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::AckBackwards { .. } => "ack_backwards",
            Self::AckBeyondSent { .. } => "ack_beyond_sent",
            Self::BeforeWelcome(_) => "before_welcome",
            Self::CreditBeyondCap { .. } => "credit_beyond_cap",
            Self::CreditTooSmall { .. } => "credit_too_small",
            Self::CreditZero => "credit_zero",
            Self::DataAfterEnd => "data_after_end",
            Self::DataBeyondCredit { .. } => "data_beyond_credit",
            Self::DefaultMetadataTooLarge { .. } => "default_metadata_too_large",
            Self::EmptyPiece => "empty_piece",
            Self::FirstNotHello(_) => "first_not_hello",
            Self::FirstNotWelcome(_) => "first_not_welcome",
            Self::HalfCloseInsideMessage { .. } => "half_close_inside_message",
            Self::HalfCloseTwice => "half_close_twice",
            Self::HeadersAfterData => "headers_after_data",
            Self::HeadersTwice => "headers_twice",
            Self::HelloTwice => "hello_twice",
            Self::LastFromProxy => "last_from_proxy",
            Self::Malformed(_) => "malformed",
            Self::MessageTooLarge { .. } => "message_too_large",
            Self::MetadataTooLarge { .. } => "metadata_too_large",
            Self::NoCommonVersion { .. } => "no_common_version",
            Self::OpenFlood => "open_flood",
            Self::ReceivedBackwards { .. } => "received_backwards",
            Self::ReceivedBeyondSent { .. } => "received_beyond_sent",
            Self::ResumedUnasked => "resumed_unasked",
            Self::ResumedWithoutToken => "resumed_without_token",
            Self::SessionFrameOnStream { .. } => "session_frame_on_stream",
            Self::StreamFrameOnSession(_) => "stream_frame_on_session",
            Self::StreamNumber { .. } => "stream_number",
            Self::StreamUnknown { .. } => "stream_unknown",
            Self::Text => "text",
            Self::TooManyStreams { .. } => "too_many_streams",
            Self::TrailersInsideMessage { .. } => "trailers_inside_message",
            Self::VersionNotOffered(_) => "version_not_offered",
            Self::WelcomeTwice => "welcome_twice",
            Self::WrongDirection(_) => "wrong_direction",
            Self::WrongRemaining { .. } => "wrong_remaining",
        }
    }
}
