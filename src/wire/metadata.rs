//! gRPC metadata: what may pass between a client and a service, and how each wire writes it.
//!
//! In the proxy, metadata is an [`http::HeaderMap`] in gRPC's HTTP/2 form: lower-case names, `-bin` values in
//! base64 without padding, repeated names as repeated entries.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::v1::{self, metadata::Value};

/// What an entry of metadata costs besides its name and value (RFC 9113, section 6.5.2).
pub const ENTRY_OVERHEAD: usize = 32;

/// Keeps only what a client may send upstream as metadata. Drops hop-by-hop headers (RFC 9110, section 7.6.1, and
/// those that `connection` nominates), HTTP and WebSocket headers that belong to the downstream connection
/// (`host`, `content-length`, `content-type`, `origin`, `accept*`, `sec-*`, `upgrade`, …), everything `grpc-*`
/// that is the protocol's own (`grpc-timeout`, `grpc-status`, `grpc-message`, …; but `grpc-encoding`,
/// `grpc-accept-encoding`, `grpc-trace-bin`, `grpc-tags-bin` and `grpc-previous-rpc-attempts` pass), `x-grpc-web`,
/// `bidiway-*`, `te`, `user-agent` (it is set by the upstream floor; the client's own goes on as `x-user-agent`
/// only if it sent that itself), `cookie`. `authorization` and everything else passes.
pub fn filter_request(headers: &mut HeaderMap) {
    remove_nominated(headers);
    remove_where(headers, |name| is_reserved(name) || is_browsers(name));
}

/// Whether a header of an HTTP request can become metadata when an operator wants it to: not what belongs to the
/// protocols or to the connection, and not `user-agent`, which is the proxy's own towards services.
pub fn may_be_passed(name: &HeaderName) -> bool {
    let name = name.as_str();
    !is_reserved(name) && name != "user-agent" && !name.starts_with("sec-") && name.bytes().all(is_name_byte)
}

/// Keeps only what upstream may tell the client: drops hop-by-hop headers, `content-length`, `content-type`,
/// `content-encoding`, `date`, `server`, `alt-svc` (it names the upstream's own address), `trailer`, `te`,
/// `accept-encoding`, CORS headers (`access-control-*`) and `bidiway-*`. Does not touch `grpc-*`.
pub fn filter_response(headers: &mut HeaderMap) {
    remove_nominated(headers);
    remove_where(headers, is_upstreams);
}

/// Whether it is dropped from requests unless an operator names it: what a browser adds by itself.
pub fn needs_naming(name: &HeaderName) -> bool {
    is_browsers(name.as_str())
}

/// Whether an operator's rules may change this entry of a request's metadata: not what belongs to gRPC, to HTTP or to
/// the connection.
pub fn may_be_ruled(name: &HeaderName) -> bool {
    let is_tracing = matches!(name.as_str(), "grpc-tags-bin" | "grpc-trace-bin");
    may_be_passed(name) && (is_tracing || !name.as_str().starts_with("grpc-"))
}

/// The same of a response's metadata.
pub fn may_be_ruled_in_responses(name: &HeaderName) -> bool {
    may_be_ruled(name) && !is_upstreams(name.as_str())
}

/// A text value as metadata; `None`: not printable ASCII. Spaces round it are removed.
pub fn text_value(text: &str) -> Option<HeaderValue> {
    if !text.bytes().all(is_text_byte) {
        return None;
    }
    HeaderValue::from_str(text.trim_matches(' ')).ok()
}

/// Headers from the entries that a session's client sent (Hello, Open, Refresh). Fails on the first entry that is not
/// valid. Spaces round a text value are removed: HTTP/2 does not allow them there. What [`filter_request`] drops because browsers add it (`origin`,
/// `cookie`, `user-agent`, …) is no error here.
pub fn from_entries(entries: &[v1::Metadata]) -> Result<HeaderMap, InvalidMetadata> {
    // No capacity on the strength of `entries.len()`: a header map panics when asked for too much.
    let mut headers = HeaderMap::new();
    for entry in entries {
        let name = &entry.name;
        let error = |kind: fn(String) -> InvalidMetadata| kind(name.clone());
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            return Err(error(InvalidMetadata::Name));
        }
        if is_reserved(name) {
            return Err(error(InvalidMetadata::Reserved));
        }
        let value = match (&entry.value, name.ends_with("-bin")) {
            (Some(Value::Binary(bytes)), true) => encode_binary(bytes),
            (Some(Value::Text(text)), false) => {
                text_value(text).ok_or_else(|| error(InvalidMetadata::Text))?
            }
            _ => return Err(error(InvalidMetadata::Kind)),
        };
        // Only a name of more than 65,535 bytes fails here.
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| error(InvalidMetadata::Name))?;
        headers.try_append(name, value).map_err(|_| InvalidMetadata::TooMany)?;
    }
    Ok(headers)
}

