//! A token, and whether it is believed (RFC 7519, RFC 7515).

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Algorithm, KeySet, ProviderSettings, claims};

/// The largest token that is looked at, in bytes. Real ones have one or two thousand.
pub(super) const MAX_TOKEN: usize = 8 * 1024;

/// A token as it came, not believed yet.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(pub(super) Arc<str>);

/// Tokens are secrets, and belong into no log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What a token says, once it is believed.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Which of the configured providers.
    pub(super) provider: usize,
    /// Who: the same for all tokens of one subject of one issuer.
    pub(super) principal: Arc<str>,
    /// From when on it is expired, leeway included, in time since 1970.
    pub(super) expires: Duration,
    /// Everything it says.
    pub(super) claims: Map<String, Value>,
    /// What services learn of it.
    pub(super) metadata: Vec<(HeaderName, HeaderValue)>,
}

/// Why a token is not believed. Never says what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("it has {0} bytes; at most {MAX_TOKEN} are read")]
    TooLarge(usize),
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    #[error("it is signed with an algorithm that is not accepted here")]
    Algorithm,
    #[error("it is signed with a key that its issuer does not publish")]
    UnknownKey,
    #[error("the keys of its issuer could not be fetched")]
    NoKeys,
    #[error("its signature is wrong")]
    Signature,
    #[error("its issuer is not accepted here")]
    Issuer,
    #[error("it is meant for another audience")]
    Audience,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
}

impl TokenError {
    /// The label of a failure in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::NoKeys => "no_keys",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; none is (RFC 7515, section 4.1.11).
    crit: Option<Value>,
}

/// A token taken apart; nothing in it is believed yet.
pub(super) struct Parsed<'a> {
    header: Header,
    claims: Map<String, Value>,
    /// What is signed.
    message: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Parsed<'a> {
    /// Takes a token in the compact form apart.
    pub(super) fn new(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLarge(token.len()));
        }
        let malformed = |what| move || TokenError::Malformed(what);
        let (message, signature) = token.rsplit_once('.').ok_or_else(malformed(PARTS))?;
        let (header, claims) = message.split_once('.').ok_or_else(malformed(PARTS))?;
        if claims.contains('.') {
            return Err(TokenError::Malformed(PARTS));
        }
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header = bytes(header).and_then(|json| serde_json::from_slice(&json).ok());
        let claims = bytes(claims).and_then(|json| serde_json::from_slice(&json).ok());
        Ok(Self {
            header: header.ok_or_else(malformed("its header cannot be read"))?,
            claims: claims.ok_or_else(malformed("its claims cannot be read"))?,
            message: message.as_bytes(),
            signature: bytes(signature).ok_or_else(malformed("its signature is not base64"))?,
        })
    }

    /// Who says to have issued it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Believes the token or says why not. `now`: time since 1970.
    pub(super) fn verify(
        self,
        index: usize,
        provider: &ProviderSettings,
        keys: &KeySet,
        now: Duration,
    ) -> Result<Verified, TokenError> {
        if self.header.crit.is_some() {
            return Err(TokenError::Malformed("it has critical extensions, and none is known here"));
        }
        let algorithm = Algorithm::from_name(&self.header.alg)
            .filter(|algorithm| provider.algorithms.contains(algorithm))
            .ok_or(TokenError::Algorithm)?;
        let mut candidates = keys.candidates(self.header.kid.as_deref(), algorithm).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        if !candidates.any(|key| key.verifies(algorithm, self.message, &self.signature)) {
            return Err(TokenError::Signature);
        }
        if self.issuer() != Some(&*provider.issuer) {
            return Err(TokenError::Issuer);
        }
        self.check_audience(&provider.audiences)?;
        let expires = self.time("exp")?.ok_or(TokenError::Malformed("it has no `exp`"))?;
        let expires = expires.saturating_add(provider.leeway);
        if now >= expires {
            return Err(TokenError::Expired);
        }
        if self.time("nbf")?.is_some_and(|from| now.saturating_add(provider.leeway) < from) {
            return Err(TokenError::NotYetValid);
        }
        let principal = self.principal(&provider.issuer);
        let mut metadata = Vec::new();
        for (claim, name) in &provider.claims {
            claims::to_metadata(&self.claims, claim, name, &mut metadata);
        }
        Ok(Verified { provider: index, principal, expires, claims: self.claims, metadata })
    }

    /// RFC 7519, section 4.1.3: who is not among its audiences must refuse a token, also if he has no name.
    fn check_audience(&self, accepted: &[String]) -> Result<(), TokenError> {
        let is_accepted =
            |name: &Value| name.as_str().is_some_and(|name| accepted.iter().any(|known| known == name));
        let found = match self.claims.get("aud") {
            None => accepted.is_empty(),
            Some(Value::Array(names)) => names.iter().any(is_accepted),
            Some(name) => is_accepted(name),
        };
        if found { Ok(()) } else { Err(TokenError::Audience) }
    }

    /// A `NumericDate`: seconds since 1970, perhaps with a fraction. One before 1970 is 1970, one past all time is the
    /// end of time.
    fn time(&self, claim: &str) -> Result<Option<Duration>, TokenError> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let seconds = value.as_f64().ok_or(TokenError::Malformed("a time in it is no number"))?;
        Ok(Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
    }

    /// Without a subject, each token is somebody else: two of them cannot be told to be one's.
    fn principal(&self, issuer: &str) -> Arc<str> {
        match self.claims.get("sub").and_then(Value::as_str) {
            Some(subject) => format!("jwt:{issuer} {subject}").into(),
            None => {
                let hash = super::crypto::digest::digest(&super::crypto::digest::SHA256, self.message);
                format!("jwt:{issuer} token:{}", URL_SAFE_NO_PAD.encode(hash.as_ref())).into()
            }
        }
    }
}

const PARTS: &str = "a JWT has three parts with points between them";
