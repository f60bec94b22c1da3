//! One worker's front door: every request of the public listeners comes in here.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use axum::{Router, body::Body};
use http::{HeaderValue, Method, Request, Response, Version, header::CONTENT_TYPE, request::Parts};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::{
    AddressTable, Cors, Drain, Rejection, RequestKind, Routes, Settings,
    carrier::{self, SessionDirectory},
    exchange::{self, HttpDialect},
    guard,
    identity::Shown,
    json::{self, JsonForm},
    pages,
    schema_pages::public_schema_router,
};
use crate::{schema::Schema, telemetry::Metrics, upstream::Upstream};

/// What is known of the connection a request came on.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// The client's address (a Unix listener would say 0.0.0.0:0).
    pub peer: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// The client's IP address as services read it in `x-forwarded-for`; made once for all calls.
    pub(crate) address: HeaderValue,
    /// What the request says about its client besides metadata.
    pub(crate) shown: Shown,
}

impl ConnInfo {
    /// A connection from `peer`.
    pub fn new(peer: SocketAddr, tls: bool) -> Self {
        let address = HeaderValue::try_from(peer.ip().to_canonical().to_string());
        Self { peer, tls, address: address.expect("an address is printable ASCII"), shown: Shown::default() }
    }
}

/// One worker's front door.
#[derive(Debug)]
pub struct Edge {
    /// Settings, the same for all workers.
    pub settings: Arc<Settings>,
    /// Routes to this worker's upstreams.
    pub routes: Arc<Routes>,
    /// Shared by all workers.
    pub metrics: Arc<Metrics>,
    /// Shared by all workers.
    pub drain: Drain,
    /// Shared by all workers.
    pub addresses: Arc<AddressTable>,
    /// Shared by all workers.
    pub sessions: Arc<SessionDirectory>,
    /// What is no call.
    pages: Router,
}

impl Edge {
    /// A worker's front door over its upstreams and their schemas (by name). All but the upstreams is shared by the
    /// workers.
    pub fn new(
        settings: Arc<Settings>,
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
        metrics: Arc<Metrics>,
        drain: Drain,
        addresses: Arc<AddressTable>,
        sessions: Arc<SessionDirectory>,
    ) -> Arc<Self> {
        let routes = Arc::new(Routes::new(&settings.routes, upstreams, schemas, &metrics));
        let mut extra = settings.pages.clone();
        if settings.schema_endpoint {
            extra = extra.merge(public_schema_router("/bidiway/schema", schemas, routes.clone()));
        }
        let pages = pages::router(extra);
        Arc::new(Self { settings, routes, metrics, drain, addresses, sessions, pages })
    }

    /// Answers one request: guard, dialect, call. Never fails; every refusal is an answer.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>, mut conn: ConnInfo) -> Response<Body> {
        let (head, body) = request.into_parts();
        let kind = RequestKind::of(&head);
        let version = head.version;
        let cors = match guard::check(&self, &head, &conn) {
            Ok(cors) => cors,
            Err(rejection) => return self.reject(rejection, &kind, version),
        };
        if let Err(rejection) = Self::check_form(&kind, &head) {
            let mut response = self.reject(rejection, &kind, version);
            cors.write_to(response.headers_mut());
            return response;
        }
        if let Some(authority) = &self.settings.identity {
            conn.shown = authority.shown(&head.headers);
        }
        self.dispatch(kind, head, body, conn, cors).await
    }

    async fn dispatch(
        self: Arc<Self>,
        kind: RequestKind,
        head: Parts,
        body: Incoming,
        conn: ConnInfo,
        cors: Cors,
    ) -> Response<Body> {
        let mut response = match kind {
            RequestKind::Preflight => return cors.preflight(&head.headers),
            RequestKind::Socket => {
                let version = head.version;
                return carrier::upgrade(&self, Request::from_parts(head, body), &conn)
                    .unwrap_or_else(|rejection| self.reject(rejection, &RequestKind::Socket, version));
            }
            RequestKind::GrpcWeb(negotiated) => {
                exchange::answer(&self, head, body, &conn, HttpDialect::Web(negotiated)).await
            }
            RequestKind::Grpc => exchange::answer(&self, head, body, &conn, HttpDialect::Grpc).await,
            RequestKind::Json(form) => json::answer(&self, head, body, &conn, &form).await,
            RequestKind::HttpCarrier(request) => {
                let version = head.version;
                carrier::http_carrier::answer(&self, head, body, &conn, request)
                    .await
                    .unwrap_or_else(|rejection| self.reject(rejection, &kind, version))
            }
            RequestKind::Page => {
                // Who posts something to a method means a call; and a page may be there all the same.
                let is_call = head.method == Method::POST && self.routes.find(head.uri.path()).is_some();
                let (json, version) = (RequestKind::Json(JsonForm::default()), head.version);
                let content_type = head.headers.get(CONTENT_TYPE).cloned();
                let mut request = Request::from_parts(head, Body::new(body));
                request.extensions_mut().insert(conn);
                match self.pages.clone().oneshot(request).await {
                    Ok(response) if is_call && matches!(response.status().as_u16(), 404 | 405) => {
                        self.reject(Rejection::content_type(content_type.as_ref()), &json, version)
                    }
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        cors.write_to(response.headers_mut());
        response
    }

    /// What a request must have besides its origin.
    fn check_form(kind: &RequestKind, head: &Parts) -> Result<(), Rejection> {
        match kind {
            RequestKind::Grpc if head.version != Version::HTTP_2 => Err(Rejection::native_over_http1()),
            RequestKind::Grpc | RequestKind::GrpcWeb(_) if head.method != Method::POST => {
                Err(Rejection::method())
            }
            _ => Ok(()),
        }
    }

    fn reject(&self, rejection: Rejection, kind: &RequestKind, version: Version) -> Response<Body> {
        self.metrics.refused(rejection.reason);
        rejection.into_response(kind, version)
    }
}
