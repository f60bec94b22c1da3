//! Traces, as a collector and the services see them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bidiway::{
    demo::{Services, v1 as demo},
    server::{self, TracingSettings},
    session::{Session, Settings as SessionSettings, Side},
    telemetry::{
        TraceSettings,
        otlp::{
            collector::{
                ExportTraceServiceRequest, ExportTraceServiceResponse,
                trace_service_server::{TraceService, TraceServiceServer},
            },
            common::{KeyValue, any_value::Value},
            trace::{Span, span::SpanKind, status::StatusCode},
        },
    },
    upstream::ClientTls,
    wire::{TraceContext, trace_context::hex, v1},
};
use http::HeaderMap;
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{
    session_calls::entry,
    support::{
        calls,
        carrier::CARRIERS,
        edge::{Edge, Http, WebAnswer, edge_adjusted, reflection, settings, whole},
        grpc_websocket::Call,
        json::{self, JsonSocket},
        socket::Socket,
        upstream::{Exchange, Scripted, Waiting, echo, message},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// A collector that takes spans as the protocol says.
struct Collector {
    way: server::Collector,
    requests: mpsc::Receiver<(HeaderMap, ExportTraceServiceRequest)>,
    waiting: Vec<Span>,
}

struct Taking(mpsc::Sender<(HeaderMap, ExportTraceServiceRequest)>);

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let _ = self.0.try_send((metadata.into_headers(), request));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel(100);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Taking(sender)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let upstream = calls::settings(&[&format!("http://{address}")]);
        Self { way: server::Collector::Grpc(Arc::new(upstream)), requests, waiting: Vec::new() }
    }

    /// One that speaks HTTP. It answers the first requests with these statuses.
    async fn over_http(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::channel(100);
        let asked = Arc::new(AtomicUsize::new(0));
        let take = move |headers: HeaderMap, body: bytes::Bytes| {
            let status = statuses.get(asked.fetch_add(1, SeqCst)).copied().unwrap_or(200);
            assert_eq!(headers["content-type"], "application/x-protobuf");
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            if status == 200 {
                sender.try_send((headers, request)).unwrap();
            }
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            std::future::ready((http::StatusCode::from_u16(status).unwrap(), answer))
        };
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let way = server::Collector::Http(url.parse().unwrap(), ClientTls::trusting_nobody());
        Self { way, requests, waiting: Vec::new() }
    }

    fn settings(&self, sample: f64) -> TracingSettings {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", "k1".parse().unwrap());
        TracingSettings {
            traces: TraceSettings { sample, trust_parent: true },
            collector: self.way.clone(),
            headers,
            service_name: "edge".into(),
        }
    }

    /// The next span, within the time in which spans are sent.
    async fn span(&mut self) -> Span {
        while self.waiting.is_empty() {
            let (headers, request) = within(10, self.requests.recv()).await.unwrap();
            assert_eq!(headers["x-api-key"], "k1");
            for resource in request.resource_spans {
                let attributes = resource.resource.unwrap().attributes;
                assert_eq!(attribute(&attributes, "service.name"), "edge");
                self.waiting.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        self.waiting.remove(0)
    }

    /// Stops the proxy, which sends what it has; nothing may be left.
    async fn no_more(mut self, mut edge: Edge) {
        edge.drain();
        within(10, edge.stopped()).await;
        let more = self.requests.try_recv().ok();
        assert!(self.waiting.is_empty() && more.is_none(), "{:?} {more:?}", self.waiting);
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found: Vec<_> = attributes.iter().filter(|a| a.key == key).collect();
    assert_eq!(found.len(), 1, "{key} in {attributes:?}");
    match found[0].value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn of(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key)
}

/// Echoes, and tells which context came.
async fn telling() -> (Scripted, mpsc::Receiver<HeaderMap>) {
    let (sender, told) = mpsc::channel(100);
    let upstream = Scripted::start(move |exchange: Exchange| {
        let _ = sender.try_send(exchange.request.headers().clone());
        echo(exchange)
    })
    .await;
    (upstream, told)
}

async fn edge(upstream: &str, collector: &Collector, sample: f64) -> Edge {
    let tracing = Some(collector.settings(sample));
    let upstream = calls::settings(&[upstream]);
    edge_adjusted(reflection(), vec![upstream], settings(), |settings| settings.tracing = tracing).await
}

/// What a service was told, which is the span of the proxy.
fn assert_child(told: &HeaderMap, span: &Span) {
    let context = TraceContext::parse(told["traceparent"].as_bytes()).unwrap();
    assert_eq!((&context.trace_id[..], &context.span_id[..]), (&span.trace_id[..], &span.span_id[..]));
    assert!(context.sampled);
}

#[tokio::test]
async fn a_call_is_one_span_between_its_clients_and_its_services() {
    let (upstream, mut told) = telling().await;
    let mut collector = Collector::start().await;
    let edge = edge(&upstream.url, &collector, 0.0).await;
    let request = edge
        .web(TALK)
        .header("traceparent", SAMPLED)
        .header("tracestate", "a=1")
        .header("tracestate", "b=2")
        .header("baggage", "user=7")
        .header("authorization", "Bearer secret-token");
    let answer = edge.send(Http::One, request.body(whole(message(b"hello"))).unwrap()).await;
    assert_eq!(WebAnswer::read(answer).await.unwrap().status().0, 0);

    let span = collector.span().await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), "00f067aa0ba902b7".into()));
    assert_eq!((&*span.name, span.kind()), ("chat.v1.Chat/Talk", SpanKind::Server));
    assert_eq!(span.trace_state, "a=1,b=2");
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "chat.v1.Chat"),
        ("rpc.method", "Talk"),
        ("rpc.grpc.status_code", "0"),
        ("client.address", "127.0.0.1"),
        ("bidiway.dialect", "grpc-web"),
        ("bidiway.route", "*"),
        ("bidiway.upstream", "chat"),
        ("bidiway.origin", "upstream"),
        ("bidiway.messages.up", "1"),
        ("bidiway.message_bytes.down", "5"),
    ] {
        assert_eq!(of(&span, key), value, "{key}");
    }
    assert!(span.status.is_none() && span.start_time_unix_nano < span.end_time_unix_nano);
    let at = span.events[0].time_unix_nano;
    assert!(span.start_time_unix_nano < at && at <= span.end_time_unix_nano, "the headers were in between");
    assert!(!format!("{span:?}").contains("secret"), "no metadata in spans: {span:?}");

    let told = told.recv().await.unwrap();
    assert_child(&told, &span);
    let states: Vec<_> = told.get_all("tracestate").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!((states, told["baggage"].to_str().unwrap()), (vec!["a=1", "b=2"], "user=7"));
    collector.no_more(edge).await;
}

