//! YAML as a tree in which everything knows its place. The only file that knows the YAML library.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// A place in the file; both count from 1. Zero: no place (the command line).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl From<serde_saphyr::Location> for Position {
    fn from(location: serde_saphyr::Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// A value. Mappings keep the order of the file.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) name: String,
}

impl Value {
    /// What it is, for "expected …, found …".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) => format!("{text:?}"),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a mapping".into(),
        }
    }
}

/// Reads YAML. An empty file is an empty mapping. The error is the first one of syntax.
pub(super) fn parse(text: &str) -> Result<Node, (Position, String)> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map(Position::from).unwrap_or_default();
        (at, explain(text, at, &error.without_snippet().to_string()))
    })
}

/// The library's sentence without its own place, and with advice where the cause is a common one.
fn explain(text: &str, at: Position, message: &str) -> String {
    // Its last words on duplicate keys are for programmers.
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
    let message = message.split(" at line ").next().unwrap_or(message).trim_end_matches(':').trim();
    let line = usize::try_from(at.line).ok().and_then(|n| text.lines().nth(n.checked_sub(1)?)).unwrap_or("");
    let after_colon = line.split_once(':').map_or(line, |(_, value)| value).trim_start();
    let advice = if line.contains('\t') && line.trim_start_matches(' ').starts_with('\t') {
        "; YAML is indented with spaces, not tabs"
    } else if after_colon.starts_with('*') || line.contains("[*") || line.contains(": *") {
        "; a value that begins with `*` needs quotes: \"*\""
    } else {
        ""
    };
    format!("not valid YAML: {message}{advice}")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: spanned.referenced.into(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, node)) = access.next_entry::<Spanned<String>, Node>()? {
            map.push((Key { at: key.referenced.into(), name: key.value }, node));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (u64, u64, String) {
        let (at, message) = parse(text).unwrap_err();
        (at.line, at.column, message)
    }

    #[test]
    fn everything_knows_its_place() {
        let node = parse("a: 1\nb:\n  - x: [true, \"no\", no]\n").unwrap();
        let Value::Map(map) = node.value else { panic!() };
        assert_eq!((map[1].0.at.line, map[1].0.at.column), (2, 1));
        let Value::List(list) = &map[1].1.value else { panic!() };
        let Value::Map(inner) = &list[0].value else { panic!() };
        assert_eq!((inner[0].1.at.line, inner[0].1.at.column), (3, 8));
        let Value::List(values) = &inner[0].1.value else { panic!() };
        let kinds: Vec<_> = values.iter().map(|node| node.value.describe()).collect();
        assert_eq!(kinds, ["`true`", "\"no\"", "\"no\""]);
    }

    #[test]
    fn syntax_errors_say_where_and_what_is_often_meant() {
        let (line, column, message) = error("routes:\n  - service: *\n");
        assert_eq!((line, message.contains("needs quotes: \"*\"")), (2, true), "{column} {message}");
        let (line, _, message) = error("a:\n\tb: 1\n");
        assert_eq!((line, message.contains("not tabs")), (2, true), "{message}");
        let (line, column, message) = error("a: 1\nb: 2\na: 3\n");
        assert_eq!((line, column), (3, 1), "{message}");
        assert!(message.contains("duplicate"), "{message}");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let before = format!("*a{}", n - 1);
            text += &format!("a{n}: &a{n} [{}]\n", [before.as_str(); 10].join(", "));
        }
        assert!(parse(&text).is_err());
    }
}
