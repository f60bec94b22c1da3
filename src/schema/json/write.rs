//! From a message to JSON.
//!
//! The walk is our own for the sake of `Any`: a type that nobody knows here is left as it is, instead of making a
//! whole message unreadable.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _,
    SerializeOptions, Value, prost::Message as _,
};
use serde::Serialize;

use super::{FieldNames, JsonError, JsonOptions, WellKnown, bundled};
use crate::wire::Status;

/// How deep `Any` may hold `Any` before the innermost is left as bytes.
const MAX_NESTED: u32 = 32;

/// Writes one message.
pub(super) fn write(message: &DynamicMessage, options: &JsonOptions) -> Result<Vec<u8>, JsonError> {
    let descriptor = message.descriptor();
    let mut writer = Writer::new(descriptor.parent_pool(), options);
    match writer.message(message) {
        Ok(()) => Ok(writer.out),
        Err(Unspeakable { problem, path }) => {
            let path: String = path.iter().rev().map(String::as_str).collect();
            Err(JsonError::unspeakable(path.trim_start_matches('.').to_owned(), problem))
        }
    }
}

/// Writes a status with its details.
pub(super) fn write_status(pool: &DescriptorPool, status: &Status, options: &JsonOptions) -> Vec<u8> {
    let mut writer = Writer::new(pool, options);
    writer.text("{\"code\":");
    writer.json(&status.code.0);
    writer.text(",\"message\":");
    writer.json(&status.message);
    if !status.details.is_empty() {
        writer.text(",\"details\":[");
        match tonic_types::pb::Status::decode(&status.details[..]) {
            Ok(rich) => {
                for (index, any) in rich.details.iter().enumerate() {
                    if index > 0 {
                        writer.text(",");
                    }
                    writer.any(&any.type_url, &any.value);
                }
            }
            // Not what gRPC says that it is, but something that may help.
            Err(_) => writer.opaque("type.googleapis.com/google.rpc.Status", &status.details),
        }
        writer.text("]");
    }
    writer.text("}");
    writer.out
}

/// Whole numbers up to here are exact, and short without an exponent.
const EXACT: f64 = 1e15;
const EXACT_F32: f32 = 16_777_216.0;

struct Writer<'a> {
    out: Vec<u8>,
    pool: &'a DescriptorPool,
    options: &'a JsonOptions,
    /// How many `Any` this is inside of.
    nested: u32,
}

/// What has no JSON, and where; the innermost first.
struct Unspeakable {
    problem: String,
    path: Vec<String>,
}

impl Unspeakable {
    fn at(mut self, step: String) -> Self {
        self.path.push(step);
        self
    }
}

type Written = Result<(), Unspeakable>;

fn fail(problem: impl Into<String>) -> Written {
    Err(Unspeakable { problem: problem.into(), path: Vec::new() })
}

impl<'a> Writer<'a> {
    fn new(pool: &'a DescriptorPool, options: &'a JsonOptions) -> Self {
        Self { out: Vec::with_capacity(256), pool, options, nested: 0 }
    }

    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// A number or a text.
    fn json(&mut self, value: &(impl Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.out, value)
            .expect("numbers and texts are JSON, and memory takes them");
    }

    fn quoted(&mut self, value: impl std::fmt::Display) {
        use std::io::Write as _;
        write!(self.out, "\"{value}\"").expect("memory takes what is written to it");
    }

    /// A comma, but for the first entry.
    fn comma(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
    }

    fn message(&mut self, message: &DynamicMessage) -> Written {
        let descriptor = message.descriptor();
        match WellKnown::of(&descriptor) {
            None => {
                self.text("{");
                self.fields(message, &descriptor, true)?;
                self.text("}");
                Ok(())
            }
            Some(known) => self.well_known(known, message, &descriptor),
        }
    }

    fn fields(
        &mut self,
        message: &DynamicMessage,
        descriptor: &MessageDescriptor,
        mut first: bool,
    ) -> Written {
        if self.options.defaults {
            for field in descriptor.fields() {
                if message.has_field(&field) || !field.supports_presence() {
                    self.field(&field, &message.get_field(&field), &mut first)?;
                }
            }
        } else {
            for (field, value) in message.fields() {
                self.field(&field, value, &mut first)?;
            }
        }
        for (extension, value) in message.extensions() {
            self.comma(&mut first);
            let name = format!("[{}]", extension.full_name());
            self.json(&name);
            self.text(":");
            self.value(&extension.kind(), extension.is_map(), value).map_err(|e| e.at(format!(".{name}")))?;
        }
        Ok(())
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value, first: &mut bool) -> Written {
        self.comma(first);
        let name = match self.options.field_names {
            FieldNames::Camel => field.json_name(),
            FieldNames::Original => field.name(),
        };
        self.json(name);
        self.text(":");
        self.value(&field.kind(), field.is_map(), value).map_err(|error| error.at(format!(".{name}")))
    }

