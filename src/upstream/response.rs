//! What a response means: headers, trailers and broken ends turned into one outcome.

use h2::Reason;
use http::{HeaderMap, HeaderValue, StatusCode, header, response::Parts};

use crate::wire::{Code, Origin, Outcome, Status, content_type::is_grpc, metadata};

/// What response headers say.
#[derive(Debug)]
pub(super) enum Head {
    /// Initial metadata; the body follows.
    Headers(HeaderMap),
    /// The end: a trailers-only answer, or no gRPC at all.
    End(Box<Outcome>),
    /// A `grpc-status` stands in headers that do not end the stream. Should nothing else come, it is the end;
    /// otherwise these are initial metadata.
    Early(Box<Early>),
    /// No gRPC, and the body may say why.
    NotGrpc(Code, String),
    /// More than is taken.
    TooLarge(Box<Outcome>),
}

impl Head {
    /// Whether the server says, before anything else, that it cannot serve.
    pub(super) fn is_unavailable(&self) -> bool {
        let code = match self {
            Self::End(outcome) => outcome.status.code,
            Self::Early(early) => early.status.code,
            Self::NotGrpc(code, _) => *code,
            Self::Headers(_) | Self::TooLarge(_) => return false,
        };
        code == Code::UNAVAILABLE
    }
}

/// See [`Head::Early`].
#[derive(Debug)]
pub(super) struct Early {
    pub(super) headers: HeaderMap,
    pub(super) status: Status,
}

impl Early {
    pub(super) fn into_outcome(mut self) -> Outcome {
        self.headers.remove(header::CONTENT_TYPE);
        upstream(self.status, self.headers)
    }
}

/// Reads response headers of at most `limit` bytes; `ended` when they end the stream.
pub(super) fn read_head(parts: Parts, ended: bool, limit: u32) -> Head {
    let mut headers = parts.headers;
    if let Some(outcome) = too_large("headers", &headers, limit) {
        return Head::TooLarge(Box::new(outcome));
    }
    // A grpc-status counts whatever the HTTP status is: the mapping is for answers without one
    // (gRPC doc/http-grpc-status-mapping.md).
    if let Some(status) = Status::take_from(&mut headers) {
        let content_type = headers.remove(header::CONTENT_TYPE);
        metadata::filter_response(&mut headers);
        if ended {
            return Head::End(Box::new(upstream(status, headers)));
        }
        keep(&mut headers, content_type);
        return Head::Early(Box::new(Early { headers, status }));
    }
    let content_type = headers.remove(header::CONTENT_TYPE);
    let problem = if parts.status != StatusCode::OK {
        let text = format!("the server answered with HTTP status {} and no grpc-status", parts.status);
        Some((Code::from_http(parts.status.as_u16()), text))
    } else if !content_type.as_ref().is_some_and(|value| is_grpc(value.as_bytes())) {
        // As grpc-go does: HTTP 200 without gRPC is UNKNOWN.
        let text = match &content_type {
            Some(value) => format!("the server's answer is not gRPC: its content-type is {value:?}"),
            None => "the server's answer is not gRPC: it has no content-type".to_owned(),
        };
        Some((Code::UNKNOWN, text))
    } else if ended {
        Some((Code::UNKNOWN, "the server's answer ended with its headers and has no grpc-status".to_owned()))
    } else {
        None
    };
    match problem {
        Some((code, text)) if ended => Head::End(Box::new(Outcome::proxy(code, text))),
        Some((code, text)) => Head::NotGrpc(code, text),
        None => {
            metadata::filter_response(&mut headers);
            keep(&mut headers, content_type);
            Head::Headers(headers)
        }
    }
}

fn keep(headers: &mut HeaderMap, content_type: Option<HeaderValue>) {
    if let Some(value) = content_type {
        headers.insert(header::CONTENT_TYPE, value);
    }
}

/// What trailers of at most `limit` bytes say. Without `grpc-status` they say UNKNOWN, as in grpc-go and grpc-java.
pub(super) fn read_trailers(mut trailers: HeaderMap, limit: u32) -> Outcome {
    if let Some(outcome) = too_large("trailers", &trailers, limit) {
        return outcome;
    }
    let status = Status::take_from(&mut trailers);
    metadata::filter_response(&mut trailers);
    trailers.remove(header::CONTENT_TYPE);
    match status {
        Some(status) => upstream(status, trailers),
        None => {
            let mut outcome = Outcome::proxy(Code::UNKNOWN, "the server's trailers have no grpc-status");
            for (name, value) in &trailers {
                outcome.trailers.append(name.clone(), value.clone());
            }
            outcome
        }
    }
}

/// Metadata beyond the limit fails the call alone, with RESOURCE_EXHAUSTED as in gRPC's C core.
fn too_large(what: &str, metadata: &HeaderMap, limit: u32) -> Option<Outcome> {
    let size = metadata::size(metadata);
    if size <= limit as usize {
        return None;
    }
    let text = format!("the server's {what} of {size} bytes are larger than the limit of {limit} bytes");
    Some(Outcome::proxy(Code::RESOURCE_EXHAUSTED, text))
}

/// The stream ended without trailers: INTERNAL, as in grpc-go and grpc-java.
pub(super) fn no_trailers() -> Outcome {
    Outcome::proxy(Code::INTERNAL, "the server ended the stream without trailers")
}

fn upstream(status: Status, trailers: HeaderMap) -> Outcome {
    Outcome { status, origin: Origin::Upstream, trailers, faulty_request: false }
}

/// Whether a stream that was reset before its headers speaks against the server. Connections that are lost are counted
/// as such, once and not for each of their calls.
pub(super) fn is_failure(error: &h2::Error) -> bool {
    let harmless = [Reason::NO_ERROR, Reason::CANCEL, Reason::REFUSED_STREAM];
    error.is_reset() && error.is_remote() && error.reason().is_none_or(|reason| !harmless.contains(&reason))
}

/// What a broken stream means. `lost` says why its connection is gone.
pub(super) fn broken(error: &h2::Error, lost: Option<&str>) -> Outcome {
    let reason = error.reason().unwrap_or(Reason::NO_ERROR);
    if error.is_reset() {
        let number = u32::from(reason);
        return if error.is_remote() {
            let text = format!("the server reset the stream: {}", name(reason));
            Outcome::proxy(Code::from_h2(number), text)
        } else {
            let text = format!("the server's answer is not valid HTTP/2: {}", name(reason));
            Outcome::proxy(Code::INTERNAL, text)
        };
    }
    let text = if error.is_go_away() && error.is_remote() {
        format!("the server closed the connection (GOAWAY, {}) before it began the call", name(reason))
    } else {
        match lost {
            Some(why) => format!("the connection to the server was lost: {why}"),
            None => format!("the connection to the server was lost: {error}"),
        }
    };
    Outcome::proxy(Code::UNAVAILABLE, text)
}

/// The error code's name and number, as RFC 9113 (section 7) writes them.
fn name(reason: Reason) -> String {
    format!("{reason:?} (0x{:x})", u32::from(reason))
}

/// The deadline passed here.
pub(super) fn deadline_exceeded() -> Outcome {
    Outcome::proxy(Code::DEADLINE_EXCEEDED, "the deadline passed before the server ended the call")
}
