//! Any message of any type, from its descriptor.

use std::collections::HashMap;

use proptest::{
    collection::{hash_map, vec},
    prelude::*,
};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value,
    prost::Message as _,
};

use super::POOL;

/// A message that can be shown: `prost-reflect`'s own `Debug` has no end for recursive types.
pub(crate) struct Shown(pub(crate) DynamicMessage);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.0.encode_to_vec();
        let json = super::to_json(&self.0.descriptor(), &bytes, &super::STRICT);
        match json {
            Ok(json) => f.write_str(&String::from_utf8_lossy(&json)),
            Err(error) => write!(f, "{bytes:?} ({error})"),
        }
    }
}

/// Any message of this type that has a JSON.
pub(crate) fn shown(descriptor: &MessageDescriptor, depth: u32) -> impl Strategy<Value = Shown> + use<> {
    message(descriptor, depth).prop_map(Shown)
}

/// Messages that are nested up to `depth` deep and have a JSON.
fn message(descriptor: &MessageDescriptor, depth: u32) -> BoxedStrategy<DynamicMessage> {
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => parts(
            descriptor,
            (-62_135_596_800i64..=253_402_300_799).prop_map(Value::I64),
            nanos(0..1_000_000_000),
        ),
        "google.protobuf.Duration" => {
            let both = (0..=315_576_000_000i64, 0..1_000_000_000i32, prop::bool::ANY);
            let descriptor = descriptor.clone();
            both.prop_map(move |(seconds, nanos, negative)| {
                let sign = if negative { -1 } else { 1 };
                let mut message = DynamicMessage::new(descriptor.clone());
                message.set_field_by_number(1, Value::I64(i64::from(sign) * seconds));
                message.set_field_by_number(2, Value::I32(sign * nanos));
                message
            })
            .boxed()
        }
        "google.protobuf.FieldMask" => {
            let descriptor = descriptor.clone();
            vec("[a-z]{1,3}(_[a-z]{1,3}){0,2}(\\.[a-z]{1,3})?", 0..3)
                .prop_map(move |paths| {
                    let mut message = DynamicMessage::new(descriptor.clone());
                    let paths = paths.into_iter().map(Value::String).collect();
                    message.set_field_by_number(1, Value::List(paths));
                    message
                })
                .boxed()
        }
        "google.protobuf.Any" => {
            let names =
                ["everything.All", "legacy.Holder", "google.protobuf.Duration", "google.protobuf.Empty"];
            let names = if depth == 0 { &names[2..] } else { &names[..] };
            let kinds = names.iter().map(|name| {
                let inner = POOL.get_message_by_name(name).unwrap();
                message(&inner, depth.saturating_sub(1)).boxed()
            });
            let descriptor = descriptor.clone();
            proptest::strategy::Union::new(kinds)
                .prop_map(move |inner| {
                    let mut message = DynamicMessage::new(descriptor.clone());
                    let url = format!("type.googleapis.com/{}", inner.descriptor().full_name());
                    message.set_field_by_number(1, Value::String(url));
                    message.set_field_by_number(2, Value::Bytes(inner.encode_to_vec().into()));
                    message
                })
                .boxed()
        }
        "google.protobuf.Value" => {
            // One of its kinds is always set, and numbers are numbers.
            let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
            let count = if depth == 0 { 4 } else { fields.len() };
            let kinds = fields.into_iter().take(count).map(|field| {
                let value = match field.kind() {
                    Kind::Double => {
                        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Value::F64).boxed()
                    }
                    kind => one(&kind, depth.saturating_sub(1)),
                };
                let descriptor = descriptor.clone();
                value
                    .prop_map(move |value| {
                        let mut message = DynamicMessage::new(descriptor.clone());
                        message.set_field(&field, value);
                        message
                    })
                    .boxed()
            });
            proptest::strategy::Union::new(kinds).boxed()
        }
        _ => fields(descriptor, depth),
    }
}

fn parts(
    descriptor: &MessageDescriptor,
    first: impl Strategy<Value = Value> + 'static,
    second: BoxedStrategy<Value>,
) -> BoxedStrategy<DynamicMessage> {
    let descriptor = descriptor.clone();
    (first, second)
        .prop_map(move |(first, second)| {
            let mut message = DynamicMessage::new(descriptor.clone());
            message.set_field_by_number(1, first);
            message.set_field_by_number(2, second);
            message
        })
        .boxed()
}