    fn value(&mut self, kind: &Kind, is_map: bool, value: &Value) -> Written {
        match value {
            Value::Bool(true) => self.text("true"),
            Value::Bool(false) => self.text("false"),
            Value::I32(number) => self.json(number),
            Value::U32(number) => self.json(number),
            Value::I64(number) => self.quoted(number),
            Value::U64(number) => self.quoted(number),
            // Its own shortest form, not that of the 64-bit number.
            Value::F32(number)
                if number.is_finite() && (number.fract() != 0.0 || number.abs() > EXACT_F32) =>
            {
                self.json(number);
            }
            Value::F32(number) => self.float((*number).into()),
            Value::F64(number) => self.float(*number),
            Value::String(text) => self.json(text),
            Value::Bytes(bytes) => self.quoted(BASE64_STANDARD.encode(bytes)),
            Value::EnumNumber(number) => match kind {
                Kind::Enum(kind) if kind.full_name() == "google.protobuf.NullValue" => self.text("null"),
                Kind::Enum(kind) => match kind.get_value(*number) {
                    Some(value) => self.json(value.name()),
                    None => self.json(number),
                },
                _ => self.json(number),
            },
            Value::Message(message) => return self.message(message),
            Value::List(values) => {
                self.text("[");
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        self.text(",");
                    }
                    self.value(kind, false, value).map_err(|error| error.at(format!("[{index}]")))?;
                }
                self.text("]");
            }
            Value::Map(map) => {
                let value_kind = match kind {
                    Kind::Message(entry) if is_map => entry.map_entry_value_field().kind(),
                    kind => kind.clone(),
                };
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                self.text("{");
                let mut first = true;
                for (key, value) in entries {
                    self.comma(&mut first);
                    let key = match key {
                        MapKey::Bool(key) => key.to_string(),
                        MapKey::I32(key) => key.to_string(),
                        MapKey::I64(key) => key.to_string(),
                        MapKey::U32(key) => key.to_string(),
                        MapKey::U64(key) => key.to_string(),
                        MapKey::String(key) => key.clone(),
                    };
                    self.json(&key);
                    self.text(":");
                    self.value(&value_kind, false, value).map_err(|error| error.at(format!("[{key:?}]")))?;
                }
                self.text("}");
            }
        }
        Ok(())
    }

    fn float(&mut self, number: f64) {
        if number.is_nan() {
            self.text("\"NaN\"");
        } else if number.is_infinite() {
            self.text(if number > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
        } else if number.fract() == 0.0
            && number.abs() < EXACT
            && (number != 0.0 || number.is_sign_positive())
        {
            self.json(&(number as i64));
        } else {
            self.json(&number);
        }
    }

    fn well_known(
        &mut self,
        known: WellKnown,
        message: &DynamicMessage,
        descriptor: &MessageDescriptor,
    ) -> Written {
        match known {
            WellKnown::Any => {
                let part = |number| message.get_field_by_number(number);
                match (part(1).as_deref(), part(2).as_deref()) {
                    (Some(Value::String(url)), Some(Value::Bytes(bytes))) => self.any(url, bytes),
                    _ => return fail("the schema's google.protobuf.Any is another one"),
                }
                Ok(())
            }
            WellKnown::Struct | WellKnown::ListValue | WellKnown::Wrapper => {
                let Some(field) = descriptor.get_field(1) else {
                    return fail(format!("the schema's {} has no field 1", descriptor.full_name()));
                };
                self.value(&field.kind(), field.is_map(), &message.get_field(&field))
            }
            WellKnown::Value => match message.fields().next() {
                Some((_, Value::F64(number))) if !number.is_finite() => {
                    fail(format!("JSON has no number {number}"))
                }
                Some((field, value)) => self.value(&field.kind(), false, value),
                // Not set is not valid, and null is what comes nearest.
                None => {
                    self.text("null");
                    Ok(())
                }
            },
            WellKnown::Text(expected) => {
                let start = self.out.len();
                let mut serializer = serde_json::Serializer::new(&mut self.out);
                let done = message.serialize_with_options(&mut serializer, &SerializeOptions::new());
                done.or_else(|error| {
                    self.out.truncate(start);
                    fail(format!("{error}; it cannot be written as {expected}"))
                })
            }
        }
    }

    /// An `Any`; as base64 when its type is not known or its bytes are not of that type.
    fn any(&mut self, url: &str, bytes: &[u8]) {
        if url.is_empty() && bytes.is_empty() {
            return self.text("{}");
        }
        let start = self.out.len();
        if !self.expanded(url, bytes) {
            self.out.truncate(start);
            self.opaque(url, bytes);
        }
    }

    fn expanded(&mut self, url: &str, bytes: &[u8]) -> bool {
        let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
        let found = self.pool.get_message_by_name(name).or_else(|| bundled().get_message_by_name(name));
        let Some(descriptor) = found.filter(|_| self.nested < MAX_NESTED) else { return false };
        let Ok(inner) = DynamicMessage::decode(descriptor.clone(), bytes) else { return false };
        self.text("{\"@type\":");
        self.json(url);
        self.nested += 1;
        let is_well_known =
            WellKnown::of(&descriptor).is_some() || descriptor.full_name() == "google.protobuf.Empty";
        let done = if is_well_known {
            self.text(",\"value\":");
            self.message(&inner)
        } else {
            self.fields(&inner, &descriptor, false)
        };
        self.nested -= 1;
        self.text("}");
        done.is_ok()
    }

    fn opaque(&mut self, url: &str, bytes: &[u8]) {
        self.text("{\"@type\":");
        self.json(url);
        self.text(",\"value\":");
        self.quoted(BASE64_STANDARD.encode(bytes));
        self.text("}");
    }
}
