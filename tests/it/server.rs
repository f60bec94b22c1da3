//! The server's life: workers, limits on connections, admin port, drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bidiway::{
    demo::{
        Services,
        v1::{self, lab_client::LabClient},
    },
    downstream,
    server::{ListenerSettings, Server, Settings},
    session::{self, Event},
    telemetry::Metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use crate::support::{calls, carrier::Carrier, edge, http::get, socket::Socket, within};

struct Proxy {
    address: SocketAddr,
    admin: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: oneshot::Sender<()>,
    cut: CancellationToken,
    serving: JoinHandle<()>,
    _services: Services,
}

/// A proxy before the demo's services.
async fn proxy(adjust: impl FnOnce(&mut Settings, &mut downstream::Settings)) -> Proxy {
    let free = "127.0.0.1:0".parse().unwrap();
    let services = Services::start(free).await.unwrap();
    let mut downstream = edge::settings();
    let mut settings = Settings {
        admin: Some(free),
        drain: Duration::from_secs(30).into(),
        upstreams: vec![Arc::new(calls::settings(&[&format!("http://{}", services.address())]))],
        ..Settings::new(vec![ListenerSettings::new(free, None)])
    };
    adjust(&mut settings, &mut downstream);
    settings.downstream = Arc::new(downstream);
    let server = Server::bind(settings).unwrap();
    let (shutdown, stop) = oneshot::channel();
    let (address, admin) = (server.addresses()[0], server.admin_address().unwrap());
    let (metrics, cut) = (server.metrics(), server.cut());
    let serving = tokio::spawn(server.serve(async {
        let _ = stop.await;
    }));
    Proxy { address, admin, metrics, shutdown, cut, serving, _services: services }
}

async fn lab(address: SocketAddr) -> LabClient<Channel> {
    LabClient::connect(format!("http://{address}")).await.unwrap()
}

fn payload(number: u64) -> v1::Payload {
    v1::Payload { number, ..Default::default() }
}

