//! Canonical proto3 JSON as a client meets it: round trips of generated messages, what is accepted, and the exact
//! error of what is not.
//!
//! The cases cover what the conformance suite of the protobuf project asks of JSON; they are written anew for the
//! messages in `tests/schema`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, sync::LazyLock};

use bidiway::{
    schema::{
        Descriptors, FieldNames, JsonOptions,
        json::{status_to_json, to_json, to_protobuf},
    },
    wire::{Code, Status},
};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, prost::Message as _};

mod editions;
mod generate;
mod mistakes;
mod round_trips;
mod values;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let files: Vec<PathBuf> =
        ["everything.proto", "legacy.proto"].map(|file| PathBuf::from("tests/schema").join(file)).into();
    Descriptors::compile(&files, &[]).unwrap().pool().clone()
});

fn descriptor(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name).unwrap()
}

fn all() -> MessageDescriptor {
    descriptor("everything.All")
}

fn old() -> MessageDescriptor {
    descriptor("legacy.Old")
}

const STRICT: JsonOptions =
    JsonOptions { ignore_unknown: false, defaults: false, field_names: FieldNames::Camel };

/// There and back: the JSON that comes out for the JSON that goes in.
fn through(message: &MessageDescriptor, json: &str) -> String {
    through_with(message, json, &STRICT)
}

fn through_with(message: &MessageDescriptor, json: &str, options: &JsonOptions) -> String {
    let bytes = to_protobuf(message, json.as_bytes(), options).unwrap_or_else(|e| panic!("{json}: {e}"));
    String::from_utf8(to_json(message, &bytes, options).unwrap()).unwrap()
}

/// The error of JSON that is no message.
fn mistake(message: &MessageDescriptor, json: &str) -> String {
    match to_protobuf(message, json.as_bytes(), &STRICT) {
        Err(error) => {
            assert_eq!(error.code(), Code::INVALID_ARGUMENT, "{json}");
            error.to_string()
        }
        Ok(bytes) => {
            let taken = to_json(message, &bytes, &STRICT).unwrap();
            panic!("{json} was taken as {}", String::from_utf8_lossy(&taken))
        }
    }
}
