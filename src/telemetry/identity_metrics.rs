//! Who calls, in metrics.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthLabels {
    provider: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Provider {
    provider: String,
}

/// What is counted of identities.
#[derive(Clone, Debug, Default)]
pub(super) struct IdentityFamilies {
    auth: Family<AuthLabels, Counter>,
    fetches: Family<AuthLabels, Counter>,
    keys: Family<Provider, Gauge>,
    verifications: Counter,
}

impl IdentityFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("auth", "Calls checked, by who knows the caller and what came out", self.auth.clone());
        r.register(
            "jwks_fetches",
            "Issuers' keys asked for: changed, unchanged or failed",
            self.fetches.clone(),
        );
        r.register("jwks_keys", "Keys of an issuer that are known now", self.keys.clone());
        r.register(
            "token_verifications",
            "Tokens that were verified, and not remembered from before",
            self.verifications.clone(),
        );
    }

    /// The handles for what verifies identities.
    pub(super) fn handles(&self) -> IdentityMetrics {
        IdentityMetrics { families: self.clone() }
    }
}

/// Identities in metrics. `provider` is a configured name, `api_keys`, `ext_authz` or `(none)`.
#[derive(Clone, Debug)]
pub struct IdentityMetrics {
    families: IdentityFamilies,
}

impl IdentityMetrics {
    /// The handle for what goes well, which is kept: calls need no look-up then.
    pub fn accepted(&self, provider: &str) -> Counter {
        self.auth(provider, "ok")
    }

    /// The handle for tokens that are verified anew.
    pub fn verifications(&self) -> Counter {
        self.families.verifications.clone()
    }

    /// A call was refused, or its question was answered with this word.
    pub fn refused(&self, provider: &str, result: &'static str) {
        self.auth(provider, result).inc();
    }

    /// An issuer's keys were asked for; `result` is `changed`, `unchanged` or `failed`.
    pub fn fetched(&self, provider: &str, result: &'static str) {
        let labels = AuthLabels { provider: provider.to_owned(), result };
        self.families.fetches.get_or_create(&labels).inc();
    }

    /// So many of an issuer's keys are known.
    pub fn keys(&self, provider: &str, count: usize) {
        let labels = Provider { provider: provider.to_owned() };
        self.families.keys.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn auth(&self, provider: &str, result: &'static str) -> Counter {
        let labels = AuthLabels { provider: provider.to_owned(), result };
        self.families.auth.get_or_create(&labels).clone()
    }
}
