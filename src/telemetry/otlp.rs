//! Spans as OpenTelemetry's protocol has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Span;
use crate::wire::Code;

/// The protocol's messages, client and server, generated from `proto/opentelemetry/`.
#[expect(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the proto files document it"
)]
#[cfg_attr(doc, allow(rustdoc::invalid_html_tags, reason = "the proto files' comments are plain text"))]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/opentelemetry.rs"));
}

pub use generated::opentelemetry::proto::{
    collector::trace::v1 as collector, common::v1 as common, resource::v1 as resource, trace::v1 as trace,
};

use common::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use trace::{
    ResourceSpans, ScopeSpans,
    span::{Event, SpanKind},
    status::StatusCode,
};

/// The version of the semantic conventions that the attributes follow.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.37.0";

/// What exports the spans of one process.
#[derive(Clone, Debug)]
pub struct Service {
    /// `service.name`.
    pub name: String,
    /// `service.instance.id`.
    pub instance: String,
}

impl Service {
    /// One request for these spans.
    pub fn request(&self, spans: Vec<Span>) -> collector::ExportTraceServiceRequest {
        let attributes = vec![
            text("service.name", &self.name),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &self.instance),
        ];
        let scope = InstrumentationScope {
            name: "bidiway".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let scope_spans = ScopeSpans {
            scope: Some(scope),
            spans: spans.into_iter().map(span).collect(),
            schema_url: CONVENTIONS.into(),
        };
        let resource = resource::Resource { attributes, ..Default::default() };
        collector::ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![scope_spans],
                schema_url: CONVENTIONS.into(),
            }],
        }
    }
}

fn span(span: Span) -> trace::Span {
    let path = span.method.strip_prefix('/').unwrap_or(&span.method);
    let (service, method) = path.split_once('/').unwrap_or(("", path));
    let mut attributes = vec![
        text("rpc.system", "grpc"),
        text("rpc.service", service),
        text("rpc.method", method),
        number("rpc.grpc.status_code", u64::from(span.code.0)),
        text("client.address", &span.client.to_string()),
        text("bidiway.dialect", span.dialect),
        text("bidiway.route", &span.route),
        text("bidiway.origin", span.origin.as_str()),
    ];
    if !span.upstream.is_empty() {
        attributes.push(text("bidiway.upstream", &span.upstream));
    }
    if let Some(session) = &span.session {
        attributes.push(text("session.id", session));
    }
    for (at, way) in ["up", "down"].into_iter().enumerate() {
        attributes.push(number(&format!("bidiway.messages.{way}"), span.messages[at]));
        attributes.push(number(&format!("bidiway.message_bytes.{way}"), span.bytes[at]));
    }
    let nanos = |after: Duration| nanos(span.began + after);
    let headers = span.headers.map(|after| Event {
        time_unix_nano: nanos(after),
        name: "headers".into(),
        ..Default::default()
    });
    trace::Span {
        trace_id: span.context.trace_id.into(),
        span_id: span.context.span_id.into(),
        parent_span_id: span.parent.map(Vec::from).unwrap_or_default(),
        trace_state: span.state,
        // Sampled.
        flags: 1,
        // What no route serves may be called anything, and names of spans should be few.
        name: if span.upstream.is_empty() { "(no upstream)".into() } else { path.into() },
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(Duration::ZERO),
        end_time_unix_nano: nanos(span.duration),
        attributes,
        events: headers.into_iter().collect(),
        status: is_error(span.code)
            .then(|| trace::Status { message: span.message, code: StatusCode::Error.into() }),
        ..Default::default()
    }
}

/// Which statuses are errors of the server's side (OpenTelemetry's semantic conventions for gRPC).
fn is_error(code: Code) -> bool {
    matches!(
        code,
        Code::UNKNOWN
            | Code::DEADLINE_EXCEEDED
            | Code::UNIMPLEMENTED
            | Code::INTERNAL
            | Code::UNAVAILABLE
            | Code::DATA_LOSS
    ) || code.0 > Code::UNAUTHENTICATED.0
}

fn nanos(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}
