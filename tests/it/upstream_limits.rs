//! What an upstream's limits do to its calls: how many there may be, how many may wait, how long they may last; and how
//! small the pieces are that a small window makes.

use std::{sync::Arc, time::Duration};

use bidiway::{
    downstream::{self, RouteSettings, ServicePattern},
    telemetry::Metrics,
    upstream::{Call, Chunk, Received, Roster, Settings, Upstream},
    wire::{Code, Origin},
};
use bytes::Bytes;
use futures_util::FutureExt;

use crate::support::{
    calls::{Answer, answer, capacity, next, request, request_with_timeout, settings},
    edge::{self, WebAnswer, edge_over, edge_with, open},
    raw::{
        ACK, CANCEL, DATA, Frame, INITIAL_WINDOW_SIZE, PING, RST_STREAM, RawConnection, RawServer, encode,
        ok_headers, trailers,
    },
    socket::Socket,
    upstream::{Scripted, Waiting, echo, message},
    within,
};

/// Workers of one process, and its metrics.
fn workers<const N: usize>(settings: Settings) -> ([Upstream; N], Arc<Metrics>) {
    let (settings, metrics) = (Arc::new(settings), Metrics::new());
    ([(); N].map(|()| Upstream::of(&Roster::new(settings.clone(), &metrics))), metrics)
}

#[track_caller]
fn assert_metric(metrics: &Metrics, line: &str) {
    let text = metrics.encode();
    assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
}

/// The answer of a call that must be over at once.
#[track_caller]
fn at_once(upstream: &Upstream) -> Answer {
    answer(&mut upstream.call(request())).now_or_never().expect("the call fails at once")
}

async fn running(upstream: &Upstream) -> Call {
    let mut call = upstream.call(request());
    assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)));
    call
}

#[tokio::test]
async fn calls_beyond_the_limit_of_all_workers_together_fail_at_once() {
    let server = Scripted::start(echo).await;
    let ([a, b], metrics) = workers(Settings { max_calls: Some(3), ..settings(&[&server.url]) });
    let mut calls = vec![running(&a).await, running(&a).await, running(&b).await];
    for worker in [&a, &b] {
        let text = "upstream \"chat\" has as many calls as it may have: 3 (`max_calls`)";
        at_once(worker).assert(Origin::Proxy, Code::UNAVAILABLE, text);
    }
    assert_metric(&metrics, "bidiway_upstream_calls_refused_total{upstream=\"chat\",reason=\"max_calls\"} 2");
    assert_metric(&metrics, "bidiway_upstream_calls_active{upstream=\"chat\"} 3");
    // Cancelled, and ended by the server: both make room.
    drop(calls.pop());
    let mut last = running(&a).await;
    at_once(&b).assert(Origin::Proxy, Code::UNAVAILABLE, "max_calls");
    last.finish();
    within(5, async { while !matches!(next(&mut last).await, Received::End(_)) {} }).await;
    running(&b).await;
    drop((calls, last));
    assert_metric(&metrics, "bidiway_upstream_calls_active{upstream=\"chat\"} 0");
    assert_eq!(server.requests(), 5, "what was refused never went out");
}

#[tokio::test]
async fn calls_beyond_those_that_may_wait_for_a_connection_fail_at_once() {
    let server = RawServer::bind().await;
    let url = format!("http://{}", server.address);
    let ([a, b], metrics) = workers(Settings { max_pending: Some(3), ..settings(&[&url]) });
    let mut waiting = vec![a.call(request()), b.call(request()), b.call(request())];
    let text = "3 calls wait already for a connection to upstream \"chat\" (`max_pending`)";
    at_once(&a).assert(Origin::Proxy, Code::UNAVAILABLE, text);
    assert_metric(
        &metrics,
        "bidiway_upstream_calls_refused_total{upstream=\"chat\",reason=\"max_pending\"} 1",
    );
    drop(waiting.pop());
    waiting.push(a.call(request()));
    at_once(&b).assert(Origin::Proxy, Code::UNAVAILABLE, "max_pending");
    // With connections nobody waits any more.
    let (mut one, mut two) = (server.http2(&[]).await, server.http2(&[]).await);
    within(5, async { tokio::join!(one.request(), two.request()) }).await;
    assert_metric(&metrics, "bidiway_upstream_calls_pending{upstream=\"chat\"} 0");
    assert_metric(&metrics, "bidiway_upstream_calls_active{upstream=\"chat\"} 3");
}

/// Lets the tasks of this test have their turns, and the runtime look at its timers.
async fn turns() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}

const AGED: &str = "the call has reached the greatest age of upstream \"chat\"";

