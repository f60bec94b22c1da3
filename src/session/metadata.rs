//! Metadata as the session sees it: its size, the defaults, and the marks on trailers that it makes itself.

use std::collections::HashSet;

use super::Side;
use crate::wire::{Code, metadata::ENTRY_OVERHEAD, status::ORIGIN_HEADER, v1};

/// Marks trailers of a call that no service has seen: it may be made again elsewhere without risk.
pub const UNPROCESSED_HEADER: &str = "bidiway-unprocessed";

/// The size of metadata as limits count it: names and values, plus 32 for each entry.
pub(super) fn size(entries: &[v1::Metadata]) -> usize {
    entries.iter().map(entry_size).sum()
}

fn entry_size(entry: &v1::Metadata) -> usize {
    let value = match &entry.value {
        Some(v1::metadata::Value::Text(text)) => text.len(),
        Some(v1::metadata::Value::Binary(bytes)) => bytes.len(),
        None => 0,
    };
    entry.name.len() + value + ENTRY_OVERHEAD
}

/// Adds the defaults to a call's own metadata, except for names that it has itself.
pub(super) fn merge(own: &mut Vec<v1::Metadata>, defaults: &[v1::Metadata]) {
    if defaults.is_empty() {
        return;
    }
    let added: Vec<_> = {
        let names: HashSet<&str> = own.iter().map(|entry| entry.name.as_str()).collect();
        defaults.iter().filter(|entry| !names.contains(entry.name.as_str())).cloned().collect()
    };
    own.extend(added);
}

/// Trailers made here, and marked so.
pub(super) fn trailers(side: Side, code: Code, message: String, unprocessed: bool) -> v1::Trailers {
    let entry = |name: &str, text: &str| v1::Metadata {
        name: name.to_owned(),
        value: Some(v1::metadata::Value::Text(text.to_owned())),
    };
    let origin = match side {
        Side::Client => "client",
        Side::Proxy => "proxy",
    };
    let mut metadata = vec![entry(ORIGIN_HEADER, origin)];
    if unprocessed {
        metadata.push(entry(UNPROCESSED_HEADER, "1"));
    }
    v1::Trailers { code: code.0, message, details: bytes::Bytes::new(), metadata }
}
