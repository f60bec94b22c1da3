//! One call as bytes.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::Chunk;
use crate::wire::Outcome;

/// What opens a call.
#[derive(Clone, Debug)]
pub struct Request {
    /// `/package.Service/Method`, checked to be a valid path.
    pub path: http::uri::PathAndQuery,
    /// `application/grpc`, `application/grpc+proto`, …
    pub content_type: HeaderValue,
    /// Filtered with `wire::metadata::filter_request`. `te`, `user-agent` and `grpc-timeout` are set here.
    pub metadata: HeaderMap,
    /// Sent as `grpc-timeout` and enforced: DEADLINE_EXCEEDED, and upstream is reset.
    pub deadline: Option<Instant>,
}

/// What comes back from upstream, in this order: at most one `Headers`, any number of `Data`, one `End`.
#[derive(Debug)]
pub enum Received {
    /// Initial metadata, filtered with `wire::metadata::filter_response`; and the content type.
    Headers(HeaderMap),
    /// Bytes of the body. They count against the call's window until `release`.
    Data(Bytes),
    /// The end; exactly once. After a trailers-only answer nothing came before it.
    End(Box<Outcome>),
}

/// One call. Dropped before its end, it is cancelled: upstream is reset with CANCEL.
///
/// Poll-based, so that one task can drive many calls. Both halves may use different wakers.
#[derive(Debug)]
pub struct Call {
    _todo: (),
}

impl Call {
    /// A call that is over before it began (no route, a refused request): yields only this outcome.
    pub fn refused(_outcome: Outcome) -> Self {
        todo!()
    }

    /// Asks to send `want` bytes (at least 1). Ready with how many may be sent now, at most `want`; ready with 0 when
    /// the call takes no more (it is over, or the server has stopped reading: RST_STREAM with NO_ERROR after its
    /// answer): then drop what is left, and learn the end from `poll_receive`.
    pub fn poll_capacity(&mut self, _cx: &mut Context<'_>, _want: usize) -> Poll<usize> {
        todo!()
    }

    /// Sends bytes within the capacity given by `poll_capacity`. With `last` the request ends.
    pub fn send(&mut self, _chunk: Chunk, _last: bool) {
        todo!()
    }

    /// Ends the request without more bytes (half-close). Needs no capacity. Before the call is connected it is
    /// remembered.
    pub fn finish(&mut self) {
        todo!()
    }

    /// The next thing from upstream. Also what drives connecting. Not to be polled after `End`.
    pub fn poll_receive(&mut self, _cx: &mut Context<'_>) -> Poll<Received> {
        todo!()
    }

    /// The client has taken so many bytes of `Data`: upstream may send as many more.
    pub fn release(&mut self, _bytes: usize) {
        todo!()
    }

    /// Two halves for two tasks. Dropping the receiver before the end cancels the call; dropping the sender before
    /// `finish` cancels it too.
    pub fn split(self) -> (CallSender, CallReceiver) {
        todo!()
    }
}

/// The sending half of a call.
#[derive(Debug)]
pub struct CallSender {
    _todo: (),
}

/// The receiving half of a call.
#[derive(Debug)]
pub struct CallReceiver {
    _todo: (),
}
