//! Sends spans to an OpenTelemetry collector.

use std::{future::pending, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, metadata::MetadataMap};
use tracing::{info, warn};

use crate::{
    telemetry::{
        Span, SpanQueue, TraceSettings,
        otlp::{Service, collector::trace_service_client::TraceServiceClient},
    },
    upstream::{self, Channel, Upstream},
};

/// Traces, and where they go.
#[derive(Clone, Debug, PartialEq)]
pub struct TracingSettings {
    /// Which calls have spans.
    pub traces: TraceSettings,
    /// The collector, which speaks OTLP over gRPC.
    pub collector: Arc<upstream::Settings>,
    /// What it wants to see with each request: API keys and the like.
    pub headers: HeaderMap,
    /// `service.name`.
    pub service_name: String,
}

/// The most spans of one request.
const BATCH: usize = 512;

/// How long spans wait for others.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The wait before the first further attempt; it doubles from there. Meanwhile spans wait in the queue, and then are
/// dropped.
const BACKOFF: Duration = Duration::from_secs(1);

/// How often spans are sent in vain.
const ATTEMPTS: u32 = 4;

/// Sends spans until their queue is closed and empty.
#[derive(Debug)]
pub(super) struct SpanExport {
    client: TraceServiceClient<Channel>,
    headers: MetadataMap,
    service: Service,
    /// The last attempt failed; it was said in the log.
    failing: bool,
}

impl SpanExport {
    pub(super) fn new(settings: &TracingSettings, instance: String) -> Self {
        let upstream = Upstream::new(settings.collector.clone());
        Self {
            client: TraceServiceClient::new(upstream.channel()),
            headers: MetadataMap::from_headers(settings.headers.clone()),
            service: Service { name: settings.service_name.clone(), instance },
            failing: false,
        }
    }

    /// `closing`: there will be no more spans. What waits is sent, once.
    pub(super) async fn run(mut self, mut queue: SpanQueue, closing: CancellationToken) {
        loop {
            let spans = batch(&mut queue.receiver, &closing).await;
            if spans.is_empty() {
                return;
            }
            let count = spans.len() as u64;
            match self.send(spans, &closing).await {
                Ok(rejected) => {
                    queue.exported.inc_by(count.saturating_sub(rejected));
                    queue.failed.inc_by(rejected.min(count));
                    if std::mem::take(&mut self.failing) {
                        info!("the trace collector takes spans again");
                    }
                }
                Err(status) => {
                    queue.failed.inc_by(count);
                    if !std::mem::replace(&mut self.failing, true) {
                        let (code, message) = (status.code(), status.message());
                        warn!(?code, message, spans = count, "the trace collector does not take spans");
                    }
                }
            }
        }
    }

    /// How many were rejected. At the end there is no time for further attempts.
    async fn send(&mut self, spans: Vec<Span>, closing: &CancellationToken) -> Result<u64, Status> {
        let message = self.service.request(spans);
        let mut attempts = 0;
        loop {
            let mut request = Request::new(message.clone());
            *request.metadata_mut() = self.headers.clone();
            let late = |_| Err(Status::deadline_exceeded(format!("it did not answer within {TIMEOUT:?}")));
            let sent = timeout(TIMEOUT, self.client.export(request)).await.unwrap_or_else(late);
            attempts += 1;
            match sent {
                Ok(answer) => {
                    let partial = answer.into_inner().partial_success.unwrap_or_default();
                    return Ok(u64::try_from(partial.rejected_spans).unwrap_or_default());
                }
                Err(status)
                    if closing.is_cancelled() || attempts == ATTEMPTS || !is_passing(status.code()) =>
                {
                    return Err(status);
                }
                Err(_) => {
                    closing.run_until_cancelled(sleep(BACKOFF * 2_u32.pow(attempts - 1))).await;
                }
            }
        }
    }
}

/// Which answers ask for another attempt (OTLP specification, "Failures").
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The next spans: as many as come within the interval, or fill a request. None: there will be no more.
async fn batch(queue: &mut Receiver<Span>, closing: &CancellationToken) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut deadline = None;
    while spans.len() < BATCH {
        let room = BATCH - spans.len();
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            // What is not received stays in the queue when another branch comes first.
            received = queue.recv_many(&mut spans, room) => {
                if received == 0 {
                    break;
                }
            }
            () = over => break,
            () = closing.cancelled(), if !queue.is_closed() => queue.close(),
        }
        deadline = deadline.or_else(|| (!spans.is_empty()).then(|| Instant::now() + INTERVAL));
    }
    spans
}
