//! What a request is, read from its head alone.

use http::{
    HeaderMap, Method, Version,
    header::{ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, CONTENT_TYPE, ORIGIN, UPGRADE},
    request::Parts,
};
use hyper::ext::Protocol;

use super::json::JsonForm;
use crate::wire::{content_type::is_grpc, grpc_web::ContentType};

/// What a request is. Everything the proxy answers is one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// A browser asks whether a page may call (CORS preflight).
    Preflight,
    /// A WebSocket wants to open, by HTTP/1.1 upgrade or by RFC 8441.
    Socket,
    /// A gRPC-Web call.
    GrpcWeb(Negotiated),
    /// A native gRPC call.
    Grpc,
    /// A call in JSON.
    Json(JsonForm),
    /// A request of an HTTP carrier.
    HttpCarrier(HttpCarrierRequest),
    /// Anything else: the shim's files, pages, and what is not found.
    Page,
}

/// What is asked of an HTTP carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpCarrierRequest {
    /// A new one.
    Open,
    /// Take a packet.
    Up,
    /// Is there a packet?
    Down,
    /// Something that there is not.
    Unknown,
}

/// The content types of a gRPC-Web call, each way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// How the request's body is written.
    pub(crate) request: ContentType,
    /// How the response's body is to be written.
    pub(crate) response: ContentType,
}

impl RequestKind {
    /// Reads a request's head.
    pub(crate) fn of(head: &Parts) -> Self {
        if head.method == Method::OPTIONS
            && head.headers.contains_key(ORIGIN)
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            return Self::Preflight;
        }
        if is_socket(head) {
            return Self::Socket;
        }
        // Whatever its content type.
        if let Some(request) = head.uri.path().strip_prefix("/bidiway/http/") {
            return Self::HttpCarrier(match request {
                "open" => HttpCarrierRequest::Open,
                "up" => HttpCarrierRequest::Up,
                "down" => HttpCarrierRequest::Down,
                _ => HttpCarrierRequest::Unknown,
            });
        }
        let Some(content_type) = head.headers.get(CONTENT_TYPE) else { return Self::Page };
        if let Some(request) = ContentType::parse(content_type.as_bytes()) {
            let response = accepted(&head.headers).unwrap_or_else(|| request.clone());
            return Self::GrpcWeb(Negotiated { request, response });
        }
        if is_grpc(content_type.as_bytes()) {
            return Self::Grpc;
        }
        match JsonForm::of(head) {
            // A request that fetches may say that it has JSON, but what it asks for is a page.
            Some(form) if head.method == Method::POST && !is_own(head.uri.path()) => Self::Json(form),
            _ => Self::Page,
        }
    }
}

impl RequestKind {
    /// Whether calls go on to begin after the request has been answered: it opens a carrier.
    pub(crate) fn lasts(&self) -> bool {
        matches!(self, Self::Socket | Self::HttpCarrier(_))
    }
}

/// The first gRPC-Web type that the client accepts: some clients send binary and ask for text.
fn accepted(headers: &HeaderMap) -> Option<ContentType> {
    let values = headers.get_all(ACCEPT).iter();
    values
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .find_map(|type_| ContentType::parse(type_.trim_ascii()))
}

/// Paths of the proxy's own.
pub(crate) fn is_own(path: &str) -> bool {
    path.starts_with("/bidiway/")
}

fn is_socket(head: &Parts) -> bool {
    match head.version {
        Version::HTTP_11 => {
            head.method == Method::GET
                && lists(&head.headers, UPGRADE, "websocket")
                && lists(&head.headers, CONNECTION, "upgrade")
        }
        Version::HTTP_2 => {
            head.method == Method::CONNECT
                && head.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
        }
        _ => false,
    }
}

