//! Every metric, named once: [`Metrics::new`] is the list, with the sentence that `/metrics` shows for each.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    CallMetrics, LimitMetrics, SchemaMetrics, UpstreamMetrics, WorkerClock,
    backpressure::BackpressureFamilies,
    call_metrics::Traffic,
    call_times::TimeFamilies,
    carrier_count::Carrier,
    identity_metrics::{IdentityFamilies, IdentityMetrics},
    method_metrics::MethodFamilies,
    process_metrics,
    reload_metrics::ReloadFamilies,
    roster_metrics::{RosterFamilies, RosterMetrics},
    schema_metrics::SchemaFamilies,
    tracer::{SpanFamilies, SpanQueue, TraceSettings, Tracer},
    upstream_metrics::UpstreamFamilies,
};

/// How a client speaks; the label `dialect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// gRPC-Web with binary bodies.
    GrpcWeb,
    /// gRPC-Web with base64 bodies.
    GrpcWebText,
    /// Native gRPC over HTTP/2, passed through.
    Grpc,
    /// A stream of a Bidiway session.
    Session,
    /// A WebSocket that is one call, as `@improbable-eng/grpc-web` opens it.
    GrpcWebSockets,
    /// A stream of a WebSocket with many calls, as Deephaven's client opens it.
    GrpcWebSocketsMultiplex,
    /// JSON over HTTP.
    JsonHttp,
    /// A WebSocket that is one call, its messages JSON.
    JsonSocket,
}

