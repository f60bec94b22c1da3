//! From JSON to a message.
//!
//! The messages themselves are `prost-reflect`'s, and so are the texts of times, durations and field masks. The walk
//! is our own, because a proxy has to be stricter than the library (which takes a key that is there twice, an element
//! that is null, or a string that overflows to infinity) and has to say where the fault is.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fmt,
};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use prost_types::field_descriptor_proto::Label;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    JsonError, JsonOptions, WellKnown, bundled,
    scalar::{self, Scalar},
    well_known,
};

/// How deep objects and lists may be nested.
const MAX_DEPTH: u32 = 100;

/// Reads one message.
pub(super) fn read(
    descriptor: &MessageDescriptor,
    json: &[u8],
    options: &JsonOptions,
) -> Result<DynamicMessage, JsonError> {
    let reader = Reader {
        options,
        pool: descriptor.parent_pool(),
        depth: Cell::new(0),
        late_types: Cell::new(0),
        fault: RefCell::default(),
    };
    if json.iter().all(u8::is_ascii_whitespace) {
        let problem = "the message is empty; one without fields is written {}";
        return Err(JsonError::invalid(String::new(), problem.into(), None));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let kind = Kind::Message(descriptor.clone());
    let node = Node { reader: &reader, shape: Shape::One(&kind) };
    let result = node.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    match result {
        Ok(Some(Value::Message(message))) => Ok(message),
        Ok(_) => Err(JsonError::invalid(String::new(), "expected an object, found null".into(), None)),
        Err(error) => Err(reader.into_error(&error)),
    }
}

/// What one reading shares.
pub(super) struct Reader<'a> {
    pub(super) options: &'a JsonOptions,
    pool: &'a DescriptorPool,
    depth: Cell<u32>,
    /// How many `Any` with a late `@type` this is inside of.
    pub(super) late_types: Cell<u32>,
    pub(super) fault: RefCell<Fault>,
}

/// What went wrong, filled in on the way out.
#[derive(Default)]
pub(super) struct Fault {
    /// Empty when the JSON itself is broken.
    problem: String,
    pub(super) missing_type: Option<String>,
    /// The innermost first.
    path: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn fail<T, E: serde::de::Error>(&self, problem: impl Into<String>) -> Result<T, E> {
        let mut fault = self.fault.borrow_mut();
        // The first word is the cause.
        if fault.problem.is_empty() {
            fault.problem = problem.into();
        }
        Err(E::custom("invalid"))
    }

    pub(super) fn field(&self, name: &str) {
        self.fault.borrow_mut().path.push(format!(".{name}"));
    }

    fn entry(&self, key: &str) {
        let key: String = key.chars().take(SHOWN).collect();
        self.fault.borrow_mut().path.push(format!("[{key:?}]"));
    }

    fn element(&self, index: usize) {
        self.fault.borrow_mut().path.push(format!("[{index}]"));
    }

    /// One level down, as long as the result lives.
    fn enter<E: serde::de::Error>(&'a self) -> Result<Level<'a>, E> {
        if self.depth.get() == MAX_DEPTH {
            return self.fail(format!("objects and lists are nested more than {MAX_DEPTH} deep"));
        }
        self.depth.set(self.depth.get() + 1);
        Ok(Level(&self.depth))
    }

    pub(super) fn find_type(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name).or_else(|| bundled().get_message_by_name(name))
    }

    fn into_error(self, error: &serde_json::Error) -> JsonError {
        let Fault { problem, missing_type, path } = self.fault.into_inner();
        let path: String = path.iter().rev().map(String::as_str).collect();
        let problem = match problem.as_str() {
            "" => format!("not valid JSON: {error}"),
            _ => problem,
        };
        JsonError::invalid(path.trim_start_matches('.').to_owned(), problem, missing_type)
    }
}

/// How much of a client's text an error repeats, in characters.
pub(super) const SHOWN: usize = 64;

