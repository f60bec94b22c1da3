//! How a call ended, and who said so.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use super::{
    Code,
    metadata::{decode_binary, encode_binary},
};

/// The trailer that marks a status which the proxy made itself: `bidiway-origin: proxy`.
pub const ORIGIN_HEADER: &str = "bidiway-origin";

/// A gRPC status: code, message and details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// Text for people, decoded (not percent-encoded).
    pub message: String,
    /// The bytes of a `google.rpc.Status`; empty when there are none.
    pub details: Bytes,
}

impl Status {
    /// A status without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Bytes::new() }
    }

    /// Takes `grpc-status`, `grpc-message` and `grpc-status-details-bin` out of trailers (or out of the headers of
    /// a trailers-only answer). `None` without `grpc-status`. A `grpc-status` that is no number is UNKNOWN with a
    /// message that says so; an undecodable `grpc-message` is kept as lossy text; broken base64 in the details is
    /// dropped.
    pub fn take_from(trailers: &mut HeaderMap) -> Option<Self> {
        let code = trailers.remove(STATUS)?;
        let message =
            trailers.remove(MESSAGE).map(|value| decode_message(value.as_bytes())).unwrap_or_default();
        let details = trailers.remove(DETAILS).and_then(|value| decode_binary(value.as_bytes()));
        let details = details.unwrap_or_default();
        Some(match parse_code(code.as_bytes()) {
            Some(code) => Self { code, message, details },
            None => {
                let sent = String::from_utf8_lossy(code.as_bytes());
                let sent: String = sent.chars().take(SHOWN).collect();
                let message = match message.as_str() {
                    "" => format!("grpc-status {sent:?} is not a number"),
                    message => format!("grpc-status {sent:?} is not a number; grpc-message: {message}"),
                };
                Self { code: Code::UNKNOWN, message, details }
            }
        })
    }

    /// Writes `grpc-status`, `grpc-message` (percent-encoded, absent when empty) and `grpc-status-details-bin`
    /// (absent when empty), replacing what was there.
    pub fn write_to(&self, trailers: &mut HeaderMap) {
        trailers.insert(STATUS, HeaderValue::from(self.code.0));
        match encode_message(&self.message) {
            Some(message) => drop(trailers.insert(MESSAGE, message)),
            None => drop(trailers.remove(MESSAGE)),
        }
        if self.details.is_empty() {
            trailers.remove(DETAILS);
        } else {
            trailers.insert(DETAILS, encode_binary(&self.details));
        }
    }
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// How many characters of a wrong `grpc-status` are repeated to the client.
const SHOWN: usize = 32;

/// What `grpc-message` may not hold as it is: everything but 0x20 to 0x7e, and `%` (gRPC
/// `doc/PROTOCOL-HTTP2.md`, "Responses"). Bytes above 0x7f are always encoded.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// The `grpc-message` value of a text; `None` for the empty one.
fn encode_message(message: &str) -> Option<HeaderValue> {
    if message.is_empty() {
        return None;
    }
    // HTTP strips spaces from both ends of a value, and HTTP/2 peers may refuse them: there, encode them too.
    let inner = message.trim_matches(' ');
    let (before, after) = match inner {
        "" => (message.len(), 0),
        _ => {
            let before = message.len() - message.trim_start_matches(' ').len();
            (before, message.len() - before - inner.len())
        }
    };
    let text =
        format!("{}{}{}", "%20".repeat(before), utf8_percent_encode(inner, ENCODED), "%20".repeat(after));
    Some(HeaderValue::from_str(&text).expect("percent-encoded text is printable ASCII"))
}

/// Decodes a `grpc-message`. What is no percent sequence stands for itself, and what is not UTF-8 becomes U+FFFD:
/// half a message tells more than none.
fn decode_message(value: &[u8]) -> String {
    percent_decode(value).decode_utf8_lossy().into_owned()
}

fn parse_code(value: &[u8]) -> Option<Code> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok().map(Code)
}

/// Who made a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client: it cancelled or went away.
    Client,
    /// Bidiway itself.
    Proxy,
    /// The gRPC service.
    Upstream,
}

impl Origin {
    /// The word for logs and metrics: `client`, `proxy`, `upstream`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Upstream => "upstream",
        }
    }
}

/// The end of a call: one true status, who made it, and the trailing metadata.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The status.
    pub status: Status,
    /// Who made it.
    pub origin: Origin,
    /// Trailing metadata without the status headers, already filtered for the client.
    pub trailers: HeaderMap,
    /// Whether the proxy has ended the call because its request was invalid or too large.
    pub faulty_request: bool,
}

impl Outcome {
    /// An outcome that the proxy made. Its trailers carry `bidiway-origin: proxy`.
    pub fn proxy(code: Code, message: impl Into<String>) -> Self {
        let origin = Origin::Proxy;
        let mut trailers = HeaderMap::with_capacity(4);
        trailers.insert(ORIGIN_HEADER, HeaderValue::from_static(origin.as_str()));
        Self { status: Status::new(code, message), origin, trailers, faulty_request: false }
    }

    /// The same for a call whose request was invalid or too large.
    pub fn faulty_request(code: Code, message: impl Into<String>) -> Self {
        Self { faulty_request: true, ..Self::proxy(code, message) }
    }

    /// The client cancelled, or its connection was lost. Nobody is left to read it; it is for logs and metrics.
    pub fn cancelled(message: impl Into<String>) -> Self {
        let status = Status::new(Code::CANCELLED, message);
        Self { status, origin: Origin::Client, trailers: HeaderMap::new(), faulty_request: false }
    }

