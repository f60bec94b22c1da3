//! How long a call may go on with its token.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;

use super::{Authority, Shown, Token, Verified};
use crate::{
    downstream::{ConnInfo, Edge, Route},
    upstream::Lease,
    wire::{Code, Outcome},
};

/// How often a call that waits for its issuer's keys looks whether its token's time is known.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who a session's client is, by what it said last: its token may be newer than those its calls began with. Whom to
/// believe is looked up each time, as the configuration can change meanwhile.
#[derive(Debug)]
pub(crate) struct SessionIdentity {
    edge: Arc<Edge>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The default metadata that the client said last.
    metadata: HeaderMap,
    /// What its carrier's request showed.
    token: Option<Token>,
    /// Nobody could be verified by these yet.
    open: bool,
    /// Who the client has been since it was known.
    principal: Option<Arc<str>>,
}

impl SessionIdentity {
    pub(crate) fn new(edge: Arc<Edge>) -> Arc<Self> {
        Arc::new(Self { edge, state: Mutex::default() })
    }

    /// The client has said Hello, or Refresh, or has come back. Nothing is verified.
    pub(crate) fn hear(&self, metadata: HeaderMap, shown: &Shown) {
        let mut state = self.lock();
        if state.metadata != metadata || state.token != shown.token {
            state.metadata = metadata;
            state.token.clone_from(&shown.token);
            state.open = true;
        }
    }

    /// Verifies what was heard last, unless that is done.
    pub(crate) fn learn(&self) {
        let mut state = self.lock();
        if !mem::take(&mut state.open) {
            return;
        }
        let settings = self.edge.settings();
        let identified =
            settings.identity.as_ref().map(|known| known.identify(&state.metadata, &state.shown()));
        let principal = identified.and_then(|identified| identified.principal);
        // Perhaps the issuer's keys are not here yet.
        state.open = principal.is_none();
        state.principal = principal.or_else(|| state.principal.take());
    }

    /// Who the client is. Expiry changes nothing about that.
    pub(crate) fn principal(&self) -> Option<Arc<str>> {
        self.learn();
        self.lock().principal.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn shown(&self) -> Shown {
        Shown { token: self.token.clone(), session: None }
    }
}

/// The time that a call has by its token; prolonged by a newer token of the same subject that its session's client sends.
#[derive(Debug)]
pub(super) struct TokenLease {
    authority: Arc<Authority>,
    session: Option<SessionCall>,
    /// Set when the token is verified, which may be after the call's begin.
    token: OnceLock<(Arc<Verified>, Instant)>,
}

/// A call of a session, with what finds its route in the configuration that holds now.
#[derive(Debug)]
struct SessionCall {
    session: Arc<SessionIdentity>,
    route: String,
    host: Option<Arc<str>>,
    path: Box<str>,
}

impl SessionCall {
    /// What the client's newest token says, if it is good for the call's route as that is now.
    fn newest(&self) -> Option<(Arc<Authority>, Arc<Verified>)> {
        let plan = self.session.edge.plan();
        // The call's metadata are gone; a route that asks for some is known by its name.
        let is_it = |route: &&Arc<Route>| route.name == self.route || route.settings.metadata.is_empty();
        let route = plan.routes.candidates(self.host.as_deref(), &self.path).find(is_it)?;
        let state = self.session.lock();
        route.gate.as_ref()?.newest(&state.metadata, &state.shown())
    }
}

impl TokenLease {
    pub(super) fn new(authority: Arc<Authority>, route: &Route, conn: &ConnInfo, path: &str) -> Self {
        let session = conn.shown.session.clone().map(|session| SessionCall {
            session,
            route: route.name.clone(),
            host: conn.host.clone(),
            path: path.into(),
        });
        Self { authority, session, token: OnceLock::new() }
    }

    /// The call's token is good.
    pub(super) fn begin(&self, verified: &Arc<Verified>) {
        self.token.get_or_init(|| (Arc::clone(verified), self.authority.end_of(verified)));
    }
}

impl Lease for TokenLease {
    fn until(&self) -> Instant {
        let Some((own, until)) = self.token.get() else { return Instant::now() + LOOK_AGAIN };
        // As long as its own token lasts, none is looked for.
        if *until > Instant::now() {
            return *until;
        }
        let newest = self.session.as_ref().and_then(SessionCall::newest);
        match newest {
            Some((authority, newest))
                if newest.principal == own.principal && newest.expires > own.expires =>
            {
                authority.end_of(&newest)
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
