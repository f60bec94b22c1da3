//! What a route's calls pass before they go upstream.

use std::{collections::HashMap, sync::Arc};

use http::HeaderMap;
use tokio::time::Instant;

use super::{
    Auth, Authority, Mode, Rule, Shown, TokenError, Verified,
    authority::{API_KEYS, NOBODY, Unverified},
    claims,
    credentials::{self, FoundToken},
    ext_authz::{ExtAuthz, Question},
    key_store::Renewal,
    lease::TokenLease,
};
use crate::{
    downstream::{ConnInfo, Route},
    telemetry::Metrics,
    upstream::{Lease, Permission, Terms, Upstream},
    wire::{Code, Outcome},
};

/// The checks of a route's calls, as one worker makes them.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    authority: Arc<Authority>,
    rule: Arc<Rule>,
    ext_authz: Option<Arc<ExtAuthz>>,
}

/// A call that passed, or that will if what it waits for says so.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// On whose behalf it is made.
    pub(crate) principal: Option<Arc<str>>,
    /// What is still to be asked, and how long it may go on.
    pub(crate) terms: Option<Box<Terms>>,
}

/// What a call is known by when its token cannot be verified yet.
#[derive(Clone, Debug)]
struct Waiting {
    token: Arc<FoundToken>,
    renewal: Renewal,
    lease: Arc<TokenLease>,
}

/// Takes away what only the proxy may say, before routes look at it: they must not be chosen by forged claims.
pub(crate) fn remove_claimed(settings: &crate::downstream::Settings, metadata: &mut HeaderMap) {
    if let Some(authority) = &settings.identity {
        authority.remove_claimed(metadata);
    }
}

/// The step of admission: may this call pass? Its metadata becomes what the service is to know; the route's rules have the
/// last word on it, also where something has to be asked first.
pub(crate) fn check(
    route: &Arc<Route>,
    conn: &ConnInfo,
    path: &str,
    metadata: &mut HeaderMap,
    deadline: Option<Instant>,
) -> Result<Passed, Box<Outcome>> {
    let mut passed = match &route.gate {
        Some(gate) => gate.check(route, conn, path, metadata, deadline)?,
        None => Passed::default(),
    };
    let asks = passed.terms.as_mut().and_then(|terms| Some((terms.permission.take()?, terms)));
    match asks {
        None => route.settings.request_metadata.apply(metadata),
        Some((permission, terms)) => {
            let route = Arc::clone(route);
            let ruled = permission.then(move |metadata| route.settings.request_metadata.apply(metadata));
            terms.permission = Some(ruled);
        }
    }
    Ok(passed)
}

impl Gate {
    /// The checks of one route over a worker's upstreams. Panics on an upstream that is not there: the configuration has
    /// checked it.
    pub(crate) fn new(auth: &Auth, upstreams: &HashMap<String, Upstream>, metrics: &Metrics) -> Self {
        let Auth { authority, rule } = auth.clone();
        authority.start(metrics);
        let ext_authz = rule.ext_authz.as_ref().map(|settings| {
            let upstream = upstreams.get(&settings.upstream);
            let upstream = upstream.expect("the configuration accepts only upstreams that it has");
            Arc::new(ExtAuthz::new(Arc::clone(settings), upstream))
        });
        Self { authority, rule, ext_authz }
    }

    /// What a newer token says that is shown in this way, if it is good here.
    pub(super) fn newest(
        &self,
        metadata: &HeaderMap,
        shown: &Shown,
    ) -> Option<(Arc<Authority>, Arc<Verified>)> {
        let sources = &self.authority.settings().sources;
        let FoundToken { token, .. } = credentials::of_call(sources, metadata, shown).ok()??;
        let verified = self.authority.verify(&token, &self.rule.providers).ok()?;
        self.rule.accepts(&verified).ok()?;
        Some((Arc::clone(&self.authority), verified))
    }

    fn check(
        &self,
        route: &Route,
        conn: &ConnInfo,
        path: &str,
        metadata: &mut HeaderMap,
        deadline: Option<Instant>,
    ) -> Result<Passed, Box<Outcome>> {
        self.authority.remove_claimed(metadata);
        if self.rule.mode == Mode::Off {
            return Ok(Passed::default());
        }
        let mut passed = Passed::default();
        if self.rule.api_keys {
            passed.principal = self.api_key(metadata)?;
        }
        let mut waiting = None;
        match self.token(conn, metadata)? {
            Some(token) => match self.authority.verify(&token.token, &self.rule.providers) {
                Ok(verified) => {
                    self.accept(&verified, &token, metadata)?;
                    passed.principal = Some(Arc::clone(&verified.principal));
                    // Most calls have a deadline that comes first.
                    if deadline.is_none_or(|deadline| self.authority.end_of(&verified) < deadline) {
                        let lease = self.lease(route, conn, path);
                        lease.begin(&verified);
                        passed.terms.get_or_insert_default().lease = Some(lease);
                    }
                }
                Err(unverified) => match self.authority.renew(&unverified) {
                    Some(renewal) => {
                        let lease = self.lease(route, conn, path);
                        passed.terms.get_or_insert_default().lease = Some(lease.clone() as Arc<dyn Lease>);
                        waiting = Some(Waiting { token: Arc::new(token), renewal, lease });
                    }
                    None => return Err(self.refuse(&unverified)),
                },
            },
            None => self.check_missing(&passed)?,
        }
        if waiting.is_some() || self.ext_authz.is_some() {
            let question = Arc::new(Question {
                peer: conn.peer,
                tls: conn.tls,
                path: path.into(),
                host: conn.host.clone(),
                principal: passed.principal.clone(),
            });
            passed.terms.get_or_insert_default().permission = Some(self.permission(waiting, question));
        }
        Ok(passed)
    }

