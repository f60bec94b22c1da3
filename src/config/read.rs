//! From the YAML tree to the file's structs, with every error on the way and not only the first.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::{
    Duration, InvalidValue, Size,
    node::{Key, Node, Position, Value},
    problem::{Problems, did_you_mean, nearest},
};

/// What can be read from a node. `None`: it could not, and the problems say why.
pub(super) trait Read: Sized {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self>;

    /// What stands for a key that is not there; `None`: it must be there.
    fn missing() -> Option<Self> {
        None
    }

    /// What stands for a value that could not be read, so that the checks after it can go on and find more problems.
    fn stand_in() -> Option<Self> {
        Self::missing()
    }
}

/// A value that remembers its place, for the checks that come after reading.
#[derive(Clone, Debug, Default)]
pub(super) struct At<T> {
    pub(super) at: Position,
    pub(super) value: T,
}

/// A mapping with names of the user's own. `None`: the value could not be read, but the name is known.
#[derive(Clone, Debug)]
pub(super) struct Named<T>(pub(super) Vec<(At<String>, Option<T>)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A list that must not be empty.
#[derive(Clone, Debug)]
pub(super) struct AtLeastOne<T>(pub(super) Vec<T>);

impl<T> Default for AtLeastOne<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Read> Read for At<T> {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        Some(Self { at: node.at, value: T::read(node, problems)? })
    }

    fn stand_in() -> Option<Self> {
        Some(Self { at: Position::default(), value: T::stand_in()? })
    }
}

impl<T: Read> Read for Option<T> {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        T::read(node, problems).map(Some)
    }

    fn missing() -> Option<Self> {
        Some(None)
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return wrong(node, problems, "a list");
        };
        Some(items.iter().filter_map(|item| T::read(item, problems)).collect())
    }

    fn stand_in() -> Option<Self> {
        Some(Self::new())
    }
}

impl<T: Read> Read for AtLeastOne<T> {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let list = Vec::read(node, problems)?;
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            problems.add(node.at, "the list is empty; it needs at least one entry");
        }
        Some(Self(list))
    }

    fn stand_in() -> Option<Self> {
        Some(Self(Vec::new()))
    }
}

impl<T: Read> Read for Named<T> {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return wrong(node, problems, "a mapping of names");
        };
        if entries.is_empty() {
            problems.add(node.at, "the mapping is empty; it needs at least one entry");
        }
        let named =
            |(key, node): &(Key, Node)| (At { at: key.at, value: key.name.clone() }, T::read(node, problems));
        Some(Self(entries.iter().map(named).collect()))
    }

    fn stand_in() -> Option<Self> {
        Some(Self(Vec::new()))
    }
}

impl Read for String {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text.is_empty() => wrong(node, problems, "a text that is not empty"),
            Value::Text(text) => Some(text.clone()),
            _ => wrong(node, problems, "a text; put it in quotes"),
        }
    }
}

impl Read for PathBuf {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        String::read(node, problems).map(Self::from)
    }
}

impl Read for bool {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => wrong(node, problems, "true or false"),
        }
    }
}

impl Read for u32 {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.value {
            Value::Int(number) if number > 0 && number <= Self::MAX.into() => Some(number as Self),
            _ => wrong(node, problems, "a whole number of at least 1"),
        }
    }
}

impl Read for Duration {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        from_text(node, problems, "a duration such as 30s, 1m30s or 500ms")
    }
}

impl Read for Size {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        from_text(node, problems, "a size such as 4MiB, 16KiB or 512B")
    }
}

impl Read for SocketAddr {
    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Int(port) => port.to_string(),
            _ => return wrong(node, problems, "an address such as 127.0.0.1:8080"),
        };
        match socket_addr(&text) {
            Ok(address) => Some(address),
            Err(error) => {
                problems.add(node.at, error.to_string());
                None
            }
        }
    }
}

/// Reads `IP:PORT`.
pub(super) fn socket_addr(text: &str) -> Result<SocketAddr, InvalidValue> {
    text.parse().map_err(|_| {
        let advice = if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
            format!("did you mean 127.0.0.1:{port} (this machine only) or 0.0.0.0:{port} (everybody)?")
        } else if let Some(port) = text.strip_prefix("localhost:") {
            format!("did you mean 127.0.0.1:{port}?")
        } else if let Ok(ip) = text.parse::<IpAddr>() {
            format!("the port is missing; did you mean {}?", SocketAddr::new(ip, 8080))
        } else {
            "write IP:PORT, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080".into()
        };
        InvalidValue(format!("{text:?} is not an address to listen on: {advice}"))
    })
}