impl Dialect {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GrpcWeb => "grpc-web",
            Self::GrpcWebText => "grpc-web-text",
            Self::Grpc => "grpc",
            Self::Session => "session",
            Self::GrpcWebSockets => "grpc-websockets",
            Self::GrpcWebSocketsMultiplex => "grpc-websockets-multiplex",
            Self::JsonHttp => "json-http",
            Self::JsonSocket => "json-socket",
        }
    }

    /// Whether a call's metadata are the headers of a request of its own. Otherwise it stands in a message, which the
    /// client wrote, whatever proxies are between.
    pub fn has_headers(self) -> bool {
        matches!(self, Self::GrpcWeb | Self::GrpcWebText | Self::Grpc | Self::JsonHttp)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) route: String,
    pub(super) dialect: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TrafficLabels {
    route: String,
    dialect: &'static str,
    direction: &'static str,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndLabels {
    pub(super) route: String,
    pub(super) dialect: &'static str,
    pub(super) code: &'static str,
    pub(super) origin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    closed: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// All metrics of a process, shared by its workers through atomics.
pub struct Metrics {
    registry: Registry,
    process: Registry,
    calls_started: Family<RouteLabels, Counter>,
    calls_active: Family<RouteLabels, Gauge>,
    calls: Family<EndLabels, Counter>,
    messages: Family<TrafficLabels, Counter>,
    message_bytes: Family<TrafficLabels, Counter>,
    sessions_open: Gauge,
    sessions: Family<Closed, Counter>,
    sessions_parked: Gauge,
    parked_bytes: Gauge,
    sessions_resumed: Counter,
    replayed_bytes: Counter,
    resume_failures: Family<Reason, Counter>,
    pub(super) carriers_open: Family<Carrier, Gauge>,
    pub(super) carriers: Family<Carrier, Counter>,
    carriers_lost: Family<Reason, Counter>,
    relays_open: Gauge,
    carriers_relayed: Counter,
    carrier_requests_relayed: Counter,
    relay_failures: Family<Reason, Counter>,
    refused: Family<Reason, Counter>,
    connections_open: Gauge,
    connections: Counter,
    accept_errors: Family<Kind, Counter>,
    tls_handshake_failures: Counter,
    upstreams: UpstreamFamilies,
    rosters: RosterFamilies,
    schemas: SchemaFamilies,
    identity: IdentityFamilies,
    limits: LimitMetrics,
    pub(super) config: ReloadFamilies,
    times: TimeFamilies,
    methods: MethodFamilies,
    backpressure: BackpressureFamilies,
    spans: SpanFamilies,
    tracer: OnceLock<Tracer>,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Arc<Self> {
        let mut m = Self {
            registry: Registry::with_prefix("bidiway"),
            process: process_metrics::registry(),
            calls_started: Family::default(),
            calls_active: Family::default(),
            calls: Family::default(),
            messages: Family::default(),
            message_bytes: Family::default(),
            sessions_open: Gauge::default(),
            sessions: Family::default(),
            sessions_parked: Gauge::default(),
            parked_bytes: Gauge::default(),
            sessions_resumed: Counter::default(),
            replayed_bytes: Counter::default(),
            resume_failures: Family::default(),
            carriers_open: Family::default(),
            carriers: Family::default(),
            carriers_lost: Family::default(),
            relays_open: Gauge::default(),
            carriers_relayed: Counter::default(),
            carrier_requests_relayed: Counter::default(),
            relay_failures: Family::default(),
            refused: Family::default(),
            connections_open: Gauge::default(),
            connections: Counter::default(),
            accept_errors: Family::default(),
            tls_handshake_failures: Counter::default(),
            upstreams: UpstreamFamilies::default(),
            rosters: RosterFamilies::default(),
            schemas: SchemaFamilies::default(),
            identity: IdentityFamilies::default(),
            limits: LimitMetrics::default(),
            config: ReloadFamilies::default(),
            times: TimeFamilies::default(),
            methods: MethodFamilies::default(),
            backpressure: BackpressureFamilies::default(),
            spans: SpanFamilies::default(),
            tracer: OnceLock::new(),
        };
        // The exposition appends `_total` to the names of counters, and the full stop to the sentences.
        let r = &mut m.registry;
        r.register("calls_started", "Calls that began", m.calls_started.clone());
        r.register("calls_active", "Calls that run now", m.calls_active.clone());
        r.register("calls", "Calls that ended, by gRPC code and by who made the status", m.calls.clone());
        r.register("messages", "gRPC messages; up is to the service, down to the client", m.messages.clone());
        r.register("message_bytes", "Bytes of the messages, without framing", m.message_bytes.clone());
        r.register("sessions_open", "Sessions that are open now", m.sessions_open.clone());
        r.register("sessions", "Sessions that ended, by why", m.sessions.clone());
        r.register("sessions_parked", "Sessions that wait for a carrier now", m.sessions_parked.clone());
        r.register("parked_bytes", "Bytes that those keep for their clients", m.parked_bytes.clone());
        r.register(
            "sessions_resumed",
            "Sessions that went on with a new carrier",
            m.sessions_resumed.clone(),
        );
        r.register("replayed_bytes", "Bytes sent again on a new carrier", m.replayed_bytes.clone());
        r.register("resume_failures", "Carriers that asked for a session in vain", m.resume_failures.clone());
        r.register(
            "carriers_open",
            "Carriers of sessions that are open now, by kind",
            m.carriers_open.clone(),
        );
        r.register("carriers", "Carriers of sessions that were opened, by kind", m.carriers.clone());
        r.register("carriers_lost", "Carriers lost by sessions that go on without", m.carriers_lost.clone());
        r.register("relays_open", "Carriers relayed to other instances now", m.relays_open.clone());
        r.register(
            "carriers_relayed",
            "Carriers brought to sessions of other instances",
            m.carriers_relayed.clone(),
        );
        r.register(
            "carrier_requests_relayed",
            "Requests of HTTP carriers brought to the instance that has the carrier",
            m.carrier_requests_relayed.clone(),
        );
        r.register(
            "relay_failures",
            "Carriers and their requests not brought to the instance that they ask for",
            m.relay_failures.clone(),
        );
        r.register("refused", "Requests and sockets refused before they became a call", m.refused.clone());
        r.register("connections_open", "Downstream TCP connections open now", m.connections_open.clone());
        r.register("connections", "Downstream TCP connections accepted", m.connections.clone());
        r.register("accept_errors", "Failures to accept a connection", m.accept_errors.clone());
        r.register(
            "tls_handshake_failures",
            "Connections that ended before their TLS handshake did",
            m.tls_handshake_failures.clone(),
        );
        m.upstreams.register(r);
        m.rosters.register(r);
        m.schemas.register(r);
        m.identity.register(r);
        m.limits.register(r);
        m.config.register(r);
        m.times.register(r);
        m.methods.register(r);
        m.backpressure.register(r);
        m.spans.register(r);
        process_metrics::register_build(r);
        Arc::new(m)
    }

    /// The handles for calls of a route (its configured name, never a client's text) in a dialect.
    pub fn calls(&self, route: &str, dialect: Dialect) -> Arc<CallMetrics> {
        let dialect = dialect.as_str();
        let labels = RouteLabels { route: route.to_owned(), dialect };
        let traffic = |direction| {
            let labels = TrafficLabels { route: route.to_owned(), dialect, direction };
            Traffic {
                messages: self.messages.get_or_create_owned(&labels),
                bytes: self.message_bytes.get_or_create_owned(&labels),
            }
        };
        Arc::new(CallMetrics {
            started: self.calls_started.get_or_create_owned(&labels),
            active: self.calls_active.get_or_create_owned(&labels),
            times: self.times.of(&labels),
            methods: self.methods.handle(),
            up: traffic("up"),
            down: traffic("down"),
            ended: self.calls.clone(),
            by_end: [const { [const { OnceLock::new() }; 3] }; _],
            route: labels.route,
            dialect,
        })
    }

    /// The handles for one upstream's connections.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        self.upstreams.of(name, self.backpressure.of(name))
    }

    /// The clock that each worker's thread needs for the time that bytes wait.
    pub fn worker_clock(&self) -> WorkerClock {
        self.backpressure.clock()
    }

    /// The handles for one upstream's endpoints.
    pub fn roster(&self, name: &str) -> RosterMetrics {
        self.rosters.of(name)
    }

    /// The handles for one upstream's schema.
    pub fn schema(&self, name: &str) -> SchemaMetrics {
        self.schemas.of(name)
    }

    /// The handles for what verifies identities.
    pub fn identity(&self) -> IdentityMetrics {
        self.identity.handles()
    }

    /// What is counted of limits and overload.
    pub fn limits(&self) -> &LimitMetrics {
        &self.limits
    }

    /// Gives calls spans from now on, which come out of the queue. Only the first time counts.
    pub fn trace(&self, settings: TraceSettings) -> SpanQueue {
        let (tracer, queue) = self.spans.tracer(settings);
        let _ = self.tracer.set(tracer);
        queue
    }

    /// What gives calls spans; `None`: nothing does.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.get()
    }

    /// The OpenMetrics text exposition; its content type is [`Metrics::CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        text::encode_registry(&mut out, &self.process)
            .and_then(|()| text::encode(&mut out, &self.registry))
            .expect("writing to a String does not fail");
        out
    }

    /// What `encode` writes.
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A session's carrier was opened.
    pub fn session_opened(&self) {
        self.sessions_open.inc();
    }

    /// The session ended; `label` is `CloseReason::label`.
    pub fn session_closed(&self, label: &'static str) {
        self.sessions_open.dec();
        self.sessions.get_or_create(&Closed { closed: label }).inc();
    }

    /// The carrier of a session that had not begun went to another session.
    pub fn session_continued(&self) {
        self.sessions_open.dec();
    }

    /// So many sessions have no carrier now, and keep so much.
    pub fn parked(&self, sessions: usize, bytes: u64) {
        self.sessions_parked.set(sessions as i64);
        self.parked_bytes.set(bytes as i64);
    }

    /// A session goes on with a new carrier, and sends so much again.
    pub fn session_resumed(&self, replayed: u64) {
        self.sessions_resumed.inc();
        self.replayed_bytes.inc_by(replayed);
    }

    /// A carrier asked for a session and did not get it; `reason` is a stable word.
    pub fn resume_failed(&self, reason: &'static str) {
        self.resume_failures.get_or_create(&Reason { reason }).inc();
    }

    /// A session lost its carrier and goes on without; `reason` is a stable word.
    pub fn carrier_lost(&self, reason: &'static str) {
        self.carriers_lost.get_or_create(&Reason { reason }).inc();
    }

    /// A carrier is relayed to another instance, until what is returned is dropped.
    pub fn relay_opened(&self) -> OpenRelay {
        self.carriers_relayed.inc();
        self.relays_open.inc();
        OpenRelay { open: self.relays_open.clone() }
    }

    /// A request of an HTTP carrier was answered by another instance.
    pub fn carrier_request_relayed(&self) {
        self.carrier_requests_relayed.inc();
    }

    /// A carrier, or a request of one, was not brought to the instance that it asks for; `reason` is a stable word.
    pub fn relay_failed(&self, reason: &'static str) {
        self.relay_failures.get_or_create(&Reason { reason }).inc();
    }

    /// A request or socket was refused before it became a call; `reason` is a stable word.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// A downstream connection was accepted.
    pub fn connection_opened(&self) {
        self.connections.inc();
        self.connections_open.inc();
    }

    /// A downstream connection is gone, or was upgraded and its session's end is reported.
    pub fn connection_closed(&self) {
        self.connections_open.dec();
    }

    /// `accept` failed; `kind` is a stable word such as `too_many_files`.
    pub fn accept_error(&self, kind: &'static str) {
        self.accept_errors.get_or_create(&Kind { kind }).inc();
    }

    /// A TLS handshake failed or took too long.
    pub fn tls_handshake_failed(&self) {
        self.tls_handshake_failures.inc();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A carrier that is relayed; counted until it is dropped.
#[derive(Debug)]
pub struct OpenRelay {
    open: Gauge,
}

impl Drop for OpenRelay {
    fn drop(&mut self) {
        self.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        telemetry::CarrierKind,
        wire::{Code, Origin},
    };

    #[test]
    fn every_metric_has_the_prefix_a_sentence_and_openmetrics_ends_with_eof() {
        let metrics = Metrics::new();
        // A family shows up with its first series.
        metrics.calls("*", Dialect::Grpc).ended(Code::OK, Origin::Upstream).inc();
        metrics.upstream("chat").connect_failed();
        metrics.session_closed("drained");
        metrics.refused("origin");
        metrics.resume_failed("expired");
        metrics.carrier_lost("lost");
        metrics.relay_failed("unreachable");
        drop(metrics.carrier_opened(CarrierKind::Http));
        metrics.accept_error("too_many_files");
        let text = metrics.encode();
        let names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP "))
            .map(|line| line.split_once(' ').unwrap())
            .collect();
        assert!(names.len() >= 28, "{names:?}");
        for (name, help) in names {
            assert!(name.starts_with("bidiway_") || name.starts_with("process_"), "{name}");
            assert!(help.len() > 10, "{name}: {help}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn handles_of_the_same_route_and_dialect_count_into_one_series() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            let calls = metrics.calls("chat.v1.Chat", Dialect::Session);
            calls.started.inc();
            calls.ended(Code(5), Origin::Upstream).inc();
        }
        let text = metrics.encode();
        let labels = r#"route="chat.v1.Chat",dialect="session""#;
        assert!(text.contains(&format!("bidiway_calls_started_total{{{labels}}} 2")), "{text}");
        let end = r#"code="NOT_FOUND",origin="upstream""#;
        assert!(text.contains(&format!("bidiway_calls_total{{{labels},{end}}} 2")), "{text}");
    }

    #[test]
    fn codes_outside_grpcs_share_one_series() {
        let metrics = Metrics::new();
        let calls = metrics.calls("*", Dialect::Grpc);
        calls.ended(Code(17), Origin::Upstream).inc();
        calls.ended(Code(u32::MAX), Origin::Upstream).inc();
        let text = metrics.encode();
        assert!(
            text.contains(r#"calls_total{route="*",dialect="grpc",code="UNKNOWN_CODE",origin="upstream"} 2"#),
            "{text}"
        );
    }

    #[test]
    fn open_sessions_and_connections_go_up_and_down() {
        let metrics = Metrics::new();
        metrics.session_opened();
        metrics.session_opened();
        metrics.session_closed("drained");
        metrics.connection_opened();
        metrics.connection_closed();
        let upstream = metrics.upstream("chat");
        upstream.connected();
        let _open = metrics.carrier_opened(CarrierKind::Http);
        drop(metrics.carrier_opened(CarrierKind::HttpPoll));
        let text = metrics.encode();
        for line in [
            "bidiway_carriers_open{carrier=\"http\"} 1",
            "bidiway_carriers_open{carrier=\"http_poll\"} 0",
            "bidiway_carriers_total{carrier=\"http_poll\"} 1",
            "bidiway_sessions_open 1",
            "bidiway_sessions_total{closed=\"drained\"} 1",
            "bidiway_connections_open 0",
            "bidiway_connections_total 1",
            "bidiway_upstream_connections{upstream=\"chat\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
