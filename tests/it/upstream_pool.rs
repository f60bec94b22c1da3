//! Which connection a call goes to: limits, caps, slots, failing endpoints, waiting, pings.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bidiway::{
    upstream::{Call, Received, Settings, Upstream},
    wire::{Code, Origin},
};
use bytes::Bytes;
use futures_util::FutureExt;
use h2::server;
use tokio::net::TcpListener;

use crate::support::{
    calls::{
        Answer, answer, assert_unreachable, next, request, request_with_timeout, settings, unary, upstream,
    },
    edge::{self, Http, WebAnswer, edge_over, whole},
    raw::{
        self, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, PING, RawServer, ok_headers, rst_stream,
        settings_frame, trailers,
    },
    upstream::{Scripted, echo},
    within,
};

/// Allows so many calls on each connection.
fn limited(streams: u32) -> server::Builder {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(streams);
    builder
}

fn pool(server: &Scripted, max_connections: usize) -> Upstream {
    Upstream::new(Arc::new(Settings { max_connections, ..settings(&[&server.url]) }))
}

/// A call that the server has answered with headers, and that goes on.
async fn running(upstream: &Upstream) -> Call {
    let mut call = upstream.call(request());
    assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)));
    call
}

/// The answer of a call that must be over at once.
#[track_caller]
fn at_once(upstream: &Upstream) -> Answer {
    answer(&mut upstream.call(request())).now_or_never().expect("the call fails at once")
}

#[tokio::test]
async fn one_stream_a_connection_means_one_connection_a_call_up_to_the_cap() {
    let server = Scripted::with(limited(1), echo).await;
    let upstream = pool(&server, 4);
    let mut calls: Vec<Call> = (0..4).map(|_| upstream.call(request())).collect();
    for call in &mut calls {
        assert!(matches!(within(5, next(call)).await, Received::Headers(_)));
    }
    assert_eq!(server.connections(), 4);
    at_once(&upstream).assert(
        Origin::Proxy,
        Code::RESOURCE_EXHAUSTED,
        "upstream \"chat\" is full: all 4 connections have as many calls as the server allows (up to 1 each)",
    );
    drop(calls.pop());
    running(&upstream).await;
    assert_eq!(server.connections(), 4, "the free slot was taken");
}

