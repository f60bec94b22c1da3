//! Sessions of other instances behind the same address: a carrier that arrives at the wrong one is relayed to the one
//! that has its session.
//!
//! `finder` asks the instances which of them is meant, `dial` connects to it, `relay` is this end of the link: it hands
//! on whatever comes, either way. `guest` is the other end, where the carrier is one like any other. The requests of an HTTP
//! carrier of another instance go there one by one: `forwarder`. Which carriers may
//! come, and how many of an address, is decided where they arrive; whom a session belongs to, where it lives.
//! `docs/decisions/0007` says why it is made this way.

mod dial;
mod finder;
mod forwarder;
mod guest;
mod relay;
mod settings;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use tokio::time::timeout;

use super::{
    http_carrier::Errand,
    mailbox::Arrival,
    socket::{Incoming, Socket},
    token::InstanceId,
};
use crate::{
    downstream::Edge,
    session::Refusal,
    wire::{Code, v1::ResumeFailure},
};
use dial::{Client, Dialer};
use finder::{Finder, Place};
use forwarder::Forwarder;

pub(crate) use guest::answer;
pub use settings::{InvalidPeerAddress, PeerAddress, PeerSettings};

/// Where instances talk to each other; on the peer port there is nothing else.
const PATH: &str = "/bidiway/peer";

/// What the connection is upgraded to: WebSocket frames (RFC 6455) that are not masked. Each message is the client's or
/// the owner's; a ping is meant for the client, a pong is its sign of life.
const PROTOCOL: &str = "bidiway-peer/1";

/// Asked for by a request, and told by every answer: the instance's id, in hexadecimal.
const INSTANCE: HeaderName = HeaderName::from_static("bidiway-instance");

/// The client's address and port.
const CLIENT: HeaderName = HeaderName::from_static("bidiway-client");

/// Whether the client came by TLS: `https` or `http`.
const CLIENT_SCHEME: HeaderName = HeaderName::from_static("bidiway-client-scheme");

/// The token that the client showed outside of its packets, if there is one.
const TOKEN: HeaderName = HeaderName::from_static("bidiway-client-token");
/// The host that the client's request named, where routes ask for hosts.
const CLIENT_HOST: HeaderName = HeaderName::from_static("bidiway-client-host");

/// How long it may take until the owner has answered the client's Hello, with all searching and connecting. Clients wait
/// some seconds for Welcome before they try something else.
const PATIENCE: Duration = Duration::from_secs(3);

/// The owner says by this close code and the number of a [`ResumeFailure`] that the session does not go on. Not for
/// clients: they get a Welcome that says so, and a new session where they are.
const FAILURE: u16 = 3000;

/// Why a carrier was not brought to the instance that it asks for.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("no peer is this instance, of those that answer")]
    Unknown,
    #[error("cannot connect to {0}: {1}")]
    Unreachable(PeerAddress, std::io::Error),
    #[error("{0} is another instance by now")]
    Moved(PeerAddress),
    #[error("{0} refused the carrier with HTTP {1}")]
    Refused(PeerAddress, StatusCode),
    #[error("the link to {0} broke before the session had answered: {1}")]
    Broken(PeerAddress, Box<dyn std::error::Error + Send + Sync>),
    #[error("it took longer than {PATIENCE:?}")]
    Timeout,
}

impl PeerError {
    /// What the client asks for is nowhere any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Unknown | Self::Unreachable(..) | Self::Moved(_))
    }

    /// The reason in metrics and logs.
    fn label(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_instance",
            Self::Unreachable(..) => "unreachable",
            Self::Moved(_) => "moved",
            Self::Refused(..) => "refused",
            Self::Broken(..) => "broken",
            Self::Timeout => "timeout",
        }
    }
}

/// The other instances.
#[derive(Debug)]
pub(super) struct Peers {
    settings: PeerSettings,
    finder: Finder,
    forwarder: Forwarder,
    dialer: Arc<Dialer>,
}

impl Peers {
    pub(super) fn new(settings: &PeerSettings) -> Self {
        let dialer = Arc::new(Dialer::new(&settings.client));
        let finder = Finder::new(settings.addresses.clone(), Arc::clone(&dialer));
        let forwarder = Forwarder::new(Arc::clone(&dialer));
        Self { settings: settings.clone(), finder, forwarder, dialer }
    }

    /// Whether these settings lead to the same instances in the same way.
    pub(super) fn are(&self, settings: &PeerSettings) -> bool {
        self.settings.addresses == settings.addresses && self.settings.client == settings.client
    }

