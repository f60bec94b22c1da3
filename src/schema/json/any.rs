//! `google.protobuf.Any` from JSON: an object with `@type`, and the fields of that type beside it.

use std::borrow::Cow;

use bytes::Bytes;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value, prost::Message as _};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, value::MapDeserializer};
use serde_json::value::RawValue;

use super::{
    WellKnown,
    read::{Level, Node, Reader, SHOWN, Shape, Text},
    well_known,
};

/// How many `Any` may be nested with their `@type` behind other keys: each of them reads what it holds once more.
const MAX_LATE_TYPES: u32 = 4;

const TYPE: &str = "@type";
const VALUE: &str = "value";

impl Node<'_> {
    pub(super) fn any<'de, A: MapAccess<'de>>(
        self,
        message: &MessageDescriptor,
        mut access: A,
    ) -> Result<Option<Value>, A::Error> {
        let Some(first) = access.next_key_seed(Text)? else {
            return Ok(Some(Value::Message(DynamicMessage::new(message.clone()))));
        };
        if first == TYPE {
            let url = access.next_value_seed(Url(self.reader))?;
            return self.any_of(message, &url, access);
        }
        // The type is behind other keys: they wait as text.
        let late = &self.reader.late_types;
        if late.get() == MAX_LATE_TYPES {
            return self.reader.fail("put \"@type\" first in an Any that is nested this deep");
        }
        late.set(late.get() + 1);
        let _level = Level(late);
        let mut waiting: Vec<(Cow<'de, str>, &'de RawValue)> = vec![(first, access.next_value()?)];
        let mut url = None;
        while let Some(key) = access.next_key_seed(Text)? {
            if key == TYPE {
                if url.is_some() {
                    return self.reader.fail("\"@type\" is there twice");
                }
                url = Some(access.next_value_seed(Url(self.reader))?);
            } else {
                waiting.push((key, access.next_value()?));
            }
        }
        let Some(url) = url else {
            return self.reader.fail("\"@type\" is missing: the URL of the type of an Any");
        };
        let waiting = MapDeserializer::<_, serde_json::Error>::new(waiting.into_iter());
        self.any_of(message, &url, waiting).map_err(A::Error::custom)
    }

    /// An `Any` whose type is known, from its other keys.
    fn any_of<'de, A: MapAccess<'de>>(
        self,
        message: &MessageDescriptor,
        url: &str,
        mut access: A,
    ) -> Result<Option<Value>, A::Error> {
        let name = match url.rsplit_once('/') {
            Some((_, name)) if !name.is_empty() => name,
            _ => {
                let url: String = url.chars().take(SHOWN).collect();
                let problem = format!(
                    "{url:?} is not the URL of a type; write \"type.googleapis.com/package.Message\""
                );
                return self.reader.fail(problem);
            }
        };
        let Some(inner) = self.reader.find_type(name) else {
            let shown: String = name.chars().take(SHOWN).collect();
            let result = self.reader.fail(format!("the type {shown:?} in \"@type\" is not known"));
            self.reader.fault.borrow_mut().missing_type = Some(name.to_owned());
            return result;
        };
        let content = if WellKnown::of(&inner).is_some() || inner.full_name() == "google.protobuf.Empty" {
            let kind = Kind::Message(inner.clone());
            let mut content = None;
            while let Some(key) = access.next_key_seed(Text)? {
                if key == VALUE && content.is_none() {
                    let at = |error| {
                        self.reader.field(VALUE);
                        error
                    };
                    let value = access.next_value_seed(self.one(&kind)).map_err(at)?;
                    let Some(Value::Message(value)) = value else {
                        return self.reader.fail("expected a value, found null").map_err(at);
                    };
                    content = Some(value);
                } else if key == VALUE {
                    return self.reader.fail("\"value\" is there twice");
                } else if self.reader.options.ignore_unknown {
                    access.next_value::<IgnoredAny>()?;
                } else {
                    let key: String = key.chars().take(SHOWN).collect();
                    let problem = format!("an Any of {name} has \"@type\" and \"value\" only, found {key:?}");
                    return self.reader.fail(problem);
                }
            }
            match content {
                Some(content) => content,
                None if inner.full_name() == "google.protobuf.Empty" => DynamicMessage::new(inner),
                None => return self.reader.fail(format!("\"value\" is missing in an Any of {name}")),
            }
        } else {
            let mut content = DynamicMessage::new(inner);
            self.fields(&mut content, access)?;
            content
        };
        let fields = well_known::field(message, 1).and_then(|url| Ok((url, well_known::field(message, 2)?)));
        let (url_field, value_field) = fields.or_else(|problem| self.reader.fail(problem))?;
        let mut any = DynamicMessage::new(message.clone());
        any.set_field(&url_field, Value::String(url.to_owned()));
        any.set_field(&value_field, Value::Bytes(Bytes::from(content.encode_to_vec())));
        Ok(Some(Value::Message(any)))
    }
}

/// The value of `@type`.
struct Url<'r>(&'r Reader<'r>);

impl<'de> DeserializeSeed<'de> for Url<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let kind = Kind::String;
        let node = Node { reader: self.0, shape: Shape::One(&kind) };
        let at = |error| {
            self.0.field(TYPE);
            error
        };
        match node.deserialize(deserializer).map_err(at)? {
            Some(Value::String(url)) => Ok(url),
            _ => self.0.fail("expected a text, found null").map_err(at),
        }
    }
}
