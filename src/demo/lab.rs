//! Exercises: every kind of call, on request slow, large, failing or without end.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio_stream::Stream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{KeyAndValueRef, MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    request,
    services::{Authority, Trailing},
    tally::{Responses, Tallies},
    v1::{
        Empty, FailRequest, MetadataEntry, MetadataReply, Payload, StatsReply, StatsRequest, StreamRequest,
        Summary, lab_server,
    },
};

const MAX_COUNT: u32 = 10_000_000;
const MAX_SIZE: u32 = 64 * 1024 * 1024;
const MAX_INTERVAL_MS: u32 = 60_000;

/// Messages that go to the client.
type Payloads = Responses<Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>>;

/// The exercises, and what became of the calls.
#[derive(Debug, Default)]
pub(super) struct Lab {
    tallies: Tallies,
}

#[tonic::async_trait]
impl lab_server::Lab for Lab {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let mut running = self.tallies.begin(request::tag(request.metadata()));
        running.received();
        let answer = async {
            tokio::time::sleep(request::delay(request.metadata())?).await;
            Ok(Response::new(request.into_inner()))
        }
        .await;
        running.complete();
        answer
    }

    type ServerStreamStream = Payloads;

    async fn server_stream(&self, request: Request<StreamRequest>) -> Result<Response<Payloads>, Status> {
        let running = self.tallies.begin(request::tag(request.metadata()));
        running.received();
        let StreamRequest { count, size, interval_ms } = request.into_inner();
        let messages: Pin<Box<dyn Stream<Item = _> + Send>> = match within(count, size, interval_ms) {
            Ok(()) => Box::pin(numbered(count, size, interval_ms).map(Ok)),
            Err(status) => Box::pin(stream::iter([Err(status)])),
        };
        Ok(Response::new(running.responses(messages)))
    }

    async fn client_stream(&self, request: Request<Streaming<Payload>>) -> Result<Response<Summary>, Status> {
        let mut running = self.tallies.begin(request::tag(request.metadata()));
        let summary: Result<_, Status> = async {
            let delay = request::delay(request.metadata())?;
            let mut messages = request.into_inner();
            let mut summary = Summary::default();
            tokio::time::sleep(delay).await;
            while let Some(message) = messages.message().await? {
                running.received();
                summary.messages += 1;
                summary.bytes += (message.text.len() + message.data.len()) as u64;
                tokio::time::sleep(delay).await;
            }
            Ok(Response::new(summary))
        }
        .await;
        // An error here is the client's reset or a broken message; the former is a cancelled call.
        if !matches!(&summary, Err(status) if status.code() == Code::Cancelled) {
            running.complete();
        }
        summary
    }

    type BidiStream = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

    async fn bidi(&self, request: Request<Streaming<Payload>>) -> Result<Response<Self::BidiStream>, Status> {
        let mut running = self.tallies.begin(request::tag(request.metadata()));
        let delay = match request::delay(request.metadata()) {
            Ok(delay) => delay,
            Err(status) => {
                running.complete();
                return Err(status);
            }
        };
        let echoes =
            stream::unfold((request.into_inner(), running), move |(mut messages, mut running)| async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                match messages.message().await {
                    Ok(Some(message)) => {
                        running.received();
                        running.sent();
                        Some((Ok(message), (messages, running)))
                    }
                    Ok(None) => {
                        running.complete();
                        None
                    }
                    Err(status) => Some((Err(status), (messages, running))),
                }
            });
        Ok(Response::new(Box::pin(echoes)))
    }

    async fn fail(&self, request: Request<FailRequest>) -> Result<Response<Payload>, Status> {
        let mut running = self.tallies.begin(request::tag(request.metadata()));
        running.received();
        running.complete();
        let trailing = failure_metadata(request.metadata());
        Err(failure(request.into_inner(), trailing))
    }

    type FailStreamStream = Payloads;

    async fn fail_stream(&self, request: Request<FailRequest>) -> Result<Response<Payloads>, Status> {
        let running = self.tallies.begin(request::tag(request.metadata()));
        running.received();
        let trailing = failure_metadata(request.metadata());
        let request = request.into_inner();
        let messages = numbered(request.after.min(MAX_COUNT), 0, 0).map(Ok);
        let failure = stream::iter([Err(failure(request, trailing))]);
        Ok(Response::new(running.responses(Box::pin(messages.chain(failure)))))
    }

    async fn metadata(&self, request: Request<Empty>) -> Result<Response<MetadataReply>, Status> {
        let mut running = self.tallies.begin(request::tag(request.metadata()));
        running.received();
        running.complete();
        let reply = MetadataReply {
            entries: entries(request.metadata()),
            timeout_ms: timeout(request.metadata()).map_or(0, |timeout| timeout.as_millis() as u64),
            authority: request.extensions().get().map_or_else(String::new, |Authority(name)| name.clone()),
        };
        let echoes = request::echoes(request.metadata());
        let mut response = Response::new(reply);
        let binary = ("demo-initial-bin", &[0, 1, 2, 0xfd, 0xfe, 0xff][..]);
        *response.metadata_mut() = with_answer(echoes.clone(), "demo-initial", binary);
        let binary = ("demo-trailing-bin", &[0xff, 0xfe, 0xfd, 2, 1, 0][..]);
        let trailing = with_answer(echoes, "demo-trailing", binary);
        response.extensions_mut().insert(Trailing(trailing.into_headers()));
        Ok(response)
    }

    async fn wait(&self, request: Request<Empty>) -> Result<Response<Payload>, Status> {
        let running = self.tallies.begin(request::tag(request.metadata()));
        running.received();
        std::future::pending().await
    }

    type WaitStreamStream = Payloads;

    async fn wait_stream(&self, request: Request<Empty>) -> Result<Response<Payloads>, Status> {
        let running = self.tallies.begin(request::tag(request.metadata()));
        running.received();
        let messages = numbered(1, 0, 0).map(Ok).chain(stream::pending());
        Ok(Response::new(running.responses(Box::pin(messages))))
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        Ok(Response::new(self.tallies.read(&request.into_inner().tag)))
    }
}

