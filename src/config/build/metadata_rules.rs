//! What routes do to metadata, and what they ask of it.

use http::{HeaderName, HeaderValue};

use super::Builder;
use crate::{
    config::{
        file::MetadataRules as Given,
        node::Position,
        read::{At, Named},
    },
    downstream::{MetadataCondition, ValuePattern},
    wire::{metadata, metadata_rules::MetadataRules},
};

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Requests,
    Responses,
}

impl Builder<'_> {
    /// A route's rules.
    pub(super) fn metadata_rules(&mut self, given: &Given, way: Way) -> MetadataRules {
        let mut rules = MetadataRules::default();
        for At { at, value } in given.remove.iter().flatten() {
            rules.remove.extend(self.ruled(*at, value, way));
        }
        for (from, to) in entries(given.rename.as_ref()) {
            let names = (self.ruled(from.at, &from.value, way), self.ruled(to.at, &to.value, way));
            let (Some(old), Some(new)) = names else { continue };
            if is_binary(&old) != is_binary(&new) {
                let text = format!(
                    "{old} and {new}: both must end in -bin, or neither; their values are written differently"
                );
                self.problems.add(to.at, text);
            }
            if rules.rename.iter().any(|(_, other)| *other == new) {
                self.problems.add(to.at, format!("two names become {new}; only one can"));
            }
            rules.rename.push((old, new));
        }
        for (list, named) in [(&mut rules.set, &given.set), (&mut rules.add, &given.add)] {
            for (name, value) in entries(named.as_ref()) {
                let name = self.ruled(name.at, &name.value, way);
                let value = name.as_ref().and_then(|name| self.metadata_value(name, value));
                list.extend(name.zip(value));
            }
        }
        rules
    }

    /// A name that rules may change.
    fn ruled(&mut self, at: Position, text: &str, way: Way) -> Option<HeaderName> {
        let name = self.metadata_name(at, text)?;
        let may = match way {
            Way::Requests => metadata::may_be_ruled(&name),
            Way::Responses => metadata::may_be_ruled_in_responses(&name),
        };
        if may {
            return Some(name);
        }
        self.problems.add(
            at,
            format!("{name} belongs to gRPC, HTTP or the connection, and is no metadata that can be changed"),
        );
        None
    }

    fn metadata_name(&mut self, at: Position, text: &str) -> Option<HeaderName> {
        let name = HeaderName::try_from(text).ok();
        let is_grpcs = |name: &HeaderName| {
            name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let name = name.filter(is_grpcs);
        if name.is_none() {
            let text = format!("{text:?} is no name of metadata: use letters, digits, '-', '_' and '.'");
            self.problems.add(at, text);
        }
        name
    }

    fn metadata_value(&mut self, name: &HeaderName, given: &At<String>) -> Option<HeaderValue> {
        let text = &given.value;
        let (value, what) = if is_binary(name) {
            let bytes = metadata::decode_binary(text.as_bytes());
            (
                bytes.map(|bytes| metadata::encode_binary(&bytes)),
                "base64, which values of names that end in -bin are written in",
            )
        } else {
            (
                metadata::text_value(text),
                "printable ASCII; for other values use a name that ends in -bin, and base64",
            )
        };
        if value.is_none() {
            self.problems.add(given.at, format!("the value of {name} is not {what}"));
        }
        value
    }

    /// What a route asks of metadata. `named`: the headers that are metadata because `upgrade_headers` says so.
    pub(super) fn conditions(
        &mut self,
        given: Option<&Named<At<String>>>,
        named: &[HeaderName],
    ) -> Vec<MetadataCondition> {
        let mut conditions: Vec<MetadataCondition> = Vec::new();
        for (key, value) in entries(given) {
            let Some(name) = self.metadata_name(key.at, &key.value) else { continue };
            let problem = if !metadata::may_be_passed(&name) {
                Some(format!("{name} belongs to gRPC, HTTP or the connection, and is no metadata"))
            } else if metadata::needs_naming(&name) && !named.contains(&name) {
                Some(format!(
                    "{name} is the browser's own, and no metadata unless `upgrade_headers` names it"
                ))
            } else if conditions.iter().any(|condition| condition.name == name) {
                Some(format!("{name} is there twice"))
            } else {
                None
            };
            if let Some(problem) = problem {
                self.problems.add(key.at, problem);
                continue;
            }
            let value_ = ValuePattern::parse(&value.value);
            if is_binary(&name) && value_ != ValuePattern::Any {
                let text = format!(
                    "values of {name} are bytes, which are not looked at; \"*\" asks whether it is there"
                );
                self.problems.add(value.at, text);
            }
            conditions.push(MetadataCondition { name, value: value_ });
        }
        conditions
    }

    /// A route's cookies. `origins`: those of the file.
    pub(super) fn cookies(
        &mut self,
        given: Option<&Named<At<String>>>,
        origins: Option<&[At<String>]>,
    ) -> Vec<(String, HeaderName)> {
        let any_origin = origins.is_some_and(|origins| origins.iter().any(|origin| origin.value == "*"));
        let mut cookies: Vec<(String, HeaderName)> = Vec::new();
        for (cookie, target) in entries(given) {
            let is_name =
                cookie.value.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"\\()<>@:/[]?{}".contains(&b));
            if !is_name {
                self.problems.add(cookie.at, format!("{:?} is no name of a cookie", cookie.value));
            }
            if any_origin {
                let text = "cookies with the origin \"*\" would let every page on the web call with what its visitor is \
                            logged in to; name the origins";
                self.problems.add(cookie.at, text);
            }
            let Some(name) = self.ruled(target.at, &target.value, Way::Requests) else { continue };
            if is_binary(&name) {
                self.problems.add(
                    target.at,
                    format!("{name}: cookies are text, and names that end in -bin are for bytes"),
                );
            }
            if cookies.iter().any(|(_, other)| *other == name) {
                self.problems.add(target.at, format!("two cookies become {name}; only one can"));
            }
            cookies.push((cookie.value.clone(), name));
        }
        cookies
    }
}

fn is_binary(name: &HeaderName) -> bool {
    name.as_str().ends_with("-bin")
}

/// What could be read of a mapping.
fn entries(named: Option<&Named<At<String>>>) -> impl Iterator<Item = (&At<String>, &At<String>)> {
    let entries = named.into_iter().flat_map(|Named(entries)| entries);
    entries.filter_map(|(key, value)| Some((key, value.as_ref()?)))
}
