//! `grpc-websockets`: refusals, broken clients and broken services. Each is a status, then the close.

use std::time::Duration;

use bidiway::downstream::{RouteSettings, ServicePattern};
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::{Edge, edge, edge_with, settings},
    grpc_websocket::{Call, HEADERS, data},
    upstream::{Flooding, Scripted, Waiting, echo, end, message, send},
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";

async fn echoing() -> (Edge, Scripted) {
    let upstream = Scripted::start(echo).await;
    (edge(&upstream.url).await, upstream)
}

#[tokio::test]
async fn every_refusal_is_a_status_and_then_the_close() {
    let small = RouteSettings {
        pattern: ServicePattern::Package("small.".into()),
        max_message: 1000,
        ..settings().routes[0].clone()
    };
    let upstream = Scripted::start(echo).await;
    let mut settings = settings();
    settings.routes[0].pattern = ServicePattern::Package("chat.".into());
    settings.routes.push(small);
    let edge = edge_with(&upstream.url, settings).await;
    let big = format!("x-big: {}\r\n", "y".repeat(20_000));
    let huge = format!("x-huge: {}\r\n", "y".repeat(200_000));
    let text_type = "content-type: application/grpc-web-text\r\n".to_owned();
    let block = |lines: &str| Bytes::from(format!("{HEADERS}{lines}"));
    let cases: Vec<(&str, &str, Vec<Bytes>, u32, &str)> = vec![
        ("no route", "/other.v1.Other/Do", vec![block("")], 12, "no route serves /other.v1.Other/Do"),
        ("no method", "/chat.v1.Chat", vec![block("")], 12, "/package.Service/Method"),
        ("a timeout that is none", TALK, vec![block("grpc-timeout: soon\r\n")], 3, "grpc-timeout"),
        ("a timeout of nothing", TALK, vec![block("grpc-timeout: 0S\r\n")], 4, "deadline"),
        ("too much metadata", TALK, vec![block(&big)], 8, "16384"),
        ("a huge header block", TALK, vec![block(&huge)], 8, "header block"),
        ("text bodies", TALK, vec![text_type.into()], 12, "grpc-web-text"),
        ("another content-type", TALK, vec!["content-type: text/html\r\n".into()], 3, "text/html"),
        ("garbage instead of headers", TALK, vec!["\u{1}\u{2}\u{3}".into()], 3, "header block"),
        ("no line of headers", TALK, vec!["what is this".into()], 3, "line 1"),
        ("data before headers", TALK, vec![data(b"x").into()], 3, "must be its header block"),
        ("a half-close before headers", TALK, vec![vec![1].into()], 3, "must be its header block"),
        ("another first byte", TALK, vec![block(""), vec![2, 0, 0, 0, 0, 0].into()], 3, "byte 0x02"),
        ("a half-close with more", TALK, vec![block(""), vec![1, 0].into()], 3, "byte 0x01"),
        ("a flag that is none", TALK, vec![block(""), vec![0, 9].into()], 3, "flag byte 0x09"),
        (
            "a length beyond the limit",
            "/small.S/Do",
            vec![block(""), vec![0, 0, 0xff, 0xff, 0xff, 0xff].into()],
            8,
            "4294967295 bytes is larger than the limit of 1000",
        ),
        (
            "a half-close inside a message",
            TALK,
            vec![block(""), vec![0, 0, 0, 0, 0, 9, 1, 2].into(), vec![1].into()],
            3,
            "7 bytes are missing",
        ),
    ];
    for carrier in [Carrier::Http1, Carrier::Http2Tls] {
        for (name, path, messages, code, part) in &cases {
            within(5, async {
                let mut call = Call::silent(carrier, &edge, path).await;
                for message in messages {
                    call.ws.send(message.clone()).await;
                }
                let (reader, close) = call.finish().await;
                reader.assert_refused(*code, part);
                assert_eq!(close, 1000, "{name}");
                // And nobody else is disturbed.
                assert_eq!(Call::unary(carrier, &edge, TALK, b"fine").await.reader.code(), 0, "{name}");
            })
            .await;
        }
    }
    let counted = edge.metrics.encode();
    let refused = counted
        .lines()
        .filter(|line| {
            line.starts_with("bidiway_calls_total{") && line.contains("dialect=\"grpc-websockets\"")
        })
        .filter(|line| line.contains("origin=\"proxy\""))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap())
        .sum::<usize>();
    assert_eq!(refused, 2 * cases.len(), "one outcome for each call: {counted}");
}

