//! One worker's front door: every request of the public listeners comes in here.

use std::{
    collections::HashMap,
    mem,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{
    HeaderValue, Method, Request, Response, Version,
    header::{CONTENT_TYPE, USER_AGENT},
    request::Parts,
};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::{
    AddressTable, ClientCertificate, Cors, Drain, Rejection, RequestKind, Resource, Routes, Settings,
    cancel_brake::CancelBrake,
    carrier::{self, SessionDirectory},
    exchange::{self, HttpDialect},
    guard,
    identity::Shown,
    json::{self, JsonForm},
    linger::{HeardOut, hear_out},
    overload::Lag,
    own_services, pages, prefix,
    route::host_of,
    schema_pages::public_schema_router,
};
use crate::{
    schema::Schema,
    telemetry::{ClientNames, Metrics},
    upstream::Upstream,
};

/// What is known of the connection a request came on.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// The client's address (a Unix listener would say 0.0.0.0:0).
    pub peer: SocketAddr,
    /// Whether the client came by TLS: to us, or to a trusted proxy before us.
    pub tls: bool,
    /// The certificate that the client has shown in the handshake.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// How long sessions that begin on its listener wait without a carrier; `None`: as the settings say.
    pub resume: Option<Duration>,
    /// What services read in `x-forwarded-for`: the client's IP address, behind it those of proxies; made once for all
    /// calls.
    pub(crate) forwarded_for: HeaderValue,
    /// A trusted proxy made the connection, and says that it does not know for whom, or for itself: what comes on it is
    /// not the proxy's word.
    pub unnamed: bool,
    /// A trusted proxy made the request, for the client.
    pub(crate) by_proxy: bool,
    /// What the request says about its client besides metadata.
    pub(crate) shown: Shown,
    /// Counts the calls that the client gives up.
    pub(crate) brake: Option<Arc<CancelBrake>>,
    /// The host that the request names; `None` also where neither a route asks for it nor may ask later.
    pub(crate) host: Option<Arc<str>>,
    /// Held by everything that goes on on the connection.
    pub(crate) in_use: Arc<()>,
    /// What the request says its client is, for the log.
    pub(crate) user_agent: Option<Arc<str>>,
}

impl ConnInfo {
    /// A connection from `peer`.
    pub fn new(peer: SocketAddr, tls: bool) -> Self {
        let address = HeaderValue::try_from(peer.ip().to_canonical().to_string());
        let forwarded_for = address.expect("an address is printable ASCII");
        Self {
            peer,
            tls,
            certificate: None,
            resume: None,
            forwarded_for,
            unnamed: false,
            by_proxy: false,
            shown: Shown::default(),
            brake: None,
            host: None,
            in_use: Arc::default(),
            user_agent: None,
        }
    }

    /// What whatever goes on on the connection has to hold, if it does not hold this.
    pub fn in_use(&self) -> Arc<()> {
        Arc::clone(&self.in_use)
    }

    /// How long a session that begins here waits without a carrier.
    pub(crate) fn resume_grace(&self, settings: &Settings) -> Duration {
        self.resume.unwrap_or(settings.session.resume)
    }

    /// Completes when the client has given too many calls up. For one task.
    pub(crate) fn cancel_storm(&self) -> impl Future<Output = ()> + Send + use<> {
        let brake = self.brake.clone();
        async move {
            match brake {
                Some(brake) => brake.tripped().await,
                None => std::future::pending().await,
            }
        }
    }

    /// The same, with a brake of its own for calls that are given up: a connection has one, and each session.
    pub(crate) fn with_brake(self, cancels_per_second: Option<u32>) -> Self {
        Self { brake: cancels_per_second.map(CancelBrake::new).map(Arc::new), ..self }
    }
}

/// One worker's front door. It stays while the configuration changes: what comes from there is its [`Plan`].
#[derive(Debug)]
pub struct Edge {
    /// Locked to take it or to put another there: by requests and calls as they begin, and by no message.
    plan: RwLock<Arc<Plan>>,
    /// Shared by all workers.
    pub metrics: Arc<Metrics>,
    /// Shared by all workers.
    pub drain: Drain,
    /// Shared by all workers.
    pub addresses: Arc<AddressTable>,
    /// Shared by all workers.
    pub sessions: Arc<SessionDirectory>,
    /// Whether this worker's event loop lags.
    pub(crate) lag: Lag,
}

/// What the configuration says, as a worker uses it. A reload puts another in its place; running calls go on with
/// what they took from theirs, and an upstream that only they still use closes with the last of them.
#[derive(Debug)]
pub struct Plan {
    /// The same for all workers.
    pub settings: Arc<Settings>,
    /// Routes to this worker's upstreams.
    pub routes: Arc<Routes>,
    /// Those upstreams.
    upstreams: Vec<Upstream>,
    /// Their schemas, which all workers share, by name.
    pub(crate) schemas: Vec<Schema>,
    /// What is no call.
    pages: Router,
}

