//! Canonical proto3 JSON, strict by default (protobuf's "ProtoJSON Format").

mod error;

pub use error::JsonError;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::wire::Status;

/// How a route speaks JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// Fields, and names of enum values, that the schema does not have are left out instead of being errors.
    pub ignore_unknown: bool,
    /// Fields without presence are written even when they have their default value.
    pub defaults: bool,
    /// The names that are written; both are read.
    pub field_names: FieldNames,
}

/// Which names fields have in written JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldNames {
    /// `fieldName`, or what the .proto file says with `json_name`.
    #[default]
    Camel,
    /// `field_name`, as in the .proto file.
    Original,
}

/// A message from JSON.
pub fn to_protobuf(
    descriptor: &MessageDescriptor,
    json: &[u8],
    options: &JsonOptions,
) -> Result<Bytes, JsonError> {
    let _ = (descriptor, json, options);
    Ok(Bytes::new())
}

/// A message as one line of JSON, without white space.
pub fn to_json(
    descriptor: &MessageDescriptor,
    protobuf: &[u8],
    options: &JsonOptions,
) -> Result<Vec<u8>, JsonError> {
    let _ = (descriptor, protobuf, options);
    Ok(b"{}".to_vec())
}

/// A status as JSON; see [`Method::status_to_json`](super::Method::status_to_json). Without a pool only
/// `google.rpc`'s and `google.protobuf`'s types are known.
pub fn status_to_json(pool: Option<&DescriptorPool>, status: &Status, options: &JsonOptions) -> Vec<u8> {
    let _ = (pool, status, options);
    Vec::new()
}