/// The session's entries from headers: `-bin` values decoded (a comma-joined list becomes several entries; one
/// that is not base64 is dropped), other values as text (one that is not printable ASCII is dropped).
pub fn to_entries(headers: &HeaderMap) -> Vec<v1::Metadata> {
    let mut entries = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let mut push = |value| entries.push(v1::Metadata { name: name.as_str().into(), value: Some(value) });
        if name.as_str().ends_with("-bin") {
            for part in value.as_bytes().split(|&byte| byte == b',') {
                if let Some(bytes) = decode_binary(part) {
                    push(Value::Binary(bytes));
                }
            }
        } else if let Ok(text) = std::str::from_utf8(value.as_bytes())
            && text.bytes().all(is_text_byte)
        {
            push(Value::Text(text.into()));
        }
    }
    entries
}

/// The size of metadata as limits count it: names and values, plus [`ENTRY_OVERHEAD`] for each entry.
pub fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY_OVERHEAD).sum()
}

/// Decodes one `-bin` value: base64 with or without padding, spaces round it. `None` when it is not base64.
pub fn decode_binary(value: &[u8]) -> Option<Bytes> {
    BINARY.decode(value.trim_ascii()).ok().map(Bytes::from)
}

/// Encodes one `-bin` value, without padding.
pub fn encode_binary(bytes: &[u8]) -> HeaderValue {
    // An empty value is fine; so is one of any length.
    HeaderValue::try_from(BINARY.encode(bytes)).expect("base64 is printable ASCII")
}

/// gRPC writes no padding and has to accept it (gRPC `doc/PROTOCOL-HTTP2.md`, "Binary-Header").
const BINARY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// gRPC's Header-Name.
fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-' | b'_' | b'.')
}

/// gRPC's ASCII-Value.
fn is_text_byte(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e)
}

/// Names with a meaning for the protocol or for one connection. No client may set them as metadata.
fn is_reserved(name: &str) -> bool {
    let own_grpc = name.starts_with("grpc-")
        && !matches!(
            name,
            "grpc-accept-encoding"
                | "grpc-encoding"
                | "grpc-previous-rpc-attempts"
                | "grpc-tags-bin"
                | "grpc-trace-bin"
        );
    own_grpc
        || is_hop_by_hop(name)
        || matches!(name, "content-length" | "content-type" | "host" | "x-grpc-web")
        || name.starts_with("bidiway-")
}

/// Names that a browser adds by itself, about the page, the connection or HTTP's own machinery.
fn is_browsers(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "cache-control"
            | "content-encoding"
            | "cookie"
            | "dnt"
            | "expect"
            | "origin"
            | "pragma"
            | "priority"
            | "referer"
            | "upgrade-insecure-requests"
            | "user-agent"
    ) || ["accept-", "access-control-", "sec-"].iter().any(|prefix| name.starts_with(prefix))
}

/// Names in a response that are about upstream's connection and HTTP, and not what the service says.
fn is_upstreams(name: &str) -> bool {
    is_hop_by_hop(name)
        || matches!(
            name,
            "accept-encoding"
                | "alt-svc"
                | "content-encoding"
                | "content-length"
                | "content-type"
                | "date"
                | "server"
        )
        || name.starts_with("access-control-")
        || name.starts_with("bidiway-")
}

