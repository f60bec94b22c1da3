//! The messages of `google.protobuf` whose JSON is not an object of their fields.

use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, MessageDescriptor, Value};
use serde::de::{IntoDeserializer as _, value::StrDeserializer};

use super::scalar::{Scalar, mismatch};

/// A well-known type with a JSON of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WellKnown {
    Any,
    Struct,
    Value,
    ListValue,
    /// `Int32Value` and the like: the bare value.
    Wrapper,
    /// A text: what to expect.
    Text(&'static str),
}

impl WellKnown {
    pub(super) fn of(message: &MessageDescriptor) -> Option<Self> {
        Some(match message.full_name().strip_prefix("google.protobuf.")? {
            "Any" => Self::Any,
            "Struct" => Self::Struct,
            "Value" => Self::Value,
            "ListValue" => Self::ListValue,
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue" => Self::Wrapper,
            "Timestamp" => Self::Text("a time such as \"2006-01-02T15:04:05Z\""),
            "Duration" => Self::Text("a duration such as \"1.5s\""),
            "FieldMask" => Self::Text("field paths such as \"name,owner.id\""),
            _ => return None,
        })
    }
}

/// A field of a well-known type, which an upstream's own idea of the type may lack.
pub(super) fn field(message: &MessageDescriptor, number: u32) -> Result<FieldDescriptor, String> {
    let missing = || format!("the schema's {} has no field {number}", message.full_name());
    message.get_field(number).ok_or_else(missing)
}

/// A `google.protobuf.Value` that is no object and no list.
pub(super) fn value(message: &MessageDescriptor, found: &Scalar<'_>) -> Result<DynamicMessage, String> {
    let (number, value) = match found {
        Scalar::Null => (1, Value::EnumNumber(0)),
        Scalar::Int(number) => (2, Value::F64(*number as f64)),
        Scalar::Float(number) => (2, Value::F64(*number)),
        Scalar::Text(text) => (3, Value::String((*text).to_owned())),
        Scalar::Bool(value) => (4, Value::Bool(*value)),
    };
    let field = field(message, number)?;
    let mut out = DynamicMessage::new(message.clone());
    let set = out.try_set_field(&field, value);
    set.map(|()| out).map_err(|_| mismatch("a value", found))
}

/// A message whose JSON is a text.
pub(super) fn from_text(message: &MessageDescriptor, text: &str) -> Option<DynamicMessage> {
    let text: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    DynamicMessage::deserialize_with_options(message.clone(), text, &DeserializeOptions::new()).ok()
}
