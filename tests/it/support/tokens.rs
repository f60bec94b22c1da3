//! Issuers of tokens, as the tests want them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{self, KeySize},
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// `iss` of every issuer here.
pub(crate) const ISSUER: &str = "https://id.example.com/";

/// An issuer with a key of each kind: `rsa-NAME`, `p256-NAME`, `p384-NAME`, `ed-NAME`.
pub(crate) struct Issuer {
    name: &'static str,
    rsa: rsa::KeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Issuer {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            rsa: rsa::KeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    /// Its public keys, as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> String {
        let point = |public: &[u8]| {
            let (x, y) = public[1..].split_at((public.len() - 1) / 2);
            (text(x), text(y))
        };
        let (x256, y256) = point(self.p256.public_key().as_ref());
        let (x384, y384) = point(self.p384.public_key().as_ref());
        json!({ "keys": [
            { "kty": "RSA", "kid": self.kid("RS256"), "n": text(&self.modulus()), "e": "AQAB", "use": "sig" },
            { "kty": "EC", "crv": "P-256", "kid": self.kid("ES256"), "x": x256, "y": y256 },
            { "kty": "EC", "crv": "P-384", "kid": self.kid("ES384"), "x": x384, "y": y384, "alg": "ES384" },
            { "kty": "OKP", "crv": "Ed25519", "kid": self.kid("EdDSA"), "x": text(self.ed.public_key().as_ref()) },
        ]})
        .to_string()
    }

    /// The modulus of its RSA key.
    pub(crate) fn modulus(&self) -> Vec<u8> {
        let public: &[u8] = self.rsa.public_key().as_ref();
        // A DER sequence of two integers: the modulus is the first.
        let n = public.windows(5).position(|w| w == [0x02, 0x82, 0x01, 0x01, 0x00]).unwrap();
        public[n + 5..n + 5 + 256].to_vec()
    }

    /// The RSA key as HTTPS sites publish it, in DER: what an attacker may try as a secret.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> =
            aws_lc_rs::encoding::AsDer::as_der(self.rsa.public_key()).unwrap();
        der.as_ref().to_vec()
    }

    /// The key's name for an algorithm.
    pub(crate) fn kid(&self, algorithm: &str) -> String {
        let kind = match algorithm {
            "ES256" => "p256",
            "ES384" => "p384",
            "EdDSA" => "ed",
            _ => "rsa",
        };
        format!("{kind}-{}", self.name)
    }

    /// A token with these claims, signed by ES256.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.signed("ES256", claims)
    }

    /// A token signed by another algorithm.
    pub(crate) fn signed(&self, algorithm: &str, claims: &Value) -> String {
        self.with_header(&json!({ "alg": algorithm, "kid": self.kid(algorithm), "typ": "JWT" }), claims)
    }

    /// A token with this header, signed by what its `alg` says.
    pub(crate) fn with_header(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let rsa = |padding: &'static dyn signature::RsaEncoding| {
            let mut signed = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signed).unwrap();
            signed
        };
        let ec = |key: &EcdsaKeyPair| {
            key.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
        };
        let signed = match header["alg"].as_str().unwrap() {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES384" => ec(&self.p384),
            "EdDSA" => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
            _ => ec(&self.p256),
        };
        format!("{message}.{}", text(&signed))
    }
}

/// A token signed with a secret.
pub(crate) fn by_secret(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = message(header, claims);
    let hash = match header["alg"].as_str().unwrap() {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let signed = hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes());
    format!("{message}.{}", text(signed.as_ref()))
}

/// A token without a signature.
pub(crate) fn unsigned(claims: &Value) -> String {
    message(&json!({ "alg": "none" }), claims) + "."
}

/// What a good token of `subject` says, which expires in so many seconds.
pub(crate) fn claims(subject: &str, seconds: f64) -> Value {
    json!({ "iss": ISSUER, "aud": "chat", "sub": subject, "exp": now().as_secs_f64() + seconds })
}

/// The same with more.
pub(crate) fn claims_with(subject: &str, seconds: f64, more: &Value) -> Value {
    let mut claims = claims(subject, seconds);
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// The time since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", text(header.to_string().as_bytes()), text(claims.to_string().as_bytes()))
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
