//! How fast clients may send within their calls: too much of it waits, and arrives.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bidiway::{
    downstream::{CallLimits, RouteLimits, RouteSettings, ServicePattern, Settings},
    wire::Code,
};
use bytes::Bytes;
use http_body_util::BodyExt;

use crate::{
    identity::session_of,
    support::{
        carrier::{CARRIERS, Carrier},
        edge::{BOTH, Edge, Http, WebAnswer, edge_with, open, settings},
        grpc_websocket::{Call, Multiplex},
        identity::{downstream, identity, provider, required},
        json::{JsonSocket, pretending_with, request_with},
        socket::Socket,
        tokens::{Issuer, claims},
        upstream::{Exchange, Scripted, end, message, send},
    },
};

const BIDI: &str = "/demo.v1.Lab/Bidi";
const TALK: &str = "/chat.v1.Chat/Talk";
const SECOND: Duration = Duration::from_secs(1);

/// An echo that counts the bytes that come.
async fn counting() -> (Scripted, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let counter = count.clone();
    let server = Scripted::start(move |mut exchange: Exchange| {
        let count = counter.clone();
        async move {
            let mut stream = exchange.headers();
            while let Some(bytes) = exchange.read().await {
                count.fetch_add(bytes.len(), SeqCst);
                send(&mut stream, bytes).await;
            }
            end(&mut stream, 0);
        }
    })
    .await;
    (server, count)
}

/// Lets everybody do what there is to do, sockets too.
async fn turns() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

/// From here on time passes only as the test says. By itself it passes only while nothing wants to run.
fn stop_the_clock() {
    tokio::time::pause();
    tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
}

/// Waits until so much has come, and sees that no more does.
async fn exactly(count: &AtomicUsize, expected: usize) {
    for _ in 0..200 {
        if count.load(SeqCst) >= expected {
            break;
        }
        turns().await;
    }
    turns().await;
    assert_eq!(count.load(SeqCst), expected);
}