fn within(count: u32, size: u32, interval_ms: u32) -> Result<(), Status> {
    for (field, value, most) in
        [("count", count, MAX_COUNT), ("size", size, MAX_SIZE), ("interval_ms", interval_ms, MAX_INTERVAL_MS)]
    {
        if value > most {
            let description = format!("must be at most {most}, is {value}");
            let details = ErrorDetails::with_bad_request_violation(field, &description);
            let message = format!("{field} {description}");
            return Err(Status::with_error_details(Code::InvalidArgument, message, details));
        }
    }
    Ok(())
}

/// Messages numbered from 1, all with the same bytes; the first at once.
fn numbered(count: u32, size: u32, interval_ms: u32) -> impl Stream<Item = Payload> + Send {
    let data = Bytes::from(vec![b'.'; size as usize]);
    let interval = Duration::from_millis(interval_ms.into());
    stream::iter(1..=u64::from(count)).then(move |number| {
        let data = data.clone();
        async move {
            if number > 1 && !interval.is_zero() {
                tokio::time::sleep(interval).await;
            }
            Payload { number, text: String::new(), data, time_ms: request::now_ms() }
        }
    })
}

/// The status that the client has ordered.
fn failure(request: FailRequest, trailing: MetadataMap) -> Status {
    if !(1..=16).contains(&request.code) {
        let message = format!("code must be 1 to 16, is {}", request.code);
        return Status::invalid_argument(message);
    }
    let code = Code::from(request.code as i32);
    let mut details = ErrorDetails::new();
    if !request.reason.is_empty() {
        details.set_error_info(request.reason, "demo.bidiway", request.info);
    }
    for violation in request.violations {
        details.add_bad_request_violation(violation.field, violation.description);
    }
    if details.error_info().is_none() && details.bad_request().is_none() {
        return Status::with_metadata(code, request.message, trailing);
    }
    Status::with_error_details_and_metadata(code, request.message, details, trailing)
}

fn failure_metadata(request: &MetadataMap) -> MetadataMap {
    let mut trailing = request::echoes(request);
    trailing.append("demo-trailing", MetadataValue::from_static("failed"));
    trailing
}

/// A name with two values, and a `-bin` name, besides the echoes.
fn with_answer(mut echoes: MetadataMap, name: &'static str, binary: (&'static str, &[u8])) -> MetadataMap {
    echoes.append(name, MetadataValue::from_static("one"));
    echoes.append(name, MetadataValue::from_static("two"));
    echoes.append_bin(binary.0, MetadataValue::from_bytes(binary.1));
    echoes
}

/// Request metadata as a message, sorted by name.
fn entries(metadata: &MetadataMap) -> Vec<MetadataEntry> {
    let mut entries: Vec<_> = metadata
        .iter()
        .map(|entry| match entry {
            KeyAndValueRef::Ascii(name, value) => MetadataEntry {
                name: name.to_string(),
                text: String::from_utf8_lossy(value.as_encoded_bytes()).into_owned(),
                binary: Bytes::new(),
            },
            KeyAndValueRef::Binary(name, value) => MetadataEntry {
                name: name.to_string(),
                text: String::from_utf8_lossy(value.as_encoded_bytes()).into_owned(),
                binary: value.to_bytes().unwrap_or_default(),
            },
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The `grpc-timeout` that arrived.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    crate::wire::timeout::decode(metadata.get("grpc-timeout")?.as_encoded_bytes()).ok()
}
