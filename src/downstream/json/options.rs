//! What a client that cannot set headers says about its call: in the URL, or in the first message.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::wire::{
    metadata,
    v1::{self, metadata::Value},
};

/// What a client wants of its call besides the method.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallOptions {
    /// Metadata of the call.
    pub(crate) metadata: HeaderMap,
    /// How long it may take.
    pub(crate) timeout: Option<Duration>,
    /// Whether metadata and status are wanted as messages of their own.
    pub(crate) status: bool,
}

/// Why options cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidOptions {
    /// What ends up in logs must hold no secrets.
    #[error(
        "metadata {0:?} may not stand in a URL, which ends up in logs and histories; send it in the first message: \
         {{\"@metadata\":{{{0:?}:\"…\"}}}}"
    )]
    Secret(String),
    /// A parameter or key that begins with `@` and is none of ours.
    #[error("{0:?} is no option; there are @metadata (in the first message), @timeout and @status")]
    Unknown(String),
    /// A timeout in another form.
    #[error("@timeout {0:?} is not valid: write a whole number and one of the units ms, s, m, h, such as 5s")]
    Timeout(String),
    /// A switch in another form.
    #[error("@status {0:?} is not valid: write 1 or 0")]
    Status(String),
    /// Metadata that gRPC does not have.
    #[error(transparent)]
    Metadata(#[from] metadata::InvalidMetadata),
    /// A `-bin` value that is no base64.
    #[error("the value of metadata {0:?} is not base64")]
    Base64(String),
    /// A value that is neither text nor texts.
    #[error("the value of metadata {0:?} must be a string, or a list of strings")]
    Value(String),
    /// The first message is options, but not as it should be.
    #[error("the options in the first message cannot be read: {0}")]
    Message(String),
}

/// The keys with which a first message of options begins.
const KEYS: [&str; 3] = ["\"@metadata\"", "\"@timeout\"", "\"@status\""];

impl CallOptions {
    /// Options in a URL's query: `@timeout=5s`, `@status=1`, and everything else is metadata. `with_metadata` false:
    /// a client that has headers puts metadata there, and the rest of its query means nothing.
    pub(crate) fn from_query(query: Option<&str>, with_metadata: bool) -> Result<Self, InvalidOptions> {
        let mut options = Self::default();
        let mut entries = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            match name.strip_prefix('@') {
                Some("timeout") => options.timeout = Some(timeout(&value)?),
                Some("status") => options.status = switch(&value)?,
                Some(_) if with_metadata => return Err(InvalidOptions::Unknown(shown(&name))),
                None if with_metadata && is_secret(&name) => {
                    return Err(InvalidOptions::Secret(shown(&name)));
                }
                None if with_metadata => entries.push(entry(name.into_owned(), &value)?),
                Some(_) | None => {}
            }
        }
        options.metadata = metadata::from_entries(&entries)?;
        Ok(options)
    }

    /// Reads a first message, if it is one of options: an object whose first key is `@metadata`, `@timeout` or
    /// `@status`. No message of a service begins so, but for `google.protobuf.Struct`'s.
    pub(crate) fn read_message(&mut self, text: &str) -> Result<bool, InvalidOptions> {
        #[derive(Deserialize)]
        struct Message<'a> {
            #[serde(rename = "@metadata", default)]
            metadata: Map<String, Json>,
            #[serde(rename = "@timeout", borrow)]
            timeout: Option<Cow<'a, str>>,
            #[serde(rename = "@status")]
            status: Option<bool>,
            #[serde(flatten)]
            others: BTreeMap<String, Json>,
        }

        let first = text.trim_start().strip_prefix('{').map(str::trim_start);
        if !first.is_some_and(|first| KEYS.iter().any(|key| first.starts_with(key))) {
            return Ok(false);
        }
        let message: Message<'_> =
            serde_json::from_str(text).map_err(|error| InvalidOptions::Message(error.to_string()))?;
        if let Some(name) = message.others.keys().next() {
            return Err(InvalidOptions::Unknown(shown(name)));
        }
        let mut entries = Vec::new();
        for (name, value) in message.metadata {
            match value {
                Json::String(text) => entries.push(entry(name, &text)?),
                Json::Array(values) => {
                    for value in values {
                        let Json::String(text) = value else {
                            return Err(InvalidOptions::Value(shown(&name)));
                        };
                        entries.push(entry(name.clone(), &text)?);
                    }
                }
                _ => return Err(InvalidOptions::Value(shown(&name))),
            }
        }
        // What is said here counts, also if the URL said something else.
        let said = metadata::from_entries(&entries)?;
        for name in said.keys() {
            self.metadata.remove(name);
        }
        for (name, value) in &said {
            self.metadata.append(name, value.clone());
        }
        if let Some(text) = message.timeout {
            self.timeout = Some(timeout(&text)?);
        }
        self.status = message.status.unwrap_or(self.status);
        Ok(true)
    }
}

/// Metadata as it stands in JSON: a text, or a list of them; `-bin` values in base64.
pub(crate) fn metadata_to_json(headers: &HeaderMap) -> Json {
    let mut map = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Json> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned().into())
            .collect();
        let value = if values.len() == 1 { values.remove(0) } else { values.into() };
        map.insert(name.as_str().to_owned(), value);
    }
    map.into()
}

fn entry(name: String, value: &str) -> Result<v1::Metadata, InvalidOptions> {
    let value = if name.ends_with("-bin") {
        let bytes = base64(value).ok_or_else(|| InvalidOptions::Base64(shown(&name)))?;
        Value::Binary(bytes.into())
    } else {
        Value::Text(value.to_owned())
    };
    Ok(v1::Metadata { name, value: Some(value) })
}

