//! Calls against a well-behaved server: what is sent, flow control both ways, deadlines, cancellation, many at once.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bidiway::{
    upstream::{Call, Chunk, Received, Settings, Upstream},
    wire::{Code, Origin, Outcome},
};
use bytes::Bytes;
use futures_util::FutureExt;
use h2::{Reason, server};
use http::{HeaderMap, Method, Version};
use tokio::{sync::mpsc, task::JoinSet};

use crate::support::{
    calls::{Answer, answer, next, request, request_with_timeout, send, settings, unary, upstream},
    upstream::{self, Exchange, Scripted, echo, end, message},
    within,
};

#[tokio::test]
async fn the_request_is_as_the_grpc_document_wants_it() {
    let (seen, mut requests) = mpsc::channel(1);
    let server = Scripted::start(move |exchange: Exchange| {
        let seen = seen.clone();
        async move {
            seen.send(exchange.request.clone_head()).await.unwrap();
            echo(exchange).await;
        }
    })
    .await;
    let mut call = upstream(&server.url).call(bidiway::upstream::Request {
        content_type: "application/grpc+proto".parse().unwrap(),
        metadata: HeaderMap::from_iter([
            ("authorization".parse().unwrap(), "Bearer x".parse().unwrap()),
            ("x-user-agent".parse().unwrap(), "grpc-web-javascript/0.1".parse().unwrap()),
        ]),
        ..request_with_timeout(Duration::from_secs(20))
    });
    call.finish();
    within(5, answer(&mut call)).await.assert(Origin::Upstream, Code::OK, "");
    let request = requests.recv().await.unwrap();
    assert_eq!((request.method(), request.version()), (&Method::POST, Version::HTTP_2));
    assert_eq!(request.uri().to_string(), format!("{}/chat.v1.Chat/Talk", server.url));
    let headers = request.headers();
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["content-type"], "application/grpc+proto");
    assert_eq!(headers["user-agent"], concat!("bidiway/", env!("CARGO_PKG_VERSION")));
    assert_eq!(headers["authorization"], "Bearer x");
    assert_eq!(headers["x-user-agent"], "grpc-web-javascript/0.1");
    let timeout = bidiway::wire::timeout::decode(headers["grpc-timeout"].as_bytes()).unwrap();
    assert!((Duration::from_secs(15)..=Duration::from_secs(20)).contains(&timeout), "{timeout:?}");
}

trait CloneHead {
    fn clone_head(&self) -> http::Request<()>;
}

impl CloneHead for http::Request<()> {
    fn clone_head(&self) -> Self {
        let mut head = Self::new(());
        *head.method_mut() = self.method().clone();
        *head.uri_mut() = self.uri().clone();
        *head.version_mut() = self.version();
        *head.headers_mut() = self.headers().clone();
        head
    }
}

#[tokio::test]
async fn each_message_is_answered_before_the_next_is_sent() {
    let server = Scripted::start(echo).await;
    let mut call = upstream(&server.url).call(request());
    assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)));
    for n in 0..1000u32 {
        let sent = message(&n.to_be_bytes());
        within(5, send(&mut call, sent.clone(), false)).await;
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let Received::Data(bytes) = within(5, next(&mut call)).await else { panic!("data") };
            call.release(bytes.len());
            got.extend_from_slice(&bytes);
        }
        assert_eq!(got, sent);
    }
    call.finish();
    within(5, answer_rest(&mut call)).await;
}

async fn answer_rest(call: &mut Call) -> Outcome {
    match next(call).await {
        Received::End(outcome) => {
            assert_eq!(outcome.status.code, Code::OK);
            *outcome
        }
        other => panic!("{other:?} instead of the end"),
    }
}

#[tokio::test]
async fn a_message_piece_by_piece_carries_its_prefix_once() {
    let server = Scripted::start(echo).await;
    let mut call = upstream(&server.url).call(request());
    let may = poll_fn(|cx| call.poll_capacity(cx, 8)).await;
    assert_eq!(may, 8);
    call.send(Chunk::message(5, Bytes::from_static(b"hel")), false);
    call.send(Chunk::plain(Bytes::from_static(b"lo")), true);
    assert_eq!(within(5, answer(&mut call)).await.body, b"\0\0\0\0\x05hello");
}

