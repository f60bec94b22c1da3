//! Calls of all kinds in sessions, against the demo's services.

use bidiway::{
    demo::v1 as demo,
    session::{Event, StreamId},
    wire::{Code, v1},
};
use prost::Message as _;

use crate::{
    session::{Running, demo as running},
    support::{
        socket::{Answer, Socket, text},
        within,
    },
};

async fn connected() -> (Running, Socket) {
    let proxy = running().await;
    let socket = Socket::connect(proxy.addresses.http).await;
    (proxy, socket)
}

pub(crate) fn entry(name: &str, value: &str) -> v1::Metadata {
    v1::Metadata { name: name.to_owned(), value: Some(v1::metadata::Value::Text(value.to_owned())) }
}

pub(crate) fn binary(name: &str, value: &'static [u8]) -> v1::Metadata {
    v1::Metadata { name: name.to_owned(), value: Some(v1::metadata::Value::Binary(value.into())) }
}

fn open(method: &str, metadata: Vec<v1::Metadata>) -> v1::Open {
    v1::Open { method: method.to_owned(), metadata, ..v1::Open::default() }
}

async fn stats(socket: &mut Socket, tag: &str) -> demo::StatsReply {
    let request = demo::StatsRequest { tag: tag.to_owned() };
    let answer = socket.unary("/demo.v1.Lab/Stats", request.encode_to_vec()).await;
    demo::StatsReply::decode(&answer.messages[0][..]).unwrap()
}

/// Asks until the service has noticed that a call was given up. Bounded by the test's own time limit.
async fn cancelled(socket: &mut Socket, tag: &str) {
    while stats(socket, tag).await.cancelled == 0 {
        tokio::task::yield_now().await;
    }
}

async fn started(socket: &mut Socket, tag: &str) {
    while stats(socket, tag).await.running == 0 {
        tokio::task::yield_now().await;
    }
}

fn payloads(answer: &Answer) -> Vec<demo::Payload> {
    answer.messages.iter().map(|bytes| demo::Payload::decode(&bytes[..]).unwrap()).collect()
}

