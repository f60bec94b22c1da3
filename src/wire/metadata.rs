//! gRPC metadata: what may pass between a client and a service, and how each wire writes it.
//!
//! In the proxy, metadata is an [`http::HeaderMap`] in gRPC's HTTP/2 form: lower-case names, `-bin` values in
//! base64 without padding, repeated names as repeated entries.

use http::HeaderMap;

use super::v1;

/// What an entry of metadata costs besides its name and value (RFC 9113, section 6.5.2).
pub const ENTRY_OVERHEAD: usize = 32;

/// Keeps only what a client may send upstream as metadata. Drops hop-by-hop headers (RFC 9110, section 7.6.1, and
/// those that `connection` nominates), HTTP and WebSocket headers that belong to the downstream connection
/// (`host`, `content-length`, `content-type`, `origin`, `accept*`, `sec-*`, `upgrade`, …), everything `grpc-*`
/// that is the protocol's own (`grpc-timeout`, `grpc-status`, `grpc-message`, …; but `grpc-encoding`,
/// `grpc-accept-encoding`, `grpc-trace-bin`, `grpc-tags-bin` and `grpc-previous-rpc-attempts` pass), `x-grpc-web`, `bidiway-*`, `te`, `user-agent` (it
/// is set by the upstream floor; the client's own goes on as `x-user-agent` only if it sent that itself), `cookie`.
/// `authorization` and everything else passes.
pub fn filter_request(_headers: &mut HeaderMap) {
    todo!()
}

/// Keeps only what upstream may tell the client: drops hop-by-hop headers, `content-length`, `content-type`,
/// `date`, `server`, `trailer`, `te`, `accept-encoding`, CORS headers (`access-control-*`) and `bidiway-*`. Does not touch `grpc-*`.
pub fn filter_response(_headers: &mut HeaderMap) {
    todo!()
}

/// Headers from the session's entries. Fails on the first entry that is not valid.
pub fn from_entries(_entries: &[v1::Metadata]) -> Result<HeaderMap, InvalidMetadata> {
    todo!()
}

/// The session's entries from headers: `-bin` values decoded (a comma-joined list becomes several entries; one
/// that is not base64 is dropped), other values as text (one that is not printable ASCII is dropped).
pub fn to_entries(_headers: &HeaderMap) -> Vec<v1::Metadata> {
    todo!()
}

/// The size of metadata as limits count it: names and values, plus [`ENTRY_OVERHEAD`] for each entry.
pub fn size(_headers: &HeaderMap) -> usize {
    todo!()
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
    /// A name that belongs to the protocol.
    #[error("metadata name {0:?} is reserved")]
    Reserved(String),
}