#[tokio::test]
async fn what_rfc_6455_forbids_is_a_status_and_the_close_code_that_it_names() {
    let (edge, _upstream) = echoing().await;
    let too_large = {
        let mut frame = vec![0x82, 0xff];
        frame.extend((64_u64 << 20).to_be_bytes());
        frame.extend([0; 4]);
        frame
    };
    let cases: [(&str, Vec<u8>, u32, u16); 4] = [
        ("an unmasked frame", vec![0x82, 1, 1], 3, 1002),
        ("a reserved opcode", vec![0x83, 0x80, 0, 0, 0, 0], 3, 1002),
        ("a continuation of nothing", vec![0x80, 0x80, 0, 0, 0, 0], 3, 1002),
        ("a message larger than any may be", too_large, 8, 1009),
    ];
    for greets in [false, true] {
        for (name, bytes, code, close) in &cases {
            within(5, async {
                let mut call = Call::silent(Carrier::Http1, &edge, TALK).await;
                if greets {
                    call.ws.send(HEADERS).await;
                    call.headers().await;
                }
                tokio::io::AsyncWriteExt::write_all(call.ws.io(), bytes).await.unwrap();
                let (reader, closed) = call.finish().await;
                reader.assert_refused(*code, "");
                assert_eq!(closed, *close, "{name}");
                assert_eq!(Call::unary(Carrier::Http1, &edge, TALK, b"fine").await.reader.code(), 0);
            })
            .await;
        }
        within(5, async {
            let mut call = Call::silent(Carrier::Http1, &edge, TALK).await;
            if greets {
                call.ws.send(HEADERS).await;
            }
            call.ws.send_raw(Message::text("{}")).await;
            let (reader, closed) = call.finish().await;
            reader.assert_refused(3, "text message");
            assert_eq!(closed, 1003);
        })
        .await;
    }
}

