//! Requests of HTTP carriers on their way to the instance that has the carrier.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;

use super::{INSTANCE, PeerError, dial::Dialer, finder::Place};
use crate::{
    downstream::carrier::{http_carrier::Errand, token::InstanceId},
    session::MAX_PACKET,
    wire::http_carrier::MAX_BODY,
};

/// So many connections to an instance are kept for its next requests.
const IDLE: usize = 16;

/// An answer to a poll: what was ready, and one packet more.
const LARGEST_ANSWER: usize = MAX_BODY + MAX_PACKET;

type Connection = SendRequest<Full<Bytes>>;

/// Brings requests to other instances, and their answers back. Clients send one after the other, so connections stay
/// for the next.
#[derive(Debug)]
pub(super) struct Forwarder {
    dialer: Arc<Dialer>,
    idle: Mutex<HashMap<SocketAddr, Vec<Connection>>>,
}

impl Forwarder {
    pub(super) fn new(dialer: Arc<Dialer>) -> Self {
        Self { dialer, idle: Mutex::default() }
    }

    /// A connection, and whether it was used before: then it may be closed already. Has no limit of time.
    pub(super) async fn connection(&self, place: &Place) -> Result<(Connection, bool), PeerError> {
        while let Some(mut connection) = self.kept(place) {
            if connection.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        Ok((self.fresh(place).await?, false))
    }

    pub(super) async fn fresh(&self, place: &Place) -> Result<Connection, PeerError> {
        let io = self.dialer.connect(place).await;
        let io = io.map_err(|error| PeerError::Unreachable(place.name(), error))?;
        let connection = Dialer::speak(io).await;
        connection.map_err(|error| PeerError::Broken(place.name(), error))
    }

    /// The answer to a request on this connection. Takes as long as the session and the client's poll do.
    pub(super) async fn send(
        &self,
        mut connection: Connection,
        place: &Place,
        instance: InstanceId,
        errand: &Errand,
    ) -> Result<(StatusCode, Bytes), PeerError> {
        let broken = |error| PeerError::Broken(place.name(), error);
        let mut request = Request::new(Full::new(errand.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(errand.kind.path());
        let headers = request.headers_mut();
        let value = |text: String| HeaderValue::try_from(text).map_err(|error| broken(error.into()));
        headers.insert(header::HOST, value(place.address.to_string())?);
        headers.insert(INSTANCE, value(instance.to_string())?);
        errand.owner.write_to(headers);

        let response = connection.send_request(request).await.map_err(|error| broken(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(broken)?;
        self.keep(place, connection);
        if status == StatusCode::MISDIRECTED_REQUEST {
            return Err(PeerError::Moved(place.name()));
        }
        Ok((status, body.to_bytes()))
    }

    fn kept(&self, place: &Place) -> Option<Connection> {
        self.idle().get_mut(&place.address)?.pop()
    }

    fn keep(&self, place: &Place, connection: Connection) {
        let mut idle = self.idle();
        for connections in idle.values_mut() {
            connections.retain(|connection| !connection.is_closed());
        }
        idle.retain(|_, connections| !connections.is_empty());
        let connections = idle.entry(place.address).or_default();
        if connections.len() < IDLE {
            connections.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
