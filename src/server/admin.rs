//! The operators' port: health, readiness, metrics.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use axum::{Router, body::Body, extract::State, response::IntoResponse, routing::get};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use tokio::{net::TcpListener, sync::watch};
use tower::ServiceExt;

use super::reload::ReloadStatus;
use crate::{downstream::schema_router, schema::Schema, telemetry::Metrics};

/// Whether the process takes new work; shared with `/readyz`.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    phase: AtomicU8,
    /// The process sheds new work, and `/readyz` is to say so.
    overloaded: AtomicBool,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    pub(super) fn ready(&self) {
        // A drain that began while starting stays a drain.
        let _ = self.phase.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn draining(&self) {
        self.phase.store(DRAINING, Ordering::Relaxed);
    }

    pub(super) fn overloaded(&self, is_overloaded: bool) {
        self.overloaded.store(is_overloaded, Ordering::Relaxed);
    }

    fn answer(&self) -> (StatusCode, &'static str) {
        match self.phase.load(Ordering::Relaxed) {
            READY if self.overloaded.load(Ordering::Relaxed) => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded\n")
            }
            READY => (StatusCode::OK, "ready\n"),
            DRAINING => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        }
    }
}

/// The schemas of the configuration that holds.
type Schemas = watch::Receiver<Arc<HashMap<String, Schema>>>;

/// What the admin port knows.
#[derive(Clone, Debug)]
struct Admin {
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

const INDEX: &str = "Bidiway's admin port\n\
    /healthz  200 while the process lives\n\
    /readyz   200 while it takes new work, 503 before it has started, while it drains, and while it closes new connections\n\
    /metrics  OpenMetrics\n\
    /config   what became of the latest configurations, as JSON\n\
    /schema   the upstreams' services as JSON; ?service=NAME: its descriptors; /schema/UPSTREAM.binpb: all\n";

/// The admin port's routes.
fn routes(
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    schemas: Schemas,
    reloads: Arc<ReloadStatus>,
) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(admin): State<Admin>| async move { admin.readiness.answer() }))
        .route(
            "/metrics",
            get(|State(admin): State<Admin>| async move {
                ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], admin.metrics.encode()).into_response()
            }),
        )
        .route("/config", get(async move || ([(CONTENT_TYPE, "application/json")], reloads.json())))
        .with_state(Admin { readiness, metrics })
        .fallback(async move |request: Request<Body>| {
            // Made anew for each: what it shows changes with the configuration, and hardly anybody asks.
            let router = schema_router("/schema", &schemas.borrow().clone());
            router.oneshot(request).await
        })
}

/// Serves the admin port until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    schemas: Schemas,
    reloads: Arc<ReloadStatus>,
    stop: impl Future<Output = ()>,
) {
    // Not gracefully: a scraper that keeps its connection open must not delay the end.
    tokio::select! {
        _ = axum::serve(listener, routes(readiness, metrics, schemas, reloads)) => {}
        () = stop => {}
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(readiness: &Arc<Readiness>, path: &str) -> (u16, String, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let (metrics, schemas) = (Metrics::new(), watch::channel(Arc::default()).1);
        let reloads = ReloadStatus::new(metrics.clone());
        let router = routes(readiness.clone(), metrics, schemas, reloads);
        let response = router.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_life_of_the_process_and_health_does_not() {
        let readiness = Arc::<Readiness>::default();
        assert_eq!(get(&readiness, "/readyz").await.0, 503);
        readiness.ready();
        assert_eq!(get(&readiness, "/readyz").await.0, 200);
        readiness.draining();
        readiness.ready();
        let (status, _, body) = get(&readiness, "/readyz").await;
        assert_eq!((status, &*body), (503, "draining\n"));
        assert_eq!(get(&readiness, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_and_the_index_lists_all_paths() {
        let readiness = Arc::<Readiness>::default();
        let (status, kind, body) = get(&readiness, "/metrics").await;
        assert_eq!((status, &*kind), (200, Metrics::CONTENT_TYPE));
        assert!(body.ends_with("# EOF\n"));
        let (_, _, index) = get(&readiness, "/").await;
        for path in ["/healthz", "/readyz", "/metrics", "/config", "/schema"] {
            assert!(index.contains(path));
        }
    }
}
