//! What knows the issuers, their keys and the machines: one for all workers and routes.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::{
    KeySource, Settings, Shown, Token, TokenError, TokenSource, Verified,
    api_keys::ApiKeys,
    cache::TokenCache,
    credentials::{self, FoundToken},
    key_store::{self, KeyStore, Renewal},
    token::Parsed,
};
use crate::telemetry::{IdentityMetrics, Metrics};

/// The label of what no provider can be blamed for.
pub(super) const NOBODY: &str = "(none)";

/// The labels of what is no provider of tokens.
pub(super) const API_KEYS: &str = "api_keys";
pub(super) const EXT_AUTHZ: &str = "ext_authz";

/// Tells the time since 1970, by which tokens expire.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What knows who a caller is. Made from the configuration; it begins to fetch keys when the first route uses it.
pub struct Authority {
    settings: Settings,
    stores: Vec<KeyStore>,
    api_keys: Option<ApiKeys>,
    /// Metadata that only the proxy may write.
    claimed: Vec<HeaderName>,
    cache: TokenCache,
    clock: Clock,
    counters: OnceLock<Counters>,
}

struct Counters {
    metrics: IdentityMetrics,
    /// By provider.
    accepted: Vec<Counter>,
    api_keys: Counter,
    ext_authz: Counter,
    verifications: Counter,
}

/// Why a token is not believed, and whose it says to be.
#[derive(Debug)]
pub(super) struct Unverified {
    pub(super) error: TokenError,
    pub(super) provider: Option<usize>,
    /// Those whose newer keys may make it good.
    lacking: Vec<usize>,
}

impl From<TokenError> for Unverified {
    fn from(error: TokenError) -> Self {
        Self { error, provider: None, lacking: Vec::new() }
    }
}

/// Who a client is, from what it says once for many calls.
#[derive(Debug, Default)]
pub(crate) struct Identified {
    /// Who it is, if that is verified.
    pub(crate) principal: Option<Arc<str>>,
    /// It cannot be verified before the issuer's keys are here.
    pub(crate) later: bool,
}

impl Authority {
    /// An authority that knows what the settings say.
    pub fn new(settings: Settings) -> Arc<Self> {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::with_clock(settings, Arc::new(clock))
    }

    /// The same by another clock than the system's.
    pub fn with_clock(settings: Settings, clock: Clock) -> Arc<Self> {
        let store = |provider: &super::ProviderSettings| KeyStore::new(&provider.keys, settings.cooldown);
        let stores = settings.providers.iter().map(store).collect();
        let api_keys = settings.api_keys.clone().map(ApiKeys::new);
        let claims = settings.providers.iter().flat_map(|provider| &provider.claims);
        let mut claimed: Vec<_> = claims.map(|(_, name)| name.clone()).collect();
        claimed.extend(api_keys.as_ref().and_then(ApiKeys::claimed).cloned());
        claimed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        claimed.dedup();
        let cache = TokenCache::new(settings.cache);
        Arc::new(Self { settings, stores, api_keys, claimed, cache, clock, counters: OnceLock::new() })
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes over the keys that another one has fetched of the same URLs: after a reload, an issuer that cannot be
    /// reached is still known.
    pub fn inherit(&self, old: &Self) {
        for (provider, store) in self.settings.providers.iter().zip(&self.stores) {
            let KeySource::Url(own) = &provider.keys else { continue };
            let same = |keys: &KeySource| matches!(keys, KeySource::Url(url) if url.url == own.url);
            let known = old.settings.providers.iter().position(|provider| same(&provider.keys));
            if let Some(known) = known {
                store.inherit(&old.stores[known]);
            }
        }
    }

    /// Counts from now on, and keeps keys fresh in the current runtime. Only the first time.
    pub(super) fn start(self: &Arc<Self>, metrics: &Metrics) {
        self.counters.get_or_init(|| {
            let metrics = metrics.identity();
            let providers = self.settings.providers.iter();
            Counters {
                accepted: providers.map(|provider| metrics.accepted(&provider.name)).collect(),
                api_keys: metrics.accepted(API_KEYS),
                ext_authz: metrics.accepted(EXT_AUTHZ),
                verifications: metrics.verifications(),
                metrics,
            }
        });
        for provider in 0..self.stores.len() {
            key_store::keep(self, provider);
        }
    }

    /// The token of an HTTP request itself, outside of what becomes metadata.
    pub(crate) fn shown(&self, headers: &HeaderMap) -> Shown {
        Shown { token: credentials::of_request(&self.settings.sources, headers), session: None }
    }

    /// Who a client is that says this about all its calls.
    pub(crate) fn identify(&self, metadata: &HeaderMap, shown: &Shown) -> Identified {
        let token = credentials::of_call(&self.settings.sources, metadata, shown).ok().flatten();
        let Some(FoundToken { token, .. }) = token else {
            let found = self.api_keys.as_ref().map(|keys| (keys, keys.find(metadata)));
            let principal = match found {
                Some((keys, Ok(Some(found)))) => Some(Arc::clone(keys.principal(found))),
                _ => None,
            };
            return Identified { principal, ..Identified::default() };
        };
        let (principal, later) = match self.verify(&token, &self.everybody()) {
            Ok(verified) => (Some(Arc::clone(&verified.principal)), false),
            Err(unverified) => (None, self.renew(&unverified).is_some()),
        };
        Identified { principal, later }
    }

    /// When a token's time is over; far away when the clock cannot tell.
    pub(super) fn end_of(&self, verified: &Verified) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        Instant::now() + verified.expires.saturating_sub((self.clock)()).min(FAR)
    }

