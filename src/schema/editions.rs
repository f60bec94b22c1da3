//! Files of editions, which `prost-reflect` 0.16 does not know, as files of proto2 or proto3.

use bytes::Bytes;

use super::descriptors::{DescriptorsError, File};

/// The file for `prost-reflect`: itself, unless it is of an edition.
pub(super) fn lowered(file: &File) -> Result<Bytes, DescriptorsError> {
    Ok(file.bytes.clone())
}
