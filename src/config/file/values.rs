//! JSON Schemas of the values that are not mappings.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    config::{
        Duration, Size,
        choice::{
            AlgorithmName, CLIENT_AUTH, DEFAULTS, DIALECTS, Defaults, DialectWord, FIELD_NAMES, FORMAT,
            Keepalive, MIN_VERSION, ON_FAILURE, OTLP_WAY, OnFailure, OtlpWay, ROUTE_MODE, RouteMode,
            UNKNOWN_FIELDS, UnknownFields,
        },
        read::{At, AtLeastOne, Named},
    },
    downstream::identity::Algorithm,
    schema::FieldNames,
    server::tls::{ClientAuth, MinVersion},
    telemetry::log::Format,
};

macro_rules! value_schema {
    ($type:ty, $name:literal, $schema:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

value_schema!(
    Duration,
    "Duration",
    json_schema!({ "type": "string", "pattern": r"^([0-9]+(ms|s|m|h))+$", "examples": ["30s", "1m30s", "500ms"] })
);
value_schema!(
    Size,
    "Size",
    json_schema!({
        "type": "string", "pattern": r"^[0-9]+(B|KiB|MiB|GiB|kB|KB|MB)$", "examples": ["4MiB", "256KiB"]
    })
);
value_schema!(
    Keepalive,
    "Keepalive",
    json_schema!({ "type": "string", "pattern": r"^(off|([0-9]+(ms|s|m|h))+)$", "examples": ["310s", "off"] })
);
value_schema!(DialectWord, "DialectWord", json_schema!({ "enum": DIALECTS.map(|(word, _)| word) }));
value_schema!(UnknownFields, "UnknownFields", json_schema!({ "enum": UNKNOWN_FIELDS.map(|(word, _)| word) }));
value_schema!(Defaults, "Defaults", json_schema!({ "enum": DEFAULTS.map(|(word, _)| word) }));
value_schema!(FieldNames, "FieldNames", json_schema!({ "enum": FIELD_NAMES.map(|(word, _)| word) }));
value_schema!(
    AlgorithmName,
    "AlgorithmName",
    json_schema!({ "enum": Algorithm::NAMES.map(|(word, _)| word) })
);
value_schema!(OnFailure, "OnFailure", json_schema!({ "enum": ON_FAILURE.map(|(word, _)| word) }));
value_schema!(RouteMode, "RouteMode", json_schema!({ "enum": ROUTE_MODE.map(|(word, _)| word) }));
value_schema!(ClientAuth, "ClientAuth", json_schema!({ "enum": CLIENT_AUTH.map(|(word, _)| word) }));
value_schema!(MinVersion, "MinVersion", json_schema!({ "enum": MIN_VERSION.map(|(word, _)| word) }));
value_schema!(OtlpWay, "OtlpWay", json_schema!({ "enum": OTLP_WAY.map(|(word, _)| word) }));
value_schema!(Format, "Format", json_schema!({ "enum": FORMAT.map(|(word, _)| word) }));

/// Places are no business of editors.
impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for AtLeastOne<T> {
    fn schema_name() -> Cow<'static, str> {
        Vec::<T>::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "minItems": 1, "items": generator.subschema_for::<T>() })
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}