/// The spans of so many unary calls, which are made now.
async fn spans_of_calls(edge: &Edge, collector: &mut Collector, count: usize) -> Vec<Span> {
    let mut spans = Vec::new();
    for _ in 0..count {
        let request = edge.web(TALK).body(whole(message(b"hi"))).unwrap();
        let answer = WebAnswer::read(edge.send(Http::Two, request).await).await.unwrap();
        assert_eq!(answer.status().0, 0);
    }
    for _ in 0..count {
        spans.push(collector.span().await);
    }
    spans
}

#[tokio::test]
async fn a_collector_that_speaks_http_gets_the_same_spans_and_is_asked_again_when_it_is_busy() {
    let upstream = Scripted::start(echo).await;
    let mut collector = Collector::over_http(&[503]).await;
    let edge = edge(&upstream.url, &collector, 1.0).await;
    within(30, async {
        for span in spans_of_calls(&edge, &mut collector, 2).await {
            assert_eq!((&*span.name, span.kind), ("chat.v1.Chat/Talk", SpanKind::Server as i32));
            assert_eq!(
                (of(&span, "bidiway.dialect"), of(&span, "rpc.service")),
                ("grpc-web".into(), "chat.v1.Chat".into())
            );
        }
        let count = |result: &str, count: u32| {
            edge.metrics.encode().contains(&format!("bidiway_spans_total{{result=\"{result}\"}} {count}\n"))
        };
        while !count("exported", 2) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(count("failed", 0));
    })
    .await;
    collector.no_more(edge).await;
}

