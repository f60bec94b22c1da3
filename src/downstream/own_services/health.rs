//! `grpc.health.v1.Health`: whether the proxy takes calls, and whether those of a service get anywhere.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient, health_server,
};

use super::{HEALTH, REFLECTION, REFLECTION_ALPHA};
use crate::{
    downstream::{Drain, Edge},
    upstream::Upstream,
};

/// How long an upstream may take to say how it is.
const TIMEOUT: Duration = Duration::from_secs(3);

/// For how long what it said is said to others: many who ask are one question to the upstream.
const FRESH: Duration = Duration::from_secs(1);

/// How often a watch looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// The most services of which an answer is remembered.
const REMEMBERED: usize = 1000;

/// Answers for the proxy (the empty name) and for services that routes serve, by asking their upstreams.
#[derive(Clone, Debug)]
pub(super) struct Health {
    edge: Weak<Edge>,
    drain: Drain,
    said: Arc<Mutex<HashMap<String, (Instant, ServingStatus)>>>,
}

impl Health {
    pub(super) fn new(edge: Weak<Edge>, drain: Drain) -> Self {
        Self { edge, drain, said: Arc::default() }
    }

    /// `ServiceUnknown`: no route serves it.
    async fn status(&self, service: &str) -> ServingStatus {
        if self.drain.leaving.is_cancelled() {
            return ServingStatus::NotServing;
        }
        if matches!(service, "" | HEALTH | REFLECTION | REFLECTION_ALPHA) {
            return ServingStatus::Serving;
        }
        let Some(edge) = self.edge.upgrade() else { return ServingStatus::NotServing };
        let upstream = edge.routes().of_service(service).next().map(|route| route.upstream().clone());
        let Some(upstream) = upstream else { return ServingStatus::ServiceUnknown };
        let remembered = {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.get(service).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, status)| *status)
        };
        if let Some(status) = remembered {
            return status;
        }
        let status = timeout(TIMEOUT, ask(&upstream, service)).await.unwrap_or(ServingStatus::NotServing);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= REMEMBERED {
            said.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if said.len() < REMEMBERED {
            said.insert(service.to_owned(), (Instant::now(), status));
        }
        status
    }

    /// Waits until it is worth another look.
    async fn pause(&self) {
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = self.drain.leaving.cancelled(), if !self.drain.leaving.is_cancelled() => {}
            () = self.drain.draining.cancelled() => {}
        }
    }
}

/// What an upstream says of a service. One that does not know the service in its health service is asked for itself;
/// one without a health service serves if it answers.
async fn ask(upstream: &Upstream, service: &str) -> ServingStatus {
    for name in [service, ""] {
        let request = HealthCheckRequest { service: name.to_owned() };
        match HealthClient::new(upstream.channel()).check(request).await {
            Ok(answer) => match answer.into_inner().status() {
                ServingStatus::ServiceUnknown => {}
                status => return status,
            },
            Err(status) => match status.code() {
                Code::NotFound => {}
                Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Internal
                | Code::Unknown => return ServingStatus::NotServing,
                _ => return ServingStatus::Serving,
            },
        }
    }
    ServingStatus::Serving
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.status(&request.get_ref().service).await {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no route serves this service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let changes = stream::unfold((self.clone(), None), move |(health, last)| {
            let service = service.clone();
            async move {
                loop {
                    if last.is_some() {
                        if health.drain.draining.is_cancelled() {
                            return None;
                        }
                        health.pause().await;
                    }
                    let status = health.status(&service).await;
                    if last != Some(status) {
                        let answer = HealthCheckResponse { status: status.into() };
                        return Some((Ok(answer), (health, Some(status))));
                    }
                }
            }
        });
        let over = stream::once(async { Err(Status::unavailable("the proxy is draining")) });
        Ok(Response::new(Box::pin(futures_util::StreamExt::chain(changes, over))))
    }
}
