//! A Bidiway that asks who calls, and services that tell what reached them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode};
use bidiway::{
    downstream::{
        self, RouteSettings, ServicePattern,
        identity::{
            ApiKey, ApiKeySettings, Auth, Authority, Clock, JwksUrl, KeySet, KeySource, ProviderSettings,
            Rule, Settings,
        },
    },
    upstream::ClientTls,
    wire::v1,
};
use http::{HeaderMap, HeaderName, Response};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    time::{self, Instant},
};
use tokio_rustls::TlsAcceptor;

use super::{
    edge::{self, Edge},
    tokens::{self, ISSUER, Issuer},
    upstream::{Exchange, Scripted, end, message, send},
};

pub(crate) const TALK: &str = "/chat.v1.Chat/Talk";

/// An API key, and its SHA-256.
pub(crate) const KEY: &str = "secret";
pub(crate) const KEY_HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// A provider with the issuer's keys, whose claims `sub` and `roles` services learn.
pub(crate) fn provider(issuer: &Issuer) -> ProviderSettings {
    let first = KeySet::from_jwks(issuer.jwks().as_bytes()).unwrap();
    let keys = KeySource::File { path: "nowhere".into(), first, refresh: Duration::from_secs(3600) };
    provider_with(keys)
}

pub(crate) fn provider_with(keys: KeySource) -> ProviderSettings {
    ProviderSettings {
        leeway: Duration::ZERO,
        claims: vec![
            ("sub".into(), HeaderName::from_static("x-user")),
            ("realm.roles".into(), HeaderName::from_static("x-roles")),
        ],
        ..ProviderSettings::new("main", ISSUER, "chat", keys)
    }
}

/// Settings that believe this provider, and one machine.
pub(crate) fn identity(provider: ProviderSettings) -> Settings {
    let keys = ApiKeySettings {
        name_header: Some(HeaderName::from_static("x-client")),
        ..ApiKeySettings::new(vec![ApiKey::new("ci", KEY_HASH).unwrap()])
    };
    Settings { providers: vec![provider], api_keys: Some(keys), ..Settings::new() }
}

/// Settings of a whole Bidiway: this rule for everything.
pub(crate) fn downstream(identity: Settings, rule: Rule) -> downstream::Settings {
    with_routes(identity, vec![(ServicePattern::Any, rule)])
}

pub(crate) fn with_routes(identity: Settings, routes: Vec<(ServicePattern, Rule)>) -> downstream::Settings {
    let authority = Authority::with_clock(identity, clock());
    let route = |(pattern, rule)| RouteSettings {
        auth: Some(Auth { authority: Arc::clone(&authority), rule: Arc::new(rule) }),
        ..RouteSettings::new(pattern, "chat")
    };
    downstream::Settings {
        routes: routes.into_iter().map(route).collect(),
        identity: Some(Arc::clone(&authority)),
        ..downstream::Settings::default()
    }
}

/// The time, which goes on by as much as the test's own: see [`later`].
fn clock() -> Clock {
    let (now, begin) = (tokens::now(), Instant::now());
    Arc::new(move || now + begin.elapsed())
}

/// So many seconds go by in no time, for everything that runs in the test's thread.
pub(crate) async fn later(seconds: f64) {
    time::pause();
    time::advance(Duration::from_secs_f64(seconds)).await;
    time::resume();
}

/// A rule that takes a token or a key.
pub(crate) fn required() -> Rule {
    Rule { api_keys: true, ..Rule::required(1) }
}

/// A Bidiway that asks for tokens of this issuer, in front of a mirror.
pub(crate) async fn guarded(issuer: &Issuer) -> (Edge, Scripted) {
    guarded_by(identity(provider(issuer)), required()).await
}

pub(crate) async fn guarded_by(identity: Settings, rule: Rule) -> (Edge, Scripted) {
    let upstream = Scripted::start(mirror).await;
    let edge = edge::edge_with(&upstream.url, downstream(identity, rule)).await;
    (edge, upstream)
}

/// Echoes, and says in its headers what it was sent: `seen: NAME=VALUE`.
pub(crate) async fn mirror(mut exchange: Exchange) {
    let mut response = Response::builder().header("content-type", "application/grpc");
    for (name, value) in exchange.request.headers() {
        response = response.header("seen", format!("{name}={}", value.to_str().unwrap()));
    }
    let Ok(mut stream) = exchange.respond.send_response(response.body(()).unwrap(), false) else { return };
    while let Some(bytes) = exchange.read().await {
        send(&mut stream, bytes).await;
    }
    end(&mut stream, 0);
}

/// What the mirror has seen under a name.
pub(crate) fn seen(headers: &HeaderMap, name: &str) -> Vec<String> {
    let all = headers.get_all("seen").iter().map(|value| value.to_str().unwrap());
    all.filter_map(|entry| entry.strip_prefix(&format!("{name}=")).map(str::to_owned)).collect()
}

/// The same of a session's headers.
pub(crate) fn seen_in(metadata: &[v1::Metadata], name: &str) -> Vec<String> {
    let all = metadata.iter().filter(|entry| entry.name == "seen").filter_map(|entry| match &entry.value {
        Some(v1::metadata::Value::Text(text)) => Some(text),
        _ => None,
    });
    all.filter_map(|entry| entry.strip_prefix(&format!("{name}=")).map(str::to_owned)).collect()
}

/// One message of a call.
pub(crate) fn body() -> bytes::Bytes {
    message(b"hello")
}

/// Publishes keys; what is asked for is counted.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) url: String,
    /// `None`: HTTP 503.
    document: Arc<Mutex<Option<String>>>,
    fetches: Arc<AtomicUsize>,
}

impl Publisher {
    pub(crate) async fn start(document: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let publisher = Self::at(url, document);
        let router = publisher.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        publisher
    }

    /// The same at `https://localhost`, with this certificate for it.
    pub(crate) async fn start_tls(document: Option<String>, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
        let publisher = Self::at(url, document);
        let (router, acceptor) = (publisher.router(), TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (router, acceptor) = (router.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Ok(io) = acceptor.accept(io).await else { return };
                    let service = TowerToHyperService::new(router);
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        publisher
    }

    fn at(url: String, document: Option<String>) -> Self {
        Self { url, document: Arc::new(Mutex::new(document)), fetches: Arc::default() }
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/keys", axum::routing::get(Self::answer))
            .route("/moved", axum::routing::get(async || (StatusCode::FOUND, [("location", "/keys")])))
            .with_state(self.clone())
    }

    async fn answer(State(this): State<Self>) -> Result<String, StatusCode> {
        this.fetches.fetch_add(1, SeqCst);
        this.document.lock().unwrap().clone().ok_or(StatusCode::SERVICE_UNAVAILABLE)
    }

    pub(crate) fn publish(&self, document: Option<String>) {
        *self.document.lock().unwrap() = document;
    }

    pub(crate) fn fetches(&self) -> usize {
        self.fetches.load(SeqCst)
    }

    /// Keys that are fetched from here when a token needs it, and otherwise once in an hour.
    pub(crate) fn keys(&self) -> KeySource {
        let mut url = JwksUrl::new(self.url.parse().unwrap(), ClientTls::trusting_nobody());
        url.refresh = Duration::from_secs(3600);
        KeySource::Url(url)
    }
}
