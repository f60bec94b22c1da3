//! The schemas for tools: lists as JSON, descriptors as binary `FileDescriptorSet`s.
//!
//! The admin port serves all of them. The public ports serve, where the configuration says so, what routes serve.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::Routes;
use crate::{
    schema::{Schema, SchemaError, ServiceListing},
    wire::Code,
};

/// The schemas, and who may see what of them.
#[derive(Clone, Debug)]
struct Pages {
    schemas: Arc<BTreeMap<String, Schema>>,
    /// Only what these serve; `None`: everything.
    routes: Option<Arc<Routes>>,
}

/// Answers for all schemas, under `path`:
///
/// - `path`: the upstreams with their services and methods, as JSON
/// - `path?service=package.Service`: the service's descriptors with everything that they import
/// - `path/UPSTREAM.binpb`: the descriptors of all of an upstream's services
pub fn schema_router(path: &str, schemas: &HashMap<String, Schema>) -> Router {
    router(path, schemas.clone(), None)
}

/// The same of what these routes serve.
pub(crate) fn public_schema_router(
    path: &str,
    schemas: &HashMap<String, Schema>,
    routes: Arc<Routes>,
) -> Router {
    router(path, schemas.clone(), Some(routes))
}

fn router(path: &str, schemas: HashMap<String, Schema>, routes: Option<Arc<Routes>>) -> Router {
    let pages = Pages { schemas: Arc::new(schemas.into_iter().collect()), routes };
    Router::new().route(path, get(index)).route(&format!("{path}/{{file}}"), get(upstream)).with_state(pages)
}

/// What one upstream offers, or why that is not known.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Offer {
    Services { services: Vec<ServiceListing> },
    Error { error: String },
}

async fn index(State(pages): State<Pages>, Query(query): Query<HashMap<String, String>>) -> Response<Body> {
    if let Some(service) = query.get("service") {
        return match pages.service(service).await {
            Ok(set) => binary(set),
            Err(Some(error)) => failed(&error),
            Err(None) => text(StatusCode::NOT_FOUND, format!("no route has a service {service:?}\n")),
        };
    }
    let mut upstreams = BTreeMap::new();
    for (name, schema) in &*pages.schemas {
        let offer = match pages.offer(schema).await {
            Ok(services) => Offer::Services { services },
            Err(error) => Offer::Error { error: error.to_string() },
        };
        upstreams.insert(name, offer);
    }
    let json = serde_json::to_vec(&BTreeMap::from([("upstreams", upstreams)]));
    answer(StatusCode::OK, "application/json", json.unwrap_or_default().into())
}

async fn upstream(State(pages): State<Pages>, Path(file): Path<String>) -> Response<Body> {
    let schema = file.strip_suffix(".binpb").and_then(|name| pages.schemas.get(name));
    let Some(schema) = schema else {
        let names: Vec<_> = pages.schemas.keys().map(|name| format!("{name}.binpb")).collect();
        let text = format!("There is no schema {file:?}; there are: {}\n", names.join(", "));
        return self::text(StatusCode::NOT_FOUND, text);
    };
    match pages.set(schema).await {
        Ok(set) => binary(set),
        Err(error) => failed(&error),
    }
}

impl Pages {
    /// The services of a schema that may be seen.
    async fn services(&self, schema: &Schema) -> Result<Vec<String>, SchemaError> {
        let mut services = schema.services().await?;
        if let Some(routes) = &self.routes {
            services.retain(|service| {
                routes.of_service(service).any(|route| route.settings.main_upstream() == schema.name())
            });
        }
        Ok(services)
    }

    async fn offer(&self, schema: &Schema) -> Result<Vec<ServiceListing>, SchemaError> {
        let mut listings = Vec::new();
        for service in self.services(schema).await? {
            listings.push(schema.listing(&service).await);
        }
        Ok(listings)
    }

    async fn set(&self, schema: &Schema) -> Result<Bytes, SchemaError> {
        if self.routes.is_none() {
            return schema.descriptor_set(None).await;
        }
        schema.descriptor_set_of(&self.services(schema).await?).await
    }

    /// A service's descriptors, from whichever upstream serves it; or why not, where one should have.
    async fn service(&self, service: &str) -> Result<Bytes, Option<SchemaError>> {
        let mut last = None;
        for schema in self.schemas.values() {
            if let Some(routes) = &self.routes
                && !routes.of_service(service).any(|route| route.settings.main_upstream() == schema.name())
            {
                continue;
            }
            match schema.descriptor_set(Some(service)).await {
                Ok(set) => return Ok(set),
                // Why it is not known is more than that it is not there.
                Err(error @ SchemaError::UnknownService { .. }) => drop(last.get_or_insert(error)),
                Err(error) => last = Some(error),
            }
        }
        Err(last)
    }
}

fn failed(error: &SchemaError) -> Response<Body> {
    let status = match error.code() {
        Code::UNIMPLEMENTED | Code::INVALID_ARGUMENT => StatusCode::NOT_FOUND,
        Code::UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    text(status, format!("{error}\n"))
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", text.into())
}

fn binary(set: Bytes) -> Response<Body> {
    answer(StatusCode::OK, "application/x-protobuf", set)
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
