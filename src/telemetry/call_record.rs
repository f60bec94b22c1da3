//! One call's account: counted and logged in one place, whatever the dialect.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::info;

use http::HeaderMap;

use super::{CallMetrics, Tracer, Trip, call_metrics::Traffic, log::wants, tracer::CallTrace};
use crate::wire::{Code, Origin, Outcome};

/// A long stream's messages reach the metrics every so many messages, not only at its end.
const FLUSH_EVERY: u64 = 256;

/// The longest status message that is logged, in characters.
const MESSAGE_MAX: usize = 512;

/// The longest method that is logged, in characters. A client may ask for anything.
const METHOD_MAX: usize = 200;

/// The longest name that a client gives itself or its request that is logged, in characters.
const NAME_MAX: usize = 200;

/// What a client says of itself and its request, for the log: and no other metadata.
#[derive(Clone, Debug, Default)]
pub struct ClientNames {
    /// `user-agent` of the HTTP request that carries the call.
    pub user_agent: Option<Arc<str>>,
    /// `x-request-id`: how the client, or a proxy before this one, calls the request.
    pub request_id: Option<Box<str>>,
}

impl ClientNames {
    /// A name that a client gives, as it may stand in a log: cut, and `None` if it is no printable text.
    pub fn printable(value: &http::HeaderValue) -> Option<&str> {
        value.to_str().ok().filter(|name| !name.is_empty()).map(|name| cut(name, NAME_MAX))
    }
}

/// What a call holds until its end.
pub trait CallGuard: fmt::Debug + Send + Sync {
    /// It has ended so.
    fn ended(&self, code: Code, origin: Origin);
}

/// What is known of a call while it runs. It ends exactly once: with `end`, or, when it is dropped before, as
/// CANCELLED by the client. Then one log line is written and the metrics are counted.
///
/// Per message it only adds to plain integers; the shared atomics are touched now and then.
#[derive(Debug)]
pub struct CallRecord {
    metrics: Arc<CallMetrics>,
    method: Box<str>,
    peer: SocketAddr,
    names: ClientNames,
    principal: Option<Arc<str>>,
    session: Option<Arc<str>>,
    upstream: Option<Box<str>>,
    trip: Arc<Trip>,
    began: Instant,
    headers: Option<Instant>,
    up: Tally,
    down: Tally,
    trace: Option<Box<CallTrace>>,
    ended: bool,
    guard: Option<Box<dyn CallGuard>>,
}

/// Messages and bytes in one direction: all of them, and how many the metrics know of.
#[derive(Debug, Default)]
struct Tally {
    messages: u64,
    bytes: u64,
    flushed_messages: u64,
    flushed_bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64, traffic: &Traffic) {
        self.messages += 1;
        self.bytes += bytes;
        // The first one at once: a stream that just opened shows that it works.
        if self.messages % FLUSH_EVERY == 1 {
            self.flush(traffic);
        }
    }

    fn flush(&mut self, traffic: &Traffic) {
        traffic.messages.inc_by(self.messages - self.flushed_messages);
        traffic.bytes.inc_by(self.bytes - self.flushed_bytes);
        self.flushed_messages = self.messages;
        self.flushed_bytes = self.bytes;
    }
}

impl CallRecord {
    /// A call has begun. `session` is the session's id for streams of sessions.
    pub fn start(
        metrics: Arc<CallMetrics>,
        method: &str,
        peer: SocketAddr,
        session: Option<Arc<str>>,
    ) -> Self {
        metrics.started.inc();
        metrics.active.inc();
        Self {
            metrics,
            method: cut(method, METHOD_MAX).into(),
            peer,
            names: ClientNames::default(),
            principal: None,
            session,
            upstream: None,
            trip: Arc::default(),
            began: Instant::now(),
            headers: None,
            up: Tally::default(),
            down: Tally::default(),
            trace: None,
            ended: false,
            guard: None,
        }
    }

    /// What the call holds until its end.
    pub fn hold(&mut self, guard: Option<Box<dyn CallGuard>>) {
        self.guard = guard;
    }

    /// Who calls, by his own word.
    pub fn called_by(&mut self, names: ClientNames) {
        self.names = names;
    }

    /// Who calls, as it was verified.
    pub fn verified(&mut self, principal: Arc<str>) {
        self.principal = Some(principal);
    }

    /// The call has a place in the trace that its client's metadata names, or in a new one.
    pub fn trace(&mut self, tracer: &Tracer, metadata: &HeaderMap) {
        self.trace = tracer.begin(metadata).map(Box::new);
    }

