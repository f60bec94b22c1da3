//! The WebSocket handshake: HTTP/1.1 upgrade (RFC 6455, section 4.2) and HTTP/2 extended CONNECT (RFC 8441). It is the
//! same for sessions and for the dialects in which a socket carries gRPC messages.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Request, StatusCode, Version, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    downstream::{Rejection, request_kind::is_own, route::split},
    wire::{grpc_websockets, text_frame::TEXT_SUBPROTOCOL},
};

/// The subprotocol of binary sessions.
pub const SUBPROTOCOL: &str = "bidiway.v1";

/// What is spoken on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subprotocol {
    /// Packets of a session.
    Session,
    /// Frames of a session as text.
    TextSession,
    /// `grpc-websockets`: one call.
    GrpcWebSockets,
    /// `grpc-websockets-multiplex`: many calls.
    GrpcWebSocketsMultiplex,
    /// None: one call in JSON, of the method that is the path.
    Json,
}

/// What a valid handshake is answered with.
#[derive(Debug)]
pub(super) struct Handshake {
    /// What was chosen of what the client offers.
    pub(super) subprotocol: Subprotocol,
    /// `sec-websocket-protocol`: its name, as the client wrote it; `None`: it offered none.
    pub(super) name: Option<HeaderValue>,
    /// `sec-websocket-accept`; HTTP/1.1 only.
    pub(super) accept: Option<HeaderValue>,
}

/// Checks a request that asks for a WebSocket.
pub(super) fn check<B>(request: &Request<B>) -> Result<Handshake, Rejection> {
    let headers = request.headers();
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v.as_bytes() != b"13") {
        return Err(Rejection::handshake(
            StatusCode::UPGRADE_REQUIRED,
            "only WebSocket version 13 (RFC 6455) is spoken here; send `sec-websocket-version: 13`",
        ));
    }
    let Some((subprotocol, name)) = choose(request) else {
        return Err(Rejection::handshake(
            StatusCode::BAD_REQUEST,
            "no subprotocol that is spoken here was offered; open the WebSocket with \"bidiway.v1\" (or, for gRPC \
             clients of their own, \"grpc-websockets\" or \"grpc-websockets-multiplex\"; or, for a call in JSON, \
             with none at /package.Service/Method)",
        ));
    };
    if request.version() == Version::HTTP_2 {
        return Ok(Handshake { subprotocol, name, accept: None });
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |k| k.len()) != 16 {
        return Err(Rejection::handshake(
            StatusCode::BAD_REQUEST,
            "`sec-websocket-key` must be 16 random bytes in base64 (RFC 6455, section 4.1)",
        ));
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key)).ok();
    Ok(Handshake { subprotocol, name, accept })
}

/// The first of our subprotocols that is among those offered, in one header or several, and how the client wrote it.
/// Who offers none wants a call in JSON, if the path is a method.
/// A session's name is compared as it is: RFC 6455 does not fold its case. The others were always read in any case.
fn choose<B>(request: &Request<B>) -> Option<(Subprotocol, Option<HeaderValue>)> {
    let headers = request.headers();
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        let path = request.uri().path();
        return (!is_own(path) && split(path).is_some()).then_some((Subprotocol::Json, None));
    }
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let any_case = |name: &'static str| move |token: &str| token.eq_ignore_ascii_case(name);
    let find = |subprotocol, is: &dyn Fn(&str) -> bool| {
        let token = offered.iter().find(|token| is(token))?;
        Some((subprotocol, Some(HeaderValue::from_str(token).ok()?)))
    };
    find(Subprotocol::Session, &|token| token == SUBPROTOCOL)
        .or_else(|| find(Subprotocol::TextSession, &|token| token == TEXT_SUBPROTOCOL))
        .or_else(|| {
            find(Subprotocol::GrpcWebSocketsMultiplex, &any_case(grpc_websockets::MULTIPLEX_SUBPROTOCOL))
        })
        .or_else(|| find(Subprotocol::GrpcWebSockets, &any_case(grpc_websockets::SUBPROTOCOL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> http::request::Builder {
        Request::get("/bidiway/session")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    #[test]
    fn the_accept_value_is_that_of_rfc_6455() {
        let request = request().header("sec-websocket-protocol", "bidiway.v1").body(()).unwrap();
        let handshake = check(&request).unwrap();
        assert_eq!(handshake.accept.unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_subprotocol_may_be_offered_among_others_and_in_several_headers() {
        let request = request()
            .header("sec-websocket-protocol", "chat, other")
            .header("sec-websocket-protocol", " x ,bidiway.v1")
            .body(())
            .unwrap();
        assert!(check(&request).is_ok());
    }

    #[test]
    fn another_subprotocol_is_refused_with_the_right_one_named() {
        for offer in ["bidiway.v2", "BIDIWAY.V1", "bidiway", ""] {
            let request = request().header("sec-websocket-protocol", offer).body(()).unwrap();
            let rejection = check(&request).unwrap_err();
            assert!(rejection.message.contains("\"bidiway.v1\""), "{offer}: {rejection:?}");
        }
    }

    #[test]
    fn of_several_subprotocols_the_richest_is_chosen_and_named_as_the_client_did() {
        for (offer, subprotocol, name) in [
            ("grpc-websockets", Subprotocol::GrpcWebSockets, "grpc-websockets"),
            ("x, GRPC-WebSockets", Subprotocol::GrpcWebSockets, "GRPC-WebSockets"),
            (
                "grpc-websockets,grpc-websockets-multiplex",
                Subprotocol::GrpcWebSocketsMultiplex,
                "grpc-websockets-multiplex",
            ),
            ("grpc-websockets-multiplex, bidiway.v1", Subprotocol::Session, "bidiway.v1"),
            ("Bidiway.v1, grpc-websockets", Subprotocol::GrpcWebSockets, "grpc-websockets"),
        ] {
            let request = request().header("sec-websocket-protocol", offer).body(()).unwrap();
            let handshake = check(&request).unwrap();
            assert_eq!(
                (handshake.subprotocol, handshake.name.unwrap().to_str().unwrap()),
                (subprotocol, name),
                "{offer}"
            );
        }
    }

    #[test]
    fn another_version_is_told_which_one_is_spoken() {
        let request = Request::get("/").header("sec-websocket-version", "8").body(()).unwrap();
        assert_eq!(check(&request).unwrap_err().http, 426);
    }

    #[test]
    fn a_key_that_is_not_16_bytes_is_refused() {
        for key in ["", "AAAA", "not base64!", "dGhlIHNhbXBsZSBub25jZQ"] {
            let request = Request::get("/")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", key)
                .header("sec-websocket-protocol", "bidiway.v1")
                .body(())
                .unwrap();
            assert_eq!(check(&request).unwrap_err().http, 400, "{key}");
        }
    }
}
