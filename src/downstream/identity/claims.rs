//! What a token says: found by name, required, and passed on.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use serde_json::{Map, Value};

use crate::wire::metadata;

/// Escaped in values of metadata: what they cannot hold, and the sign of escapes. Not the space.
const TEXT: AsciiSet = CONTROLS.add(b'%');

/// Where HTTP would remove spaces, they are escaped too: `" ada"` must not become `"ada"`.
const EDGES: AsciiSet = TEXT.add(b' ');

/// A claim by its name, or else by a path of names with points between them: `realm_access.roles`.
pub(super) fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(path) {
        return Some(found);
    }
    // Names may have points themselves, as those that are URLs have.
    path.match_indices('.').find_map(|(at, _)| match claims.get(&path[..at])? {
        Value::Object(inner) => find(inner, &path[at + 1..]),
        _ => None,
    })
}

/// Whether a claim has all of these values: as a text, number or truth value, as items of a list, or, for `scope` and
/// `scp`, as words (RFC 8693, section 4.2).
pub(super) fn has_all(claims: &Map<String, Value>, path: &str, wanted: &[String]) -> bool {
    let Some(found) = find(claims, path) else { return false };
    wanted.iter().all(|wanted| match found {
        Value::Array(items) => items.iter().any(|item| is(item, wanted)),
        Value::String(text) if matches!(path, "scope" | "scp") => {
            text.split(' ').any(|word| word == wanted.as_str())
        }
        value => is(value, wanted),
    })
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Number(number) => number.to_string() == wanted,
        Value::Bool(truth) => truth.to_string() == wanted,
        _ => false,
    }
}

/// Adds a claim as metadata: a list as several entries, an object as JSON. What is not there adds nothing.
pub(super) fn to_metadata(
    claims: &Map<String, Value>,
    path: &str,
    name: &HeaderName,
    metadata: &mut Vec<(HeaderName, HeaderValue)>,
) {
    match find(claims, path) {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) => {
            metadata.extend(items.iter().map(|item| (name.clone(), value(item, name))));
        }
        Some(claim) => metadata.push((name.clone(), value(claim, name))),
    }
}

fn value(claim: &Value, name: &HeaderName) -> HeaderValue {
    let text = match claim {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text_value(&text, name)
}

/// A text as a value of metadata: bytes for names that end in `-bin`, else percent-encoded where gRPC has no such
/// character.
pub(super) fn text_value(text: &str, name: &HeaderName) -> HeaderValue {
    if name.as_str().ends_with("-bin") {
        return metadata::encode_binary(text.as_bytes());
    }
    let set = if text.starts_with(' ') || text.ends_with(' ') { &EDGES } else { &TEXT };
    let encoded = percent_encode(text.as_bytes(), set).to_string();
    HeaderValue::try_from(encoded).expect("what a header cannot hold is escaped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Map<String, Value> {
        let json = serde_json::json!({
            "sub": "ada", "scope": "read write", "name": "admin user", "n": 7, "ok": true,
            "realm_access": { "roles": ["admin", "dev"], "deep": { "er": "x" } },
            "https://example.com/roles": ["boss"], "odd": " Zoë 100%\n", "none": null,
        });
        let Value::Object(map) = json else { unreachable!("it is written so") };
        map
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_by_a_path() {
        let claims = claims();
        assert_eq!(find(&claims, "sub").unwrap(), "ada");
        assert_eq!(find(&claims, "realm_access.deep.er").unwrap(), "x");
        assert!(find(&claims, "https://example.com/roles").is_some());
        for absent in ["", ".", "subject", "sub.x", "realm_access.", "realm_access.deep.er.x"] {
            assert!(find(&claims, absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn required_values_are_whole_ones_and_words_only_in_scopes() {
        let has = |path, wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|&text| text.to_owned()).collect();
            has_all(&claims(), path, &wanted)
        };
        assert!(has("scope", &["read"]) && has("scope", &["write", "read"]));
        assert!(!has("scope", &["read", "admin"]) && !has("scope", &["rea"]) && !has("scope", &[""]));
        assert!(!has("name", &["admin"]) && has("name", &["admin user"]));
        assert!(has("realm_access.roles", &["dev"]) && !has("realm_access.roles", &["root"]));
        assert!(has("n", &["7"]) && has("ok", &["true"]) && !has("none", &["null"]) && !has("x", &["x"]));
    }

    #[test]
    fn claims_become_metadata_that_nothing_can_change_on_its_way() {
        let metadata = |path, name| {
            let (mut found, name) = (Vec::new(), HeaderName::from_static(name));
            to_metadata(&claims(), path, &name, &mut found);
            found.into_iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(metadata("realm_access.roles", "x-roles"), ["admin", "dev"]);
        assert_eq!(metadata("odd", "x-odd"), ["%20Zo%C3%AB%20100%25%0A"]);
        assert_eq!(metadata("name", "x-name"), ["admin user"]);
        assert_eq!(metadata("sub", "x-sub-bin"), ["YWRh"]);
        assert_eq!(metadata("realm_access.deep", "x-deep"), [r#"{"er":"x"}"#]);
        assert!(metadata("none", "x-none").is_empty() && metadata("missing", "x-none").is_empty());
    }
}
