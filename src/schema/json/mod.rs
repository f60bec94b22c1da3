//! Canonical proto3 JSON, strict by default (protobuf's "ProtoJSON Format").

mod any;
mod error;
mod read;
mod scalar;
mod well_known;
mod write;

pub use error::JsonError;

use std::sync::LazyLock;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, prost::Message as _};

use crate::wire::Status;
use well_known::WellKnown;

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
    read::read(descriptor, json, options).map(|message| message.encode_to_vec().into())
}

/// A message as one line of JSON, without white space. The same message has the same JSON, always: fields by their
/// number, maps by their key.
pub fn to_json(
    descriptor: &MessageDescriptor,
    protobuf: &[u8],
    options: &JsonOptions,
) -> Result<Vec<u8>, JsonError> {
    let message = DynamicMessage::decode(descriptor.clone(), protobuf).map_err(|error| {
        let problem = format!("the bytes are not a {}: {error}", descriptor.full_name());
        JsonError::unspeakable(String::new(), problem)
    })?;
    write::write(&message, options)
}

/// A status as JSON; see [`Method::status_to_json`](super::Method::status_to_json). Without a pool only
/// `google.rpc`'s and `google.protobuf`'s types are known.
pub fn status_to_json(pool: Option<&DescriptorPool>, status: &Status, options: &JsonOptions) -> Vec<u8> {
    write::write_status(pool.unwrap_or_else(|| bundled()), status, options)
}

/// The types that are known without any upstream: `google.protobuf`'s, and those of rich errors in `google.rpc`.
pub(super) fn bundled() -> &'static DescriptorPool {
    static BUNDLED: LazyLock<DescriptorPool> = LazyLock::new(|| {
        let mut pool = DescriptorPool::global();
        pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .expect("tonic-types' own descriptors fit together; a test builds them");
        pool
    });
    &BUNDLED
}