    /// All trailers as gRPC writes them: the metadata and the status headers.
    pub fn into_trailers(self) -> HeaderMap {
        let mut trailers = self.trailers;
        self.status.write_to(&mut trailers);
        trailers
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn trailers(entries: &[(&'static str, &[u8])]) -> HeaderMap {
        entries
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    #[test]
    fn a_status_is_taken_out_and_other_trailers_stay() {
        let mut map = trailers(&[
            ("grpc-status", b"5"),
            ("grpc-message", b"no such%0Aroom: 100%25"),
            ("grpc-status-details-bin", b"CAUSBG5vcGU"),
            ("x-trailer", b"stays"),
        ]);
        let status = Status::take_from(&mut map).unwrap();
        assert_eq!(status.code, Code::NOT_FOUND);
        assert_eq!(status.message, "no such\nroom: 100%");
        assert_eq!(&status.details[..], b"\x08\x05\x12\x04nope");
        assert_eq!(map, trailers(&[("x-trailer", b"stays")]));
    }

    #[test]
    fn no_grpc_status_is_no_status() {
        let mut map = trailers(&[("grpc-message", b"lonely")]);
        assert_eq!(Status::take_from(&mut map), None);
    }

    #[test]
    fn a_code_outside_the_documents_is_passed_on() {
        assert_eq!(Status::take_from(&mut trailers(&[("grpc-status", b"99")])).unwrap().code, Code(99));
    }

    #[test]
    fn a_grpc_status_that_is_no_number_is_unknown_and_never_ok() {
        for value in [&b""[..], b"OK", b"-0", b"+0", b" 0", b"0x0", b"0,0", b"99999999999", b"\xff"] {
            let status = Status::take_from(&mut trailers(&[("grpc-status", value)])).unwrap();
            assert_eq!(status.code, Code::UNKNOWN, "{value:?}");
            assert!(status.message.contains("not a number"), "{}", status.message);
        }
        let both = &mut trailers(&[("grpc-status", b"what"), ("grpc-message", b"it broke")]);
        assert!(Status::take_from(both).unwrap().message.ends_with("it broke"));
    }

    #[test]
    fn a_broken_message_is_kept_as_far_as_it_goes() {
        for (value, expected) in [
            (&b"100%"[..], "100%"),
            (b"%zz %4", "%zz %4"),
            (b"%41%", "A%"),
            (b"%E4%BD", "\u{fffd}"),
            (b"caf\xe9", "caf\u{fffd}"),
            (b"caf\xc3\xa9", "caf\u{e9}"),
            (b"a+b", "a+b"),
        ] {
            let mut map = trailers(&[("grpc-status", b"2"), ("grpc-message", value)]);
            assert_eq!(Status::take_from(&mut map).unwrap().message, expected);
        }
    }

    #[test]
    fn broken_details_are_dropped_and_the_rest_is_kept() {
        let mut map = trailers(&[("grpc-status", b"3"), ("grpc-status-details-bin", b"!!")]);
        assert_eq!(Status::take_from(&mut map), Some(Status::new(Code::INVALID_ARGUMENT, "")));
    }

    #[test]
    fn a_message_is_encoded_as_grpc_says() {
        let mut map = trailers(&[("grpc-message", b"old"), ("grpc-status-details-bin", b"AA")]);
        Status::new(Code::INTERNAL, "a\n100% \u{1f980}~\x7f").write_to(&mut map);
        let expected = trailers(&[("grpc-status", b"13"), ("grpc-message", b"a%0A100%25 %F0%9F%A6%80~%7F")]);
        assert_eq!(map, expected);

        Status::new(Code::OK, "").write_to(&mut map);
        assert_eq!(map, trailers(&[("grpc-status", b"0")]));
    }

    #[test]
    fn details_are_written_without_padding() {
        let status = Status { details: Bytes::from_static(b"A"), ..Status::new(Code::ABORTED, "") };
        let mut map = HeaderMap::new();
        status.write_to(&mut map);
        assert_eq!(map["grpc-status-details-bin"], "QQ");
    }

    #[test]
    fn an_outcome_of_the_proxy_says_so_in_its_trailers() {
        let map = Outcome::proxy(Code::UNAVAILABLE, "no endpoint").into_trailers();
        let expected: &[(_, &[u8])] =
            &[("bidiway-origin", b"proxy"), ("grpc-status", b"14"), ("grpc-message", b"no endpoint")];
        assert_eq!(map, trailers(expected));
        let cancelled = Outcome::cancelled("tab closed");
        assert_eq!((cancelled.status.code, cancelled.origin), (Code::CANCELLED, Origin::Client));
    }

    proptest! {
        #[test]
        fn a_status_survives_its_headers(
            code: u32,
            message in prop_oneof![any::<String>(), "[ %\n\u{1f980}a]{0,8}"],
            details in vec(any::<u8>(), 0..50),
        ) {
            let status = Status { code: Code(code), message, details: details.into() };
            let mut map = HeaderMap::new();
            status.write_to(&mut map);
            if let Some(value) = map.get("grpc-message") {
                let bytes = value.as_bytes();
                prop_assert!(bytes.iter().all(|byte| (0x20..=0x7e).contains(byte)));
                prop_assert!(bytes[0] != b' ' && bytes[bytes.len() - 1] != b' ');
            }
            prop_assert_eq!(Status::take_from(&mut map).unwrap(), status);
            prop_assert!(map.is_empty());
        }
    }
}
