//! Keys of machines, known by their hashes.

use std::{hint::black_box, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{ApiKeySettings, claims::text_value, crypto::digest};

/// An API key. The key itself is known to its owner alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Whose it is.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
}

/// Text that is no API key; says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidApiKey(&'static str);

impl ApiKey {
    /// A key from its name and its hash in hexadecimal.
    pub fn new(name: &str, sha256: &str) -> Result<Self, InvalidApiKey> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidApiKey("the name of an API key has visible ASCII characters without spaces"));
        }
        let sha256 = unhex(sha256).ok_or(InvalidApiKey(
            "SHA-256 of an API key has 64 hexadecimal digits: `printf %s \"$KEY\" | sha256sum`",
        ))?;
        Ok(Self { name: name.to_owned(), sha256 })
    }

    /// Keys from a file: on each line a name and a hash; empty lines and those with `#` in front say nothing. The error
    /// comes with the number of its line.
    pub fn from_lines(text: &str) -> Result<Vec<Self>, (usize, InvalidApiKey)> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        keys.map(|(at, line)| {
            let key = line.split_once(char::is_whitespace);
            let key = key.ok_or(InvalidApiKey("a line has a name, a space and the SHA-256 of the key"));
            key.and_then(|(name, hash)| Self::new(name, hash.trim())).map_err(|error| (at, error))
        })
        .collect()
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| (digit as char).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// The accepted keys.
#[derive(Debug)]
pub(super) struct ApiKeys {
    settings: ApiKeySettings,
    /// Who has each: `api_key:NAME`.
    principals: Vec<Arc<str>>,
}

/// A key that is accepted, by its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found(usize);

/// No key that is accepted.
#[derive(Debug)]
pub(super) struct UnknownKey;

impl ApiKeys {
    pub(super) fn new(settings: ApiKeySettings) -> Self {
        let principal = |key: &ApiKey| Arc::from(format!("api_key:{}", key.name));
        let principals = settings.keys.iter().map(principal).collect();
        Self { settings, principals }
    }

    pub(super) fn header(&self) -> &HeaderName {
        &self.settings.header
    }

    /// Metadata that clients cannot send.
    pub(super) fn claimed(&self) -> Option<&HeaderName> {
        self.settings.name_header.as_ref()
    }

    /// Whose key a call has, if it has one. All hashes are compared, each as a whole: the time tells nothing.
    pub(super) fn find(&self, metadata: &HeaderMap) -> Result<Option<Found>, UnknownKey> {
        let mut given = metadata.get_all(&self.settings.header).iter();
        let Some(key) = given.next() else { return Ok(None) };
        if given.next().is_some() {
            return Err(UnknownKey);
        }
        let hash = digest::digest(&digest::SHA256, key.as_bytes());
        let mut found = None;
        for (at, known) in self.settings.keys.iter().enumerate() {
            let differs = hash.as_ref().iter().zip(&known.sha256);
            if differs.fold(0, |all, (a, b)| black_box(all | (a ^ b))) == 0 {
                found = Some(at);
            }
        }
        found.map(|at| Some(Found(at))).ok_or(UnknownKey)
    }

    pub(super) fn principal(&self, found: Found) -> &Arc<str> {
        &self.principals[found.0]
    }

    /// Says whose key it is, and takes the key itself away.
    pub(super) fn write_to(&self, found: Found, metadata: &mut HeaderMap) {
        if !self.settings.forward {
            metadata.remove(&self.settings.header);
        }
        if let Some(name) = &self.settings.name_header {
            let value: HeaderValue = text_value(&self.settings.keys[found.0].name, name);
            metadata.insert(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s secret | sha256sum`.
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn keys() -> ApiKeys {
        let text = format!("# machines\n\nci {SECRET}\nbackup  {}\n", "0".repeat(64));
        let keys = ApiKey::from_lines(&text).unwrap();
        assert_eq!(keys.len(), 2);
        let name_header = Some(HeaderName::from_static("x-client"));
        ApiKeys::new(ApiKeySettings { name_header, ..ApiKeySettings::new(keys) })
    }

    fn given(values: &[&'static str]) -> HeaderMap {
        let name = HeaderName::from_static("x-api-key");
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_key_is_known_by_its_hash_and_its_name_takes_its_place() {
        let (keys, mut metadata) = (keys(), given(&["secret"]));
        let found = keys.find(&metadata).unwrap().unwrap();
        assert_eq!(&**keys.principal(found), "api_key:ci");
        keys.write_to(found, &mut metadata);
        assert_eq!(metadata.len(), 1);
        assert_eq!(metadata["x-client"], "ci");
    }

    #[test]
    fn another_key_or_two_of_them_are_refused_and_none_is_none() {
        let keys = keys();
        assert!(keys.find(&given(&[])).unwrap().is_none());
        for wrong in [&["Secret"][..], &[""], &[SECRET], &["secret", "secret"]] {
            assert!(keys.find(&given(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_broken_line_is_named() {
        for (text, line) in [("ci", 1), ("\nci 123", 2), (&format!("#\na {SECRET}\nb {SECRET}0"), 3)] {
            assert_eq!(ApiKey::from_lines(text).unwrap_err().0, line, "{text}");
        }
    }
}