#[tokio::test]
async fn spans_that_a_collector_over_http_refuses_for_good_are_counted_and_not_sent_again() {
    let upstream = Scripted::start(echo).await;
    let mut collector = Collector::over_http(&[400]).await;
    let edge = edge(&upstream.url, &collector, 1.0).await;
    within(30, async {
        let request = edge.web(TALK).body(whole(message(b"hi"))).unwrap();
        assert_eq!(WebAnswer::read(edge.send(Http::Two, request).await).await.unwrap().status().0, 0);
        while !edge.metrics.encode().contains("bidiway_spans_total{result=\"failed\"} 1\n") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // The next ones are taken.
        assert_eq!(spans_of_calls(&edge, &mut collector, 1).await.len(), 1);
    })
    .await;
    collector.no_more(edge).await;
}

#[tokio::test]
async fn every_dialect_has_one_span_for_each_call_also_inside_of_a_session() {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut collector = Collector::start().await;
    let edge = edge(&format!("http://{}", services.address()), &collector, 1.0).await;
    const HELLO: &str = "/demo.v1.Greeter/Hello";
    let hello = demo::HelloRequest { name: "x".into() }.encode_to_vec();

    let mut socket = Socket::connect(edge.address).await;
    for _ in 0..3 {
        assert_eq!(socket.unary(HELLO, hello.clone()).await.code().0, 0);
    }
    let _ = Call::unary(CARRIERS[0], &edge, HELLO, &hello).await;
    let request = json::request(&edge, HELLO, r#"{"name":"x"}"#);
    assert_eq!(json::call(&edge, Http::Two, request).await.http, 200);
    let mut json = JsonSocket::open(CARRIERS[0], &edge, HELLO).await;
    json.send(r#"{"name":"x"}"#).await;
    json.finish().await;
    let request =
        edge.request("POST", HELLO).header("content-type", "application/grpc").header("te", "trailers");
    edge.send(Http::Two, request.body(whole(message(&hello))).unwrap()).await;

    let mut dialects = Vec::new();
    let mut traces = Vec::new();
    for _ in 0..7 {
        let span = collector.span().await;
        assert!(span.parent_span_id.is_empty(), "nobody has begun its trace");
        assert_eq!(of(&span, "rpc.method"), "Hello");
        let dialect = of(&span, "bidiway.dialect");
        assert_eq!(dialect == "session", span.attributes.iter().any(|a| a.key == "session.id"));
        dialects.push(dialect);
        traces.push(span.trace_id);
    }
    dialects.sort();
    let all = ["grpc", "grpc-websockets", "json-http", "json-socket", "session", "session", "session"];
    assert_eq!(dialects, all);
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 7, "each call has a trace of its own");
    collector.no_more(edge).await;
}

#[tokio::test]
async fn a_sessions_calls_get_their_context_from_hello_or_from_open() {
    let (upstream, mut told) = telling().await;
    let mut collector = Collector::start().await;
    let edge = edge(&upstream.url, &collector, 0.0).await;
    let client = SessionSettings { metadata: vec![entry("traceparent", SAMPLED)], ..Default::default() };
    let io = tokio::net::TcpStream::connect(edge.address).await.unwrap();
    let (ws, _) = tokio_tungstenite::client_async(
        crate::support::socket::request(edge.address),
        Box::new(io) as Box<dyn crate::support::socket::Io>,
    )
    .await
    .unwrap();
    let mut socket = Socket::with(ws, Session::new(Side::Client, client, Instant::now().into_std()));
    assert_eq!(socket.unary(TALK, "x").await.code().0, 0);
    let span = collector.span().await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), "00f067aa0ba902b7".into()));
    assert_child(&told.recv().await.unwrap(), &span);

    let other = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
    let open =
        v1::Open { method: TALK.into(), metadata: vec![entry("traceparent", other)], ..Default::default() };
    let stream = socket.open_with(open).await;
    socket.finish(stream).await;
    socket.answer(stream).await;
    let span = collector.span().await;
    assert_eq!(hex(&span.trace_id), "0123456789abcdef0123456789abcdef");
    assert_child(&told.recv().await.unwrap(), &span);
    collector.no_more(edge).await;
}