    fn lease(&self, route: &Route, conn: &ConnInfo, path: &str) -> Arc<TokenLease> {
        Arc::new(TokenLease::new(Arc::clone(&self.authority), route, conn, path))
    }

    /// What has to be waited for: the issuer's keys, the authorization service, or both.
    fn permission(&self, waiting: Option<Waiting>, question: Arc<Question>) -> Permission {
        let gate = self.clone();
        Permission::new(move |mut metadata| {
            let (gate, waiting, mut question) = (gate.clone(), waiting.clone(), Arc::clone(&question));
            async move {
                if let Some(Waiting { token, renewal, lease }) = waiting {
                    renewal.over().await;
                    let verified = gate.authority.verify(&token.token, &gate.rule.providers);
                    let verified = verified.map_err(|unverified| gate.refuse(&unverified))?;
                    gate.accept(&verified, &token, &mut metadata)?;
                    lease.begin(&verified);
                    Arc::make_mut(&mut question).principal = Some(Arc::clone(&verified.principal));
                }
                match &gate.ext_authz {
                    Some(ext_authz) => ext_authz.check(&gate.authority, &question, metadata).await,
                    None => Ok(metadata),
                }
            }
        })
    }

    /// Whose API key the call has, if it has one.
    fn api_key(&self, metadata: &mut HeaderMap) -> Result<Option<Arc<str>>, Box<Outcome>> {
        let Some(keys) = self.authority.api_keys() else { return Ok(None) };
        match keys.find(metadata) {
            Ok(None) => Ok(None),
            Ok(Some(found)) => {
                keys.write_to(found, metadata);
                self.authority.count_api_key();
                Ok(Some(Arc::clone(keys.principal(found))))
            }
            Err(_) => {
                self.authority.count_refused(API_KEYS, "unknown_key");
                let text = format!("the API key in {} is not known", keys.header());
                Err(unauthenticated(text))
            }
        }
    }

    fn token(&self, conn: &ConnInfo, metadata: &HeaderMap) -> Result<Option<FoundToken>, Box<Outcome>> {
        if self.rule.providers.is_empty() {
            return Ok(None);
        }
        let sources = &self.authority.settings().sources;
        credentials::of_call(sources, metadata, &conn.shown).map_err(|error| self.refuse(&error.into()))
    }

    /// A call without a token: perhaps it needs none.
    fn check_missing(&self, passed: &Passed) -> Result<(), Box<Outcome>> {
        let keyed = passed.principal.is_some();
        // Who shows nothing has no claims either.
        let is_required = self.rule.mode == Mode::Required || !self.rule.require.is_empty();
        let asks = is_required && (self.rule.api_keys || !self.rule.providers.is_empty());
        if asks && !keyed {
            self.authority.count_refused(NOBODY, "missing");
            return Err(unauthenticated(match (self.rule.providers.is_empty(), self.rule.api_keys) {
                (false, true) => "a token or an API key is missing",
                (true, _) => "an API key is missing",
                (false, false) => "a token is missing",
            }));
        }
        if keyed && !self.rule.require.is_empty() {
            self.authority.count_refused(API_KEYS, "claims");
            let text = "this method asks for claims of a token, and an API key has none";
            return Err(Box::new(Outcome::proxy(Code::PERMISSION_DENIED, text)));
        }
        Ok(())
    }

    /// A good token: is it good enough here? Then services learn what it says.
    fn accept(
        &self,
        verified: &Arc<Verified>,
        found: &FoundToken,
        metadata: &mut HeaderMap,
    ) -> Result<(), Box<Outcome>> {
        let name = || self.authority.name(Some(verified.provider));
        if let Err(claim) = self.rule.accepts(verified) {
            self.authority.count_refused(name(), "claims");
            let text = format!("the token lacks what this method asks for in its claim {claim:?}");
            return Err(Box::new(Outcome::proxy(Code::PERMISSION_DENIED, text)));
        }
        self.authority.count_accepted(verified.provider);
        let settings = self.authority.settings();
        credentials::forward(&settings.sources, found, settings.forward_token, metadata);
        for (name, value) in &verified.metadata {
            metadata.append(name, value.clone());
        }
        Ok(())
    }

    /// The outcome of a token that is not believed. It never says what is in it.
    fn refuse(&self, unverified: &Unverified) -> Box<Outcome> {
        let Unverified { error, provider, .. } = unverified;
        self.authority.count_refused(self.authority.name(*provider), error.label());
        // Not the client's fault, and may be over soon.
        let code = if *error == TokenError::NoKeys { Code::UNAVAILABLE } else { Code::UNAUTHENTICATED };
        Box::new(Outcome::proxy(code, format!("the token cannot be accepted: {error}")))
    }
}

impl Rule {
    /// A route that asks for a token of any of the first so many providers.
    pub fn required(providers: usize) -> Self {
        Self {
            mode: Mode::Required,
            providers: (0..providers).collect(),
            api_keys: false,
            require: HashMap::new(),
            ext_authz: None,
        }
    }

    /// Whether a token is good enough here; otherwise, the claim that is not.
    pub(super) fn accepts(&self, verified: &Verified) -> Result<(), &str> {
        if !self.providers.contains(&verified.provider) {
            return Err("iss");
        }
        let lacking =
            self.require.iter().find(|(claim, wanted)| !claims::has_all(&verified.claims, claim, wanted));
        lacking.map_or(Ok(()), |(claim, _)| Err(claim))
    }
}

fn unauthenticated(text: impl Into<String>) -> Box<Outcome> {
    Box::new(Outcome::proxy(Code::UNAUTHENTICATED, text))
}