/// Waits until the metrics have this line.
async fn metric(metrics: &Metrics, line: &str) {
    within(10, async {
        while !metrics.encode().lines().any(|found| found == line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_admin_port_tells_health_readiness_and_metrics() {
    let proxy = proxy(|_, _| {}).await;
    lab(proxy.address).await.unary(payload(1)).await.unwrap();
    assert_eq!(get(proxy.admin, "/healthz").await.unwrap().0, 200);
    assert_eq!(get(proxy.admin, "/readyz").await.unwrap(), (200, "ready\n".into()));
    assert_eq!(get(proxy.admin, "/nothing").await.unwrap().0, 404);
    let (status, text) = get(proxy.admin, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    let counted = r#"bidiway_calls_total{route="*",dialect="grpc",code="OK",origin="upstream"} 1"#;
    assert!(text.lines().any(|line| line == counted), "{text}");
    assert!(text.lines().any(|line| line == "bidiway_connections_total 1"), "{text}");
}

#[tokio::test]
async fn a_drain_lets_the_running_call_finish_and_takes_nothing_new() {
    let proxy = proxy(|_, _| {}).await;
    let mut lab = lab(proxy.address).await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    send.send(payload(1)).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = lab.bidi(requests).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().number, 1);

    proxy.shutdown.send(()).unwrap();
    within(10, async { while get(proxy.admin, "/readyz").await.unwrap().0 != 503 {} }).await;
    assert_eq!(get(proxy.admin, "/healthz").await.unwrap().0, 200);
    // The port is closed, but the call goes on and ends well.
    within(10, async { while TcpStream::connect(proxy.address).await.is_ok() {} }).await;
    send.send(payload(2)).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().number, 2);
    assert!(!proxy.serving.is_finished());
    drop(send);
    assert!(answers.message().await.unwrap().is_none());
    within(10, proxy.serving).await.unwrap();
}

/// The answers to two requests on one connection of HTTP/1.1.
async fn answer(socket: &mut TcpStream) -> String {
    socket.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    let len = within(5, socket.read(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer[..len]).into_owned()
}

#[tokio::test]
async fn in_the_grace_it_is_not_ready_and_serves_everybody_but_keeps_no_http1_connection() {
    let proxy = proxy(|settings, _| settings.drain.grace = Duration::from_secs(20)).await;
    let mut early = TcpStream::connect(proxy.address).await.unwrap();
    assert!(!answer(&mut early).await.contains("connection: close"));
    proxy.shutdown.send(()).unwrap();
    within(10, async { while get(proxy.admin, "/readyz").await.unwrap().0 != 503 {} }).await;
    let late = TcpStream::connect(proxy.address).await.unwrap();
    for mut socket in [early, late] {
        let text = answer(&mut socket).await;
        assert!(text.starts_with("HTTP/1.1 404") && text.contains("connection: close"), "{text}");
        assert_eq!(within(5, socket.read(&mut [0])).await.unwrap(), 0);
    }
    lab(proxy.address).await.unary(payload(1)).await.unwrap();
    assert!(!proxy.serving.is_finished());
    proxy.cut.cancel();
    within(5, proxy.serving).await.unwrap();
}

/// A session with an open call of the Lab.
async fn talking(address: SocketAddr) -> (Socket, u32) {
    let mut socket = Socket::connect(address).await;
    let stream = socket.open("/demo.v1.Lab/Bidi").await;
    socket.send(stream, "").await;
    assert_eq!(socket.message(stream).await, b"");
    (socket, stream)
}

/// What GoAway says next.
async fn goaway(socket: &mut Socket) -> bidiway::wire::v1::GoAway {
    loop {
        if let Event::GoAway(goaway) = socket.next_own().await {
            return *goaway;
        }
    }
}

#[tokio::test]
async fn within_the_spread_sessions_with_calls_take_more_and_those_without_are_sent_elsewhere() {
    let proxy = proxy(|settings, _| settings.drain.spread = Duration::from_secs(3600)).await;
    within(20, async {
        let mut idle = Socket::connect(proxy.address).await;
        let stream = idle.open("/demo.v1.Lab/Unary").await;
        idle.send(stream, "").await;
        idle.finish(stream).await;
        idle.answer(stream).await;
        let (mut busy, first) = talking(proxy.address).await;
        proxy.shutdown.send(()).unwrap();
        assert_eq!(goaway(&mut idle).await.reconnect_delay_ms, 0);
        assert_eq!(idle.close_frame().await.0, 1001);
        let second = busy.open("/demo.v1.Lab/Unary").await;
        assert_eq!(second, first + 1);
        busy.send(second, "").await;
        busy.finish(second).await;
        assert_eq!(busy.answer(second).await.code(), bidiway::wire::Code::OK);
    })
    .await;
}

#[tokio::test]
async fn those_that_lose_calls_at_the_drain_deadline_are_told_to_come_back_at_different_times() {
    let proxy = proxy(|settings, _| settings.drain.spread = Duration::from_secs(3600)).await;
    within(20, async {
        let mut sockets = Vec::new();
        for _ in 0..8 {
            sockets.push(talking(proxy.address).await);
        }
        proxy.shutdown.send(()).unwrap();
        proxy.cut.cancel();
        let mut delays = Vec::new();
        for (mut socket, stream) in sockets {
            delays.push(goaway(&mut socket).await.reconnect_delay_ms);
            assert_eq!(socket.answer(stream).await.code(), bidiway::wire::Code::UNAVAILABLE);
            assert_eq!(socket.close_frame().await.0, 1001);
        }
        assert!(delays.iter().all(|&delay| delay < 3_600_000), "{delays:?}");
        delays.sort_unstable();
        delays.dedup();
        assert!(delays.len() > 1, "{delays:?}");
        proxy.serving.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_call_that_outlives_the_drain_deadline_ends_with_unavailable() {
    let proxy = proxy(|settings, _| settings.drain = Duration::from_millis(100).into()).await;
    let mut lab = lab(proxy.address).await;
    let mut answers = lab.wait_stream(v1::Empty {}).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    proxy.shutdown.send(()).unwrap();
    let status = within(10, answers.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.metadata().get("bidiway-origin").unwrap(), "proxy");
    within(10, proxy.serving).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_just_opened_when_the_drain_begins_has_its_first_request_answered() {
    let proxy = proxy(|settings, _| settings.drain.spread = Duration::from_secs(3600)).await;
    within(20, async {
        let mut new = TcpStream::connect(proxy.address).await.unwrap();
        let mut session = Socket::connect(proxy.address).await;
        let stream = session.open("/demo.v1.Lab/Unary").await;
        session.send(stream, "").await;
        session.finish(stream).await;
        session.answer(stream).await;
        metric(&proxy.metrics, "bidiway_connections_open 2").await;
        proxy.shutdown.send(()).unwrap();
        assert_eq!(goaway(&mut session).await.reconnect_delay_ms, 0);
        assert_eq!(session.close_frame().await.0, 1001);
        let text = answer(&mut new).await;
        assert!(text.starts_with("HTTP/1.1 404") && text.contains("connection: close"), "{text}");
        proxy.serving.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_drain() {
    let proxy = proxy(|_, _| {}).await;
    let mut asked = TcpStream::connect(proxy.address).await.unwrap();
    asked.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 9];
    asked.read_exact(&mut head).await.unwrap();
    let _silent = TcpStream::connect(proxy.address).await.unwrap();
    let mut lab = lab(proxy.address).await;
    lab.unary(payload(1)).await.unwrap();
    metric(&proxy.metrics, "bidiway_connections_open 3").await;
    proxy.shutdown.send(()).unwrap();
    within(5, proxy.serving).await.unwrap();
}

#[tokio::test]
async fn several_workers_serve_one_port_and_stop_together() {
    let proxy = proxy(|settings, _| settings.workers = 3).await;
    for number in 0..20 {
        let answer = lab(proxy.address).await.unary(payload(number)).await.unwrap();
        assert_eq!(answer.into_inner().number, number);
    }
    proxy.shutdown.send(()).unwrap();
    within(10, proxy.serving).await.unwrap();
    assert!(TcpStream::connect(proxy.address).await.is_err());
}

#[tokio::test]
async fn a_connection_past_the_limit_waits_for_a_place() {
    let proxy = proxy(|settings, _| settings.max_connections = 1).await;
    let mut first = lab(proxy.address).await;
    first.unary(payload(1)).await.unwrap();
    // Connected by the kernel; served only when the first is gone.
    let mut second = TcpStream::connect(proxy.address).await.unwrap();
    second.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read_to_string(&mut text)).await;
    assert!(early.is_err(), "{text}");
    drop(first);
    within(10, second.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 "), "{text}");
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let limit = Duration::from_millis(100);
    let proxy = proxy(|_, downstream| downstream.limits.header_timeout = limit).await;
    // Nothing; the begin of HTTP/2's preface; an HTTP/1.1 request without an end.
    for begin in [&b""[..], b"PRI * HT", b"GET / HTTP/1.1\r\n"] {
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        socket.write_all(begin).await.unwrap();
        let mut rest = Vec::new();
        within(10, socket.read_to_end(&mut rest)).await.unwrap();
    }
    // A connection that has asked once is not touched, however long its call takes.
    let mut lab = lab(proxy.address).await;
    let mut request = tonic::Request::new(payload(7));
    request.metadata_mut().insert("demo-delay-ms", "500".parse().unwrap());
    assert_eq!(lab.unary(request).await.unwrap().into_inner().number, 7);
}

#[tokio::test]
async fn an_http2_connection_on_which_nothing_goes_on_is_ended_and_one_with_silent_streams_is_not() {
    let proxy = proxy(|_, downstream| downstream.limits.idle_timeout = Duration::from_millis(200)).await;
    let mut socket = Carrier::Http2.connect_to(proxy.address, session::Settings::default()).await;
    let mut lab = lab(proxy.address).await;
    lab.unary(payload(1)).await.unwrap();
    metric(&proxy.metrics, "bidiway_idle_closes_total 1").await;
    metric(&proxy.metrics, "bidiway_connections_open 1").await;
    // The client notices nothing of it, and this call takes longer than that.
    let mut request = tonic::Request::new(payload(7));
    request.metadata_mut().insert("demo-delay-ms", "1000".parse().unwrap());
    assert_eq!(lab.unary(request).await.unwrap().into_inner().number, 7);
    metric(&proxy.metrics, "bidiway_idle_closes_total 1").await;
    // Nor was the WebSocket's touched.
    assert_eq!(within(10, socket.unary("/demo.v1.Lab/Unary", "")).await.code().0, 0);
    drop(socket);
    metric(&proxy.metrics, "bidiway_idle_closes_total 2").await;
    metric(&proxy.metrics, "bidiway_connections_open 0").await;
}

#[tokio::test]
async fn an_upgraded_socket_stays_counted_until_it_closes() {
    let proxy = proxy(|_, _| {}).await;
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {0}\r\norigin: http://{0}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: bidiway.v1\r\n\r\n",
        proxy.address
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    within(10, socket.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    metric(&proxy.metrics, "bidiway_connections_open 1").await;
    drop(socket);
    metric(&proxy.metrics, "bidiway_connections_open 0").await;
}

#[tokio::test]
async fn a_taken_port_is_reported_with_advice() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let settings = Settings::new(vec![ListenerSettings::new(address, None)]);
    let error = Server::bind(settings).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    assert!(error.ends_with("choose another port"), "{error}");
}
