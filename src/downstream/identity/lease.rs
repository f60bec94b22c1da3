//! How long a call may go on with its token.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;

use super::{Authority, Identified, Rule, Shown, Token, Verified};
use crate::{
    upstream::Lease,
    wire::{Code, Outcome},
};

/// How often a call that waits for its issuer's keys looks whether its token's time is known.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who a session's client is, by what it said last: its token may be newer than those its calls began with.
#[derive(Debug)]
pub(crate) struct SessionIdentity {
    authority: Arc<Authority>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    /// Who the client has been since it was known.
    principal: Option<Arc<str>>,
}

impl SessionIdentity {
    pub(crate) fn new(authority: Arc<Authority>) -> Arc<Self> {
        Arc::new(Self { authority, state: Mutex::default() })
    }

    /// The client has said Hello, or Refresh, or has come back.
    pub(crate) fn learn(&self, metadata: &HeaderMap, shown: &Shown) {
        let Identified { token, principal, .. } = self.authority.identify(metadata, shown);
        let mut state = self.lock();
        state.token = token;
        if principal.is_some() {
            state.principal = principal;
        }
    }

    /// Who the client is. Expiry changes nothing about that.
    pub(crate) fn principal(&self) -> Option<Arc<str>> {
        let known = self.lock().principal.clone();
        known.or_else(|| {
            // Perhaps the issuer's keys were not here yet when it said so.
            let principal = self.newest().map(|verified| Arc::clone(&verified.principal));
            self.lock().principal.clone_from(&principal);
            principal
        })
    }

    /// What the client's newest token says, if it is valid.
    fn newest(&self) -> Option<Arc<Verified>> {
        let token = self.lock().token.clone()?;
        self.authority.verify(&token, &self.authority.everybody()).ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time that a call has by its token; prolonged by a newer token of the same subject that its session's client sends.
#[derive(Debug)]
pub(super) struct TokenLease {
    authority: Arc<Authority>,
    rule: Arc<Rule>,
    session: Option<Arc<SessionIdentity>>,
    /// Set when the token is verified, which may be after the call's begin.
    token: OnceLock<(Arc<Verified>, Instant)>,
}

impl TokenLease {
    pub(super) fn new(
        authority: Arc<Authority>,
        rule: Arc<Rule>,
        session: Option<Arc<SessionIdentity>>,
    ) -> Self {
        Self { authority, rule, session, token: OnceLock::new() }
    }

    /// The call's token is good.
    pub(super) fn begin(&self, verified: &Arc<Verified>) {
        self.token.get_or_init(|| (Arc::clone(verified), self.authority.end_of(verified)));
    }
}

impl Lease for TokenLease {
    fn until(&self) -> Instant {
        let Some((own, until)) = self.token.get() else { return Instant::now() + LOOK_AGAIN };
        let newest = self.session.as_ref().and_then(|session| session.newest());
        match newest {
            Some(newest)
                if newest.principal == own.principal
                    && newest.expires > own.expires
                    && self.rule.accepts(&newest).is_ok() =>
            {
                self.authority.end_of(&newest)
            }
            _ => *until,
        }
    }

    fn outcome(&self) -> Outcome {
        let provider = self.token.get().map(|(verified, _)| verified.provider);
        self.authority.count_refused(self.authority.name(provider), "expired_in_call");
        let text = match self.session {
            Some(_) => {
                "the token expired while the call was running, and no newer one of the same subject came"
            }
            None => "the token expired while the call was running",
        };
        Outcome::proxy(Code::UNAUTHENTICATED, text)
    }
}