#[tokio::test]
async fn a_stream_that_is_too_old_ends_with_unavailable_and_upstream_is_reset() {
    let server = RawServer::bind().await;
    let hour = Duration::from_secs(3600);
    let url = format!("http://{}", server.address);
    let ([upstream], metrics) = workers(Settings { max_stream_age: Some(hour), ..settings(&[&url]) });
    let mut old = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = connection.request().await;
    connection.write(&ok_headers(stream)).await;
    assert!(matches!(within(5, next(&mut old)).await, Received::Headers(_)));
    let mut short = upstream.call(request_with_timeout(hour / 2));
    connection.request().await;
    tokio::time::pause();
    tokio::time::advance(hour / 2 + Duration::from_millis(5)).await;
    answer(&mut short).now_or_never().expect("its deadline comes first").assert(
        Origin::Proxy,
        Code::DEADLINE_EXCEEDED,
        "deadline",
    );
    tokio::time::advance(hour * 39 / 100).await;
    assert!(next(&mut old).now_or_never().is_none(), "not before nine tenths");
    tokio::time::advance(hour * 22 / 100).await;
    let Some(Received::End(outcome)) = next(&mut old).now_or_never() else { panic!("at eleven tenths") };
    tokio::time::resume();
    assert_eq!((outcome.status.code, outcome.origin), (Code::UNAVAILABLE, Origin::Proxy));
    assert!(outcome.status.message.starts_with(AGED), "{outcome:?}");
    assert_metric(&metrics, "bidiway_upstream_calls_aged_total{upstream=\"chat\"} 1");
    let resets = async {
        loop {
            let frame = connection.expect(RST_STREAM).await;
            if frame.stream == stream {
                return frame.payload;
            }
        }
    };
    assert_eq!(within(5, resets).await, CANCEL.to_be_bytes());
}

#[tokio::test]
async fn ages_vary_so_that_streams_do_not_all_come_back_at_once() {
    let server = Scripted::start(echo).await;
    let hour = Duration::from_secs(3600);
    let ([upstream], _) = workers(Settings { max_stream_age: Some(hour), ..settings(&[&server.url]) });
    let mut calls = Vec::new();
    for _ in 0..40 {
        calls.push(running(&upstream).await);
    }
    tokio::time::pause();
    tokio::time::advance(hour * 89 / 100).await;
    let mut alive = Vec::new();
    for _ in 0..22 {
        turns().await;
        calls.retain_mut(|call| next(call).now_or_never().is_none());
        alive.push(calls.len());
        tokio::time::advance(hour / 100).await;
    }
    assert_eq!((alive[0], alive[21]), (40, 0), "{alive:?}");
    let mut times = alive.clone();
    times.dedup();
    assert!(times.len() > 8, "they end at many times: {alive:?}");
}

#[tokio::test]
async fn streams_of_sessions_and_calls_of_grpc_web_end_by_age_alike() {
    let mut server = Waiting::start(true).await;
    let age = Some(Duration::from_millis(300));
    let upstream = Settings { max_stream_age: age, ..settings(&[&server.server.url]) };
    let edge = edge_over(upstream, edge::settings()).await;
    let session = async {
        let mut socket = Socket::connect(edge.address).await;
        let stream = socket.open("/chat.v1.Chat/Talk").await;
        let answer = socket.answer(stream).await;
        assert_eq!((answer.code(), answer.by_proxy()), (Code::UNAVAILABLE, true), "{answer:?}");
        assert!(answer.trailers.message.starts_with(AGED), "{answer:?}");
        // The session is none the worse for it.
        let stream = socket.open("/chat.v1.Chat/Talk").await;
        assert_eq!(socket.answer(stream).await.code(), Code::UNAVAILABLE);
    };
    within(10, session).await;
    for version in edge::BOTH {
        let (_sender, body) = open();
        let request = edge.web("/chat.v1.Chat/Talk").body(body).unwrap();
        let answer = within(10, async { WebAnswer::read(edge.send(version, request).await).await.unwrap() });
        let (code, text) = answer.await.status();
        assert_eq!(code, Code::UNAVAILABLE.0, "{version:?}");
        assert!(text.starts_with(AGED), "{text}");
    }
    server.begun(4).await;
    server.cancelled(4).await;
}

#[tokio::test]
async fn a_route_has_a_greatest_age_of_its_own_in_every_dialect_and_others_have_none() {
    let mut server = Waiting::start(true).await;
    let old = RouteSettings {
        max_stream_age: Some(Duration::from_millis(300)),
        ..RouteSettings::new(ServicePattern::Service("chat.v1.Chat".into()), "chat")
    };
    let routes = vec![RouteSettings::new(ServicePattern::Any, "chat"), old];
    let edge = edge_with(&server.server.url, downstream::Settings { routes, ..edge::settings() }).await;
    const AGED: &str = "the call has reached the greatest age of its route, 300ms; call again";
    within(20, async {
        let mut socket = Socket::connect(edge.address).await;
        let other = socket.open("/other.v1.Other/Do").await;
        let stream = socket.open("/chat.v1.Chat/Talk").await;
        let answer = socket.answer(stream).await;
        assert_eq!((answer.code(), answer.by_proxy()), (Code::UNAVAILABLE, true), "{answer:?}");
        assert_eq!(answer.trailers.message, AGED);
        let (_sender, body) = open();
        let request = edge.web("/chat.v1.Chat/Talk").body(body).unwrap();
        let answer = WebAnswer::read(edge.send(edge::Http::Two, request).await).await.unwrap();
        assert_eq!(answer.status(), (14, AGED.to_owned()));
        server.begun(3).await;
        server.cancelled(2).await;
        socket.cancel(other).await;
        server.cancelled(1).await;
        let text = edge.metrics.encode();
        assert!(text.contains("bidiway_calls_total{route=\"*\",dialect=\"session\",code=\"CANCELLED\",origin=\"client\"} 1\n"), "{text}");
    })
    .await;
}