    /// All providers.
    pub(super) fn everybody(&self) -> Vec<usize> {
        (0..self.stores.len()).collect()
    }

    /// Believes a token of one of these providers, or says why not.
    pub(super) fn verify(&self, token: &Token, providers: &[usize]) -> Result<Arc<Verified>, Unverified> {
        let now = (self.clock)();
        let Token(token) = token;
        for &provider in providers {
            let (_, generation) = self.stores[provider].current();
            if let Some(verified) = self.cache.get(token, provider, generation, now) {
                return Ok(verified);
            }
        }
        let mut refused = Unverified::from(TokenError::Issuer);
        for &index in providers {
            let parsed = Parsed::new(token)?;
            let provider = &self.settings.providers[index];
            if parsed.issuer() != Some(&*provider.issuer) {
                continue;
            }
            let (keys, generation) = self.stores[index].current();
            let verified = match keys {
                Some(keys) => {
                    self.count_verification();
                    parsed.verify(index, provider, &keys, now)
                }
                None => Err(TokenError::NoKeys),
            };
            match verified {
                Ok(verified) => {
                    let verified = Arc::new(verified);
                    self.cache.put(token, &verified, generation);
                    return Ok(verified);
                }
                Err(error) => {
                    let is_lacking = matches!(error, TokenError::UnknownKey | TokenError::NoKeys);
                    // Several providers may have one issuer; what may change counts more than what will not.
                    if is_lacking || refused.lacking.is_empty() {
                        refused.error = error;
                        refused.provider = Some(index);
                    }
                    refused.lacking.extend(is_lacking.then_some(index));
                }
            }
        }
        Err(refused)
    }

    /// Newer keys may make a token good: when they will be here, if they may be asked for.
    pub(super) fn renew(&self, unverified: &Unverified) -> Option<Renewal> {
        let renewals = unverified.lacking.iter().filter_map(|&provider| self.stores[provider].renew());
        Renewal::of(renewals.collect())
    }

    /// Fetches no keys from now on: another one has taken its place. What it knows stays known to those who still ask.
    pub(crate) fn retire(&self) {
        self.stores.iter().for_each(KeyStore::retire);
    }

    /// Takes away what only the proxy may say.
    pub(super) fn remove_claimed(&self, metadata: &mut HeaderMap) {
        for name in &self.claimed {
            metadata.remove(name);
        }
    }

    /// The metadata that have tokens and API keys.
    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &HeaderName> {
        let tokens = self.settings.sources.iter().filter_map(TokenSource::header);
        tokens.chain(self.api_keys.as_ref().map(ApiKeys::header))
    }

    pub(super) fn api_keys(&self) -> Option<&ApiKeys> {
        self.api_keys.as_ref()
    }

    pub(super) fn key_store(&self, provider: usize) -> &KeyStore {
        &self.stores[provider]
    }

    pub(super) fn source(&self, provider: usize) -> &KeySource {
        &self.settings.providers[provider].keys
    }

    /// How often a provider's keys are fetched.
    pub(super) fn interval(&self, provider: usize) -> Duration {
        match self.source(provider) {
            KeySource::Secret(_) => Duration::MAX,
            KeySource::File { refresh, .. } => *refresh,
            KeySource::Url(url) => url.refresh,
        }
    }

    /// A provider's keys were asked for.
    pub(super) fn fetched(&self, provider: usize, result: Result<&'static str, String>) {
        let name = &self.settings.providers[provider].name;
        let word = match &result {
            Ok(word) => word,
            Err(error) => {
                tracing::warn!(provider = %name, %error, "the issuer's keys cannot be had; those known stay");
                "failed"
            }
        };
        if let Some(Counters { metrics, .. }) = self.counters.get() {
            metrics.fetched(name, word);
            let count = self.stores[provider].current().0.map_or(0, |keys| keys.len());
            metrics.keys(name, count);
        }
    }

    /// A call has shown a good token.
    pub(super) fn count_accepted(&self, provider: usize) {
        if let Some(counters) = self.counters.get() {
            counters.accepted[provider].inc();
        }
    }

    /// A token's signature is about to be looked at.
    fn count_verification(&self) {
        if let Some(counters) = self.counters.get() {
            counters.verifications.inc();
        }
    }

    /// A call has shown a good key.
    pub(super) fn count_api_key(&self) {
        if let Some(counters) = self.counters.get() {
            counters.api_keys.inc();
        }
    }

    /// The authorization service has let a call pass.
    pub(super) fn count_permitted(&self) {
        if let Some(counters) = self.counters.get() {
            counters.ext_authz.inc();
        }
    }

    /// A call is refused, for this reason.
    pub(super) fn count_refused(&self, who: &str, result: &'static str) {
        if let Some(counters) = self.counters.get() {
            counters.metrics.refused(who, result);
        }
    }

    /// A provider's name for metrics.
    pub(super) fn name(&self, provider: Option<usize>) -> &str {
        provider.map_or(NOBODY, |provider| &self.settings.providers[provider].name)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("settings", &self.settings).finish_non_exhaustive()
    }
}