    /// The call goes to this upstream, with this metadata: which tells the service its place in the trace. What opens its
    /// streams is to say so in what is returned.
    pub fn propagate(&mut self, upstream: &str, metadata: &mut HeaderMap) -> Arc<Trip> {
        self.upstream = Some(upstream.into());
        if let Some(trace) = &mut self.trace {
            trace.upstream = upstream.into();
            trace.write_to(metadata);
        }
        Arc::clone(&self.trip)
    }

    /// A request message went upstream, with so many bytes of payload.
    pub fn message_up(&mut self, bytes: u64) {
        self.up.add(bytes, &self.metrics.up);
    }

    /// A response message went downstream, with so many bytes of payload.
    pub fn message_down(&mut self, bytes: u64) {
        if self.down.messages == 0 {
            self.metrics.times.first_message.observe(self.began.elapsed().as_secs_f64());
        }
        self.down.add(bytes, &self.metrics.down);
    }

    /// Initial metadata arrived from upstream (the log's time to headers).
    pub fn headers(&mut self) {
        if self.headers.is_none() {
            let now = Instant::now();
            self.metrics.times.headers.observe((now - self.began).as_secs_f64());
            self.headers = Some(now);
        }
    }

    /// The call is over.
    pub fn end(mut self, outcome: &Outcome) {
        self.close(outcome.status.code, outcome.origin, &outcome.status.message);
    }

    fn close(&mut self, code: Code, origin: Origin, message: &str) {
        self.ended = true;
        if let Some(guard) = self.guard.take() {
            guard.ended(code, origin);
        }
        let duration = self.began.elapsed();
        self.up.flush(&self.metrics.up);
        self.down.flush(&self.metrics.down);
        self.metrics.active.dec();
        self.metrics.times.duration.observe(duration.as_secs_f64());
        self.metrics.ended(code, origin).inc();
        self.metrics.methods.ended(&self.method, code, origin);
        if wants(code) {
            self.log(code, origin, message, duration);
        }
        if let Some(trace) = self.trace.take() {
            trace.end(|span| {
                span.duration = duration;
                span.headers = self.headers.map(|at| at - self.began);
                span.method = std::mem::take(&mut self.method);
                span.route = self.metrics.route().to_owned();
                span.dialect = self.metrics.dialect();
                span.session = self.session.take();
                span.client = self.peer.ip();
                span.code = code;
                span.origin = origin;
                span.message =
                    if code == Code::OK { String::new() } else { cut(message, MESSAGE_MAX).to_owned() };
                span.messages = [self.up.messages, self.down.messages];
                span.bytes = [self.up.bytes, self.down.bytes];
            });
        }
    }
}

impl CallRecord {
    /// Writes the line.
    fn log(&self, code: Code, origin: Origin, message: &str, duration: Duration) {
        let legs = self.trip.legs();
        // `grpc_message`, not `message`: tracing prints a field of that name bare, and its text is not ours.
        info!(
            target: "call",
            method = &*self.method,
            dialect = self.metrics.dialect(),
            route = self.metrics.route(),
            code = code.name(),
            origin = origin.as_str(),
            grpc_message = (code != Code::OK && !message.is_empty()).then(|| cut(message, MESSAGE_MAX)),
            duration_ms = millis(duration),
            headers_ms = self.headers.map(|at| millis(at - self.began)),
            messages_up = self.up.messages,
            messages_down = self.down.messages,
            bytes_up = self.up.bytes,
            bytes_down = self.down.bytes,
            peer = %self.peer,
            principal = self.principal.as_deref().map(|name| cut(name, NAME_MAX)),
            user_agent = self.names.user_agent.as_deref(),
            request_id = self.names.request_id.as_deref(),
            session = self.session.as_deref(),
            upstream = self.upstream.as_deref(),
            endpoint = legs.endpoint.as_deref(),
            attempts = (legs.attempts > 0).then_some(legs.attempts),
            trace_id = self.trace.as_ref().map(|trace| trace.id()),
        );
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if !self.ended {
            self.close(Code::CANCELLED, Origin::Client, "");
        }
    }
}