/// Waits until the client has seen everything written so far; returns the DATA frames that it had sent before.
async fn heard(connection: &mut RawConnection, frames: &mut Vec<Frame>) {
    connection.write(&encode(PING, 0, 0, b"12345678")).await;
    loop {
        let frame = within(5, connection.any_frame()).await.unwrap();
        match (frame.kind, frame.flags) {
            (PING, ACK) => return,
            (DATA, _) => frames.push(frame),
            _ => {}
        }
    }
}

/// Opens a window for 2000 bytes, byte by byte, with so much time between; returns how many frames these bytes come in.
async fn frames_through_a_window_that_opens_each(pause: Duration) -> usize {
    let server = RawServer::bind().await;
    let ([upstream], _) = workers::<1>(settings(&[&format!("http://{}", server.address)]));
    let mut call = upstream.call(request());
    let mut connection = server.http2(&[(INITIAL_WINDOW_SIZE, 16 * 1024)]).await;
    let stream = connection.request().await;
    let total = 16 * 1024 + 2000;
    let body: Bytes = message(&vec![7; total - 5]);
    let sender = tokio::spawn(async move {
        let mut rest = body;
        while !rest.is_empty() {
            let may = capacity(&mut call, rest.len()).await;
            assert!(may > 0);
            let piece = rest.split_to(may);
            call.send(Chunk::plain(piece), rest.is_empty());
        }
        call
    });
    let mut frames = Vec::new();
    let received = |frames: &Vec<Frame>| frames.iter().map(|frame| frame.payload.len()).sum::<usize>();
    while received(&frames) < 16 * 1024 {
        heard(&mut connection, &mut frames).await;
    }
    let first = frames.len();
    // From here on time passes only as the test says, however slow the machine is: it passes by itself only while
    // nothing wants to run, and somebody always does.
    tokio::time::pause();
    let never_idle = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..2000 {
        connection.write(&encode(8, 0, stream, &1_u32.to_be_bytes())).await;
        heard(&mut connection, &mut frames).await;
        tokio::time::advance(pause).await;
    }
    // The last ones may wait for their time.
    for _ in 0..10 {
        heard(&mut connection, &mut frames).await;
        tokio::time::advance(pause).await;
    }
    never_idle.abort();
    tokio::time::resume();
    assert_eq!(received(&frames), total);
    assert!(frames.last().unwrap().ends_stream());
    let _call = sender.await.unwrap();
    frames.len() - first
}

#[tokio::test]
async fn a_window_that_opens_byte_by_byte_does_not_make_a_frame_of_each() {
    // 1 KiB, and all that is left.
    assert_eq!(frames_through_a_window_that_opens_each(Duration::ZERO).await, 2);
}

#[tokio::test]
async fn of_a_window_that_opens_slowly_a_frame_is_what_came_in_the_meantime() {
    // In 20 ms, or half of that: 2 s are 100 to 200 times as long.
    let frames = frames_through_a_window_that_opens_each(Duration::from_millis(1)).await;
    assert!((50..=200).contains(&frames), "{frames} frames");
}

#[tokio::test]
async fn a_window_that_is_small_for_ever_does_not_stop_a_call() {
    let server = RawServer::bind().await;
    let ([upstream], _) = workers::<1>(settings(&[&format!("http://{}", server.address)]));
    let mut call = upstream.call(request());
    let serve = async {
        // It gives no room for more before it has all that it gave room for.
        let mut connection = server.http2(&[(INITIAL_WINDOW_SIZE, 100)]).await;
        let stream = connection.request().await;
        let (mut window, mut total) = (100, 0);
        loop {
            let frame = connection.expect(DATA).await;
            window -= frame.payload.len();
            total += frame.payload.len();
            if frame.ends_stream() {
                connection
                    .write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat())
                    .await;
                return total;
            }
            if window == 0 {
                window = 100;
                connection.write(&encode(8, 0, stream, &100_u32.to_be_bytes())).await;
            }
        }
    };
    let talk = async {
        let mut rest = message(&[7; 40_000]);
        while !rest.is_empty() {
            let may = capacity(&mut call, rest.len()).await;
            let piece = rest.split_to(may);
            call.send(Chunk::plain(piece), rest.is_empty());
        }
        answer(&mut call).await
    };
    let (total, answer) = within(20, async { tokio::join!(serve, talk) }).await;
    assert_eq!(total, 40_005);
    answer.assert(Origin::Upstream, Code::OK, "");
}