#[tokio::test]
async fn bodies_around_the_window_and_frame_sizes_arrive_whole_in_both_directions() {
    let server = Scripted::start(echo).await;
    let upstream = upstream(&server.url);
    let sizes = (65_525..65_541).chain([0, 1, 16_379, 16_384, 131_070, 1 << 20]);
    for size in sizes {
        let payload = vec![7; size];
        let body = message(&payload);
        let (mut sender, mut receiver) = upstream.call(request()).split();
        let upload = async {
            let mut rest = body.clone();
            while !rest.is_empty() {
                let may = poll_fn(|cx| sender.poll_capacity(cx, rest.len())).await;
                let piece = rest.split_to(may);
                sender.send(Chunk::plain(piece), rest.is_empty());
            }
        };
        let download = async {
            let mut all = Vec::new();
            loop {
                match poll_fn(|cx| receiver.poll_receive(cx)).await {
                    Received::Headers(_) => {}
                    Received::Data(bytes) => {
                        receiver.release(bytes.len());
                        all.extend_from_slice(&bytes);
                    }
                    Received::End(outcome) => return (all, outcome.status.code),
                }
            }
        };
        let ((), (all, code)) = within(20, async { tokio::join!(upload, download) }).await;
        assert_eq!(code, Code::OK, "{size}");
        assert!(all == body, "{size}: {} bytes came back", all.len());
    }
}

#[tokio::test]
async fn two_hundred_calls_at_once_share_few_connections() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(100);
    let server = Scripted::with(builder, echo).await;
    let upstream = upstream(&server.url);
    let calls: Vec<Call> = (0..200).map(|_| upstream.call(request())).collect();
    let mut tasks = JoinSet::new();
    for (n, mut call) in calls.into_iter().enumerate() {
        tasks.spawn(async move {
            assert!(matches!(next(&mut call).await, Received::Headers(_)));
            let sent = message(format!("call {n}").as_bytes());
            send(&mut call, sent.clone(), true).await;
            let mut got = Vec::new();
            loop {
                match next(&mut call).await {
                    Received::Data(bytes) => got.extend_from_slice(&bytes),
                    Received::End(outcome) => break assert_eq!(outcome.status.code, Code::OK),
                    Received::Headers(_) => panic!("headers again"),
                }
            }
            assert_eq!(got, sent);
        });
    }
    within(20, async { while tasks.join_next().await.transpose().unwrap().is_some() {} }).await;
    assert_eq!((server.requests(), server.connections()), (200, 2));
}

#[tokio::test]
async fn a_cancelled_call_is_seen_by_the_server_within_a_second() {
    for blocked in [false, true] {
        let (seen, mut resets) = mpsc::channel(1);
        let server = Scripted::start(move |mut exchange: Exchange| {
            let seen = seen.clone();
            async move {
                // Reads nothing, so that the client's backlog stays blocked.
                let mut stream = exchange.headers();
                seen.send(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap()).await.unwrap();
            }
        })
        .await;
        let upstream = upstream(&server.url);
        let mut call = upstream.call(request());
        assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)));
        if blocked {
            let backlog = send(&mut call, Bytes::from(vec![0; 1 << 20]), false);
            assert!(tokio::time::timeout(Duration::from_millis(50), backlog).await.is_err());
        }
        drop(call);
        assert_eq!(within(1, resets.recv()).await, Some(Reason::CANCEL));
    }
}