#[tokio::test]
async fn a_server_stream_arrives_whole_and_in_order() {
    let (_proxy, mut socket) = connected().await;
    within(20, async {
        let request = demo::StreamRequest { count: 500, size: 3000, interval_ms: 0 };
        let answer = socket.unary("/demo.v1.Lab/ServerStream", request.encode_to_vec()).await;
        assert_eq!(answer.code(), Code::OK);
        let numbers: Vec<_> = payloads(&answer).iter().map(|p| (p.number, p.data.len())).collect();
        assert_eq!(numbers, (1..=500).map(|n| (n, 3000)).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_client_stream_is_answered_after_half_close_and_not_before() {
    let (_proxy, mut socket) = connected().await;
    within(20, async {
        for count in [0_u64, 1, 300] {
            let stream = socket.open("/demo.v1.Lab/ClientStream").await;
            for number in 0..count {
                let payload = demo::Payload { number, data: vec![7; 1000].into(), ..Default::default() };
                socket.send(stream, payload.encode_to_vec()).await;
            }
            socket.finish(stream).await;
            let answer = socket.answer(stream).await;
            assert_eq!(answer.code(), Code::OK, "{answer:?}");
            let summary = demo::Summary::decode(&answer.messages[0][..]).unwrap();
            assert_eq!(summary.messages, count);
        }
    })
    .await;
}

#[tokio::test]
async fn empty_messages_are_messages() {
    let (_proxy, mut socket) = connected().await;
    within(20, async {
        let stream = socket.open("/demo.v1.Lab/Bidi").await;
        for _ in 0..1000 {
            socket.send(stream, Vec::new()).await;
        }
        socket.finish(stream).await;
        let answer = socket.answer(stream).await;
        assert_eq!(answer.code(), Code::OK);
        assert_eq!(answer.messages, vec![Vec::<u8>::new(); 1000]);
    })
    .await;
}

#[tokio::test]
async fn messages_of_any_size_up_to_the_limit_pass_both_ways() {
    let (_proxy, mut socket) = connected().await;
    within(60, async {
        for size in [1, 100, 16_383, 16_384, 16_385, 65_535, 65_536, 262_144, 1_000_003, 4_194_304 - 16] {
            let stream = socket.open("/demo.v1.Lab/Bidi").await;
            let payload = demo::Payload { data: vec![0x5a; size].into(), ..Default::default() };
            socket.send(stream, payload.encode_to_vec()).await;
            let echo = demo::Payload::decode(&socket.message(stream).await[..]).unwrap();
            assert_eq!(echo.data.len(), size);
            assert!(echo.data.iter().all(|&b| b == 0x5a));
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK);
        }
    })
    .await;
}

#[tokio::test]
async fn metadata_passes_both_ways_with_repeated_and_binary_entries() {
    let (_proxy, mut socket) = connected().await;
    within(10, async {
        let metadata = vec![
            entry("x-one", "1"),
            entry("x-one", "2"),
            binary("x-raw-bin", &[0, 1, 0xfe, 0xff]),
            entry("demo-echo-it", "back"),
            entry("authorization", "Bearer t"),
        ];
        let stream = socket.open_with(open("/demo.v1.Lab/Metadata", metadata)).await;
        socket.send(stream, Vec::new()).await;
        socket.finish(stream).await;
        let answer = socket.answer(stream).await;
        let reply = demo::MetadataReply::decode(&answer.messages[0][..]).unwrap();
        let seen = |name: &str| {
            reply
                .entries
                .iter()
                .filter(|e| e.name == name)
                .map(|e| (e.text.clone(), e.binary.to_vec()))
                .collect::<Vec<_>>()
        };
        assert_eq!(seen("x-one"), [("1".into(), vec![]), ("2".into(), vec![])]);
        assert_eq!(seen("x-raw-bin")[0].1, [0, 1, 0xfe, 0xff]);
        assert_eq!(seen("authorization"), [("Bearer t".into(), vec![])]);
        assert_eq!(seen("te"), [("trailers".into(), vec![])]);
        assert!(seen("user-agent")[0].0.starts_with("bidiway/"), "{:?}", seen("user-agent"));

        let headers = answer.headers.as_ref().unwrap();
        let values = |metadata: &[v1::Metadata], name: &str| {
            metadata.iter().filter(|e| e.name == name).cloned().collect::<Vec<_>>()
        };
        assert_eq!(
            values(headers, "demo-initial"),
            [entry("demo-initial", "one"), entry("demo-initial", "two")]
        );
        assert_eq!(
            values(headers, "demo-initial-bin"),
            [binary("demo-initial-bin", &[0, 1, 2, 0xfd, 0xfe, 0xff])]
        );
        assert_eq!(text(headers, "demo-echo-it").as_deref(), Some("back"));
        assert_eq!(text(headers, "content-type"), None, "HTTP's own headers are no metadata");
        let trailing = &answer.trailers.metadata;
        assert_eq!(values(trailing, "demo-trailing").len(), 2);
        assert_eq!(
            values(trailing, "demo-trailing-bin"),
            [binary("demo-trailing-bin", &[0xff, 0xfe, 0xfd, 2, 1, 0])]
        );
    })
    .await;
}

#[tokio::test]
async fn a_failure_arrives_with_code_message_details_and_trailers() {
    let (_proxy, mut socket) = connected().await;
    within(10, async {
        let request = demo::FailRequest {
            code: 9,
            message: "niet — 不行 %\n".to_owned(),
            reason: "NOT_YET".to_owned(),
            ..Default::default()
        };
        let answer = socket.unary("/demo.v1.Lab/Fail", request.encode_to_vec()).await;
        assert_eq!(answer.code(), Code::FAILED_PRECONDITION);
        assert_eq!(answer.trailers.message, "niet — 不行 %\n");
        assert!(!answer.by_proxy());
        assert!(answer.trailers.details.windows(7).any(|w| w == b"NOT_YET"), "{:?}", answer.trailers.details);
        assert_eq!(text(&answer.trailers.metadata, "demo-trailing").as_deref(), Some("failed"));
        assert_eq!(text(&answer.trailers.metadata, "grpc-status"), None, "the status is not metadata");

        let stream = demo::FailRequest { after: 3, ..request };
        let answer = socket.unary("/demo.v1.Lab/FailStream", stream.encode_to_vec()).await;
        assert_eq!(answer.messages.len(), 3);
        assert_eq!(answer.code(), Code::FAILED_PRECONDITION);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_is_told_to_the_service_and_kept_here() {
    let (_proxy, mut socket) = connected().await;
    within(10, async {
        let stream =
            socket.open_with(v1::Open { timeout_ms: 60_000, ..open("/demo.v1.Lab/Metadata", vec![]) }).await;
        socket.send(stream, Vec::new()).await;
        socket.finish(stream).await;
        let answer = socket.answer(stream).await;
        let reply = demo::MetadataReply::decode(&answer.messages[0][..]).unwrap();
        assert!((50_000..=60_000).contains(&reply.timeout_ms), "{}", reply.timeout_ms);

        let stream =
            socket.open_with(v1::Open { timeout_ms: 50, ..open("/demo.v1.Lab/WaitStream", vec![]) }).await;
        socket.send(stream, Vec::new()).await;
        socket.finish(stream).await;
        let answer = socket.answer(stream).await;
        assert_eq!(answer.code(), Code::DEADLINE_EXCEEDED);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_stream_is_cancelled_at_the_service_and_others_go_on() {
    let (_proxy, mut socket) = connected().await;
    within(10, async {
        let other = socket.open("/demo.v1.Lab/Bidi").await;
        for method in ["/demo.v1.Lab/Wait", "/demo.v1.Lab/WaitStream"] {
            for half_closed in [false, true] {
                let tag = format!("{method}{half_closed}");
                let stream = socket.open_with(open(method, vec![entry("demo-tag", &tag)])).await;
                socket.send(stream, Vec::new()).await;
                if half_closed {
                    socket.finish(stream).await;
                    started(&mut socket, &tag).await;
                }
                socket.cancel(stream).await;
                if half_closed {
                    cancelled(&mut socket, &tag).await;
                }
            }
        }
        socket.send(other, Vec::new()).await;
        assert!(socket.message(other).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_lost_socket_cancels_its_calls_at_the_service() {
    let (proxy, mut socket) = connected().await;
    within(10, async {
        let tag = "lost";
        let stream = socket.open_with(open("/demo.v1.Lab/WaitStream", vec![entry("demo-tag", tag)])).await;
        socket.send(stream, Vec::new()).await;
        socket.finish(stream).await;
        socket.message(stream).await;
        drop(socket);
        let mut another = Socket::connect(proxy.addresses.http).await;
        cancelled(&mut another, tag).await;
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stops_stops_its_own_service_and_nobody_else() {
    let (_proxy, mut socket) = connected().await;
    within(30, async {
        socket.consumes = false;
        let tag = "stalled";
        let request = demo::StreamRequest { count: 100_000, size: 10_000, interval_ms: 0 };
        let stalled = socket.open_with(open("/demo.v1.Lab/ServerStream", vec![entry("demo-tag", tag)])).await;
        socket.send(stalled, request.encode_to_vec()).await;
        socket.finish(stalled).await;

        // Others flow, and the service's progress comes to a stop far from the end.
        let mut before = u64::MAX;
        loop {
            for _ in 0..50 {
                let echo = unary(&mut socket, 500).await;
                assert_eq!(echo.len(), 500);
            }
            let sent = stats(&mut socket, tag).await.sent;
            if sent > 0 && sent == before {
                break;
            }
            before = sent;
        }
        assert!(before < 2_000, "{before} messages of 10 kB left the service while nobody read");
        socket.cancel(stalled).await;
        cancelled(&mut socket, tag).await;
    })
    .await;
}

/// An echo on a stream of its own that is consumed although the socket's other streams are not.
async fn unary(socket: &mut Socket, size: usize) -> Vec<u8> {
    let payload = demo::Payload { data: vec![1; size].into(), ..Default::default() };
    let answer = socket.unary("/demo.v1.Lab/Unary", payload.encode_to_vec()).await;
    payloads(&answer)[0].data.to_vec()
}

#[tokio::test]
async fn two_hundred_bidirectional_streams_share_one_socket() {
    let (_proxy, mut socket) = connected().await;
    within(30, async {
        let mut streams: Vec<StreamId> = Vec::new();
        for _ in 0..200 {
            streams.push(socket.open("/demo.v1.Lab/Bidi").await);
        }
        for round in 0..10_u64 {
            for &stream in &streams {
                let payload =
                    demo::Payload { number: round * 1000 + u64::from(stream), ..Default::default() };
                socket.send(stream, payload.encode_to_vec()).await;
            }
            for &stream in &streams {
                let echo = demo::Payload::decode(&socket.message(stream).await[..]).unwrap();
                assert_eq!(echo.number, round * 1000 + u64::from(stream));
            }
        }
        for &stream in &streams {
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK);
        }
    })
    .await;
}

#[tokio::test]
async fn headers_come_before_the_first_message() {
    let (_proxy, mut socket) = connected().await;
    within(10, async {
        let stream = socket.open("/demo.v1.Lab/WaitStream").await;
        socket.send(stream, Vec::new()).await;
        socket.finish(stream).await;
        assert!(matches!(socket.next_of(stream).await, Event::Headers { .. }));
        assert!(matches!(socket.next_of(stream).await, Event::Data { .. }));
    })
    .await;
}
