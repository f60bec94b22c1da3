//! Round trips of messages made from their descriptors, with `prost-reflect`'s own JSON as the oracle.

use proptest::prelude::*;
use prost_reflect::{DeserializeOptions, SerializeOptions};
use serde_json::Value;

use super::{generate::shown, *};

/// JSON to compare: numbers as 64-bit floats, so that 1 and 1.0 are one.
fn numbers_alike(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(values) => Value::Array(values.into_iter().map(numbers_alike).collect()),
        Value::Object(entries) => {
            Value::Object(entries.into_iter().map(|(key, value)| (key, numbers_alike(value))).collect())
        }
        other => other,
    }
}

fn check(original: &DynamicMessage, options: &JsonOptions) -> Result<(), TestCaseError> {
    use prost_reflect::ReflectMessage as _;
    let descriptor = original.descriptor();
    let bytes = original.encode_to_vec();
    let json = to_json(&descriptor, &bytes, options).unwrap();
    let text = String::from_utf8_lossy(&json);

    // JSON to protobuf to JSON is the same, to the byte.
    let again = to_protobuf(&descriptor, &json, options)
        .map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
    prop_assert_eq!(&json, &to_json(&descriptor, &again, options).unwrap(), "{}", text);

    // The library reads it as the same message, which is the original one (but NaN is never the same).
    let mut deserializer = serde_json::Deserializer::from_slice(&json);
    let read = DynamicMessage::deserialize_with_options(
        descriptor.clone(),
        &mut deserializer,
        &DeserializeOptions::new(),
    );
    let read = read.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
    let ours = DynamicMessage::decode(descriptor.clone(), &*again).unwrap();
    if !text.contains("NaN") && !options.defaults {
        let read = DynamicMessage::decode(descriptor.clone(), &*read.encode_to_vec()).unwrap();
        prop_assert!(read == ours, "the library reads {text} as another message");
        if !has_any(&text) {
            prop_assert!(
                DynamicMessage::decode(descriptor, &*bytes).unwrap() == ours,
                "{text} is another message"
            );
        }
    }

    // And it writes the same (its way with defaults is another: it writes absent messages).
    if !options.defaults {
        let library =
            SerializeOptions::new().use_proto_field_name(options.field_names == FieldNames::Original);
        let mut expected = Vec::new();
        original.serialize_with_options(&mut serde_json::Serializer::new(&mut expected), &library).unwrap();
        let parse = |json: &[u8]| numbers_alike(serde_json::from_slice(json).unwrap());
        prop_assert_eq!(parse(&json), parse(&expected));
    }
    Ok(())
}

/// The maps inside an `Any` are bytes, whose order may be another.
fn has_any(json: &str) -> bool {
    json.contains("@type")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn messages_of_every_kind_of_field_survive(original in shown(&all(), 2)) {
        check(&original.0, &STRICT)?;
    }

    #[test]
    fn messages_of_proto2_survive(original in shown(&old(), 3)) {
        check(&original.0, &STRICT)?;
    }

    #[test]
    fn options_change_the_form_and_not_the_message(
        original in shown(&all(), 2), defaults: bool, original_names: bool,
    ) {
        let field_names = if original_names { FieldNames::Original } else { FieldNames::Camel };
        check(&original.0, &JsonOptions { defaults, field_names, ignore_unknown: false })?;
    }

    #[test]
    fn nothing_that_a_client_sends_makes_reading_panic(
        json in "[\\[\\]{}:,\"@a-z0-9.eE+\\-\\\\ ]{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let _ = to_protobuf(&all(), json.as_bytes(), &STRICT);
        let _ = to_protobuf(&all(), &bytes, &STRICT);
        let _ = to_json(&all(), &bytes, &STRICT);
        let _ = to_json(&old(), &bytes, &STRICT);
    }

    #[test]
    fn a_byte_changed_in_valid_json_is_an_error_or_another_message(
        original in shown(&all(), 2), at: prop::sample::Index, to: u8,
    ) {
        let mut json = to_json(&all(), &original.0.encode_to_vec(), &STRICT).unwrap();
        let at = at.index(json.len());
        json[at] = to;
        if let Ok(bytes) = to_protobuf(&all(), &json, &STRICT) {
            to_json(&all(), &bytes, &STRICT).unwrap();
        }
    }
}