#[tokio::test]
async fn a_server_stops_sending_when_nobody_takes_its_data() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let server = Scripted::start(move |mut exchange: Exchange| {
        let sent = counter.clone();
        async move {
            let mut stream = exchange.headers();
            while sent.load(SeqCst) < 400_000 {
                upstream::send(&mut stream, Bytes::from(vec![1; 1000])).await;
                sent.fetch_add(1000, SeqCst);
            }
            end(&mut stream, 0);
        }
    })
    .await;
    let settings = Settings { stream_window: 100_000, ..settings(&[&server.url]) };
    let upstream = Upstream::new(Arc::new(settings));
    let mut stalled = upstream.call(request());
    let mut held = Vec::new();
    assert!(matches!(within(5, next(&mut stalled)).await, Received::Headers(_)));
    // Read eagerly, release nothing: the window is what may be held.
    let reading = async {
        loop {
            let Received::Data(bytes) = next(&mut stalled).await else { panic!("only data can come") };
            held.push(bytes.len());
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), reading).await.is_err());
    assert_eq!(held.iter().sum::<usize>(), 100_000);
    assert_eq!(sent.load(SeqCst), 100_000);
    // Taken at last, everything else comes.
    stalled.release(100_000);
    let mut rest = 0;
    loop {
        match within(5, next(&mut stalled)).await {
            Received::Data(bytes) => {
                rest += bytes.len();
                stalled.release(bytes.len());
            }
            Received::End(outcome) => break assert_eq!(outcome.status.code, Code::OK),
            Received::Headers(_) => panic!("headers again"),
        }
    }
    assert_eq!(rest, 300_000);
}

#[tokio::test]
async fn stalled_calls_hold_up_no_others_on_their_connection() {
    let server = Scripted::start(|mut exchange: Exchange| async move {
        let mut stream = exchange.headers();
        exchange.read_all().await;
        upstream::send(&mut stream, Bytes::from(vec![1; 500_000])).await;
        end(&mut stream, 0);
    })
    .await;
    let upstream = upstream(&server.url);
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let mut call = upstream.call(request());
        call.finish();
        assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)));
        stalled.push(call);
    }
    for _ in 0..5 {
        assert_eq!(within(5, unary(&upstream, b"go")).await.body.len(), 500_000);
    }
    assert_eq!(server.connections(), 1);
    // What a dropped call held is given back to the connection: thousands of them never use up its window.
    for mut call in stalled {
        let Received::Data(_) = within(5, next(&mut call)).await else { panic!("data") };
    }
}

#[tokio::test]
async fn ten_thousand_small_messages_wait_on_one_connection_for_readers() {
    const STREAMS: usize = 100;
    const EACH: usize = 100;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let server = Scripted::start(move |mut exchange: Exchange| {
        let sent = counter.clone();
        async move {
            let mut stream = exchange.headers();
            for n in 0..EACH {
                // 0 to 100 bytes of payload, one DATA frame each.
                stream.send_data(message(&vec![n as u8; n % 101]), false).unwrap();
                sent.fetch_add(1, SeqCst);
                tokio::task::yield_now().await;
            }
            end(&mut stream, 0);
        }
    })
    .await;
    let upstream = upstream(&server.url);
    let mut calls: Vec<Call> = (0..STREAMS).map(|_| upstream.call(request())).collect();
    calls.iter_mut().for_each(Call::finish);
    // Nobody reads. h2 alone takes what comes; another call on the same connection shows that all of it has.
    within(20, async {
        while sent.load(SeqCst) < STREAMS * EACH {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut last = upstream.call(request());
    last.finish();
    within(20, answer(&mut last)).await.assert(Origin::Upstream, Code::OK, "");
    let whole: Vec<u8> = (0..EACH).flat_map(|n| message(&vec![n as u8; n % 101])).collect();
    for call in &mut calls {
        let answer = within(20, answer(call)).await;
        answer.assert(Origin::Upstream, Code::OK, "");
        assert!(answer.body == whole);
    }
    assert_eq!(server.connections(), 1, "no GOAWAY");
}

#[tokio::test]
async fn a_storm_of_cancelled_calls_leaves_the_connection_and_its_slots_whole() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(50).max_pending_accept_reset_streams(10_000);
    let server = Scripted::with(builder, |mut exchange: Exchange| async move {
        // Data is on its way when the reset comes: each late frame meets a stream that is no more.
        let mut stream = exchange.headers();
        loop {
            stream.reserve_capacity(1000);
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(n)) => stream.send_data(Bytes::from(vec![0; n.min(1000)]), false).unwrap(),
                _ => return,
            }
        }
    })
    .await;
    let settings = Settings { max_connections: 1, ..settings(&[&server.url]) };
    let upstream = Upstream::new(Arc::new(settings));
    for _ in 0..60 {
        let mut calls: Vec<Call> = (0..50).map(|_| upstream.call(request())).collect();
        for call in &mut calls {
            assert!(matches!(within(5, next(call)).await, Received::Headers(_)));
            assert!(matches!(within(5, next(call)).await, Received::Data(_)));
        }
    }
    assert_eq!((server.requests(), server.connections()), (3000, 1));
}

