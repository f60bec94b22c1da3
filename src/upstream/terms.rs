//! On what terms a call runs, besides its deadline: who has to be asked before it goes upstream, and how long it may go
//! on. What decides either lives on other floors.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{lane::Lane, pool::Pool};
use crate::wire::Outcome;

/// The terms of a call.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Asked before upstream hears of the call.
    pub permission: Option<Permission>,
    /// Ends the call when its time is over.
    pub lease: Option<Arc<dyn Lease>>,
    /// The greatest age of a call on its route; its upstream's holds besides.
    pub max_age: Option<Duration>,
}

/// The metadata that goes upstream, or how the call ends instead.
pub type Decision = Result<HeaderMap, Box<Outcome>>;

type Ask = dyn Fn(HeaderMap) -> Pin<Box<dyn Future<Output = Decision> + Send>> + Send + Sync;

/// What a call waits for before it goes upstream. It is given the call's metadata. Meanwhile the call can be cancelled,
/// which drops the future, and its deadline passes.
#[derive(Clone)]
pub struct Permission(Arc<Ask>);

impl Permission {
    /// A permission that is asked for in this way.
    pub fn new<F>(ask: impl Fn(HeaderMap) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Decision> + Send + 'static,
    {
        Self(Arc::new(move |metadata| Box::pin(ask(metadata))))
    }

    /// The same, and then something is done to the metadata.
    pub fn then(self, then: impl Fn(&mut HeaderMap) + Send + Sync + 'static) -> Self {
        let then = Arc::new(then);
        Self::new(move |metadata| {
            let (decision, then) = ((self.0)(metadata), Arc::clone(&then));
            async move {
                let mut metadata = decision.await?;
                then(&mut metadata);
                Ok(metadata)
            }
        })
    }

    /// Places the call when it is permitted. Dropping the handle gives the question up.
    pub(super) fn ask(&self, metadata: HeaderMap, lane: Arc<Lane>, pool: Arc<Pool>) -> AbortOnDropHandle<()> {
        let decision = (self.0)(metadata);
        AbortOnDropHandle::new(tokio::spawn(async move {
            match decision.await {
                // A place only now: who has to be verified first must not take those of others.
                Ok(metadata) => match pool.enter() {
                    Ok(place) => {
                        lane.set_metadata(metadata);
                        lane.enter(place);
                        pool.place(lane);
                    }
                    Err(outcome) => lane.fail(*outcome),
                },
                Err(outcome) => lane.fail(*outcome),
            }
        }))
    }
}

impl fmt::Debug for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permission")
    }
}

/// A time that a call is allowed, and that may be prolonged while the call runs.
pub trait Lease: fmt::Debug + Send + Sync {
    /// When the time is over. Asked as the call begins, and again when that moment has come: if it is later then, the
    /// call goes on.
    fn until(&self) -> Instant;

    /// How the call ends when it is over.
    fn outcome(&self) -> Outcome;
}
