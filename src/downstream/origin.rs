//! Whose pages may call.

use http::{HeaderMap, Uri};

/// The allow-list of origins. Same-origin requests always pass; others need an entry.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    _todo: (),
}

/// A text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an origin: {why}; write scheme://host or scheme://host:port, or \"*\" for any")]
pub struct InvalidOrigin {
    /// What was there.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Origins {
    /// A list from the configuration: origins (`https://app.example.com`), `*` for any, or
    /// `https://*.example.com` for the subdomains of a domain.
    pub fn parse<S: AsRef<str>>(_entries: &[S]) -> Result<Self, Vec<InvalidOrigin>> {
        todo!()
    }

    /// Whether a request with these headers may pass: no Origin (not a browser) passes only for requests that are
    /// no WebSocket upgrade… the guard decides that; this answers for a present Origin. `tls` tells the scheme under
    /// which the client reached us; the host comes from `:authority` or `host`. Scheme, host and port are compared;
    /// `null` never passes.
    pub fn allows(&self, _origin: &[u8], _headers: &HeaderMap, _uri: &Uri, _tls: bool) -> bool {
        todo!()
    }
}
