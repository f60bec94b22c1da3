//! The keys of one issuer.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{
    Algorithm,
    key::{Key, Material},
};

/// More keys than any issuer has: a token without a key's name may be tried with each.
const MOST_KEYS: usize = 64;

/// How many keys a token without a key's name is tried with: an issuer has one, and two or three while it changes them.
const MOST_TRIES: usize = 3;

/// The least secret of HMAC with SHA-256 (RFC 7518, section 3.2), in bytes.
pub const LEAST_SECRET: usize = 32;

/// The keys of one issuer, as they are known at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// Why keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// No JSON Web Key Set (RFC 7517, section 5).
    #[error("it is no JSON Web Key Set: {0}")]
    NotJwks(String),
    /// Nothing that verifies a signature.
    #[error(
        "none of its {0} keys can verify signatures here; expected RSA of 2048 bits and more, EC P-256 or P-384, or Ed25519"
    )]
    NoKey(usize),
    /// Too many.
    #[error("it has {0} keys; at most {MOST_KEYS} are taken")]
    TooMany(usize),
    /// A secret that can be guessed.
    #[error(
        "the secret has {0} bytes, and needs at least {LEAST_SECRET}; make one with `openssl rand -hex 32`"
    )]
    ShortSecret(usize),
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<Box<str>>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys that cannot verify are left out, symmetric ones above all: who publishes a secret
    /// has none.
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeySetError> {
        let set: Jwks =
            serde_json::from_slice(json).map_err(|error| KeySetError::NotJwks(error.to_string()))?;
        let count = set.keys.len();
        if count > MOST_KEYS {
            return Err(KeySetError::TooMany(count));
        }
        let read = |key: serde_json::Value| serde_json::from_value(key).ok().and_then(|key: Jwk| key.read());
        let keys: Vec<Key> = set.keys.into_iter().filter_map(read).collect();
        if keys.is_empty() { Err(KeySetError::NoKey(count)) } else { Ok(Self { keys }) }
    }

    /// One secret. A line break at its end is none of it.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeySetError> {
        let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < LEAST_SECRET {
            return Err(KeySetError::ShortSecret(secret.len()));
        }
        let material = Material::Secret(secret.to_vec());
        Ok(Self { keys: vec![Key { id: None, algorithm: None, material }] })
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that a token may be signed with: those of its name, or, where either has no name, those that fit.
    pub(super) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        let named = move |key: &&Key| match (id, &key.id) {
            (Some(asked), Some(own)) => **own == *asked,
            _ => true,
        };
        self.keys.iter().filter(move |key| key.takes(algorithm)).filter(named).take(MOST_TRIES)
    }
}

impl Jwk {
    fn read(self) -> Option<Key> {
        let signs = self.r#use.is_none_or(|purpose| purpose == "sig")
            && self.key_ops.is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        let algorithm = match &self.alg {
            None => None,
            Some(name) => Some(Algorithm::from_name(name)?),
        };
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let strip = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
                let n: Vec<u8> = strip(bytes(&self.n)?);
                let e: Vec<u8> = strip(bytes(&self.e)?);
                if n.len() < 256 || n.len() > 1024 || e.is_empty() {
                    return None;
                }
                Material::Rsa { n, e }
            }
            ("EC", Some("P-256")) => Material::P256(point(&bytes(&self.x)?, &bytes(&self.y)?, 32)?),
            ("EC", Some("P-384")) => Material::P384(point(&bytes(&self.x)?, &bytes(&self.y)?, 48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&self.x).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let key = Key { id: self.kid, algorithm, material };
        (signs && algorithm.is_none_or(|algorithm| key.takes(algorithm))).then_some(key)
    }
}

/// An uncompressed point, whose coordinates have exactly this length (RFC 7518, section 6.2.1.2).
fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [&[4], x, y].concat())
}
