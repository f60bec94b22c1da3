//! gRPC services of Bidiway's own, about what it fronts: health and reflection.
//!
//! They are ordinary services behind an upstream of their own within the process, so that clients of every dialect reach
//! them, and their calls are counted, logged and limited like all others. Routes lead to them, so they own no routes: they
//! look at what their worker's edge goes by whenever they are asked. So they are gone with the last route to them.

mod health;
mod reflection;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Weak},
};

use bytes::Bytes;
use tokio::{net::UnixStream, runtime::Handle, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{service::RoutesBuilder, transport};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{
    v1::server_reflection_server::ServerReflectionServer,
    v1alpha::server_reflection_server::ServerReflectionServer as AlphaServer,
};

use super::{Drain, Edge, RouteSettings, Routes, ServicePattern, Settings};
use crate::{
    schema::{self, Descriptors, Reflection, Schema, Source},
    telemetry::{Metrics, SchemaMetrics},
    upstream::{self, ClientTls, Endpoint, LocalEndpoint, Upstream},
};
use health::Health;
use reflection::ReflectionService;

/// The upstream's name, which no configuration can have.
const NAME: &str = "(bidiway)";

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Which of its own services Bidiway offers on the public ports. None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnServices {
    /// `grpc.health.v1.Health`, about the proxy and about the services that it fronts.
    pub health: bool,
    /// `grpc.reflection.v1.ServerReflection`, and v1alpha, of the services that routes serve.
    pub reflection: bool,
}

impl OwnServices {
    /// Their full names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let health = self.health.then_some(HEALTH);
        let reflection = self.reflection.then_some([REFLECTION, REFLECTION_ALPHA]);
        health.into_iter().chain(reflection.into_iter().flatten())
    }
}

/// The descriptors of all of them.
static DESCRIPTORS: LazyLock<Arc<Descriptors>> = LazyLock::new(|| {
    let sets = [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    // Encoded messages of one type that stand one behind the other are one message, with all of their files.
    let joined = Bytes::from(sets.concat());
    Arc::new(Descriptors::from_set(joined).expect("the crates' own descriptors fit together"))
});

/// The configured routes, and those of the services that are offered, which are started.
pub(super) fn routes(
    settings: &Settings,
    upstreams: &HashMap<String, Upstream>,
    schemas: &HashMap<String, Schema>,
    metrics: &Metrics,
    drain: &Drain,
    edge: Weak<Edge>,
) -> Arc<Routes> {
    let services = settings.own_services;
    if services.names().next().is_none() {
        return Arc::new(Routes::new(&settings.routes, upstreams, schemas, metrics));
    }
    let (endpoint, connections) = LocalEndpoint::new();
    let mut local =
        upstream::Settings::new(NAME, vec![Endpoint::Local(endpoint)], ClientTls::trusting_nobody());
    local.keepalive = None;
    let own = OwnUpstream { services, upstream: Upstream::new(Arc::new(local)), connections };
    let routes = own.routes_with(&settings.routes, upstreams, schemas, metrics);
    own.start(edge, drain);
    routes
}

/// The services of one worker and plan, before they are started.
#[derive(Debug)]
struct OwnUpstream {
    services: OwnServices,
    upstream: Upstream,
    connections: mpsc::Receiver<UnixStream>,
}

impl OwnUpstream {
    /// These routes and the proxy's own.
    fn routes_with(
        &self,
        routes: &[RouteSettings],
        upstreams: &HashMap<String, Upstream>,
        schemas: &HashMap<String, Schema>,
        metrics: &Metrics,
    ) -> Arc<Routes> {
        let own = |service: &str| RouteSettings::new(ServicePattern::Service(service.to_owned()), NAME);
        let routes: Vec<_> = routes.iter().cloned().chain(self.services.names().map(own)).collect();
        let (mut upstreams, mut schemas) = (upstreams.clone(), schemas.clone());
        upstreams.insert(NAME.to_owned(), self.upstream.clone());
        schemas.insert(NAME.to_owned(), self.schema(metrics.schema(NAME)));
        Arc::new(Routes::new(&routes, &upstreams, &schemas, metrics))
    }

    /// With it, JSON is spoken to them too.
    fn schema(&self, metrics: SchemaMetrics) -> Schema {
        let settings = schema::Settings::new(Source::Files(DESCRIPTORS.clone()));
        let channel = schema::Channel::new(self.upstream.channel());
        Schema::new(NAME, settings, Reflection { channel, runtime: Handle::current() }, metrics)
    }

    /// Starts serving, within the worker's runtime, until no route leads here any more, or the worker's last call is
    /// over.
    fn start(self, edge: Weak<Edge>, drain: &Drain) {
        let mut own = RoutesBuilder::default();
        if self.services.health {
            own.add_service(HealthServer::new(Health::new(edge.clone(), drain.clone())));
        }
        if self.services.reflection {
            let service = ReflectionService::new(edge, DESCRIPTORS.clone());
            own.add_service(ServerReflectionServer::new(service.clone()));
            own.add_service(AlphaServer::new(service));
        }
        let incoming = ReceiverStream::new(self.connections).map(Ok::<_, std::io::Error>);
        let cut = drain.cut.clone();
        tokio::spawn(async move {
            let served = transport::Server::builder().add_routes(own.routes()).serve_with_incoming(incoming);
            if let Some(Err(error)) = cut.run_until_cancelled(served).await {
                tracing::error!(%error, "the proxy's own services do not work");
            }
        });
    }
}