/// Sends five messages, and then the end; returns how many came back.
async fn five_by_grpc_web(edge: &Edge, version: Http) -> usize {
    let (sender, body) = open();
    let mut client = edge.connect(version).await;
    let sending = async move {
        // Two in one piece, and one in two.
        let whole: Vec<u8> = [message(b"1"), message(b"2"), message(b"3")].concat();
        for piece in [&whole[..9], &whole[9..], &message(b"4"), &message(b"5")] {
            sender.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
    };
    let answer = async {
        let response = client.send(edge.web(BIDI).body(body).unwrap()).await.unwrap();
        WebAnswer::read(response).await.unwrap()
    };
    let ((), answer) = tokio::join!(sending, answer);
    assert_eq!(answer.status().0, 0);
    assert_eq!(answer.payloads(), [b"1", b"2", b"3", b"4", b"5"]);
    answer.payloads().len()
}

async fn five_by_grpc(edge: &Edge) -> usize {
    let (sender, body) = open();
    let mut client = edge.connect(Http::Two).await;
    let sending = async move {
        for text in ["1", "2", "3", "4", "5"] {
            sender.send(message(text.as_bytes())).await.unwrap();
        }
    };
    let request =
        edge.request("POST", BIDI).header("content-type", "application/grpc").header("te", "trailers");
    let answer = async {
        let response = client.send(request.body(body).unwrap()).await.unwrap();
        response.into_body().collect().await.unwrap()
    };
    let ((), answer) = tokio::join!(sending, answer);
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    answer.to_bytes().len() / 6
}

async fn five_by_session(edge: &Edge, carrier: Carrier) -> usize {
    let mut socket = carrier.connect_to(carrier.port(edge), Default::default()).await;
    let stream = socket.open(BIDI).await;
    for text in ["1", "2", "3", "4", "5"] {
        socket.send(stream, text).await;
    }
    socket.finish(stream).await;
    let answer = socket.answer(stream).await;
    assert_eq!((answer.code(), answer.messages.concat()), (Code::OK, b"12345".to_vec()));
    answer.messages.len()
}

async fn five_by_grpc_websocket(edge: &Edge) -> usize {
    let mut call = Call::open(Carrier::Http1, edge, BIDI, "").await;
    for text in ["1", "2", "3", "4", "5"] {
        call.send(text.as_bytes()).await;
    }
    call.half_close().await;
    let (reader, _) = call.finish().await;
    assert_eq!(reader.code(), 0);
    reader.payloads().len()
}

async fn five_by_multiplex(edge: &Edge) -> usize {
    let mut socket = Multiplex::connect(Carrier::Http1, edge).await;
    socket.open(1, BIDI.trim_start_matches('/')).await;
    for text in ["1", "2", "3", "4", "5"] {
        socket.send(1, text.as_bytes()).await;
    }
    socket.half_close(1).await;
    let reader = socket.end(1).await;
    assert_eq!(reader.code(), 0);
    reader.payloads().len()
}

async fn five_by_json_socket(edge: &Edge) -> usize {
    let mut socket = JsonSocket::open(Carrier::Http1, edge, BIDI).await;
    for _ in 0..5 {
        socket.send("{}").await;
    }
    socket.send("").await;
    let (texts, close, _) = socket.finish().await;
    assert_eq!(close, 1000);
    texts.len()
}

async fn five_by_json_lines(edge: &Edge) -> usize {
    let lines = [("content-type", "application/x-ndjson")];
    let response = edge.send(Http::Two, request_with(edge, BIDI, "{}\n{}\n{}\n{}\n{}\n", &lines)).await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    text.split(|byte| *byte == b'\n').filter(|line| line == b"{}").count()
}

/// Sees that of five messages of this size two go at once and each other half a second later, and that all come back.
async fn assert_paced(count: &AtomicUsize, size: usize, five: impl Future<Output = usize>, what: &str) {
    count.store(0, SeqCst);
    let clock = async {
        exactly(count, 2 * size).await;
        for messages in 3..=5 {
            tokio::time::advance(SECOND * 490 / 1000).await;
            exactly(count, (messages - 1) * size).await;
            // Timers are late by up to a millisecond.
            tokio::time::advance(SECOND * 12 / 1000).await;
            exactly(count, messages * size).await;
        }
    };
    let ((), came_back) = tokio::join!(clock, five);
    assert_eq!(came_back, 5, "{what}");
    // Its bucket is full again.
    tokio::time::advance(SECOND * 2).await;
}

#[tokio::test]
async fn messages_that_come_too_fast_wait_in_every_dialect_and_none_is_lost() {
    let (upstream, count) = counting().await;
    let mut settings = settings();
    settings.limits.per_address = CallLimits { messages_per_second: Some(2), ..CallLimits::default() };
    let edge = pretending_with(&upstream.url, settings).await;
    stop_the_clock();
    for version in BOTH {
        assert_paced(&count, 6, five_by_grpc_web(&edge, version), "gRPC-Web").await;
    }
    assert_paced(&count, 6, five_by_grpc(&edge), "gRPC").await;
    for carrier in CARRIERS {
        assert_paced(&count, 6, five_by_session(&edge, carrier), "session").await;
    }
    assert_paced(&count, 6, five_by_grpc_websocket(&edge), "grpc-websockets").await;
    assert_paced(&count, 6, five_by_multiplex(&edge), "grpc-websockets-multiplex").await;
    assert_paced(&count, 5, five_by_json_socket(&edge), "JSON socket").await;
    assert_paced(&count, 5, five_by_json_lines(&edge), "JSON over HTTP").await;

    let metrics = edge.metrics.encode();
    let name = "bidiway_throttled_seconds_total{limit=\"messages_per_address\"} ";
    let throttled = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("it has waited");
    let throttled: f64 = throttled.parse().unwrap();
    // 1.5 s in each of them.
    let calls = (BOTH.len() + CARRIERS.len() + 5) as f64;
    assert!((1.5 * calls..1.6 * calls).contains(&throttled), "{throttled}");
}

#[tokio::test]
async fn the_bytes_of_a_route_flow_evenly_whoever_sends_them_and_other_routes_do_not_notice() {
    const KIB: usize = 1024;
    let route = |service: &str, limits| RouteSettings {
        limits,
        ..RouteSettings::new(ServicePattern::Service(service.into()), "chat")
    };
    let limits = CallLimits { bytes_per_second: Some(64 * KIB as u32), ..CallLimits::default() };
    let limits = Some(Arc::new(RouteLimits::new(limits)));
    let routes = vec![route("chat.v1.Chat", limits), route("other.v1.Other", None)];
    let (upstream, count) = counting().await;
    let edge = edge_with(&upstream.url, Settings { routes, ..settings() }).await;
    stop_the_clock();
    let mut sockets = [Socket::connect(edge.address).await, Socket::connect(edge.address).await];
    let mut streams = Vec::new();
    for socket in &mut sockets {
        let stream = socket.open(TALK).await;
        streams.push(stream);
        socket.send(stream, vec![7; 96 * KIB]).await;
        socket.finish(stream).await;
    }
    // 192 KiB: the first 64 at once, the rest in two seconds, in parts of 16.
    for quarters in 0..=8 {
        for _ in 0..200 {
            turns().await;
            if count.load(SeqCst) >= (48 + quarters * 16) * KIB {
                break;
            }
        }
        turns().await;
        let (came, most) = (count.load(SeqCst), (64 + quarters * 16) * KIB);
        assert!(
            came <= most + 2 * 5 && came >= most - 16 * KIB,
            "{came} bytes after {quarters} quarters of a second"
        );
        let other = sockets[0].unary("/other.v1.Other/Do", vec![7; 5]).await;
        assert_eq!(other.code(), Code::OK);
        count.fetch_sub(10, SeqCst);
        tokio::time::advance(SECOND / 4).await;
    }
    for (mut socket, stream) in sockets.into_iter().zip(streams) {
        let answer = socket.answer(stream).await;
        assert_eq!((answer.code(), answer.messages.concat().len()), (Code::OK, 96 * KIB));
    }
    assert!(edge.metrics.encode().contains("bidiway_throttled_seconds_total{limit=\"bytes_per_route\"}"));
}

#[tokio::test]
async fn what_a_principal_sends_is_counted_in_all_its_sessions_together() {
    let issuer = Issuer::new("a");
    let (upstream, count) = counting().await;
    let mut settings = downstream(identity(provider(&issuer)), required());
    settings.limits.per_principal = CallLimits { messages_per_second: Some(2), ..CallLimits::default() };
    let edge = edge_with(&upstream.url, settings).await;
    let [ada, bob] = ["ada", "bob"].map(|name| issuer.token(&claims(name, 600.0)));
    stop_the_clock();
    let mut sessions = Vec::new();
    for token in [&ada, &ada, &bob] {
        let mut socket = session_of(&edge, Some(token)).await;
        let stream = socket.open(TALK).await;
        for text in ["1", "2"] {
            socket.send(stream, text).await;
        }
        sessions.push(socket);
    }
    exactly(&count, 4 * 6).await;
    tokio::time::advance(SECOND).await;
    exactly(&count, 6 * 6).await;
}
