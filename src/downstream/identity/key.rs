//! One key with which tokens are verified.

use std::fmt;

use super::{Algorithm, crypto};
use crypto::{hmac, signature};

/// A key, and what it may be used for. Which algorithms a key takes is decided by what it is, never by the token: an RSA
/// key is no secret of HMAC.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// `kid`.
    pub(super) id: Option<Box<str>>,
    /// `alg`: the only one it may be used with.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) material: Material,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// Big-endian, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// A point of P-256, uncompressed (SEC 1, section 2.3.3).
    P256(Vec<u8>),
    /// A point of P-384.
    P384(Vec<u8>),
    /// RFC 8032.
    Ed25519(Vec<u8>),
    /// Of HMAC.
    Secret(Vec<u8>),
}

impl Key {
    /// Whether it can verify this algorithm at all.
    pub(super) fn takes(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        let fits = match &self.material {
            Material::Rsa { .. } => {
                matches!(algorithm, A::Rs256 | A::Rs384 | A::Rs512 | A::Ps256 | A::Ps384 | A::Ps512)
            }
            Material::P256(_) => algorithm == A::Es256,
            Material::P384(_) => algorithm == A::Es384,
            Material::Ed25519(_) => algorithm == A::EdDsa,
            Material::Secret(_) => algorithm.is_symmetric(),
        };
        fits && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// Whether the signature is this key's, of this message, by this algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        if !self.takes(algorithm) {
            return false;
        }
        let unparsed = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(message, signed).is_ok()
        };
        match &self.material {
            Material::Rsa { n, e } => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).is_ok()
            }
            Material::P256(point) => unparsed(&signature::ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => unparsed(&signature::ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => unparsed(&signature::ED25519, key),
            Material::Secret(secret) => {
                let hash = match algorithm {
                    Algorithm::Hs256 => hmac::HMAC_SHA256,
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(hash, secret), message, signed).is_ok()
            }
        }
    }
}

/// Without the material: it may be a secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
