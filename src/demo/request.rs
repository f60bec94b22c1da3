//! What the demo services read from a request's metadata.

use std::time::Duration;

use tonic::{
    Status,
    metadata::{KeyAndValueRef, MetadataMap},
};

/// The longest pause that a client may ask for.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// The pause that the client asks for with `demo-delay-ms`.
pub(super) fn delay(metadata: &MetadataMap) -> Result<Duration, Status> {
    let Some(value) = metadata.get("demo-delay-ms") else { return Ok(Duration::ZERO) };
    value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .map(Duration::from_millis)
        .filter(|delay| *delay <= MAX_DELAY)
        .ok_or_else(|| Status::invalid_argument("demo-delay-ms must be a number from 0 to 60000"))
}

/// The value of `demo-tag`; empty when there is none.
pub(super) fn tag(metadata: &MetadataMap) -> &str {
    metadata.get("demo-tag").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The request's `demo-echo-…` entries.
pub(super) fn echoes(metadata: &MetadataMap) -> MetadataMap {
    let mut echoes = MetadataMap::new();
    for entry in metadata.iter() {
        match entry {
            KeyAndValueRef::Ascii(name, value) if name.as_str().starts_with("demo-echo-") => {
                echoes.append(name, value.clone());
            }
            KeyAndValueRef::Binary(name, value) if name.as_str().starts_with("demo-echo-") => {
                echoes.append_bin(name, value.clone());
            }
            _ => {}
        }
    }
    echoes
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