impl Plan {
    /// Routes and pages over a worker's upstreams and their schemas, by their names. All but the upstreams is shared by
    /// the workers.
    fn new(
        settings: Arc<Settings>,
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
        metrics: &Metrics,
        drain: &Drain,
        edge: Weak<Edge>,
    ) -> Arc<Self> {
        let routes = own_services::routes(&settings, upstreams, schemas, metrics, drain, edge);
        let mut extra = settings.pages.clone();
        if settings.schema_endpoint {
            extra = extra.merge(public_schema_router("/bidiway/schema", schemas, routes.clone()));
        }
        let upstreams = upstreams.values().cloned().collect();
        let mut schemas: Vec<_> = schemas.values().cloned().collect();
        schemas.sort_by(|a, b| a.name().cmp(b.name()));
        Arc::new(Self { settings, routes, upstreams, schemas, pages: pages::router(extra) })
    }
}

impl Edge {
    /// A worker's front door, over its upstreams and their schemas, by their names. All else is shared by the workers.
    pub fn new(
        settings: Arc<Settings>,
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
        metrics: Arc<Metrics>,
        drain: Drain,
        addresses: Arc<AddressTable>,
        sessions: Arc<SessionDirectory>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|edge| {
            let plan = Plan::new(settings, upstreams, schemas, &metrics, &drain, Weak::clone(edge));
            Self { plan: RwLock::new(plan), metrics, drain, addresses, sessions, lag: Lag::default() }
        })
    }

    /// What there is too little of for new work, if anything.
    pub(crate) fn overloaded(&self) -> Option<Resource> {
        let process = self.addresses.overload.strain().map(|(resource, _)| resource);
        process.or_else(|| self.lag.is_long().then_some(Resource::EventLoop))
    }

    /// What the configuration says now.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its settings. Who needs the same ones for longer keeps them.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.plan().settings)
    }

    /// Where calls go that begin now.
    pub fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.plan().routes)
    }

    /// From now on, whatever begins goes by these.
    pub fn follow(
        self: &Arc<Self>,
        settings: Arc<Settings>,
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
    ) {
        let edge = Arc::downgrade(self);
        let plan = Plan::new(settings, upstreams, schemas, &self.metrics, &self.drain, edge);
        let old = mem::replace(&mut *self.plan.write().unwrap_or_else(PoisonError::into_inner), plan);
        drop(old);
    }

    /// Closes the connections to services that no call uses.
    pub fn close_unused(&self) {
        self.plan().upstreams.iter().for_each(Upstream::close_unused);
    }

    /// Answers one request: guard, dialect, call. Never fails; every refusal is an answer.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>, mut conn: ConnInfo) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let plan = self.plan();
        if let Some(prefix) = &plan.settings.prefix {
            prefix::strip(prefix, &mut head.uri);
        }
        let kind = RequestKind::of(&head);
        // Carriers outlive the plan; the next one may ask for what this one does not.
        // An authorization service is told.
        if plan.routes.ask_for_hosts() || plan.settings.identity.is_some() || kind.lasts() {
            conn.host = host_of(&head).map(Into::into);
        }
        drop(plan);
        conn.user_agent = head.headers.get(USER_AGENT).and_then(ClientNames::printable).map(Into::into);
        let version = head.version;
        let mut conn = self.settings().trusted_proxies.client(&conn, &head.headers).unwrap_or(conn);
        let cors = match guard::check(&self, &head, &conn) {
            Ok(cors) => cors,
            Err(rejection) => {
                hear_out(&self.drain, body);
                return self.reject(rejection, &kind, version);
            }
        };
        if let Err(rejection) = Self::check_form(&kind, &head) {
            hear_out(&self.drain, body);
            let mut response = self.reject(rejection, &kind, version);
            cors.write_to(response.headers_mut());
            return response;
        }
        if let Some(authority) = &self.settings().identity {
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
                let refusal = self.no_call(&head, &conn);
                let (json, version) = (RequestKind::Json(JsonForm::default()), head.version);
                let body = Body::new(HeardOut::new(&self.drain, body));
                let mut request = Request::from_parts(head, body);
                request.extensions_mut().insert(conn);
                match self.plan().pages.clone().oneshot(request).await {
                    Ok(response) if matches!(response.status().as_u16(), 404 | 405) => match refusal {
                        Some(rejection) => self.reject(rejection, &json, version),
                        None => response,
                    },
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

    /// Why a request for a page is no call, if it is for a method of a route and looks like a call: it posts something,
    /// or it has JSON. (A page may be there all the same.)
    fn no_call(&self, head: &Parts, conn: &ConnInfo) -> Option<Rejection> {
        let rejection = match (&head.method, JsonForm::of(head)) {
            (&Method::POST, _) => Rejection::content_type(head.headers.get(CONTENT_TYPE)),
            (_, Some(_)) => Rejection::method(),
            (_, None) => return None,
        };
        let routes = self.routes();
        routes.candidates(conn.host.as_deref(), head.uri.path()).next().map(|_| rejection)
    }

    fn reject(&self, rejection: Rejection, kind: &RequestKind, version: Version) -> Response<Body> {
        self.metrics.refused(rejection.reason);
        rejection.into_response(kind, version)
    }
}
