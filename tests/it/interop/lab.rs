//! What every Lab must do behind Bidiway, whoever wrote it.

use std::time::Duration;

use bidiway::{
    demo::v1 as demo,
    session::StreamId,
    wire::{Code, v1},
};
use prost::Message;
use tonic_types::pb;

use super::World;
use crate::support::socket::{Answer, Socket, text};

const TAG: &str = "interop";

fn tagged(method: &str) -> v1::Open {
    v1::Open {
        method: format!("/demo.v1.Lab/{method}"),
        metadata: vec![entry("demo-tag", TAG)],
        ..Default::default()
    }
}

fn entry(name: &str, value: &str) -> v1::Metadata {
    v1::Metadata { name: name.to_owned(), value: Some(v1::metadata::Value::Text(value.to_owned())) }
}

fn binary(name: &str, value: &'static [u8]) -> v1::Metadata {
    v1::Metadata { name: name.to_owned(), value: Some(v1::metadata::Value::Binary(value.into())) }
}

async fn ask(socket: &mut Socket, open: v1::Open, request: impl Message) -> Answer {
    let stream = socket.open_with(open).await;
    socket.send(stream, request.encode_to_vec()).await;
    socket.finish(stream).await;
    socket.answer(stream).await
}

fn payload(number: u64, size: usize) -> demo::Payload {
    demo::Payload { number, data: vec![7; size].into(), ..Default::default() }
}

fn payloads(answer: &Answer) -> Vec<(u64, usize)> {
    let decode = |bytes: &Vec<u8>| demo::Payload::decode(&bytes[..]).unwrap();
    answer.messages.iter().map(decode).map(|payload| (payload.number, payload.data.len())).collect()
}

/// Asks until the Lab's stats are so; gives up after 10 seconds and shows them.
async fn stats_until(socket: &mut Socket, expected: impl Fn(&demo::StatsReply) -> bool) {
    let mut stats = demo::StatsReply::default();
    let asking = async {
        while !expected(&stats) {
            let request = demo::StatsRequest { tag: TAG.to_owned() };
            let answer = socket.unary("/demo.v1.Lab/Stats", request.encode_to_vec()).await;
            stats = demo::StatsReply::decode(&answer.messages[0][..]).unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), asking).await.is_err() {
        panic!("the Lab's stats stay at {stats:?}");
    }
}

pub(super) async fn all_four_kinds(world: &mut World) {
    let socket = &mut world.socket;
    let answer = ask(socket, tagged("Unary"), payload(1, 100_000)).await;
    assert_eq!((answer.code(), payloads(&answer)), (Code::OK, vec![(1, 100_000)]));

    let request = demo::StreamRequest { count: 300, size: 2000, interval_ms: 0 };
    let answer = ask(socket, tagged("ServerStream"), request).await;
    assert_eq!(answer.code(), Code::OK);
    assert_eq!(payloads(&answer), (1..=300).map(|number| (number, 2000)).collect::<Vec<_>>());

    let stream = socket.open_with(tagged("ClientStream")).await;
    for number in 0..300 {
        socket.send(stream, payload(number, 2000).encode_to_vec()).await;
    }
    socket.finish(stream).await;
    let answer = socket.answer(stream).await;
    let summary = demo::Summary::decode(&answer.messages[0][..]).unwrap();
    assert_eq!((answer.code(), summary.messages, summary.bytes), (Code::OK, 300, 600_000));

    let stream = socket.open_with(tagged("Bidi")).await;
    for number in 1..=200 {
        socket.send(stream, payload(number, 10).encode_to_vec()).await;
        let echo = demo::Payload::decode(&socket.message(stream).await[..]).unwrap();
        assert_eq!(echo.number, number, "the answer comes before the next message is sent");
    }
    socket.finish(stream).await;
    let answer = socket.answer(stream).await;
    assert_eq!((answer.code(), answer.messages.len()), (Code::OK, 0));
}

pub(super) async fn a_large_message(world: &mut World) {
    let answer = ask(&mut world.socket, tagged("Unary"), payload(1, 4_000_000)).await;
    assert_eq!((answer.code(), payloads(&answer)), (Code::OK, vec![(1, 4_000_000)]));
}

pub(super) async fn many_streams_at_once(world: &mut World) {
    let socket = &mut world.socket;
    let mut streams: Vec<StreamId> = Vec::new();
    for number in 0..200 {
        let stream = socket.open_with(tagged("Bidi")).await;
        socket.send(stream, payload(number, 1000).encode_to_vec()).await;
        streams.push(stream);
    }
    for (number, &stream) in streams.iter().enumerate() {
        let echo = demo::Payload::decode(&socket.message(stream).await[..]).unwrap();
        assert_eq!(echo.number, number as u64);
    }
    for stream in streams {
        socket.finish(stream).await;
        assert_eq!(socket.answer(stream).await.code(), Code::OK);
    }
}