/// Whether a comma-separated header has a word, in any case.
fn lists(headers: &HeaderMap, name: http::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::wire::grpc_web::Form;

    fn head(method: &str, version: Version, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).version(version).uri("/a.B/C");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn kind(method: &str, version: Version, headers: &[(&str, &str)]) -> RequestKind {
        RequestKind::of(&head(method, version, headers))
    }

    fn forms(headers: &[(&str, &str)]) -> (Form, Form) {
        match kind("POST", Version::HTTP_11, headers) {
            RequestKind::GrpcWeb(negotiated) => (negotiated.request.form, negotiated.response.form),
            other => panic!("not gRPC-Web but {other:?}"),
        }
    }

    #[test]
    fn an_options_request_is_a_preflight_only_with_what_browsers_send() {
        let full = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
        assert_eq!(kind("OPTIONS", Version::HTTP_2, &full), RequestKind::Preflight);
        assert_eq!(kind("OPTIONS", Version::HTTP_11, &full[..1]), RequestKind::Page);
        assert_eq!(kind("OPTIONS", Version::HTTP_11, &full[1..]), RequestKind::Page);
    }

    #[test]
    fn a_websocket_is_known_by_its_upgrade_whatever_else_the_headers_list() {
        let browser = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert_eq!(kind("GET", Version::HTTP_11, &browser), RequestKind::Socket);
        assert_eq!(kind("POST", Version::HTTP_11, &browser), RequestKind::Page);
        assert_eq!(kind("GET", Version::HTTP_2, &browser), RequestKind::Page, "HTTP/2 has no upgrades");
        assert_eq!(kind("GET", Version::HTTP_11, &browser[1..]), RequestKind::Page);
    }

    #[test]
    fn an_extended_connect_is_a_websocket_only_when_its_protocol_says_so() {
        let mut connect = head("CONNECT", Version::HTTP_2, &[]);
        assert_eq!(RequestKind::of(&connect), RequestKind::Page);
        connect.extensions.insert(Protocol::from_static("connect-udp"));
        assert_eq!(RequestKind::of(&connect), RequestKind::Page);
        connect.extensions.insert(Protocol::from_static("websocket"));
        assert_eq!(RequestKind::of(&connect), RequestKind::Socket);
    }

    #[test]
    fn native_grpc_is_not_mistaken_for_grpc_web_nor_the_other_way_round() {
        for native in ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"] {
            assert_eq!(
                kind("POST", Version::HTTP_2, &[("content-type", native)]),
                RequestKind::Grpc,
                "{native}"
            );
        }
        for other in ["application/grpcx", "application/grpc-webx", "text/plain"] {
            assert_eq!(
                kind("POST", Version::HTTP_2, &[("content-type", other)]),
                RequestKind::Page,
                "{other}"
            );
        }
        assert_eq!(forms(&[("content-type", "application/grpc-web")]), (Form::Binary, Form::Binary));
    }

    #[test]
    fn the_response_takes_the_form_that_accept_names_and_else_the_request_s() {
        let text = ("content-type", "application/grpc-web-text");
        assert_eq!(forms(&[text]), (Form::Text, Form::Text));
        assert_eq!(forms(&[text, ("accept", "*/*")]), (Form::Text, Form::Text));
        assert_eq!(forms(&[text, ("accept", "application/grpc-web+proto")]), (Form::Text, Form::Binary));
        let binary = ("content-type", "application/grpc-web+proto; charset=utf-8");
        assert_eq!(
            forms(&[binary, ("accept", "application/json, application/grpc-web-text;q=0.9")]),
            (Form::Binary, Form::Text)
        );
    }

    #[test]
    fn the_message_format_of_the_request_is_kept() {
        let headers = [("content-type", "application/grpc-web+json")];
        let RequestKind::GrpcWeb(negotiated) = kind("POST", Version::HTTP_11, &headers) else {
            panic!("not gRPC-Web")
        };
        assert_eq!(negotiated.response.format, "json");
        assert_eq!(negotiated.request.to_grpc(), "application/grpc+json");
    }
}
