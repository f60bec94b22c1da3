//! Refusals of requests that never became calls.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, Version, header};

use super::{RequestKind, answer, json};
use crate::wire::{Code, Outcome};

/// A refusal, before there is a call: an HTTP status for whoever reads HTTP, and a gRPC code for whoever reads gRPC.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    /// The HTTP status.
    pub(crate) http: StatusCode,
    /// The gRPC code.
    pub(crate) code: Code,
    /// A word for metrics that never changes.
    pub(crate) reason: &'static str,
    /// What is wrong, and what to do about it.
    pub(crate) message: String,
}

impl Rejection {
    /// A page of another origin.
    pub(crate) fn origin(origin: &[u8]) -> Self {
        let origin = String::from_utf8_lossy(&origin[..origin.len().min(200)]);
        let message = match &*origin {
            "null" => {
                "pages without an origin of their own (files, sandboxed frames) may not call".to_owned()
            }
            origin => format!(
                "the origin {origin:?} may not call; `origins` in the configuration lists those that may"
            ),
        };
        Self { http: StatusCode::FORBIDDEN, code: Code::PERMISSION_DENIED, reason: "origin", message }
    }

    /// A request for a name that is not ours.
    pub(crate) fn host() -> Self {
        let message =
            "this host is not served here; `hosts` in the configuration lists those that are".to_owned();
        let http = StatusCode::MISDIRECTED_REQUEST;
        Self { http, code: Code::PERMISSION_DENIED, reason: "host", message }
    }

    /// A gRPC call that is no POST.
    pub(crate) fn method() -> Self {
        let message = "gRPC calls are made with POST".to_owned();
        Self { http: StatusCode::METHOD_NOT_ALLOWED, code: Code::UNIMPLEMENTED, reason: "method", message }
    }

    /// A call in no content type that is spoken. That of forms is one of them: any page can send one to any site.
    pub(crate) fn content_type(found: Option<&HeaderValue>) -> Self {
        let found = match found {
            Some(value) => {
                let value = String::from_utf8_lossy(value.as_bytes());
                format!("{:?} is not", value.chars().take(100).collect::<String>())
            }
            None => "a request without content-type is not".to_owned(),
        };
        let message = format!(
            "{found} a call; send JSON as application/json, lines of JSON as application/x-ndjson (both UTF-8), or \
             gRPC-Web as application/grpc-web+proto"
        );
        Self {
            http: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            code: Code::INVALID_ARGUMENT,
            reason: "content_type",
            message,
        }
    }

    /// Native gRPC over HTTP/1, which has no way to carry it.
    pub(crate) fn native_over_http1() -> Self {
        let message =
            "native gRPC needs HTTP/2; over HTTP/1.1 use gRPC-Web (application/grpc-web+proto)".to_owned();
        Self {
            http: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            code: Code::UNIMPLEMENTED,
            reason: "http_version",
            message,
        }
    }

    /// A WebSocket handshake that is none, or that asks for what is not spoken here.
    pub(crate) fn handshake(http: StatusCode, message: impl Into<String>) -> Self {
        Self { http, code: Code::INVALID_ARGUMENT, reason: "handshake", message: message.into() }
    }

    /// The machine fails us.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let http = StatusCode::INTERNAL_SERVER_ERROR;
        Self { http, code: Code::INTERNAL, reason: "internal", message: message.into() }
    }

    /// The response, in the dialect of the request. All dialects get `grpc-status` and `grpc-message` as headers;
    /// those that do not read gRPC get the sentence as text.
    pub(crate) fn into_response(self, kind: &RequestKind, version: Version) -> Response<Body> {
        let outcome = Outcome::proxy(self.code, self.message.as_str());
        let mut response = match kind {
            RequestKind::GrpcWeb(negotiated) => answer::trailers_only(outcome, answer::web_type(negotiated)),
            RequestKind::Grpc if version == Version::HTTP_2 => {
                answer::trailers_only(outcome, HeaderValue::from_static("application/grpc"))
            }
            RequestKind::Json(_) => json::refusal(&outcome),
            RequestKind::Grpc
            | RequestKind::Preflight
            | RequestKind::Socket
            | RequestKind::HttpCarrier(_)
            | RequestKind::Page => {
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                let mut response = answer::trailers_only(outcome, text);
                *response.body_mut() = Body::from(format!("{}\n", self.message));
                response
            }
        };
        *response.status_mut() = self.http;
        if self.http == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        if self.http == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn kind(content_type: Option<&str>) -> RequestKind {
        let request = Request::builder().method("POST").version(Version::HTTP_2);
        let request = match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        };
        RequestKind::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_refusal_has_its_grpc_code_in_every_dialect() {
        let cases = [
            (kind(Some("application/grpc-web+json")), "application/grpc-web+json", true),
            (kind(Some("application/grpc-web-text")), "application/grpc-web-text+proto", true),
            (kind(Some("application/grpc")), "application/grpc", true),
            (RequestKind::Socket, "text/plain; charset=utf-8", false),
            (RequestKind::Preflight, "text/plain; charset=utf-8", false),
            (kind(None), "text/plain; charset=utf-8", false),
        ];
        for (kind, content_type, empty) in cases {
            let response = Rejection::origin(b"https://evil.example").into_response(&kind, Version::HTTP_2);
            assert_eq!(response.status(), 403, "{kind:?}");
            let headers = response.headers();
            assert_eq!(headers["content-type"], content_type, "{kind:?}");
            assert_eq!(headers["grpc-status"], "7", "{kind:?}");
            assert!(headers["grpc-message"].to_str().unwrap().contains("evil.example"), "{kind:?}");
            assert_eq!(headers["bidiway-origin"], "proxy", "{kind:?}");
            assert_eq!(http_body::Body::is_end_stream(response.body()), empty, "{kind:?}");
        }
    }

    #[test]
    fn a_hostile_origin_is_quoted_and_cut() {
        let origin = [b"https://x\xff\"".as_slice(), &[b'a'; 9000]].concat();
        let message = Rejection::origin(&origin).message;
        assert!(message.len() < 400, "{}", message.len());
        assert!(message.contains("\\\""), "{message}");
    }
}