fn from_text<T: std::str::FromStr<Err = InvalidValue>>(
    node: &Node,
    problems: &mut Problems,
    expected: &str,
) -> Option<T> {
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        // A number without a unit: the type knows what to advise.
        Value::Int(number) => number.to_string(),
        _ => return wrong(node, problems, expected),
    };
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            problems.add(node.at, error.to_string());
            None
        }
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(node: &Node, problems: &mut Problems, words: &[(&str, T)]) -> Option<T> {
    let names = || words.iter().map(|(name, _)| *name);
    let allowed = names().collect::<Vec<_>>().join(", ");
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Float(number) => number.to_string(),
        other => {
            problems.add(node.at, format!("found {}; allowed: {allowed}", other.describe()));
            return None;
        }
    };
    let found = words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let meant = did_you_mean(&text, names());
        problems.add(node.at, format!("{text:?} is not known{meant}; allowed: {allowed}"));
    }
    found
}

fn wrong<T>(node: &Node, problems: &mut Problems, expected: &str) -> Option<T> {
    problems.add(node.at, format!("expected {expected}, found {}", node.value.describe()));
    None
}

/// A mapping with known keys, as [`section!`] reads it.
pub(super) struct Section<'a> {
    name: &'static str,
    keys: &'static [&'static str],
    at: Position,
    entries: &'a [(Key, Node)],
}

impl<'a> Section<'a> {
    /// Reports keys that are not among `keys`.
    pub(super) fn open(
        node: &'a Node,
        name: &'static str,
        keys: &'static [&'static str],
        problems: &mut Problems,
    ) -> Option<Self> {
        let entries: &[_] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                let expected = format!("a mapping with the keys {}", keys.join(", "));
                return wrong(node, problems, &expected);
            }
        };
        for (key, _) in entries {
            if !keys.contains(&key.name.as_str()) {
                let meant = did_you_mean(&key.name, keys.iter().copied());
                let text =
                    format!("unknown key `{}` in {name}{meant}; allowed: {}", key.name, keys.join(", "));
                problems.add(key.at, text);
            }
        }
        Some(Self { name, keys, at: node.at, entries })
    }

    pub(super) fn field<T: Read>(&self, key: &str, problems: &mut Problems) -> Option<T> {
        let read = match self.entries.iter().find(|(k, _)| k.name == key) {
            Some((k, Node { value: Value::Null, .. })) => {
                problems.add(k.at, format!("`{key}` has no value; give it one or leave it out"));
                None
            }
            Some((_, node)) => T::read(node, problems),
            None => {
                let missing = T::missing();
                // A key that is only misspelt has been reported as such.
                if missing.is_none() && !self.entries.iter().any(|(k, _)| self.meant(k) == Some(key)) {
                    problems.add(self.at, format!("`{key}` is missing in {}", self.name));
                }
                missing
            }
        };
        read.or_else(T::stand_in)
    }

    /// The known key that an unknown one may be.
    fn meant(&self, key: &Key) -> Option<&'static str> {
        if self.keys.contains(&key.name.as_str()) {
            None
        } else {
            nearest(&key.name, self.keys.iter().copied())
        }
    }
}

/// Declares a mapping of the file once: its struct, its JSON Schema (from the doc comments) and how it is read. A key
/// may be left out when its type is an `Option`.
macro_rules! section {
    (
        $name:literal
        $(#[$meta:meta])*
        struct $type:ident { $( $(#[doc = $doc:literal])+ $field:ident: $kind:ty, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub(in crate::config) struct $type { $( $(#[doc = $doc])+ pub(in crate::config) $field: $kind, )+ }

        impl Read for $type {
            fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
                let section = Section::open(node, $name, const { &[$(stringify!($field)),+] }, problems)?;
                $( let $field = section.field(stringify!($field), problems); )+
                Some(Self { $( $field: $field?, )+ })
            }
        }
    };
}
pub(super) use section;