#[tokio::test]
async fn a_client_that_does_not_sample_has_no_span_and_the_service_sees_its_context() {
    let (upstream, mut told) = telling().await;
    let collector = Collector::start().await;
    let edge = edge(&upstream.url, &collector, 1.0).await;
    let request = edge.web(TALK).header("traceparent", UNSAMPLED).header("tracestate", "a=1");
    edge.send(Http::One, request.body(whole(message(b"x"))).unwrap()).await;
    let told = told.recv().await.unwrap();
    assert_eq!(
        (&told["traceparent"], &told["tracestate"]),
        (&UNSAMPLED.parse().unwrap(), &"a=1".parse().unwrap())
    );
    collector.no_more(edge).await;
}

#[tokio::test]
async fn a_call_that_is_not_sampled_has_no_span_and_tells_the_service_so() {
    let (upstream, mut told) = telling().await;
    let collector = Collector::start().await;
    let edge = edge(&upstream.url, &collector, 0.0).await;
    edge.send(Http::One, edge.web(TALK).body(whole(message(b"x"))).unwrap()).await;
    let told = told.recv().await.unwrap();
    assert!(!TraceContext::parse(told["traceparent"].as_bytes()).unwrap().sampled);
    collector.no_more(edge).await;
}

#[tokio::test]
async fn without_tracing_what_clients_say_passes_as_it_is() {
    let (upstream, mut told) = telling().await;
    let edge = crate::support::edge::edge(&upstream.url).await;
    for context in [Some(SAMPLED), Some("nonsense"), None] {
        let mut request = edge.web(TALK);
        if let Some(context) = context {
            request = request.header("traceparent", context);
        }
        edge.send(Http::One, request.body(whole(message(b"x"))).unwrap()).await;
        let told = told.recv().await.unwrap();
        assert_eq!(told.get("traceparent").map(|value| value.to_str().unwrap()), context);
    }
}

#[tokio::test]
async fn refused_and_cancelled_calls_have_spans_too() {
    let mut waiting = Waiting::start(true).await;
    let mut collector = Collector::start().await;
    let edge = edge(&waiting.server.url, &collector, 1.0).await;
    let refused = edge.web(TALK).header("grpc-timeout", "soon").body(whole(message(b"x"))).unwrap();
    edge.send(Http::One, refused).await;
    let span = collector.span().await;
    assert_eq!((&*of(&span, "rpc.grpc.status_code"), &*of(&span, "bidiway.origin")), ("3", "proxy"));
    assert_eq!(
        (&*span.name, span.status),
        ("(no upstream)", None),
        "the client's mistake is no error of the server"
    );

    let mut socket = Socket::connect(edge.address).await;
    let stream = socket.open(TALK).await;
    waiting.begun(1).await;
    socket.cancel(stream).await;
    let span = collector.span().await;
    assert_eq!((&*of(&span, "rpc.grpc.status_code"), &*of(&span, "bidiway.origin")), ("1", "client"));

    let late = edge.web(TALK).header("grpc-timeout", "20m").body(whole(message(b"x"))).unwrap();
    let answer = edge.send(Http::One, late).await;
    assert_eq!(WebAnswer::read(answer).await.unwrap().status().0, 4);
    let span = collector.span().await;
    let status = span.status.unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(status.message.contains("deadline"), "{}", status.message);
    collector.no_more(edge).await;
}

#[tokio::test]
async fn what_the_collector_does_not_take_is_counted_and_calls_do_not_notice() {
    let (upstream, _told) = telling().await;
    let collector = Collector::start().await;
    let mut tracing = collector.settings(1.0);
    tracing.collector = server::Collector::Grpc(Arc::new(calls::settings(&["http://127.0.0.1:1"])));
    let upstream = calls::settings(&[&upstream.url]);
    let mut edge =
        edge_adjusted(reflection(), vec![upstream], settings(), |settings| settings.tracing = Some(tracing))
            .await;
    for _ in 0..3 {
        let answer = edge.send(Http::One, edge.web(TALK).body(whole(message(b"x"))).unwrap()).await;
        assert_eq!(WebAnswer::read(answer).await.unwrap().status().0, 0);
    }
    edge.drain();
    within(10, edge.stopped()).await;
    let text = edge.metrics.encode();
    assert!(text.contains("bidiway_spans_total{result=\"failed\"} 3"), "{text}");
}
