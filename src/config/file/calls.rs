//! What calls to an upstream are allowed.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::{
    node::{Node, Value},
    problem::Problems,
    read::{Read, Section, section},
};

section! { "an upstream's retries"
    /// When calls that no service has looked at are sent again.
    #[derive(Copy)]
    struct UpstreamRetries {
        /// The part of the last ten seconds' calls that may be sent again. Default: 20%.
        budget: Option<Percent>,
        /// How many may be sent again in each second besides. Default: 10.
        per_second: Option<u32>,
        /// How often a call is tried in all, at most. Default: 4.
        attempts: Option<u32>,
    }
}

/// A mapping, or none.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct Retrying(pub(in crate::config) Option<UpstreamRetries>);

/// A part of a hundred: `20%`.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct Percent(pub(in crate::config) u32);

const OFF: &str = "off";

impl Read for Retrying {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == OFF => Some(Self(None)),
            Value::Text(text) => {
                let expected = "expected \"off\" or a mapping with the keys budget, per_second, attempts";
                problems.add(node.at, format!("{expected}; found {text:?}"));
                None
            }
            _ => UpstreamRetries::read(node, problems).map(|given| Self(Some(given))),
        }
    }
}

impl JsonSchema for Retrying {
    fn schema_name() -> Cow<'static, str> {
        "Retrying".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let retries = generator.subschema_for::<UpstreamRetries>();
        json_schema!({ "anyOf": [{ "enum": [OFF] }, retries] })
    }
}

impl Read for Percent {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let number = match &node.value {
            Value::Text(text) => text.strip_suffix('%').and_then(|digits| digits.parse().ok()),
            _ => None,
        };
        let percent = number.filter(|percent| *percent <= 100);
        if percent.is_none() {
            let found = node.value.describe();
            problems.add(node.at, format!("expected 0% to 100%, such as 20%; found {found}"));
        }
        percent.map(Self)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(100|[0-9]{1,2})%$", "examples": ["20%"] })
    }
}