#[tokio::test]
async fn calls_beyond_the_cap_fail_when_the_limit_is_learnt() {
    let server = Scripted::with(limited(2), echo).await;
    let upstream = pool(&server, 3);
    let mut calls: Vec<Call> = (0..10).map(|_| upstream.call(request())).collect();
    let mut full = 0;
    for call in &mut calls {
        match within(5, next(call)).await {
            Received::Headers(_) => {}
            Received::End(outcome) if outcome.status.code == Code::RESOURCE_EXHAUSTED => full += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((full, server.connections()), (4, 3));
}

#[tokio::test]
async fn a_slot_is_free_again_however_a_call_ends() {
    let server = RawServer::bind().await;
    let settings = Settings { max_connections: 1, ..settings(&[&format!("http://{}", server.address)]) };
    let upstream = Upstream::new(Arc::new(settings));
    let mut first = upstream.call(request());
    let mut connection = server.http2(&[(MAX_CONCURRENT_STREAMS, 1), (INITIAL_WINDOW_SIZE, 0)]).await;
    let stream = connection.request().await;
    let full =
        |upstream: &Upstream| at_once(upstream).assert(Origin::Proxy, Code::RESOURCE_EXHAUSTED, "full");

    full(&upstream);
    connection.write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat()).await;
    within(5, answer(&mut first)).await.assert(Origin::Upstream, Code::OK, "");

    let mut reset = upstream.call(request());
    let stream = within(5, connection.request()).await;
    full(&upstream);
    connection.write(&rst_stream(stream, raw::CANCEL)).await;
    within(5, answer(&mut reset)).await.assert(Origin::Proxy, Code::CANCELLED, "");

    let mut expiring = upstream.call(request_with_timeout(Duration::from_millis(50)));
    within(5, connection.request()).await;
    full(&upstream);
    within(5, answer(&mut expiring)).await.assert(Origin::Proxy, Code::DEADLINE_EXCEEDED, "");

    let dropped = upstream.call(request());
    within(5, connection.request()).await;
    full(&upstream);
    drop(dropped);

    let (sender, receiver) = upstream.call(request()).split();
    within(5, connection.request()).await;
    full(&upstream);
    drop(receiver);
    drop(sender);

    let mut unread = upstream.call(request());
    unread.finish();
    let stream = within(5, connection.request()).await;
    full(&upstream);
    connection.write(&raw::headers(stream, 0, &[(":status", "503")])).await;
    within(5, answer(&mut unread)).await.assert(Origin::Proxy, Code::UNAVAILABLE, "503");

    let _last = upstream.call(request());
    within(5, connection.request()).await;
    full(&upstream);
}

#[tokio::test]
async fn a_limit_that_changes_is_followed() {
    let server = RawServer::bind().await;
    let settings = Settings { max_connections: 1, ..settings(&[&format!("http://{}", server.address)]) };
    let upstream = Upstream::new(Arc::new(settings));
    let _first = upstream.call(request());
    let mut connection = server.http2(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    connection.request().await;
    at_once(&upstream).assert(Origin::Proxy, Code::RESOURCE_EXHAUSTED, "");
    set_limit(&mut connection, 2).await;
    let second = upstream.call(request());
    within(5, connection.request()).await;
    drop(second);
    within(5, connection.expect(raw::RST_STREAM)).await;
    set_limit(&mut connection, 1).await;
    at_once(&upstream).assert(Origin::Proxy, Code::RESOURCE_EXHAUSTED, "up to 1 each");
}

async fn set_limit(connection: &mut raw::RawConnection, streams: u32) {
    connection.write(&settings_frame(&[(MAX_CONCURRENT_STREAMS, streams)])).await;
    loop {
        let frame = within(5, connection.any_frame()).await.unwrap();
        if (frame.kind, frame.flags) == (raw::SETTINGS, raw::ACK) && frame.payload.is_empty() {
            return;
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_and_forgotten_when_it_works() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let upstream = upstream(&format!("http://{address}"));
    let answer = within(5, unary(&upstream, b"x")).await;
    let text = format!("cannot connect to http://{address}: Connection refused");
    assert_unreachable(&answer, &upstream, &text);
    // The next dial is at once; only its failure begins the backoff.
    assert!(!answer.message().contains("next attempt"));
    within(5, unary(&upstream, b"x")).await.assert(
        Origin::Proxy,
        Code::UNAVAILABLE,
        "the next attempt is in",
    );
    assert_unreachable(&at_once(&upstream), &upstream, &text);
    let _server = RawServer::at(address).await;
    tokio::time::sleep(Duration::from_millis(110)).await;
    assert!(
        answer_of(&upstream).now_or_never().is_none(),
        "the backoff is over: the call waits for the connection"
    );
}

async fn answer_of(upstream: &Upstream) -> Answer {
    answer(&mut upstream.call(request())).await
}

#[tokio::test]
async fn a_server_that_hangs_up_is_not_dialled_for_every_call() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let hang_up = async {
        for dials in 0.. {
            let accepted = tokio::time::timeout(Duration::from_millis(500), server.accept()).await;
            let Ok(mut io) = accepted else { return dials };
            // Read first: otherwise the client's preface would be answered with a reset.
            tokio::io::AsyncReadExt::read(&mut io, &mut [0; 24]).await.unwrap();
        }
        unreachable!()
    };
    let calls = async {
        for _ in 0..100 {
            let answer = unary(&upstream, b"x").await;
            assert_unreachable(&answer, &upstream, "closed the connection before its HTTP/2 SETTINGS");
        }
    };
    let (dials, ()) = within(10, async { tokio::join!(hang_up, calls) }).await;
    assert_eq!(dials, 2, "the second failure begins the backoff");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_after_the_connect_timeout() {
    let server = RawServer::bind().await;
    let settings = Settings {
        connect_timeout: Duration::from_millis(100),
        ..settings(&[&format!("http://{}", server.address)])
    };
    let upstream = Upstream::new(Arc::new(settings));
    let answer = within(5, unary(&upstream, b"x")).await;
    assert_unreachable(&answer, &upstream, "no HTTP/2 SETTINGS that allow a call within 100ms");
}

#[tokio::test]
async fn a_server_of_http1_is_told_from_one_of_http2() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let serve = async {
        let mut io = raw::RawConnection { io: server.accept().await };
        io.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        io
    };
    let (answer, _io) = within(5, async { tokio::join!(unary(&upstream, b"x"), serve) }).await;
    assert_unreachable(&answer, &upstream, "does not speak HTTP/2 here");
}

#[tokio::test]
async fn an_unknown_host_is_unavailable() {
    let upstream = upstream("http://no-such-host.invalid:1");
    let answer = within(20, unary(&upstream, b"x")).await;
    assert_unreachable(&answer, &upstream, "cannot connect to http://no-such-host.invalid:1");
}

#[tokio::test]
async fn the_deadline_counts_while_connecting() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let mut call = upstream.call(request_with_timeout(Duration::from_millis(50)));
    within(1, answer(&mut call)).await.assert(Origin::Proxy, Code::DEADLINE_EXCEEDED, "deadline");
    // It is gone from the queue too: the first request on the connection is the next call's.
    let mut next_call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = within(5, connection.request()).await;
    connection.write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat()).await;
    within(5, answer(&mut next_call)).await.assert(Origin::Upstream, Code::OK, "");
}

#[tokio::test]
async fn senders_wait_until_there_is_a_connection() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let (mut sender, _receiver) = upstream.call(request()).split();
    let mut capacity = std::pin::pin!(poll_fn(|cx| sender.poll_capacity(cx, 10)));
    assert!(capacity.as_mut().now_or_never().is_none());
    let _connection = server.http2(&[]).await;
    assert_eq!(within(5, capacity).await, 10, "and are woken");
}