/// Standard base64 and that of URLs, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// Names under which secrets go.
fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 15] = [
        "auth",
        "cookie",
        "token",
        "secret",
        "passw",
        "credential",
        "api-key",
        "apikey",
        "api_key",
        "session",
        "jwt",
        "bearer",
        "x-key",
        "signature",
        "private",
    ];
    let name = name.to_ascii_lowercase();
    // Whole names, as they are parts of harmless words.
    matches!(&*name, "sid" | "key" | "sig" | "x-sid") || PARTS.iter().any(|part| name.contains(part))
}

fn timeout(text: &str) -> Result<Duration, InvalidOptions> {
    let invalid = || InvalidOptions::Timeout(shown(text));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=8).contains(&digits) {
        return Err(invalid());
    }
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(invalid()),
    }
}

fn switch(text: &str) -> Result<bool, InvalidOptions> {
    match text {
        "1" | "true" | "" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(InvalidOptions::Status(shown(text))),
    }
}

fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let text = text.replace('+', " ");
        return percent_decode_str(&text).decode_utf8_lossy().into_owned().into();
    }
    percent_decode_str(text).decode_utf8_lossy()
}

/// What an error repeats of a client's text.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<CallOptions, String> {
        CallOptions::from_query(Some(text), true).map_err(|error| error.to_string())
    }

    fn message(text: &str) -> Result<Option<CallOptions>, String> {
        let mut options = CallOptions::default();
        let is_options = options.read_message(text).map_err(|error| error.to_string())?;
        Ok(is_options.then_some(options))
    }

    #[test]
    fn a_query_holds_metadata_and_options() {
        let options =
            query("x-name=Ada+Lovelace&@timeout=1500ms&x-many=1&x-many=2&%40status=1&a-bin=_-8").unwrap();
        assert_eq!(options.metadata["x-name"], "Ada Lovelace");
        assert_eq!(options.metadata.get_all("x-many").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(options.metadata["a-bin"], "/+8");
        assert_eq!((options.timeout, options.status), (Some(Duration::from_millis(1500)), true));
        assert!(query("").unwrap().metadata.is_empty());
        let http = CallOptions::from_query(Some("@timeout=2m&utm_source=x&token=y&@x=1"), false).unwrap();
        assert_eq!((http.timeout, http.metadata.len()), (Some(Duration::from_secs(120)), 0));
    }

    #[test]
    fn secrets_do_not_belong_into_urls() {
        for name in [
            "authorization",
            "Cookie",
            "x-access-token",
            "api-key",
            "client_secret",
            "password",
            "jwt",
            "sid",
            "X-Key",
        ] {
            let error = query(&format!("{name}=abc")).unwrap_err();
            assert!(error.contains("may not stand in a URL"), "{error}");
            assert!(error.contains(&format!("{{\"@metadata\":{{{name:?}")), "{error}");
            assert!(!error.contains("abc"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_query_is_named() {
        for (text, part) in [
            ("@timeout=5", "@timeout \"5\" is not valid"),
            ("@timeout=123456789s", "@timeout"),
            ("@timeout=s", "@timeout"),
            ("@status=maybe", "@status \"maybe\" is not valid"),
            ("@deadline=5s", "\"@deadline\" is no option"),
            ("X-Upper=1", "\"X-Upper\""),
            ("grpc-timeout=1S", "\"grpc-timeout\" is reserved"),
            ("x-bin=%%", "\"x-bin\" is not base64"),
            ("x=%C3%A4", "\"x\" is not printable ASCII"),
        ] {
            let error = query(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_first_message_of_options_is_told_from_a_request() {
        let options =
            message(r#" { "@metadata" : {"x-a":"1","x-b":["2","3"]},"@timeout":"5s","@status":true}"#);
        let options = options.unwrap().unwrap();
        assert_eq!(options.metadata["x-a"], "1");
        assert_eq!(options.metadata.get_all("x-b").iter().collect::<Vec<_>>(), ["2", "3"]);
        assert_eq!((options.timeout, options.status), (Some(Duration::from_secs(5)), true));
        for request in
            ["{}", "", "[1]", r#"{"@type":"x"}"#, r#"{"a":{"@metadata":{}}}"#, r#"{"@metadata2":{}}"#]
        {
            assert!(message(request).unwrap().is_none(), "{request}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_first_message_is_named() {
        for (text, part) in [
            (r#"{"@metadata":{"x":1}}"#, "\"x\" must be a string"),
            (r#"{"@metadata":{"x":["a",null]}}"#, "\"x\" must be a string"),
            (r#"{"@metadata":[]}"#, "cannot be read"),
            (r#"{"@metadata":{}"#, "cannot be read"),
            (r#"{"@timeout":"soon"}"#, "@timeout \"soon\""),
            (r#"{"@timeout":"5s","text":"x"}"#, "\"text\" is no option"),
            (r#"{"@metadata":{"host":"x"}}"#, "\"host\" is reserved"),
        ] {
            let error = message(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_message_replaces_what_the_url_said() {
        let mut options = query("x-a=1&x-b=2&@timeout=1s&@status=1").unwrap();
        assert!(options.read_message(r#"{"@metadata":{"x-a":["3","4"]}}"#).unwrap());
        assert_eq!(options.metadata.get_all("x-a").iter().collect::<Vec<_>>(), ["3", "4"]);
        assert_eq!(options.metadata["x-b"], "2");
        assert_eq!((options.timeout, options.status), (Some(Duration::from_secs(1)), true));
    }

    #[test]
    fn metadata_in_json_is_a_text_or_a_list() {
        let options = query("x-a=1&x-b=2&x-b=3&c-bin=AAE").unwrap();
        let json = metadata_to_json(&options.metadata);
        assert_eq!(json, serde_json::json!({"x-a": "1", "x-b": ["2", "3"], "c-bin": "AAE"}));
    }
}
