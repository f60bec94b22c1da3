//! Sends spans to an OpenTelemetry collector.

use std::{future::pending, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use prost::Message as _;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, metadata::MetadataMap};
use tracing::{info, warn};

use crate::{
    telemetry::{
        Span, SpanQueue, TraceSettings,
        otlp::{
            Service,
            collector::{
                ExportTraceServiceRequest, ExportTraceServiceResponse,
                trace_service_client::TraceServiceClient,
            },
        },
    },
    upstream::{self, Channel, ClientTls, HttpUrl, Upstream, http_request},
};

/// Traces, and where they go.
#[derive(Clone, Debug, PartialEq)]
pub struct TracingSettings {
    /// Which calls have spans.
    pub traces: TraceSettings,
    /// The collector.
    pub collector: Collector,
    /// What it wants to see with each request: API keys and the like.
    pub headers: HeaderMap,
    /// `service.name`.
    pub service_name: String,
}

/// A collector of traces, which speaks OTLP.
#[derive(Clone, Debug, PartialEq)]
pub enum Collector {
    /// Over gRPC.
    Grpc(Arc<upstream::Settings>),
    /// Over HTTP/1.1, in protobuf: the URL with its path, and TLS for `https`.
    Http(HttpUrl, ClientTls),
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
    way: Way,
    headers: HeaderMap,
    service: Service,
    /// The last attempt failed; it was said in the log.
    failing: bool,
}

/// How the collector is asked.
#[derive(Debug)]
enum Way {
    Grpc(TraceServiceClient<Channel>),
    Http(HttpUrl, ClientTls),
}

/// Why spans were not taken.
#[derive(Debug)]
struct NotTaken {
    why: String,
    /// Another attempt may help.
    passing: bool,
}

impl SpanExport {
    pub(super) fn new(settings: &TracingSettings, instance: String) -> Self {
        let way = match &settings.collector {
            Collector::Grpc(upstream) => {
                Way::Grpc(TraceServiceClient::new(Upstream::new(Arc::clone(upstream)).channel()))
            }
            Collector::Http(url, tls) => Way::Http(url.clone(), tls.clone()),
        };
        Self {
            way,
            headers: settings.headers.clone(),
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
                Err(NotTaken { why, .. }) => {
                    queue.failed.inc_by(count);
                    if !std::mem::replace(&mut self.failing, true) {
                        warn!(why, spans = count, "the trace collector does not take spans");
                    }
                }
            }
        }
    }

    /// How many were rejected. At the end there is no time for further attempts.
    async fn send(&mut self, spans: Vec<Span>, closing: &CancellationToken) -> Result<u64, NotTaken> {
        let message = self.service.request(spans);
        let mut attempts = 0;
        loop {
            let late =
                |_| Err(NotTaken { why: format!("it did not answer within {TIMEOUT:?}"), passing: true });
            let sent = timeout(TIMEOUT, self.way.send(&self.headers, &message)).await.unwrap_or_else(late);
            attempts += 1;
            match sent {
                Ok(answer) => {
                    let partial = answer.partial_success.unwrap_or_default();
                    return Ok(u64::try_from(partial.rejected_spans).unwrap_or_default());
                }
                Err(error) if closing.is_cancelled() || attempts == ATTEMPTS || !error.passing => {
                    return Err(error);
                }
                Err(_) => {
                    closing.run_until_cancelled(sleep(BACKOFF * 2_u32.pow(attempts - 1))).await;
                }
            }
        }
    }
}

impl Way {
    async fn send(
        &mut self,
        headers: &HeaderMap,
        message: &ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, NotTaken> {
        match self {
            Self::Grpc(client) => {
                let mut request = Request::new(message.clone());
                *request.metadata_mut() = MetadataMap::from_headers(headers.clone());
                client.export(request).await.map(tonic::Response::into_inner).map_err(|status| NotTaken {
                    why: format!("{:?}: {}", status.code(), status.message()),
                    passing: is_passing(status.code()),
                })
            }
            Self::Http(url, tls) => {
                let mut headers = headers.clone();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                let body = message.encode_to_vec().into();
                let answer = http_request(url, tls, Method::POST, headers, body).await;
                let (status, body) =
                    answer.map_err(|error| NotTaken { why: error.to_string(), passing: true })?;
                if !status.is_success() {
                    let passing = matches!(status.as_u16(), 429 | 502..=504);
                    return Err(NotTaken { why: format!("it answers HTTP {status}"), passing });
                }
                // Some answer in JSON, or nothing at all: the spans are taken all the same.
                Ok(ExportTraceServiceResponse::decode(body).unwrap_or_default())
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
