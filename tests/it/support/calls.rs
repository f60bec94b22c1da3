//! Calls made through `bidiway::upstream`, as the tests want them.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bidiway::{
    upstream::{Call, Chunk, ClientTls, Received, Request, Settings, Upstream},
    wire::{Code, Origin, Outcome},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

/// Settings for cleartext endpoints; no pings.
pub(crate) fn settings(endpoints: &[&str]) -> Settings {
    let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
    Settings { keepalive: None, ..Settings::new("chat", endpoints, ClientTls::trusting_nobody()) }
}

pub(crate) fn upstream(endpoint: &str) -> Upstream {
    Upstream::new(Arc::new(settings(&[endpoint])))
}

pub(crate) fn request() -> Request {
    Request {
        path: http::uri::PathAndQuery::from_static("/chat.v1.Chat/Talk"),
        content_type: HeaderValue::from_static("application/grpc"),
        metadata: HeaderMap::new(),
        deadline: None,
        tap: None,
        terms: None,
        trip: None,
        response_rules: None,
        pace: None,
    }
}

pub(crate) fn request_with_timeout(timeout: Duration) -> Request {
    Request { deadline: Some(tokio::time::Instant::now() + timeout), ..request() }
}

/// The next thing from upstream.
pub(crate) async fn next(call: &mut Call) -> Received {
    poll_fn(|cx| call.poll_receive(cx)).await
}

/// How many bytes may be sent.
pub(crate) async fn capacity(call: &mut Call, want: usize) -> usize {
    poll_fn(|cx| call.poll_capacity(cx, want)).await
}

/// Sends bytes as capacity allows; false when the call takes no more.
pub(crate) async fn send(call: &mut Call, mut bytes: Bytes, last: bool) -> bool {
    while !bytes.is_empty() {
        let may = capacity(call, bytes.len()).await;
        if may == 0 {
            return false;
        }
        let piece = bytes.split_to(may);
        call.send(Chunk::plain(piece), last && bytes.is_empty());
    }
    true
}

/// Everything that a call has received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) body: Vec<u8>,
    pub(crate) outcome: Outcome,
}

impl Answer {
    pub(crate) fn code(&self) -> Code {
        self.outcome.status.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.outcome.status.message
    }

    /// Asserts who made the status, which one, and a part of its message.
    #[track_caller]
    pub(crate) fn assert(&self, origin: Origin, code: Code, part: &str) {
        assert_eq!((self.outcome.origin, self.code()), (origin, code), "{self:?}");
        assert!(self.message().contains(part), "{:?} lacks {part:?}", self.message());
        let marked = self.outcome.trailers.get("bidiway-origin").is_some();
        assert_eq!(marked, origin == Origin::Proxy, "{self:?}");
    }
}

/// Asserts that a call failed because its upstream could not be connected to, for a reason with this part, which only the
/// operator gets to know.
#[track_caller]
pub(crate) fn assert_unreachable(answer: &Answer, upstream: &Upstream, part: &str) {
    answer.assert(Origin::Proxy, Code::UNAVAILABLE, "cannot connect to upstream \"chat\"");
    let error = upstream.connect_error().expect("the attempt failed");
    assert!(error.contains(part), "{error:?} lacks {part:?}");
    let message = answer.message().split_once(';').map_or_else(|| answer.message(), |(message, _)| message);
    assert_eq!(message, "cannot connect to upstream \"chat\"", "nothing else is told");
}

/// Receives to the end; data is released at once. Holds the order of things: headers, data, end.
pub(crate) async fn answer(call: &mut Call) -> Answer {
    let (mut headers, mut body) = (None, Vec::new());
    loop {
        match next(call).await {
            Received::Headers(map) => {
                assert!(headers.is_none() && body.is_empty(), "headers come first, and once");
                headers = Some(map);
            }
            Received::Data(bytes) => {
                assert!(
                    headers.is_some() && !bytes.is_empty(),
                    "data comes after headers, and is never empty"
                );
                body.extend_from_slice(&bytes);
                call.release(bytes.len());
            }
            Received::End(outcome) => return Answer { headers, body, outcome: *outcome },
        }
    }
}

/// Sends one message and the end of the request, and receives everything.
pub(crate) async fn unary(upstream: &Upstream, payload: &[u8]) -> Answer {
    let mut call = upstream.call(request());
    send(&mut call, super::upstream::message(payload), true).await;
    answer(&mut call).await
}