pub(super) async fn a_rich_status(world: &mut World) {
    let order = demo::FailRequest {
        code: 9,
        message: "nöt yet — 100 %".into(),
        reason: "TOO_EARLY".into(),
        info: [("when".to_owned(), "later".to_owned())].into(),
        violations: vec![demo::FieldViolation { field: "time".into(), description: "is early".into() }],
        after: 3,
    };
    for (method, messages) in [("Fail", 0), ("FailStream", 3)] {
        let answer = ask(&mut world.socket, tagged(method), order.clone()).await;
        assert_eq!(answer.code(), Code::FAILED_PRECONDITION, "{method}: {answer:?}");
        assert_eq!(answer.messages.len(), messages, "{method}");
        assert_eq!(answer.trailers.message, "nöt yet — 100 %", "{method}");
        assert!(!answer.by_proxy(), "{method}");
        assert_eq!(text(&answer.trailers.metadata, "demo-trailing").as_deref(), Some("failed"), "{method}");
        let status = pb::Status::decode(&answer.trailers.details[..]).unwrap();
        assert_eq!((status.code, &*status.message), (9, "nöt yet — 100 %"), "{method}");
        let info = pb::ErrorInfo::decode(&status.details[0].value[..]).unwrap();
        assert_eq!((&*info.reason, &*info.metadata["when"]), ("TOO_EARLY", "later"), "{method}");
        let bad = pb::BadRequest::decode(&status.details[1].value[..]).unwrap();
        assert_eq!(bad.field_violations[0].field, "time", "{method}");
    }
}

pub(super) async fn metadata_both_ways(world: &mut World) {
    let mut open = tagged("Metadata");
    open.timeout_ms = 60_000;
    open.metadata.extend([
        entry("demo-echo-word", "a"),
        entry("demo-echo-word", "b"),
        binary("demo-echo-raw-bin", &[0, 255, 10, 13]),
    ]);
    let answer = ask(&mut world.socket, open, demo::Empty {}).await;
    assert_eq!(answer.code(), Code::OK, "{answer:?}");

    let reply = demo::MetadataReply::decode(&answer.messages[0][..]).unwrap();
    let seen = |name: &str| reply.entries.iter().filter(|e| e.name == name).cloned().collect::<Vec<_>>();
    assert_eq!(seen("demo-echo-word").iter().map(|e| &*e.text).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(&seen("demo-echo-raw-bin")[0].binary[..], [0, 255, 10, 13]);
    assert!((50_000..=60_000).contains(&reply.timeout_ms), "the deadline arrived: {}", reply.timeout_ms);

    let initial = answer.headers.as_deref().unwrap();
    for (place, name, raw) in [
        (initial, "demo-initial", [0, 1, 2, 0xfd, 0xfe, 0xff]),
        (&answer.trailers.metadata, "demo-trailing", [0xff, 0xfe, 0xfd, 2, 1, 0]),
    ] {
        let all = |name: &str| place.iter().filter(|e| e.name == name).cloned().collect::<Vec<_>>();
        assert_eq!(all(name), [entry(name, "one"), entry(name, "two")]);
        let binary = all(&format!("{name}-bin")).remove(0).value;
        assert_eq!(binary, Some(v1::metadata::Value::Binary(raw.to_vec().into())));
        assert_eq!(all("demo-echo-word"), [entry("demo-echo-word", "a"), entry("demo-echo-word", "b")]);
    }
}

pub(super) async fn a_deadline(world: &mut World) {
    let open = v1::Open { timeout_ms: 200, ..tagged("Wait") };
    let answer = ask(&mut world.socket, open, demo::Empty {}).await;
    assert_eq!(answer.code(), Code::DEADLINE_EXCEEDED, "{answer:?}");
    // How a server counts a call whose deadline passed is its own affair; that it ends it is not.
    stats_until(&mut world.socket, |stats| stats.running == 0 && stats.completed + stats.cancelled == 1)
        .await;
}

pub(super) async fn cancellation(world: &mut World) {
    let socket = &mut world.socket;
    let mut streams = Vec::new();
    for method in ["Wait", "WaitStream", "Bidi"] {
        let stream = socket.open_with(tagged(method)).await;
        socket.send(stream, Vec::new()).await;
        if method != "Bidi" {
            // Some servers call the method only when the one request is known to be the only one.
            socket.finish(stream).await;
        }
        streams.push(stream);
    }
    stats_until(socket, |stats| stats.running == 3).await;
    for stream in streams {
        socket.cancel(stream).await;
    }
    // grpcio sometimes ends the requests of a cancelled call as if they had been half-closed, and Bidi with them.
    stats_until(socket, |stats| stats.cancelled >= 2 && stats.cancelled + stats.completed == 3).await;
}

pub(super) async fn an_unknown_method(world: &mut World) {
    let answer = world.socket.unary("/demo.v1.Lab/Nothing", Vec::new()).await;
    assert_eq!(answer.code(), Code::UNIMPLEMENTED, "{answer:?}");
    assert!(!answer.by_proxy());
}

/// One test for each behaviour, against the server that `$start` starts.
macro_rules! tests {
    ($start:path: $($name:ident => $check:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                if !super::wanted(concat!(module_path!(), "::", stringify!($name))) {
                    return;
                }
                // Before the clock runs: the first test may have to build the server.
                let mut world = $start().await;
                crate::support::within(60, super::lab::$check(&mut world)).await;
            }
        )+
    };
    ($start:path) => {
        super::lab::tests! { $start:
            all_four_kinds_pass => all_four_kinds,
            a_message_of_4_mb_passes => a_large_message,
            two_hundred_streams_on_one_socket_do_not_mix => many_streams_at_once,
            a_rich_status_arrives_whole => a_rich_status,
            metadata_passes_both_ways_repeated_and_binary => metadata_both_ways,
            a_deadline_ends_the_call_here_and_there => a_deadline,
            cancelling_reaches_the_service => cancellation,
            an_unknown_method_is_refused_by_the_service => an_unknown_method,
        }
    };
}
pub(super) use tests;
