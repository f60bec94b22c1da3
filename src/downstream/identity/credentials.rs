//! Where a call's token is.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL},
};

use super::{SessionIdentity, Token, TokenError, TokenSource};

/// What a request says about its client besides the metadata of its calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// A token in a cookie or among the subprotocols of the request itself.
    pub(crate) token: Option<Token>,
    /// The session that it belongs to, whose client may send a newer token.
    pub(crate) session: Option<Arc<SessionIdentity>>,
}

impl Shown {
    /// The token, for another instance.
    pub(crate) fn token_header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(&*self.token.as_ref()?.0).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// What another instance has seen.
    pub(crate) fn from_header(value: Option<&HeaderValue>) -> Self {
        Self { token: value.and_then(|value| text(value).ok()?).map(token), session: None }
    }
}

/// A token that was found, and where.
#[derive(Debug)]
pub(super) struct FoundToken {
    pub(super) token: Token,
    /// The metadata that has it; `None`: it was shown outside of metadata.
    pub(super) header: Option<HeaderName>,
}

/// The token in an HTTP request's cookies or subprotocols.
pub(super) fn of_request(sources: &[TokenSource], headers: &HeaderMap) -> Option<Token> {
    sources.iter().find_map(|source| match source {
        TokenSource::Cookie(name) => cookie(headers, name),
        TokenSource::Subprotocol(prefix) => subprotocol(headers, prefix),
        TokenSource::Authorization | TokenSource::Header(_) => None,
    })
}

/// The token of a call: the first in the order of the sources.
pub(super) fn of_call(
    sources: &[TokenSource],
    metadata: &HeaderMap,
    shown: &Shown,
) -> Result<Option<FoundToken>, TokenError> {
    for source in sources {
        let found = match source {
            TokenSource::Authorization => match one(metadata, &AUTHORIZATION)? {
                None => None,
                Some(value) => bearer(value)?,
            },
            TokenSource::Header(name) => match one(metadata, name)? {
                None => None,
                Some(value) => bearer(value)?.or(text(value)?),
            },
            TokenSource::Cookie(_) | TokenSource::Subprotocol(_) => {
                // What the request showed comes from the first of these.
                if let Some(token) = &shown.token {
                    return Ok(Some(FoundToken { token: token.clone(), header: None }));
                }
                None
            }
        };
        if let Some(found) = found {
            return Ok(Some(FoundToken { token: token(found), header: source.header().cloned() }));
        }
    }
    Ok(None)
}

/// Sees to it that services get the token that was verified, and no other one that is in its place.
pub(super) fn forward(sources: &[TokenSource], found: &FoundToken, forward: bool, metadata: &mut HeaderMap) {
    for name in sources.iter().filter_map(TokenSource::header) {
        if !(forward && found.header.as_ref() == Some(name)) {
            metadata.remove(name);
        }
    }
    if forward && found.header.is_none() {
        let value = HeaderValue::try_from(format!("Bearer {}", found.token.0));
        if let Ok(mut value) = value {
            value.set_sensitive(true);
            metadata.insert(AUTHORIZATION, value);
        }
    }
}

impl TokenSource {
    pub(super) fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Authorization => Some(&AUTHORIZATION),
            Self::Header(name) => Some(name),
            Self::Cookie(_) | Self::Subprotocol(_) => None,
        }
    }
}

fn token(text: &str) -> Token {
    Token(text.into())
}

/// The only value of a name: of two, services may read the other one.
fn one<'a>(metadata: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, TokenError> {
    let mut values = metadata.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(TokenError::Malformed("there is more than one")),
    }
}

/// What follows `Bearer`, in any case (RFC 9110, section 11.1). Another scheme is somebody else's business. What others
/// may read as this one and we cannot is refused: it would reach them unverified.
fn bearer(value: &HeaderValue) -> Result<Option<&str>, TokenError> {
    let bytes = value.as_bytes().trim_ascii();
    let Some((scheme, rest)) = bytes.split_at_checked("bearer".len()) else { return Ok(None) };
    let is_longer = rest.first().is_some_and(|&byte| byte.is_ascii_graphic());
    if !scheme.eq_ignore_ascii_case(b"bearer") || is_longer {
        return Ok(None);
    }
    let token = rest.strip_prefix(b" ").and_then(|token| str::from_utf8(token.trim_ascii()).ok());
    let is_token = |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    token.filter(is_token).map(Some).ok_or(TokenError::Malformed("one token follows `Bearer` and a space"))
}