#[tokio::test]
async fn ten_thousand_calls_may_wait_and_those_given_up_do_not_count() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let waiting: Vec<Call> = (0..10_000).map(|_| upstream.call(request())).collect();
    at_once(&upstream).assert(Origin::Proxy, Code::RESOURCE_EXHAUSTED, "10000 calls wait already");
    drop(waiting);
    let mut call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = within(5, connection.request()).await;
    connection.write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat()).await;
    within(5, answer(&mut call)).await.assert(Origin::Upstream, Code::OK, "");
}

#[tokio::test]
async fn calls_go_to_the_endpoint_with_the_fewest() {
    let (a, b) = (Scripted::start(echo).await, Scripted::start(echo).await);
    let upstream = Upstream::new(Arc::new(settings(&[&a.url, &b.url])));
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(running(&upstream).await);
    }
    assert_eq!((a.requests(), b.requests()), (5, 5));
    drop(calls);
    let mut calls: Vec<Call> = (0..10).map(|_| upstream.call(request())).collect();
    for call in &mut calls {
        assert!(matches!(within(5, next(call)).await, Received::Headers(_)));
    }
    assert_eq!((a.requests(), b.requests()), (10, 10));
}

#[tokio::test]
async fn calls_of_a_dead_endpoint_move_to_a_living_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let alive = Scripted::start(echo).await;
    let upstream = Upstream::new(Arc::new(settings(&[&dead, &alive.url])));
    let mut calls: Vec<Call> = (0..20).map(|_| upstream.call(request())).collect();
    for call in &mut calls {
        assert!(matches!(within(5, next(call)).await, Received::Headers(_)));
    }
    for _ in 0..20 {
        within(5, unary(&upstream, b"x")).await.assert(Origin::Upstream, Code::OK, "");
    }
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_found_without_a_call_waiting_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let alive = Scripted::start(echo).await;
    let upstream = Upstream::new(Arc::new(settings(&[&format!("http://{address}"), &alive.url])));
    within(5, unary(&upstream, b"x")).await.assert(Origin::Upstream, Code::OK, "");
    let back = Scripted::on(TcpListener::bind(address).await.unwrap(), server::Builder::new(), echo);
    within(5, async {
        while back.requests() == 0 {
            // Busy with one call, so that the next prefers the other endpoint once that is known to work.
            let _busy = running(&upstream).await;
            unary(&upstream, b"x").await.assert(Origin::Upstream, Code::OK, "");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_without_calls_closes_after_five_minutes() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let mut call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = connection.request().await;
    connection.write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat()).await;
    within(5, answer(&mut call)).await.assert(Origin::Upstream, Code::OK, "");
    tokio::time::pause();
    // The first interval saw the call.
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(301)).await;
        // The connection's task gets its turns, and the runtime looks at its timers.
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    within(5, connection.closed()).await;
}