/// Counts one down when it is gone.
pub(super) struct Level<'a>(pub(super) &'a Cell<u32>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What a value is to be.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    One(&'a Kind),
    /// A list of these.
    List(&'a Kind),
    /// A map of these entries.
    Map(&'a MessageDescriptor),
}

/// One value of JSON, on its way to a value of a message; `None` for null, and for the name of an enum value that is
/// not known and to be ignored.
#[derive(Clone, Copy)]
pub(super) struct Node<'r> {
    pub(super) reader: &'r Reader<'r>,
    pub(super) shape: Shape<'r>,
}

impl<'r> Node<'r> {
    pub(super) fn one(self, kind: &'r Kind) -> Self {
        Self { shape: Shape::One(kind), ..self }
    }

    fn scalar<E: serde::de::Error>(self, found: Scalar<'_>) -> Result<Option<Value>, E> {
        let result = match self.shape {
            Shape::One(Kind::Message(message)) => return self.scalar_message(message, found),
            _ if matches!(found, Scalar::Null) && !self.is_null_value() => return Ok(None),
            Shape::One(kind) => scalar::read(kind, &found, self.reader.options.ignore_unknown),
            Shape::List(_) => Err(scalar::mismatch("a list", &found)),
            Shape::Map(_) => Err(scalar::mismatch("an object", &found)),
        };
        result.or_else(|problem| self.reader.fail(problem))
    }

    fn is_null_value(self) -> bool {
        matches!(self.shape, Shape::One(Kind::Enum(kind)) if kind.full_name() == "google.protobuf.NullValue")
    }

    /// A message that is a scalar in JSON.
    fn scalar_message<E: serde::de::Error>(
        self,
        message: &MessageDescriptor,
        found: Scalar<'_>,
    ) -> Result<Option<Value>, E> {
        let known = WellKnown::of(message);
        if matches!(found, Scalar::Null) && known != Some(WellKnown::Value) {
            return Ok(None);
        }
        let result = match known {
            Some(WellKnown::Wrapper) => {
                let mut wrapper = DynamicMessage::new(message.clone());
                well_known::field(message, 1)
                    .and_then(|field| Ok((scalar::read(&field.kind(), &found, false)?, field)))
                    .map(|(value, field)| {
                        if let Some(value) = value {
                            wrapper.set_field(&field, value);
                        }
                        wrapper
                    })
            }
            Some(WellKnown::Value) => well_known::value(message, &found),
            Some(WellKnown::Text(expected)) => match &found {
                Scalar::Text(text) => {
                    well_known::from_text(message, text).ok_or_else(|| scalar::mismatch(expected, &found))
                }
                _ => Err(scalar::mismatch(expected, &found)),
            },
            Some(WellKnown::ListValue) => Err(scalar::mismatch("a list", &found)),
            Some(WellKnown::Struct | WellKnown::Any) | None => Err(scalar::mismatch("an object", &found)),
        };
        match result {
            Ok(message) => Ok(Some(Value::Message(message))),
            Err(problem) => self.reader.fail(problem),
        }
    }

    /// A field of a well-known type, read as what it is; then the message round it.
    fn inside<E: serde::de::Error>(
        self,
        message: &MessageDescriptor,
        number: u32,
        read: impl FnOnce(&FieldDescriptor) -> Result<Option<Value>, E>,
    ) -> Result<Option<Value>, E> {
        let field = well_known::field(message, number).or_else(|problem| self.reader.fail(problem))?;
        let mut outer = DynamicMessage::new(message.clone());
        if let Some(value) = read(&field)? {
            outer.set_field(&field, value);
        }
        Ok(Some(Value::Message(outer)))
    }

    fn map<'de, A: MapAccess<'de>>(self, access: A) -> Result<Option<Value>, A::Error> {
        let message = match self.shape {
            Shape::Map(entry) => return self.entries(entry, access).map(Some),
            Shape::One(Kind::Message(message)) => message,
            Shape::One(kind) => return self.reader.fail(scalar::expected(kind) + ", found an object"),
            Shape::List(_) => return self.reader.fail("expected a list, found an object"),
        };
        match WellKnown::of(message) {
            None => {
                let mut out = DynamicMessage::new(message.clone());
                self.fields(&mut out, access)?;
                Ok(Some(Value::Message(out)))
            }
            Some(WellKnown::Struct) => self.inside(message, 1, |fields| match fields.kind() {
                Kind::Message(entry) => {
                    Ok(Some(Node { shape: Shape::Map(&entry), ..self }.entries(&entry, access)?))
                }
                _ => Ok(None),
            }),
            Some(WellKnown::Value) => self.inside(message, 5, |value| self.one(&value.kind()).map(access)),
            Some(WellKnown::Any) => self.any(message, access),
            Some(WellKnown::ListValue) => self.reader.fail("expected a list, found an object"),
            Some(WellKnown::Wrapper) => {
                let problem = match well_known::field(message, 1) {
                    Ok(field) => scalar::expected(&field.kind()) + ", found an object",
                    Err(problem) => problem,
                };
                self.reader.fail(problem)
            }
            Some(WellKnown::Text(expected)) => {
                self.reader.fail(format!("expected {expected}, found an object"))
            }
        }
    }

    fn list<'de, A: SeqAccess<'de>>(self, mut access: A) -> Result<Option<Value>, A::Error> {
        let kind = match self.shape {
            Shape::List(kind) => kind,
            Shape::Map(_) => return self.reader.fail("expected an object, found a list"),
            Shape::One(kind) => {
                return match kind {
                    Kind::Message(message) => match WellKnown::of(message) {
                        Some(WellKnown::ListValue) => self.inside(message, 1, |values| {
                            Node { shape: Shape::List(&values.kind()), ..self }.list(access)
                        }),
                        Some(WellKnown::Value) => {
                            self.inside(message, 6, |list| self.one(&list.kind()).list(access))
                        }
                        Some(WellKnown::Text(expected)) => {
                            self.reader.fail(format!("expected {expected}, found a list"))
                        }
                        _ => self.reader.fail("expected an object, found a list"),
                    },
                    kind => self.reader.fail(scalar::expected(kind) + ", found a list"),
                };
            }
        };
        let mut values = Vec::new();
        let mut index = 0;
        loop {
            let element = Element { node: self.one(kind), null: "a list's elements cannot be null" };
            match access.next_element_seed(element) {
                Ok(Some(value)) => values.extend(value),
                Ok(None) => return Ok(Some(Value::List(values))),
                Err(error) => {
                    self.reader.element(index);
                    return Err(error);
                }
            }
            index += 1;
        }
    }

    fn entries<'de, A: MapAccess<'de>>(
        self,
        entry: &MessageDescriptor,
        mut access: A,
    ) -> Result<Value, A::Error> {
        let key_kind = entry.map_entry_key_field().kind();
        let value_kind = entry.map_entry_value_field().kind();
        let mut map = std::collections::HashMap::new();
        while let Some(text) = access.next_key_seed(Text)? {
            let at = |error| {
                self.reader.entry(&text);
                error
            };
            let key: MapKey = match scalar::map_key(&key_kind, &text) {
                Ok(key) => key,
                Err(problem) => return self.reader.fail(problem).map_err(at),
            };
            if map.contains_key(&key) {
                return self.reader.fail("the key is there twice").map_err(at);
            }
            let element = Element { node: self.one(&value_kind), null: "a map's values cannot be null" };
            if let Some(value) = access.next_value_seed(element).map_err(at)? {
                map.insert(key, value);
            }
        }
        Ok(Value::Map(map))
    }

    /// Reads the fields of an object into a message.
    pub(super) fn fields<'de, A: MapAccess<'de>>(
        self,
        out: &mut DynamicMessage,
        mut access: A,
    ) -> Result<(), A::Error> {
        let message = out.descriptor();
        let mut seen: Vec<u32> = Vec::new();
        while let Some(name) = access.next_key_seed(Text)? {
            let Some(member) = Member::find(&message, &name) else {
                if self.reader.options.ignore_unknown {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
                return self.reader.fail(unknown_field(&message, &name));
            };
            let at = |error| {
                self.reader.field(&name);
                error
            };
            if seen.contains(&member.number()) {
                return self.reader.fail("the field is there twice").map_err(at);
            }
            seen.push(member.number());
            let kind = member.kind();
            let shape = match &kind {
                Kind::Message(entry) if member.is_map() => Shape::Map(entry),
                kind if member.is_list() => Shape::List(kind),
                kind => Shape::One(kind),
            };
            let value = access.next_value_seed(Node { shape, ..self }).map_err(at)?;
            let Some(value) = value else { continue };
            if let Member::Field(field) = &member
                && let Some(oneof) = field.containing_oneof()
                && let Some(other) = oneof.fields().find(|other| out.has_field(other))
            {
                let problem = format!(
                    "only one of the oneof {:?} can be set, and {:?} is",
                    oneof.name(),
                    other.json_name()
                );
                return self.reader.fail(problem).map_err(at);
            }
            member.set(out, value);
        }
        // Looked for where looking is cheap: nearly no message has one.
        let required =
            message.descriptor_proto().field.iter().filter(|field| field.label() == Label::Required);
        for field in required {
            if !message.get_field_by_name(field.name()).is_some_and(|field| out.has_field(&field)) {
                let name = field.json_name.as_deref().unwrap_or_else(|| field.name());
                return self.reader.fail(format!("the required field {name:?} is missing"));
            }
        }
        Ok(())
    }
}

/// What a key of an object stands for.
enum Member {
    Field(FieldDescriptor),
    Extension(ExtensionDescriptor),
}

impl Member {
    fn find(message: &MessageDescriptor, name: &str) -> Option<Self> {
        if name.starts_with('[') {
            return message.get_extension_by_json_name(name).map(Self::Extension);
        }
        let field = message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name));
        field.map(Self::Field)
    }

    fn number(&self) -> u32 {
        match self {
            Self::Field(field) => field.number(),
            Self::Extension(extension) => extension.number(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Field(field) => field.kind(),
            Self::Extension(extension) => extension.kind(),
        }
    }

    fn is_list(&self) -> bool {
        match self {
            Self::Field(field) => field.is_list(),
            Self::Extension(extension) => extension.is_list(),
        }
    }

    fn is_map(&self) -> bool {
        match self {
            Self::Field(field) => field.is_map(),
            Self::Extension(extension) => extension.is_map(),
        }
    }

    fn set(&self, message: &mut DynamicMessage, value: Value) {
        match self {
            Self::Field(field) => message.set_field(field, value),
            Self::Extension(extension) => message.set_extension(extension, value),
        }
    }
}

fn unknown_field(message: &MessageDescriptor, name: &str) -> String {
    let shown: String = name.chars().take(SHOWN).collect();
    let near = |field: &FieldDescriptor| strsim::normalized_damerau_levenshtein(field.json_name(), &shown);
    let nearest = message.fields().max_by(|a, b| near(a).total_cmp(&near(b)));
    let meant = match nearest {
        Some(field) if near(&field) >= 0.6 => format!("; did you mean {:?}?", field.json_name()),
        _ => String::new(),
    };
    format!("{} has no field {shown:?}{meant}", message.full_name())
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        self.scalar(Scalar::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.scalar(Scalar::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.scalar(Scalar::Int(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.scalar(Scalar::Int(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.scalar(Scalar::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.scalar(Scalar::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        let _level = self.reader.enter()?;
        self.map(access)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        let _level = self.reader.enter()?;
        self.list(access)
    }
}

/// A value inside a list or map, which cannot be null.
struct Element<'r> {
    node: Node<'r>,
    null: &'static str,
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let value = self.node.deserialize(deserializer)?;
        let ignored =
            matches!(self.node.shape, Shape::One(Kind::Enum(_))) && self.node.reader.options.ignore_unknown;
        if value.is_none() && !ignored {
            return self.node.reader.fail(self.null);
        }
        Ok(value)
    }
}

/// A text: a key of an object.
pub(super) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
