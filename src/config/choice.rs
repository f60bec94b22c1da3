//! Values that are one of a few words, or may be written in more than one way.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    Duration,
    file::{DrainTimes, RouteAuth, SchemaFiles},
    node::{Node, Value},
    problem::Problems,
    read::{Read, word},
};
use crate::{
    downstream::identity::{Algorithm, Mode},
    schema::FieldNames,
    server::tls::{ClientAuth, MinVersion},
    telemetry::{Dialect, log::Format},
};

/// A part of a whole, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(pub(super) f64);

impl Read for Share {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let share = match node.value {
            Value::Float(share) => share,
            Value::Int(0) => 0.0,
            Value::Int(1) => 1.0,
            _ => -1.0,
        };
        if (0.0..=1.0).contains(&share) {
            return Some(Self(share));
        }
        problems.add(node.at, format!("expected a number from 0 to 1, found {}", node.value.describe()));
        None
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

/// A part of the calls, in proportion to others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight(pub(super) u32);

/// Sums of weights stay far below what 64 bits hold, and a typing error does not starve all others.
const LARGEST_WEIGHT: u32 = 1_000_000;

impl Read for Weight {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.value {
            Value::Int(weight) if (0..=LARGEST_WEIGHT.into()).contains(&weight) => Some(Self(weight as u32)),
            _ => {
                let found = node.value.describe();
                problems.add(
                    node.at,
                    format!("expected a weight from 0 to {LARGEST_WEIGHT}, such as 95, found {found}"),
                );
                None
            }
        }
    }
}

impl JsonSchema for Weight {
    fn schema_name() -> Cow<'static, str> {
        "Weight".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": LARGEST_WEIGHT })
    }
}

/// A dialect, with all of its forms.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialectWord(pub(super) &'static [Dialect]);

pub(super) const DIALECTS: [(&str, DialectWord); 5] = [
    ("session", DialectWord(&[Dialect::Session])),
    ("grpc-web", DialectWord(&[Dialect::GrpcWeb, Dialect::GrpcWebText])),
    ("grpc", DialectWord(&[Dialect::Grpc])),
    ("grpc-websockets", DialectWord(&[Dialect::GrpcWebSockets, Dialect::GrpcWebSocketsMultiplex])),
    ("json", DialectWord(&[Dialect::JsonHttp, Dialect::JsonSocket])),
];

impl Read for DialectWord {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &DIALECTS)
    }
}

/// A ping interval, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keepalive(pub(super) Option<Duration>);

impl Read for Keepalive {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "off" => Some(Self(None)),
            _ => Duration::read(node, problems).map(|interval| Self(Some(interval))),
        }
    }
}

/// Where a schema comes from.
#[derive(Clone, Debug)]
pub(super) enum SchemaSource {
    Off,
    Reflection,
    Files(Box<SchemaFiles>),
}

/// A mapping, or the timeout alone.
#[derive(Clone, Debug)]
pub(super) struct Drain(pub(super) DrainTimes);

impl Read for Drain {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(_) => DrainTimes::read(node, problems),
            _ => Duration::read(node, problems).map(|timeout| DrainTimes {
                grace: None,
                spread: None,
                timeout: Some(timeout),
            }),
        }
        .map(Self)
    }
}

impl JsonSchema for Drain {
    fn schema_name() -> Cow<'static, str> {
        "Drain".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (timeout, times) =
            (generator.subschema_for::<Duration>(), generator.subschema_for::<DrainTimes>());
        json_schema!({ "anyOf": [timeout, times] })
    }
}

/// A place where tokens come from.
#[derive(Clone, Debug)]
pub(super) enum TokenPlace {
    Authorization,
    Header(String),
    Cookie(String),
    Subprotocol(String),
}

impl Read for TokenPlace {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "authorization" => return Some(Self::Authorization),
            Value::Map(entries) => {
                if let [(key, Node { value: Value::Text(text), .. })] = &entries[..]
                    && !text.is_empty()
                {
                    match key.name.as_str() {
                        "header" => return Some(Self::Header(text.clone())),
                        "cookie" => return Some(Self::Cookie(text.clone())),
                        "subprotocol" => return Some(Self::Subprotocol(text.clone())),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        let text = format!(
            "expected `authorization`, `header: NAME`, `cookie: NAME` or `subprotocol: PREFIX`, found {}",
            node.value.describe()
        );
        problems.add(node.at, text);
        None
    }
}

impl JsonSchema for TokenPlace {
    fn schema_name() -> Cow<'static, str> {
        "TokenPlace".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = |key: &str, text: &str| {
            json_schema!({
                "type": "object", "required": [key], "additionalProperties": false,
                "properties": { key: { "type": "string", "minLength": 1, "description": text } }
            })
        };
        json_schema!({ "anyOf": [
            { "const": "authorization" },
            one("header", "Other metadata, with or without `Bearer` before the token."),
            one("cookie", "A cookie of the request that is the call, or that opened the carrier."),
            one("subprotocol", "What an entry among a WebSocket's subprotocols begins with; the rest is the token.")
        ] })
    }
}

/// A signature algorithm.
#[derive(Clone, Copy, Debug)]
pub(super) struct AlgorithmName(pub(super) Algorithm);

impl Read for AlgorithmName {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &Algorithm::NAMES).map(Self)
    }
}