#[tokio::test]
async fn with_every_endpoint_dead_a_call_fails_with_the_last_error() {
    let mut dead = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        dead.push(format!("http://{}", listener.local_addr().unwrap()));
    }
    let dead: Vec<&str> = dead.iter().map(String::as_str).collect();
    let upstream = Upstream::new(Arc::new(settings(&dead)));
    assert_unreachable(&within(5, unary(&upstream, b"x")).await, &upstream, "refused");
}

#[tokio::test]
async fn a_server_that_answers_no_ping_loses_its_calls() {
    let server = RawServer::bind().await;
    let settings = Settings {
        keepalive: Some(Duration::from_millis(50)),
        keepalive_timeout: Duration::from_millis(50),
        ..settings(&[&format!("http://{}", server.address)])
    };
    let upstream = Upstream::new(Arc::new(settings));
    let mut call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = connection.request().await;
    // Pings that are answered keep the call.
    for _ in 0..3 {
        let ping = loop {
            let frame = within(5, connection.any_frame()).await.unwrap();
            if (frame.kind, frame.flags) == (PING, 0) {
                break frame;
            }
        };
        connection.write(&raw::encode(PING, raw::ACK, 0, &ping.payload)).await;
    }
    connection.write(&ok_headers(stream)).await;
    assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)));
    let Received::End(outcome) = within(5, next(&mut call)).await else { panic!("the end") };
    assert_eq!((outcome.status.code, outcome.origin), (Code::UNAVAILABLE, Origin::Proxy));
    assert!(outcome.status.message.contains("no answer to an HTTP/2 PING within 50ms"), "{outcome:?}");
}

#[tokio::test]
async fn an_idle_connection_is_not_pinged() {
    let server = RawServer::bind().await;
    let settings = Settings {
        keepalive: Some(Duration::from_millis(20)),
        ..settings(&[&format!("http://{}", server.address)])
    };
    let upstream = Upstream::new(Arc::new(settings));
    let call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    connection.request().await;
    drop(call);
    within(5, connection.expect(raw::RST_STREAM)).await;
    let pinged = async { while connection.any_frame().await.unwrap().kind != PING {} };
    assert!(tokio::time::timeout(Duration::from_millis(150), pinged).await.is_err());
}

#[tokio::test]
async fn connections_close_when_the_upstream_and_its_last_call_are_gone() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let mut call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = connection.request().await;
    drop(upstream);
    connection.write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat()).await;
    within(5, answer(&mut call)).await.assert(Origin::Upstream, Code::OK, "");
    within(5, connection.closed()).await;
}

#[tokio::test]
async fn a_restarting_server_costs_no_call() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let serve = async {
        for _ in 0..20 {
            let mut connection = server.http2(&[]).await;
            for _ in 0..3 {
                let stream = connection.request().await;
                connection
                    .write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat())
                    .await;
            }
            // GOAWAY crosses with the next call, which the server does not begin.
            let next = connection.request().await;
            connection.write(&raw::goaway(next - 2, raw::NO_ERROR)).await;
            drop(connection);
        }
        server.http2(&[]).await
    };
    let calls = async {
        for n in 0..60 {
            let answer = unary(&upstream, b"x").await;
            assert_eq!(answer.code(), Code::OK, "call {n}: {answer:?}");
        }
    };
    within(10, async {
        tokio::select! { () = calls => {}, _ = serve => {} }
    })
    .await;
}

#[tokio::test]
async fn a_call_is_not_taken_round_all_endpoints_that_cannot_be_reached() {
    // Nobody listens on this port.
    let urls: Vec<String> = (1..=40).map(|n| format!("http://127.0.0.{n}:1")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let edge = edge_over(settings(&urls), edge::settings()).await;
    let response = edge.send(Http::Two, edge.web("/a.B/C").body(whole(Bytes::new())).unwrap()).await;
    let answer = within(10, WebAnswer::read(response)).await.unwrap();
    assert_eq!(answer.status().0, 14);
    let text = edge.metrics.encode();
    let failures = text
        .lines()
        .find_map(|line| line.strip_prefix("bidiway_upstream_connect_failures_total{upstream=\"chat\"} "));
    let failures: u32 = failures.unwrap().parse().unwrap();
    // Five, and whether those before are back.
    assert!((5..=10).contains(&failures), "{failures}");
}