/// A value that is nothing but a token.
fn text(value: &HeaderValue) -> Result<Option<&str>, TokenError> {
    let text = value.to_str().map_err(|_| TokenError::Malformed("it is not ASCII"))?.trim();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A cookie's value (RFC 6265, section 4.2.1), without quotes.
fn cookie(headers: &HeaderMap, name: &str) -> Option<Token> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let value = values.flat_map(|value| value.split(';')).find_map(|pair| {
        let (found, value) = pair.trim().split_once('=')?;
        (found == name).then(|| value.trim_matches('"'))
    })?;
    (!value.is_empty()).then(|| token(value))
}

fn subprotocol(headers: &HeaderMap, prefix: &str) -> Option<Token> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let found =
        values.flat_map(|value| value.split(',')).find_map(|name| name.trim().strip_prefix(prefix))?;
    (!found.is_empty()).then(|| token(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let entry = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        entries.iter().map(entry).collect()
    }

    fn sources() -> Vec<TokenSource> {
        vec![
            TokenSource::Authorization,
            TokenSource::Header(HeaderName::from_static("x-token")),
            TokenSource::Cookie("session".into()),
            TokenSource::Subprotocol("bearer.".into()),
        ]
    }

    fn found(entries: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers(entries);
        let shown = Shown { token: of_request(&sources(), &headers), session: None };
        let found = of_call(&sources(), &headers, &shown).unwrap();
        found.map(|found| found.token.0.to_string())
    }

    #[test]
    fn each_place_is_looked_at_in_order() {
        let all = [
            ("authorization", "bearer  a"),
            ("x-token", "Bearer b"),
            ("cookie", "x=1; session=\"c\"; y=2"),
            ("sec-websocket-protocol", "bidiway.v1, bearer.d"),
        ];
        for (from, token) in ["a", "b", "c", "d"].into_iter().enumerate() {
            assert_eq!(found(&all[from..]).as_deref(), Some(token));
        }
        assert_eq!(found(&[("x-token", "plain")]).as_deref(), Some("plain"));
        for nothing in [
            ("authorization", "Basic YTpi"),
            ("authorization", "Bear a"),
            ("authorization", "Bearers a"),
            ("cookie", "sessions=c; session="),
            ("sec-websocket-protocol", "bidiway.v1, bearer."),
        ] {
            assert_eq!(found(&[nothing]), None, "{nothing:?}");
        }
    }

    #[test]
    fn what_others_may_read_as_a_token_is_refused_if_it_is_none() {
        let values: [&[u8]; 8] = [
            b"Bearer",
            b"bearer ",
            b"Bearer\ta",
            b"BEARER\xa0a",
            b"Bearer a\xe9",
            b"Bearer a b",
            b"Bearer \xe9",
            b" Bearer\t",
        ];
        for name in ["authorization", "x-token"] {
            for value in values {
                let mut headers = HeaderMap::new();
                headers.insert(name, HeaderValue::from_bytes(value).unwrap());
                let found = of_call(&sources(), &headers, &Shown::default());
                assert!(found.is_err(), "{name}: {:?}", value.escape_ascii().to_string());
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-token", HeaderValue::from_bytes(b"a\xe9").unwrap());
        assert!(of_call(&sources(), &headers, &Shown::default()).is_err());
    }

    #[test]
    fn two_tokens_in_one_place_are_refused() {
        let headers = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert!(of_call(&sources(), &headers, &Shown::default()).is_err());
    }

    #[test]
    fn services_get_the_verified_token_and_no_other() {
        let two = [("authorization", "Bearer a"), ("x-token", "forged")];
        for (forwards, left) in [(true, 1), (false, 0)] {
            let mut metadata = headers(&two);
            let found = of_call(&sources(), &metadata, &Shown::default()).unwrap().unwrap();
            forward(&sources(), &found, forwards, &mut metadata);
            assert_eq!(metadata.len(), left);
        }
        let shown = Shown { token: Some(token("c")), session: None };
        let mut metadata = headers(&[("authorization", "Basic YTpi")]);
        let found = of_call(&sources(), &metadata, &shown).unwrap().unwrap();
        forward(&sources(), &found, true, &mut metadata);
        assert_eq!(metadata["authorization"], "Bearer c");
        assert!(!format!("{found:?} {metadata:?} {shown:?}").contains("\"c\""), "tokens are not shown");
    }
}