/// Whether calls pass that the authorization service did not answer for.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnFailure(pub(super) bool);

pub(super) const ON_FAILURE: [(&str, bool); 2] = [("deny", false), ("allow", true)];

impl Read for OnFailure {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &ON_FAILURE).map(Self)
    }
}

/// Whether a route asks who calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteMode(pub(super) Mode);

pub(super) const ROUTE_MODE: [(&str, Mode); 3] =
    [("required", Mode::Required), ("optional", Mode::Optional), ("off", Mode::Off)];

impl Read for RouteMode {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &ROUTE_MODE).map(Self)
    }
}

/// Who may call a route: a word, or more.
#[derive(Clone, Debug)]
pub(super) enum RouteAuthChoice {
    Mode(RouteMode),
    Rule(Box<RouteAuth>),
}

impl Read for RouteAuthChoice {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(_) => RouteAuth::read(node, problems).map(|rule| Self::Rule(Box::new(rule))),
            _ => RouteMode::read(node, problems).map(Self::Mode),
        }
    }
}

impl JsonSchema for RouteAuthChoice {
    fn schema_name() -> Cow<'static, str> {
        "RouteAuthChoice".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (mode, rule) = (generator.subschema_for::<RouteMode>(), generator.subschema_for::<RouteAuth>());
        json_schema!({ "anyOf": [mode, rule] })
    }
}

impl Read for SchemaSource {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(_) => SchemaFiles::read(node, problems).map(|files| Self::Files(Box::new(files))),
            Value::Text(_) => {
                word(node, problems, &SCHEMA).map(|off| if off { Self::Off } else { Self::Reflection })
            }
            other => {
                let text = format!(
                    "expected \"reflection\", \"off\", or a mapping with one of the keys reflection, descriptor_set, \
                     protos; found {}",
                    other.describe()
                );
                problems.add(node.at, text);
                None
            }
        }
    }
}

impl JsonSchema for SchemaSource {
    fn schema_name() -> Cow<'static, str> {
        "SchemaSource".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let files = generator.subschema_for::<SchemaFiles>();
        json_schema!({ "anyOf": [{ "enum": SCHEMA.map(|(word, _)| word) }, files] })
    }
}

/// What becomes of unknown fields; true: they are ignored.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnknownFields(pub(super) bool);

/// Whether defaults are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults(pub(super) bool);

/// How spans reach their collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtlpWay {
    Grpc,
    Http,
}

pub(super) const OTLP_WAY: [(&str, OtlpWay); 2] = [("grpc", OtlpWay::Grpc), ("http", OtlpWay::Http)];

impl Read for OtlpWay {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &OTLP_WAY)
    }
}

pub(super) const SCHEMA: [(&str, bool); 2] = [("reflection", false), ("off", true)];
pub(super) const UNKNOWN_FIELDS: [(&str, UnknownFields); 2] =
    [("reject", UnknownFields(false)), ("ignore", UnknownFields(true))];
pub(super) const DEFAULTS: [(&str, Defaults); 2] = [("omit", Defaults(false)), ("write", Defaults(true))];
pub(super) const FIELD_NAMES: [(&str, FieldNames); 2] =
    [("camel", FieldNames::Camel), ("original", FieldNames::Original)];

impl Read for UnknownFields {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &UNKNOWN_FIELDS)
    }
}

impl Read for Defaults {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &DEFAULTS)
    }
}

impl Read for FieldNames {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &FIELD_NAMES)
    }
}

pub(super) const CLIENT_AUTH: [(&str, ClientAuth); 2] =
    [("required", ClientAuth::Required), ("optional", ClientAuth::Optional)];
pub(super) const MIN_VERSION: [(&str, MinVersion); 2] =
    [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
pub(super) const FORMAT: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

impl Read for ClientAuth {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &CLIENT_AUTH)
    }
}

impl Read for MinVersion {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &MIN_VERSION)
    }
}

impl Read for Format {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        word(node, problems, &FORMAT)
    }
}