fn nanos(range: std::ops::Range<i32>) -> BoxedStrategy<Value> {
    prop_oneof![range.clone(), range.prop_map(|n| n / 1_000_000 * 1_000_000)].prop_map(Value::I32).boxed()
}

/// A message whose fields are what they are: a few of them, and those that are required.
fn fields(descriptor: &MessageDescriptor, depth: u32) -> BoxedStrategy<DynamicMessage> {
    let usable = |kind: &Kind| depth > 0 || !matches!(kind, Kind::Message(_));
    let fields: Vec<_> = descriptor.fields().filter(|f| usable(&f.kind()) && !f.is_required()).collect();
    let required: Vec<_> = descriptor.fields().filter(FieldDescriptor::is_required).collect();
    let extensions: Vec<_> = descriptor.extensions().filter(|e| usable(&e.kind())).collect();
    let most = fields.len().min(8);
    let chosen = prop::sample::subsequence(fields, 0..=most);
    let extended = prop::sample::subsequence(extensions.clone(), 0..=extensions.len());
    let descriptor = descriptor.clone();
    (chosen, extended)
        .prop_flat_map(move |(fields, extensions)| {
            let values: Vec<_> = required
                .iter()
                .chain(&fields)
                .map(|field| {
                    let value = if field.is_map() {
                        map(&field.kind(), depth)
                    } else if field.is_list() {
                        vec(one(&field.kind(), depth.saturating_sub(1)), 0..3).prop_map(Value::List).boxed()
                    } else {
                        one(&field.kind(), depth.saturating_sub(1))
                    };
                    (Just(field.clone()), value)
                })
                .collect();
            let extras: Vec<_> = extensions
                .into_iter()
                .map(|extension| {
                    let value = one(&extension.kind(), depth.saturating_sub(1));
                    let value = if extension.is_list() {
                        vec(value, 1..3).prop_map(Value::List).boxed()
                    } else {
                        value
                    };
                    (Just(extension), value)
                })
                .collect();
            (Just(descriptor.clone()), values, extras)
        })
        .prop_map(|(descriptor, values, extras)| {
            let mut message = DynamicMessage::new(descriptor);
            for (field, value) in values {
                message.set_field(&field, value);
            }
            for (extension, value) in extras {
                message.set_extension(&extension, value);
            }
            message
        })
        .boxed()
}

fn one(kind: &Kind, depth: u32) -> BoxedStrategy<Value> {
    let text = prop_oneof!["[a-zA-Z0-9 _.\"\\\\]{0,8}", ".{0,4}"];
    match kind {
        Kind::Double => any::<f64>().prop_map(Value::F64).boxed(),
        Kind::Float => any::<f32>().prop_map(Value::F32).boxed(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => any::<i32>().prop_map(Value::I32).boxed(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => any::<i64>().prop_map(Value::I64).boxed(),
        Kind::Uint32 | Kind::Fixed32 => any::<u32>().prop_map(Value::U32).boxed(),
        Kind::Uint64 | Kind::Fixed64 => any::<u64>().prop_map(Value::U64).boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::String => text.prop_map(Value::String).boxed(),
        Kind::Bytes => vec(any::<u8>(), 0..6).prop_map(|bytes| Value::Bytes(bytes.into())).boxed(),
        Kind::Message(descriptor) => message(descriptor, depth).prop_map(Value::Message).boxed(),
        Kind::Enum(kind) => {
            let numbers: Vec<i32> = kind.values().map(|value| value.number()).collect();
            let known = prop::sample::select(numbers);
            if kind.full_name() == "google.protobuf.NullValue" {
                known.prop_map(Value::EnumNumber).boxed()
            } else {
                prop_oneof![4 => known, 1 => any::<i32>()].prop_map(Value::EnumNumber).boxed()
            }
        }
    }
}

fn map(kind: &Kind, depth: u32) -> BoxedStrategy<Value> {
    let Kind::Message(entry) = kind else { unreachable!() };
    let key = one(&entry.map_entry_key_field().kind(), 0).prop_map(|key| match key {
        Value::Bool(key) => MapKey::Bool(key),
        Value::I32(key) => MapKey::I32(key),
        Value::I64(key) => MapKey::I64(key),
        Value::U32(key) => MapKey::U32(key),
        Value::U64(key) => MapKey::U64(key),
        Value::String(key) => MapKey::String(key),
        other => unreachable!("{other:?} is no key"),
    });
    let value = one(&entry.map_entry_value_field().kind(), depth.saturating_sub(1));
    hash_map(key, value, 0..3).prop_map(|map: HashMap<_, _>| Value::Map(map)).boxed()
}
