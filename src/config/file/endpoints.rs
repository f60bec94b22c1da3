//! Which of an upstream's endpoints gets a call, and how they are known to serve.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    config::{
        Duration,
        node::{Node, Value},
        problem::Problems,
        read::{At, AtLeastOne, Read, Section, section, word},
    },
    upstream::Balance,
};

section! { "an upstream's dns"
    /// How the names of `dns+` endpoints are resolved.
    struct UpstreamDns {
        /// The longest time between two look-ups; sooner when an answer's TTL is shorter. Default: 30s.
        interval: Option<At<Duration>>,
        /// The name servers to ask, `IP` or `IP:PORT`. At least one. Default: those of the system.
        servers: Option<AtLeastOne<At<String>>>,
    }
}

section! { "an upstream's hash"
    /// What decides the endpoint: one of `header` and `cookie`.
    struct UpstreamHash {
        /// Calls with the same value of this metadata go to the same endpoint.
        header: Option<At<String>>,
        /// Calls with the same value of this cookie go to the same endpoint. `upgrade_headers` must have `cookie`.
        cookie: Option<At<String>>,
    }
}

section! { "a hashing balance"
    /// Balancing by a key.
    struct UpstreamHashing {
        /// What decides the endpoint: one of `header` and `cookie`.
        hash: At<UpstreamHash>,
    }
}

section! { "an upstream's health"
    /// Health checks by `grpc.health.v1`.
    #[derive(Default)]
    struct UpstreamHealth {
        /// The service to ask for. Default: the server as a whole.
        service: Option<At<String>>,
        /// The time between two checks of an endpoint. Default: 10s.
        interval: Option<At<Duration>>,
        /// How long an answer may take. Default: 2s.
        timeout: Option<At<Duration>>,
        /// Failed checks in a row until an endpoint gets no calls. Default: 3.
        unhealthy: Option<u32>,
        /// Good checks in a row until it gets calls again. Default: 2.
        healthy: Option<u32>,
    }
}

section! { "an upstream's ejection"
    /// When an endpoint that fails gets no calls for a while.
    struct UpstreamEjection {
        /// Failures in a row. Default: 5.
        failures: Option<u32>,
        /// How long; a member that fails again soon is out for longer, up to ten times. Default: 30s.
        time: Option<At<Duration>>,
        /// The most endpoints out at a time, in percent; one of several always may be. Default: 50.
        max_percent: Option<At<u32>>,
    }
}

/// A word, or a key to hash.
#[derive(Clone, Debug)]
pub(in crate::config) enum Balancing {
    Word(Balance),
    Hash(At<UpstreamHash>),
}

/// A mapping, or none.
#[derive(Clone, Debug)]
pub(in crate::config) struct Ejecting(pub(in crate::config) Option<Box<UpstreamEjection>>);

const BALANCE: [(&str, bool); 2] = [("least_loaded", false), ("round_robin", true)];
const OFF: &str = "off";

impl Read for Balancing {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(_) => UpstreamHashing::read(node, problems).map(|given| Self::Hash(given.hash)),
            Value::Text(_) => word(node, problems, &BALANCE)
                .map(|turns| Self::Word(if turns { Balance::RoundRobin } else { Balance::LeastLoaded })),
            other => {
                let found = other.describe();
                let text = format!(
                    "expected \"least_loaded\", \"round_robin\" or a mapping with the key hash; found {found}"
                );
                problems.add(node.at, text);
                None
            }
        }
    }
}

impl Read for Ejecting {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == OFF => Some(Self(None)),
            Value::Text(text) => {
                let expected = "expected \"off\" or a mapping with the keys failures, time, max_percent";
                problems.add(node.at, format!("{expected}; found {text:?}"));
                None
            }
            _ => UpstreamEjection::read(node, problems).map(|given| Self(Some(Box::new(given)))),
        }
    }
}

impl JsonSchema for Balancing {
    fn schema_name() -> Cow<'static, str> {
        "Balancing".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let hashing = generator.subschema_for::<UpstreamHashing>();
        json_schema!({ "anyOf": [{ "enum": BALANCE.map(|(word, _)| word) }, hashing] })
    }
}

impl JsonSchema for Ejecting {
    fn schema_name() -> Cow<'static, str> {
        "Ejecting".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let ejection = generator.subschema_for::<UpstreamEjection>();
        json_schema!({ "anyOf": [{ "enum": [OFF] }, ejection] })
    }
}
