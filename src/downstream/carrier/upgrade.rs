//! The WebSocket handshake: HTTP/1.1 upgrade (RFC 6455, section 4.2) and HTTP/2 extended CONNECT (RFC 8441).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::downstream::Rejection;

/// The subprotocol of binary sessions.
pub const SUBPROTOCOL: &str = "bidiway.v1";

/// What a valid handshake is answered with.
#[derive(Debug)]
pub(super) struct Handshake {
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
    if !offers(headers, SUBPROTOCOL) {
        return Err(Rejection::handshake(
            StatusCode::BAD_REQUEST,
            "no subprotocol that is spoken here was offered; open the WebSocket with \"bidiway.v1\"",
        ));
    }
    if request.version() == Version::HTTP_2 {
        return Ok(Handshake { accept: None });
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |k| k.len()) != 16 {
        return Err(Rejection::handshake(
            StatusCode::BAD_REQUEST,
            "`sec-websocket-key` must be 16 random bytes in base64 (RFC 6455, section 4.1)",
        ));
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key)).ok();
    Ok(Handshake { accept })
}

/// Whether a subprotocol is among those offered, in one header or several. The names are compared as they are:
/// RFC 6455 does not fold their case.
fn offers(headers: &HeaderMap, name: &str) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim() == name)
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
