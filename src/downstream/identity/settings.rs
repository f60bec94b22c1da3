//! What verifying identities needs to know.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;

use super::{Algorithm, ApiKey, Authority, JwksUrl, KeySet};

/// Settings of what verifies who a caller is, shared by all workers and routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where a call's token is looked for; the first place that has one counts.
    pub sources: Vec<TokenSource>,
    /// Whose tokens are believed.
    pub providers: Vec<ProviderSettings>,
    /// Whether services get the token: as it came in metadata, and as `authorization: Bearer` otherwise. Yes.
    pub forward_token: bool,
    /// Keys of machines.
    pub api_keys: Option<ApiKeySettings>,
    /// Tokens remembered as verified. 10,000, of some 2 KiB each.
    pub cache: usize,
    /// The least time between two fetches of an issuer's keys because of a token with an unknown one. 10 s.
    pub cooldown: Duration,
}

impl Settings {
    /// Nothing is believed yet; tokens come in `authorization`.
    pub fn new() -> Self {
        Self {
            sources: vec![TokenSource::Authorization],
            providers: Vec::new(),
            forward_token: true,
            api_keys: None,
            cache: 10_000,
            cooldown: Duration::from_secs(10),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

/// A place where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// Metadata `authorization: Bearer TOKEN` (RFC 6750, section 2.1).
    Authorization,
    /// Other metadata, with or without `Bearer` before the token.
    Header(HeaderName),
    /// A cookie of this name, of the request itself: the one that opened a socket, or is the call.
    Cookie(String),
    /// An entry among the subprotocols that a WebSocket offers: this prefix, and the token. Never chosen.
    Subprotocol(String),
}

/// An issuer whose tokens are believed.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderSettings {
    /// Its name in the configuration, for routes and metrics.
    pub name: String,
    /// `iss`, to the letter.
    pub issuer: Box<str>,
    /// One of these must be among `aud`. Empty: the token must have no `aud`.
    pub audiences: Vec<String>,
    /// What its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// Its keys.
    pub keys: KeySource,
    /// How far the clocks may differ. 30 s.
    pub leeway: Duration,
    /// Which claims services learn, and as what. Clients cannot send metadata of these names.
    pub claims: Vec<(String, HeaderName)>,
}

impl ProviderSettings {
    /// An issuer of tokens for one audience.
    pub fn new(name: impl Into<String>, issuer: &str, audience: &str, keys: KeySource) -> Self {
        Self {
            name: name.into(),
            issuer: issuer.into(),
            audiences: vec![audience.to_owned()],
            algorithms: Algorithm::all(matches!(keys, KeySource::Secret(_))),
            keys,
            leeway: Duration::from_secs(30),
            claims: Vec::new(),
        }
    }
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// A secret, which never changes.
    Secret(KeySet),
    /// A JSON Web Key Set in a file, looked at again from time to time.
    File {
        /// Where it is.
        path: PathBuf,
        /// What it held at the start.
        first: KeySet,
        /// How often.
        refresh: Duration,
    },
    /// The same at a URL.
    Url(JwksUrl),
}

/// Keys of machines.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeySettings {
    /// The metadata that has the key. `x-api-key`.
    pub header: HeaderName,
    /// Those that are accepted.
    pub keys: Vec<ApiKey>,
    /// The metadata in which services learn the key's name.
    pub name_header: Option<HeaderName>,
    /// Whether services get the key itself. No.
    pub forward: bool,
}

impl ApiKeySettings {
    /// These keys, in `x-api-key`.
    pub fn new(keys: Vec<ApiKey>) -> Self {
        Self { header: HeaderName::from_static("x-api-key"), keys, name_header: None, forward: false }
    }
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Who has a valid token or key.
    Required,
    /// Who has a valid token or key, or none.
    Optional,
    /// Everybody; nothing is looked at.
    Off,
}

/// What a route asks for.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whether it asks at all.
    pub mode: Mode,
    /// Whose tokens are good here, as places in [`Settings::providers`].
    pub providers: Vec<usize>,
    /// Whether API keys are good here.
    pub api_keys: bool,
    /// Claims that a token must have, each with all of these values.
    pub require: HashMap<String, Vec<String>>,
    /// Who decides besides.
    pub ext_authz: Option<Arc<ExtAuthzSettings>>,
}

/// A service that decides about each call: Envoy's `envoy.service.auth.v3.Authorization`.
#[derive(Clone, Debug)]
pub struct ExtAuthzSettings {
    /// The name of its upstream.
    pub upstream: String,
    /// How long it may take. 1 s.
    pub timeout: Duration,
    /// Whether calls pass that it did not answer for. No.
    pub allow_on_failure: bool,
    /// What it is told of a call's metadata; `None`: everything.
    pub headers: Option<Vec<HeaderName>>,
}

impl ExtAuthzSettings {
    /// The defaults.
    pub fn new(upstream: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            timeout: Duration::from_secs(1),
            allow_on_failure: false,
            headers: None,
        }
    }
}

/// What a route's calls are checked by.
#[derive(Clone, Debug)]
pub struct Auth {
    /// What knows the issuers; the same for all routes.
    pub authority: Arc<Authority>,
    /// What this route asks for.
    pub rule: Arc<Rule>,
}