/// RFC 9110, section 7.6.1, and what RFC 9113, section 8.2.2, forbids in HTTP/2.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes what `connection` nominates.
fn remove_nominated(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

fn remove_where(headers: &mut HeaderMap, doomed: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| doomed(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Metadata that gRPC does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// A name with characters outside `0-9 a-z - _ .`, or none.
    #[error("metadata name {0:?} is not valid: use lower-case letters, digits, '-', '_' and '.'")]
    Name(String),
    /// A text value with characters outside 0x20 to 0x7e.
    #[error(
        "the value of metadata {0:?} is not printable ASCII; use a name that ends in '-bin' for raw bytes"
    )]
    Text(String),
    /// A `-bin` name with a text value, or another name with a binary one.
    #[error(
        "metadata {0:?} has the wrong kind of value: names that end in '-bin' take `binary`, others `text`"
    )]
    Kind(String),
    /// A name that belongs to the protocol or to the connection, such as `grpc-timeout` or `host`.
    #[error("metadata name {0:?} is reserved")]
    Reserved(String),
    /// More entries than a header map can hold (32,768).
    #[error("there are too many metadata entries")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn text(name: &str, value: &str) -> v1::Metadata {
        v1::Metadata { name: name.into(), value: Some(Value::Text(value.into())) }
    }

    fn binary(name: &str, value: &[u8]) -> v1::Metadata {
        v1::Metadata { name: name.into(), value: Some(Value::Binary(Bytes::copy_from_slice(value))) }
    }

    fn headers(entries: &[(&'static str, &[u8])]) -> HeaderMap {
        entries
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn an_operator_may_pass_cookies_but_nothing_of_the_protocols() {
        let may = |name| may_be_passed(&HeaderName::from_static(name));
        assert!(["cookie", "authorization", "x-user", "origin", "accept-language"].into_iter().all(may));
        for name in
            ["host", "upgrade", "connection", "te", "user-agent", "sec-websocket-key", "grpc-timeout", "a+b"]
        {
            assert!(!may(name), "{name}");
        }
    }

    #[test]
    fn rules_may_change_what_is_metadata_and_nothing_of_the_protocols() {
        let is = |may: fn(&HeaderName) -> bool, name| may(&HeaderName::from_static(name));
        for name in ["x-user", "authorization", "traceparent", "grpc-trace-bin", "x-data-bin"] {
            assert!(is(may_be_ruled, name) && is(may_be_ruled_in_responses, name), "{name}");
        }
        for name in
            ["grpc-status", "grpc-encoding", "grpc-timeout", "te", "host", "content-type", "bidiway-x"]
        {
            assert!(!is(may_be_ruled, name) && !is(may_be_ruled_in_responses, name), "{name}");
        }
        assert!(!is(may_be_ruled_in_responses, "access-control-allow-origin"));
        assert!(is(needs_naming, "cookie") && !is(needs_naming, "x-user"));
    }

    #[test]
    fn a_request_keeps_its_metadata_and_nothing_of_the_connection() {
        let kept = [
            "authorization",
            "grpc-accept-encoding",
            "grpc-encoding",
            "grpc-previous-rpc-attempts",
            "grpc-tags-bin",
            "grpc-trace-bin",
            "traceparent",
            "x-custom",
            "x-forwarded-for",
            "x-user-agent",
        ];
        let dropped = [
            "accept",
            "accept-encoding",
            "accept-language",
            "access-control-request-method",
            "bidiway-origin",
            "connection",
            "content-length",
            "content-type",
            "cookie",
            "grpc-anything",
            "grpc-message",
            "grpc-status",
            "grpc-timeout",
            "host",
            "keep-alive",
            "origin",
            "proxy-authorization",
            "referer",
            "sec-fetch-mode",
            "sec-websocket-key",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "user-agent",
            "x-grpc-web",
        ];
        let mut map: HeaderMap = kept
            .iter()
            .chain(&dropped)
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")))
            .collect();
        filter_request(&mut map);
        assert_eq!(names(&map), kept);
    }

    #[test]
    fn what_connection_nominates_is_dropped_both_ways() {
        for filter in [filter_request, filter_response] {
            let mut map = headers(&[
                ("connection", b"keep-alive, X-Hop"),
                ("connection", b"x-other,,\xff"),
                ("x-hop", b"1"),
                ("x-other", b"1"),
                ("x-stays", b"1"),
                ("x-stays", b"2"),
            ]);
            filter(&mut map);
            assert_eq!(map, headers(&[("x-stays", b"1"), ("x-stays", b"2")]));
        }
    }

    #[test]
    fn a_response_keeps_its_status_and_drops_what_the_proxy_says_itself() {
        let kept = ["grpc-status", "grpc-message", "grpc-encoding", "set-cookie", "x-custom"];
        let dropped = [
            "accept-encoding",
            "access-control-allow-origin",
            "alt-svc",
            "bidiway-origin",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "date",
            "keep-alive",
            "server",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let mut map: HeaderMap = kept
            .iter()
            .chain(&dropped)
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")))
            .collect();
        filter_response(&mut map);
        assert_eq!(names(&map), kept);
    }

    #[test]
    fn each_kind_of_invalid_metadata_is_named() {
        type Error = fn(String) -> InvalidMetadata;
        let invalid: [(v1::Metadata, Error); 17] = [
            (text("", "v"), InvalidMetadata::Name),
            (text("X-Upper", "v"), InvalidMetadata::Name),
            (text(":path", "v"), InvalidMetadata::Name),
            (text("a b", "v"), InvalidMetadata::Name),
            (text("caf\u{e9}", "v"), InvalidMetadata::Name),
            (text("a\r\nb", "v"), InvalidMetadata::Name),
            (text("x", "a\nb"), InvalidMetadata::Text),
            (text("x", "\t"), InvalidMetadata::Text),
            (text("x", "caf\u{e9}"), InvalidMetadata::Text),
            (text("x", "\x7f"), InvalidMetadata::Text),
            (text("x-bin", "AA"), InvalidMetadata::Kind),
            (binary("x", b"AA"), InvalidMetadata::Kind),
            (v1::Metadata { name: "x".into(), value: None }, InvalidMetadata::Kind),
            (text("grpc-timeout", "1S"), InvalidMetadata::Reserved),
            (binary("grpc-status-details-bin", b""), InvalidMetadata::Reserved),
            (text("te", "trailers"), InvalidMetadata::Reserved),
            (text("bidiway-origin", "proxy"), InvalidMetadata::Reserved),
        ];
        for (entry, error) in invalid {
            let expected = error(entry.name.clone());
            assert_eq!(from_entries(&[text("fine", "v"), entry]), Err(expected));
        }
    }

    #[test]
    fn a_name_that_no_header_can_have_is_an_error() {
        let name = "x".repeat(70_000);
        assert_eq!(from_entries(&[text(&name, "v")]), Err(InvalidMetadata::Name(name)));
    }

    #[test]
    fn more_entries_than_a_header_map_holds_are_an_error() {
        let entries: Vec<_> = (0..40_000).map(|n| text(&format!("x{n}"), "")).collect();
        assert_eq!(from_entries(&entries), Err(InvalidMetadata::TooMany));
    }

    #[test]
    fn spaces_round_a_text_are_removed() {
        assert_eq!(from_entries(&[text("x", "  a b ")]).unwrap()["x"], "a b");
        assert_eq!(from_entries(&[text("x", "  ")]).unwrap()["x"], "");
    }

    #[test]
    fn binary_values_are_read_padded_unpadded_and_joined_by_commas() {
        let map = headers(&[("a-bin", b"QQ==,QQ, QUI= ,QUJD"), ("a-bin", b""), ("b-bin", b"QQ,no!,QUI")]);
        let expected = [
            binary("a-bin", b"A"),
            binary("a-bin", b"A"),
            binary("a-bin", b"AB"),
            binary("a-bin", b"ABC"),
            binary("a-bin", b""),
            binary("b-bin", b"A"),
            binary("b-bin", b"AB"),
        ];
        assert_eq!(to_entries(&map), expected);
    }

    #[test]
    fn a_text_that_is_not_printable_ascii_is_dropped_and_the_rest_stays() {
        let map = headers(&[("x", b"caf\xe9"), ("x", b"fine"), ("y", b"a\tb"), ("z", b"")]);
        assert_eq!(to_entries(&map), [text("x", "fine"), text("z", "")]);
    }

    #[test]
    fn the_size_counts_names_values_and_each_entry() {
        assert_eq!(size(&HeaderMap::new()), 0);
        assert_eq!(size(&headers(&[("abc", b"12345"), ("abc", b"")])), 8 + 3 + 64);
    }

    proptest! {
        #[test]
        fn metadata_survives_its_headers(
            entries in vec(prop_oneof![
                ("x-[a-z0-9_.-]{0,8}x", "[!-~]([ -~]{0,10}[!-~])?").prop_map(|(n, v)| text(&n, &v)),
                ("x-[a-z0-9_.-]{0,8}-bin", vec(any::<u8>(), 0..20)).prop_map(|(n, v)| binary(&n, &v)),
            ], 0..8),
        ) {
            // Entries of one name keep their order; names may be grouped.
            let mut expected = entries.clone();
            let mut found = to_entries(&from_entries(&entries).unwrap());
            expected.sort_by(|a, b| a.name.cmp(&b.name));
            found.sort_by(|a, b| a.name.cmp(&b.name));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn padding_makes_no_difference(bytes in vec(any::<u8>(), 0..20)) {
            let padded = base64::engine::general_purpose::STANDARD.encode(&bytes);
            prop_assert_eq!(decode_binary(padded.as_bytes()).unwrap(), &bytes);
            prop_assert_eq!(decode_binary(encode_binary(&bytes).as_bytes()).unwrap(), &bytes);
            prop_assert!(!encode_binary(&bytes).as_bytes().contains(&b'='));
        }
    }
}