/// Milliseconds to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn cut(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use http::HeaderMap;

    use super::*;
    use crate::{
        telemetry::{Dialect, Metrics},
        wire::Status,
    };

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(buf)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `run` runs.
    fn logged(run: impl FnOnce()) -> Vec<serde_json::Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
        tracing::subscriber::with_default(subscriber.finish(), run);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn start(metrics: &Metrics) -> CallRecord {
        let calls = metrics.calls("chat.v1.*", Dialect::Session);
        let peer = "192.0.2.7:5000".parse().unwrap();
        CallRecord::start(calls, "/chat.v1.Chat/Talk", peer, Some("s-1".into()))
    }

    #[test]
    fn a_method_as_long_as_a_client_likes_makes_no_long_line() {
        let metrics = Metrics::new().calls("*", Dialect::Session);
        let method = format!("/{}/b", "a".repeat(100_000));
        let record = CallRecord::start(metrics, &method, "192.0.2.7:5000".parse().unwrap(), None);
        let lines = logged(|| record.end(&outcome(Code::UNIMPLEMENTED, "no", Origin::Proxy)));
        assert_eq!(lines[0]["method"], method[..METHOD_MAX]);
    }

    fn outcome(code: Code, message: &str, origin: Origin) -> Outcome {
        Outcome { status: Status::new(code, message), origin, trailers: HeaderMap::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_one_log_line_with_all_that_is_known_of_it() {
        let metrics = Metrics::new();
        let mut record = start(&metrics);
        let names = ClientNames { user_agent: Some("Firefox".into()), request_id: Some("r-1".into()) };
        record.called_by(names);
        record.verified("jwt:https://id.example.com/ ada".into());
        let trip = record.propagate("chat", &mut HeaderMap::new());
        for endpoint in ["http://10.0.0.1:50051", "http://10.0.0.2:50051"] {
            trip.opened(&endpoint.into());
        }
        record.message_up(10);
        tokio::time::advance(Duration::from_millis(5)).await;
        record.headers();
        tokio::time::advance(Duration::from_millis(20)).await;
        record.headers();
        record.message_down(7);
        record.message_down(8);
        let lines = logged(|| record.end(&outcome(Code::ABORTED, "come\nagain", Origin::Upstream)));
        assert_eq!(lines.len(), 1);
        let mut line = lines[0].clone();
        line.as_object_mut().unwrap().remove("timestamp");
        assert_eq!(
            line,
            serde_json::json!({
                "level": "INFO", "target": "call", "method": "/chat.v1.Chat/Talk", "dialect": "session",
                "route": "chat.v1.*", "code": "ABORTED", "origin": "upstream", "grpc_message": "come\nagain",
                "duration_ms": 25.0, "headers_ms": 5.0, "messages_up": 1, "messages_down": 2,
                "bytes_up": 10, "bytes_down": 15, "peer": "192.0.2.7:5000", "session": "s-1",
                "principal": "jwt:https://id.example.com/ ada", "user_agent": "Firefox", "request_id": "r-1",
                "upstream": "chat", "endpoint": "http://10.0.0.2:50051", "attempts": 2,
            })
        );
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_was_cancelled_by_the_client() {
        let metrics = Metrics::new();
        let lines = logged(|| drop(start(&metrics)));
        assert_eq!(lines.len(), 1);
        assert_eq!((&lines[0]["code"], &lines[0]["origin"]), (&"CANCELLED".into(), &"client".into()));
        let text = metrics.encode();
        assert!(text.contains(r#"code="CANCELLED",origin="client"} 1"#), "{text}");
        assert!(text.contains(r#"calls_active{route="chat.v1.*",dialect="session"} 0"#), "{text}");
    }

    #[tokio::test]
    async fn an_ok_call_logs_no_message_and_is_counted_once() {
        let metrics = Metrics::new();
        let record = start(&metrics);
        assert!(metrics.encode().contains(r#"calls_active{route="chat.v1.*",dialect="session"} 1"#));
        let lines = logged(|| record.end(&outcome(Code::OK, "fine", Origin::Upstream)));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].get("grpc_message"), None);
        assert!(
            metrics.encode().contains(
                r#"calls_total{route="chat.v1.*",dialect="session",code="OK",origin="upstream"} 1"#
            )
        );
    }

    #[tokio::test]
    async fn a_long_streams_messages_are_visible_before_its_end() {
        let metrics = Metrics::new();
        let mut record = start(&metrics);
        let count = |direction| {
            let text = metrics.encode();
            let name = format!(
                r#"bidiway_messages_total{{route="chat.v1.*",dialect="session",direction="{direction}"}} "#
            );
            let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
            line.parse::<u64>().unwrap()
        };
        record.message_down(1);
        assert_eq!(count("down"), 1);
        for _ in 0..FLUSH_EVERY {
            record.message_down(1);
        }
        assert_eq!((count("down"), count("up")), (FLUSH_EVERY + 1, 0));
        record.message_down(1);
        drop(record);
        assert_eq!(count("down"), FLUSH_EVERY + 2);
    }

    #[test]
    fn a_long_status_message_is_cut_between_characters() {
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