#[tokio::test]
async fn calls_that_are_given_up_at_once_do_not_end_the_connection_for_others() {
    // With h2's own limit of 20 streams that are reset before they are accepted.
    let server = Scripted::start(echo).await;
    let upstream = upstream(&server.url);
    let mut other = upstream.call(request());
    send(&mut other, message(b"before"), false).await;
    assert!(matches!(within(5, next(&mut other)).await, Received::Headers(_)));
    for _ in 0..5 {
        // Whole requests, and requests whose sender goes first.
        for _ in 0..100 {
            let mut call = upstream.call(request());
            call.finish();
            drop(call);
            let (sender, receiver) = upstream.call(request()).split();
            drop(sender);
            drop(receiver);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The last reset goes out within a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(&mut other, message(b"after"), true).await;
    let outcome = loop {
        if let Received::End(outcome) = within(5, next(&mut other)).await {
            break outcome;
        }
    };
    assert_eq!(outcome.status.code, Code::OK, "{outcome:?}");
    assert_eq!(server.connections(), 1);
}

/// A call with a deadline.
async fn timed(upstream: &Upstream, payload: &[u8]) -> Answer {
    let mut call = upstream.call(request_with_timeout(Duration::from_secs(30)));
    send(&mut call, message(payload), true).await;
    answer(&mut call).await
}

#[tokio::test]
async fn a_flood_of_calls_that_are_given_up_at_once_does_not_hold_up_others() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(200);
    let server = Scripted::with(builder, async |exchange: Exchange| {
        if exchange.request.headers().contains_key("grpc-timeout") {
            echo(exchange).await;
        } else {
            std::future::pending().await
        }
    })
    .await;
    let upstream = upstream(&server.url);
    assert_eq!(timed(&upstream, b"connected").await.code(), Code::OK);
    for _ in 0..10 {
        for _ in 0..100 {
            drop(upstream.call(request()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = within(1, timed(&upstream, b"another client's")).await;
    assert_eq!(answer.code(), Code::OK, "{answer:?}");
}

#[tokio::test]
async fn an_expired_deadline_ends_the_call_at_once_and_sends_nothing() {
    let server = Scripted::start(echo).await;
    let upstream = upstream(&server.url);
    let mut call = upstream.call(request_with_timeout(Duration::ZERO));
    let Some(answer) = answer(&mut call).now_or_never() else { panic!("at once") };
    answer.assert(Origin::Proxy, Code::DEADLINE_EXCEEDED, "before the call was sent");
    unary(&upstream, b"x").await.assert(Origin::Upstream, Code::OK, "");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_refused_call_yields_its_outcome_and_takes_nothing() {
    let mut call = Call::refused(Outcome::proxy(Code::UNIMPLEMENTED, "no route"));
    assert_eq!(poll_fn(|cx| call.poll_capacity(cx, 1)).await, 0);
    call.finish();
    answer(&mut call).await.assert(Origin::Proxy, Code::UNIMPLEMENTED, "no route");
}

#[tokio::test]
async fn the_servers_status_wins_when_it_is_there_before_the_deadline_is_noticed() {
    let server = Scripted::start(echo).await;
    let upstream = upstream(&server.url);
    unary(&upstream, b"warm").await;
    let mut call = upstream.call(request_with_timeout(Duration::from_millis(100)));
    call.finish();
    tokio::time::sleep(Duration::from_millis(200)).await;
    answer(&mut call).await.assert(Origin::Upstream, Code::OK, "");
}

#[tokio::test]
async fn calls_and_their_halves_may_move_between_threads() {
    fn assert_send<T: Send>(_: &T) {}
    let mut call = Call::refused(Outcome::proxy(Code::UNIMPLEMENTED, "no route"));
    assert_send(&call);
    assert_send(&upstream("http://localhost:1"));
    answer(&mut call).await;
    let (sender, receiver) = call.split();
    assert_send(&(sender, receiver));
}