    /// Brings a carrier to a session of another instance, and relays it until its end. If the session does not go on,
    /// the carrier is told why. It is never brought any further: the other instance looks among its own sessions only.
    pub(super) async fn bring(self: Arc<Self>, edge: Arc<Edge>, instance: InstanceId, arrival: Arrival) {
        let client = Client {
            hello: arrival.hello.clone(),
            conn: arrival.conn.clone(),
            visitor: arrival.visitor.clone(),
        };
        let opened = match timeout(PATIENCE, self.open(instance, &client)).await {
            Ok(opened) => opened,
            Err(_) => Err(PeerError::Timeout),
        };
        let (owner, answer) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                edge.metrics.relay_failed(error.label());
                let (peer, label) = (client.conn.peer, error.label());
                tracing::warn!(%peer, owner = %instance, label, %error, "session of another instance not reached");
                return arrival.refuse(Refusal::Failure(ResumeFailure::OtherInstance));
            }
        };
        match answer {
            Incoming::Packet(welcome) => {
                let Some(link) = arrival.accept() else { return };
                relay::relay(&edge, &client.conn, instance, link, owner, welcome).await;
            }
            Incoming::Closed(Some(code)) if failure(code).is_some() => {
                arrival.refuse(Refusal::Failure(failure(code).unwrap_or_default()));
            }
            // What the client did wrong, or that it should come again.
            Incoming::Closed(code) => {
                let Some(link) = arrival.accept() else { return };
                let unavailable = Code::UNAVAILABLE.to_close();
                let farewell = link.farewell(code.unwrap_or(unavailable), owner.reason());
                farewell.await;
            }
            // `open` returns no others.
            Incoming::Text(_) | Incoming::Alive | Incoming::Broken(_) => {}
        }
    }

    /// Passes a request of an HTTP carrier on to the instance that has it, and its answer back. Numbers allow that one is
    /// sent twice.
    pub(super) async fn forward(
        &self,
        edge: &Edge,
        instance: InstanceId,
        errand: &Errand,
    ) -> Result<(StatusCode, Bytes), PeerError> {
        let answer = self.pass_on(instance, errand).await;
        match &answer {
            Ok(_) => edge.metrics.carrier_request_relayed(),
            Err(error) => {
                let label = error.label();
                edge.metrics.relay_failed(label);
                // Anybody can make up an instance.
                tracing::debug!(owner = %instance, label, %error, "carrier of another instance not reached");
            }
        }
        answer
    }

    async fn pass_on(&self, instance: InstanceId, errand: &Errand) -> Result<(StatusCode, Bytes), PeerError> {
        let forwarder = &self.forwarder;
        let place = self.place(instance).await?;
        let error = match in_time(forwarder.connection(&place)).await {
            Ok((connection, used)) => match forwarder.send(connection, &place, instance, errand).await {
                // Closed in the very moment, for having been idle.
                Err(PeerError::Broken(..)) if used => {
                    let connection = in_time(forwarder.fresh(&place)).await?;
                    return forwarder.send(connection, &place, instance, errand).await;
                }
                Err(error @ PeerError::Moved(_)) => error,
                answer => return answer,
            },
            Err(error @ PeerError::Unreachable(..)) => error,
            Err(error) => return Err(error),
        };
        // It was there once. It may have another address now.
        self.finder.forget(instance, &place);
        let place = self.place(instance).await.map_err(|_| error)?;
        let connection = in_time(forwarder.fresh(&place)).await?;
        forwarder.send(connection, &place, instance, errand).await
    }

    async fn place(&self, instance: InstanceId) -> Result<Place, PeerError> {
        in_time(async { self.finder.find(instance).await.ok_or(PeerError::Unknown) }).await
    }

    /// A link to the instance, and the first that its session says.
    async fn open(&self, instance: InstanceId, client: &Client) -> Result<(Socket, Incoming), PeerError> {
        let place = self.finder.find(instance).await.ok_or(PeerError::Unknown)?;
        let error = match self.dialer.open(&place, instance, client).await {
            Err(error @ (PeerError::Unreachable(..) | PeerError::Moved(_))) => error,
            opened => return opened,
        };
        // It was there once. It may have another address now.
        self.finder.forget(instance, &place);
        let place = self.finder.find(instance).await.ok_or(error)?;
        self.dialer.open(&place, instance, client).await
    }
}

async fn in_time<T>(future: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
    timeout(PATIENCE, future).await.unwrap_or(Err(PeerError::Timeout))
}

/// What a close code between instances says of the session.
fn failure(code: u16) -> Option<ResumeFailure> {
    let number = i32::from(code.checked_sub(FAILURE)?);
    ResumeFailure::try_from(number).ok().filter(|&failure| failure != ResumeFailure::None)
}