#[tokio::test]
async fn messages_after_the_half_close_are_refused_and_a_second_half_close_is_not() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    within(10, async {
        let mut call = Call::open(Carrier::Http1, &edge, TALK, "").await;
        call.half_close().await;
        call.half_close().await;
        call.headers().await;
        upstream.begun(1).await;
        call.send(b"too late").await;
        let (reader, close) = call.finish().await;
        reader.assert_refused(3, "after the half-close");
        assert_eq!(close, 1000);
        upstream.cancelled(1).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_told_so_and_its_socket_closed() {
    let mut settings = settings();
    settings.session.hello_timeout = Duration::from_millis(200);
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings).await;
    for carrier in CARRIERS {
        within(5, async {
            let mut call = Call::silent(carrier, &edge, TALK).await;
            let (reader, close) = call.finish().await;
            reader.assert_refused(4, "no header block");
            assert_eq!(close, 1000, "{carrier:?}");
        })
        .await;
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_socket_beyond_the_address_s_limit_is_refused_with_a_status() {
    let mut settings = settings();
    settings.limits.sockets_per_address = 1;
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings).await;
    within(10, async {
        let mut first = Call::open(Carrier::Http1, &edge, TALK, "").await;
        first.headers().await;
        let mut second = Call::silent(Carrier::Http1, &edge, TALK).await;
        let (reader, close) = second.finish().await;
        reader.assert_refused(8, "1 open sockets");
        assert_eq!(close, 1000);
        first.half_close().await;
        assert_eq!(first.finish().await.0.code(), 0);
        drop((first, second));
        // The place is free again as soon as the socket is gone.
        while Call::unary(Carrier::Http1, &edge, TALK, b"x").await.reader.code() != 0 {}
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_is_down_or_breaks_off_is_a_status() {
    let edge_down = edge("http://127.0.0.1:1").await;
    within(10, async {
        let call = Call::unary(Carrier::Http1, &edge_down, TALK, b"x").await;
        call.reader.assert_refused(14, "");
        assert_eq!(call.closed, Some(1000));
    })
    .await;

    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        send(&mut stream, message(b"one")).await;
        // Half a small message: it is never shown, so the status can follow.
        send(&mut stream, message(b"cut off").slice(..9)).await;
        // A reset overtakes what was not read.
        exchange.read_all().await;
        match exchange.request.uri().path() {
            "/a.B/Reset" => stream.send_reset(h2::Reason::INTERNAL_ERROR),
            "/a.B/End" => end(&mut stream, 0),
            "/a.B/NoTrailers" => stream.send_data(Bytes::new(), true).unwrap(),
            _ => end(&mut stream, 10),
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for (path, code, by_proxy) in [
        ("/a.B/Reset", 13, true),
        ("/a.B/End", 13, true),
        ("/a.B/NoTrailers", 13, true),
        ("/a.B/Own", 10, false),
    ] {
        within(10, async {
            let mut call = Call::open(Carrier::Http1, &edge, path, "").await;
            assert_eq!(call.message().await, b"one", "{path}");
            call.half_close().await;
            call.finish().await;
            assert_eq!((call.reader.code(), call.closed), (code, Some(1000)), "{path}: {:?}", call.reader);
            let marked = call.reader.trailers.as_ref().unwrap().contains_key("bidiway-origin");
            assert_eq!(marked, by_proxy, "{path}");
        })
        .await;
    }
}

#[tokio::test]
async fn behind_half_a_large_message_no_status_is_sent_that_would_be_read_as_its_rest() {
    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        send(&mut stream, message(&[7; 100_000]).slice(..50_000)).await;
        let _ = exchange.read_all().await;
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let mut call = Call::open(Carrier::Http1, &edge, TALK, "").await;
        while call.reader.incomplete() < 50_000 {
            assert!(call.receive().await);
        }
        call.half_close().await;
        call.finish().await;
        assert!(call.reader.trailers.is_none() && call.reader.messages.is_empty());
        assert_eq!(call.closed, Some(1011));
    })
    .await;
}

#[tokio::test]
async fn a_compressed_message_never_reaches_the_client() {
    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        let mut compressed = message(b"zip").to_vec();
        compressed[0] = 1;
        send(&mut stream, [message(b"plain"), compressed.into()].concat().into()).await;
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let call = Call::unary(Carrier::Http1, &edge, TALK, b"x").await;
        call.reader.assert_refused(13, "compressed");
        assert_eq!(call.reader.payloads(), [b"plain"]);
    })
    .await;
}

#[tokio::test]
async fn a_service_that_answers_without_reading_on_ends_the_call_at_once() {
    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for carrier in CARRIERS {
        within(10, async {
            let mut call = Call::open(carrier, &edge, TALK, "").await;
            let (reader, close) = call.finish().await;
            assert_eq!((reader.code(), close), (0, 1000), "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_take_its_end_costs_nothing_until_it_is_given_up() {
    let upstream = Flooding::start().await;
    let mut settings = settings();
    settings.session.ping = Duration::from_secs(20);
    let edge = edge_with(&upstream.server.url, settings).await;
    let mut call = Call::open(Carrier::Http1, &edge, "/t.T/Flood", "").await;
    call.half_close().await;
    let mut before = 0;
    while before == 0 || before != upstream.sent() {
        before = upstream.sent();
        for _ in 0..20 {
            assert_eq!(Call::unary(Carrier::Http1, &edge, TALK, b"flows").await.reader.code(), 0);
        }
    }
    call.ws.send_raw(Message::text("what is this")).await;
    within(5, upstream.ended(1)).await;
    // The proxy runs in this runtime, and nothing of it but timers is left to wake the thread.
    tokio::time::pause();
    let parked = || tokio::runtime::Handle::current().metrics().worker_park_count(0);
    let before = parked();
    tokio::time::sleep(Duration::from_secs(35)).await;
    let wakes = parked() - before;
    // Each second a worker looks how late it is, and the process what it uses: in one.
    assert!(wakes < 200, "the thread was woken {wakes} times in 35 s");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(edge.metrics.encode().contains("bidiway_connections_open 0"), "{}", edge.metrics.encode());
}
