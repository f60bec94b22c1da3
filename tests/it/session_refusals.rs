//! Bad input in sessions: the right code and a sentence, on that call only where possible, the rest undisturbed.

use std::time::Duration;

use bidiway::{
    downstream::{RouteSettings, ServicePattern, Settings},
    session,
    wire::{Code, v1},
};
use bytes::Bytes;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message, http::HeaderValue};

use crate::{
    session_calls::{binary, entry},
    support::{
        carrier::{handshake, head},
        edge::{self, Edge, edge_with},
        socket::{Answer, Socket, first_packet, request},
        upstream::{Scripted, echo, message},
        within,
    },
};

async fn echoing(settings: Settings) -> (Edge, Scripted) {
    let upstream = Scripted::start(echo).await;
    (edge_with(&upstream.url, settings).await, upstream)
}

fn assert_refused(answer: &Answer, code: Code, part: &str) {
    assert_eq!(answer.code(), code, "{answer:?}");
    assert!(answer.trailers.message.contains(part), "{:?} lacks {part:?}", answer.trailers.message);
    assert!(answer.by_proxy(), "{answer:?}");
}

#[tokio::test]
async fn binary_metadata_counts_as_it_is_and_not_as_base64() {
    let (edge, _upstream) = echoing(edge::settings()).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let metadata = vec![binary("x-large-bin", &[7; 16_000])];
        let open = v1::Open { method: "/chat.v1.Chat/Talk".into(), metadata, ..v1::Open::default() };
        let stream = socket.open_with(open).await;
        socket.finish(stream).await;
        let answer = socket.answer(stream).await;
        assert_eq!(answer.code(), Code::OK, "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn a_bad_call_is_refused_with_its_own_code_and_the_session_goes_on() {
    let route = |pattern| RouteSettings { pattern, ..edge::settings().routes[0].clone() };
    let settings =
        Settings { routes: vec![route(ServicePattern::Service("chat.v1.Chat".into()))], ..edge::settings() };
    let (edge, upstream) = echoing(settings).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let open =
            |method: &str, metadata| v1::Open { method: method.into(), metadata, ..v1::Open::default() };
        let cases = [
            (open("/other.v1.Other/Do", vec![]), Code::UNIMPLEMENTED, "no route serves /other.v1.Other/Do"),
            (open("chat.v1.Chat/Talk", vec![]), Code::UNIMPLEMENTED, "/package.Service/Method"),
            (open("", vec![]), Code::UNIMPLEMENTED, "/package.Service/Method"),
            (open("/chat.v1.Chat/Ta lk", vec![]), Code::UNIMPLEMENTED, "chat.v1.Chat"),
            (
                open("/chat.v1.Chat/Talk", vec![entry("Upper", "x")]),
                Code::INVALID_ARGUMENT,
                "\"Upper\" is not valid",
            ),
            (
                open("/chat.v1.Chat/Talk", vec![entry("x", "line\r\nbreak")]),
                Code::INVALID_ARGUMENT,
                "not printable ASCII",
            ),
            (
                open("/chat.v1.Chat/Talk", vec![entry("x-bin", "text")]),
                Code::INVALID_ARGUMENT,
                "wrong kind of value",
            ),
            (
                open("/chat.v1.Chat/Talk", vec![entry("x-big", &"y".repeat(20_000))]),
                Code::RESOURCE_EXHAUSTED,
                "16384",
            ),
            (
                v1::Open { codec: 7, ..open("/chat.v1.Chat/Talk", vec![]) },
                Code::UNIMPLEMENTED,
                "codec 7 is not known; there are PROTOBUF (0) and JSON (1)",
            ),
        ];
        for (open, code, part) in cases {
            let stream = socket.open_with(open).await;
            assert_refused(&socket.answer(stream).await, code, part);
        }
        assert_eq!(upstream.requests(), 0, "nothing of this reached upstream");
        let answer = socket.unary("/chat.v1.Chat/Talk", "fine").await;
        assert_eq!((answer.code(), &answer.messages[0][..]), (Code::OK, &b"fine"[..]));
    })
    .await;
}

#[tokio::test]
async fn a_message_larger_than_the_route_allows_ends_its_stream_only() {
    let small = RouteSettings { max_message: 1000, ..edge::settings().routes[0].clone() };
    let (edge, _upstream) = echoing(Settings { routes: vec![small], ..edge::settings() }).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let other = socket.open("/a.B/C").await;
        let answer = socket.unary("/a.B/C", vec![0; 1001]).await;
        assert_refused(&answer, Code::RESOURCE_EXHAUSTED, "1001 bytes is larger than the limit of 1000");
        assert_eq!(socket.unary("/a.B/C", vec![0; 1000]).await.code(), Code::OK);
        socket.send(other, "still here").await;
        assert_eq!(socket.message(other).await, b"still here");
    })
    .await;
}

#[tokio::test]
async fn a_message_larger_than_the_session_allows_is_counted_as_what_the_client_was_told() {
    let mut settings = edge::settings();
    settings.limits.max_message = 1000;
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        // The first message asks for no more than the proxy's Welcome, which the next could already break.
        assert_eq!(socket.unary("/a.B/C", "fine").await.code(), Code::OK);
        let answer = socket.unary("/a.B/C", vec![0; 1001]).await;
        assert_refused(&answer, Code::RESOURCE_EXHAUSTED, "1001 bytes is larger than the limit of 1000");
        let counted = edge.metrics.encode();
        let line = counted
            .lines()
            .find(|line| line.starts_with("bidiway_calls_total") && line.contains("RESOURCE_EXHAUSTED"))
            .unwrap_or_default();
        assert!(line.contains("proxy") && line.ends_with(" 1"), "{line:?}");
        assert!(!counted.contains("code=\"CANCELLED\""), "{counted}");
    })
    .await;
}

#[tokio::test]
async fn a_response_larger_than_the_route_allows_is_noticed_at_its_prefix() {
    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        // Four GiB announced, nothing sent.
        stream.send_data(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]), false).unwrap();
        while exchange.read().await.is_some() {}
    })
    .await;
    let edge = edge::edge(&upstream.url).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let stream = socket.open("/a.B/C").await;
        let answer = socket.answer(stream).await;
        assert_refused(&answer, Code::RESOURCE_EXHAUSTED, "4294967295 bytes is larger than the limit");
    })
    .await;
}

#[tokio::test]
async fn a_compressed_message_that_nobody_asked_for_is_an_error_and_not_garbage() {
    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        let mut compressed = message(b"zip").to_vec();
        compressed[0] = 1;
        stream.send_data(compressed.into(), false).unwrap();
        while exchange.read().await.is_some() {}
    })
    .await;
    let edge = edge::edge(&upstream.url).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let stream = socket.open("/a.B/C").await;
        assert_refused(&socket.answer(stream).await, Code::INTERNAL, "compressed");
    })
    .await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_one_by_one() {
    let mut settings = edge::settings();
    settings.session.max_streams = 2;
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let streams = [socket.open("/a.B/C").await, socket.open("/a.B/C").await, socket.open("/a.B/C").await];
        assert_refused(&socket.answer(streams[2]).await, Code::RESOURCE_EXHAUSTED, "2");
        socket.finish(streams[0]).await;
        assert_eq!(socket.answer(streams[0]).await.code(), Code::OK);
        assert_eq!(socket.unary("/a.B/C", "room again").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_packet_closes_the_session_with_a_code_and_a_sentence() {
    let (edge, _upstream) = echoing(edge::settings()).await;
    within(20, async {
        let hello = [0x0a, 0x05, 0x72, 0x03, 0x0a, 0x01, 0x01]; // Packet { Hello { versions: [1] } }
        let cases: [(&str, Message, u16); 5] = [
            ("text", Message::text("hello"), 4003),
            ("garbage", Message::binary(vec![0xff; 20]), 4003),
            ("no hello first", Message::binary(vec![0x0a, 0x02, 0x60, 0x01]), 4003),
            ("a frame of no kind", Message::binary(vec![0x0a, 0x02, 0x08, 0x01]), 4003),
            ("too large", Message::binary(vec![0; session::MAX_PACKET + 1]), 4008),
        ];
        for (name, bad, code) in cases {
            let mut socket = Socket::connect(edge.address).await;
            // The session's own Hello is not flushed before `bad` unless a call is opened.
            socket.send_raw(bad).await;
            let (got, reason) = socket.close_frame().await;
            assert_eq!(got, code, "{name}: {reason}");
            assert!(reason.len() > 10, "{name}: {reason:?}");
        }
        let mut socket = Socket::connect(edge.address).await;
        socket.send_raw(Message::binary(hello.to_vec())).await;
        // An Ack of frames that were never sent, after a good Hello.
        socket.send_raw(Message::binary(vec![0x0a, 0x02, 0x58, 0x63])).await;
        let (code, reason) = socket.close_frame().await;
        assert_eq!(code, 4003, "{reason}");
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_breaks_rfc_6455_closes_with_1002() {
    let (edge, _upstream) = echoing(edge::settings()).await;
    within(10, async {
        let mut tcp = TcpStream::connect(edge.address).await.unwrap();
        tcp.write_all(handshake(edge.address).as_bytes()).await.unwrap();
        assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101"));
        tcp.write_all(&[0x82, 0x01, 0x00]).await.unwrap(); // a frame from a client must be masked
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.unwrap();
        assert_eq!((rest[0], u16::from_be_bytes([rest[2], rest[3]])), (0x88, 1002), "{rest:?}");
    })
    .await;
}

/// Packets that were good until a few bytes of them changed: each is understood, or ends its own session with a code.
#[tokio::test]
async fn packets_with_changed_bytes_disturb_nobody_else() {
    let (edge, _upstream) = echoing(edge::settings()).await;
    within(60, async {
        let mut other = Socket::connect(edge.address).await;
        let stream = other.open("/a.B/C").await;
        let (good, _) = first_packet("/a.B/C", b"some message", session::Settings::default());
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            for shift in [13, -7, 17_i32] {
                seed ^= if shift > 0 { seed << shift } else { seed >> -shift };
            }
            (seed % below as u64) as usize
        };
        for round in 0..300 {
            let mut bad = good.to_vec();
            for _ in 0..=random(4) {
                match random(3) {
                    0 => bad.truncate(1 + random(bad.len())),
                    1 => bad.insert(random(bad.len()), random(256) as u8),
                    _ => {
                        let at = random(bad.len());
                        bad[at] = random(256) as u8;
                    }
                }
            }
            let mut socket = Socket::connect(edge.address).await;
            socket.send_raw(Message::binary(bad.clone())).await;
            socket.close().await;
            let (code, reason) = socket.close_frame().await;
            assert!(matches!(code, 1000 | 1005 | 4000..=4016), "{round}: {bad:x?}: {code} {reason}");
            other.send(stream, "fine").await;
            assert_eq!(other.message(stream).await, b"fine", "{round}: {bad:x?}");
        }
    })
    .await;
}

#[tokio::test]
async fn calls_that_are_opened_and_cancelled_at_once_disturb_no_other() {
    let mut settings = edge::settings();
    settings.limits.cancels_per_second = None;
    let (edge, upstream) = echoing(settings).await;
    within(30, async {
        let mut other = Socket::connect(edge.address).await;
        let running = other.open("/a.B/C").await;
        other.send(running, "before").await;
        assert_eq!(other.message(running).await, b"before");
        let mut socket = Socket::connect(edge.address).await;
        for _ in 0..50 {
            // Twenty in one packet, and then one by one.
            for _ in 0..20 {
                let open = v1::Open { method: "/a.B/C".to_owned(), ..v1::Open::default() };
                let stream = socket.session.open(open).unwrap();
                socket.session.send(stream, Bytes::from_static(b"x"), 0, false);
                socket.session.cancel(stream);
            }
            socket.flush().await;
            for _ in 0..20 {
                let stream = socket.open("/a.B/C").await;
                socket.send(stream, "x").await;
                socket.cancel(stream).await;
            }
            assert_eq!(socket.unary("/a.B/C", "x").await.code(), Code::OK);
            other.send(running, "still").await;
            assert_eq!(other.message(running).await, b"still");
        }
        assert_eq!(upstream.connections(), 1, "nor the connection that they shared");
    })
    .await;
}

#[tokio::test]
async fn a_session_without_hello_is_closed_in_time() {
    let mut settings = edge::settings();
    settings.session.hello_timeout = Duration::from_millis(50);
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let (code, reason) = socket.close_frame().await;
        assert_eq!(code, 4004, "{reason}");
        assert!(reason.contains("Hello"), "{reason}");
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_asks_for_something_else_is_told_what_is_spoken() {
    let (edge, _upstream) = echoing(edge::settings()).await;
    within(10, async {
        for protocols in ["chat", "bidiway.v2", "BIDIWAY.V1, x"] {
            let mut request = request(edge.address);
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_str(protocols).unwrap());
            let io = Box::new(TcpStream::connect(edge.address).await.unwrap());
            let refused = Socket::over(io, request, session::Settings::default()).await;
            let Err(error) = refused else { panic!("{protocols} was accepted") };
            let Error::Http(response) = *error else { panic!("{error:?}") };
            assert_eq!(response.status(), 400);
            let body = String::from_utf8(response.into_body().unwrap_or_default()).unwrap();
            assert!(body.contains("bidiway.v1"), "{body}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_foreign_origin_is_refused_before_the_upgrade_and_a_listed_one_passes() {
    let settings = Settings {
        origins: bidiway::downstream::Origins::parse(&["https://app.example.com"]).unwrap(),
        ..edge::settings()
    };
    let (edge, upstream) = echoing(settings).await;
    within(10, async {
        let same = format!("http://{}", edge.address);
        for (origin, passes) in [
            ("https://evil.example", false),
            ("https://app.example.com.evil.example", false),
            ("http://app.example.com", false),
            ("null", false),
            ("https://app.example.com", true),
            (&*same, true),
        ] {
            let mut request = request(edge.address);
            request.headers_mut().insert("origin", HeaderValue::from_str(origin).unwrap());
            let io = Box::new(TcpStream::connect(edge.address).await.unwrap());
            let result = Socket::over(io, request, session::Settings::default()).await;
            match result {
                Ok(_) => assert!(passes, "{origin} was let in"),
                Err(error) => {
                    assert!(!passes, "{origin}: {error:?}");
                    let Error::Http(response) = *error else { panic!("{error:?}") };
                    assert_eq!(response.status(), 403, "{origin}");
                }
            }
        }
        assert_eq!(upstream.connections(), 0);
    })
    .await;
}

#[tokio::test]
async fn more_sockets_than_an_address_may_have_are_closed_with_a_code_that_a_page_can_see() {
    let mut settings = edge::settings();
    settings.limits.sockets_per_address = 2;
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        let mut first = Socket::connect(edge.address).await;
        let mut second = Socket::connect(edge.address).await;
        // A call on each: their tasks have run, and their places are taken.
        assert_eq!(first.unary("/a.B/C", "1").await.code(), Code::OK);
        assert_eq!(second.unary("/a.B/C", "2").await.code(), Code::OK);
        let mut third = Socket::connect(edge.address).await;
        // Until Hello it might be a client that goes on with a session.
        third.flush().await;
        let (code, reason) = third.close_frame().await;
        assert_eq!(code, 4008, "{reason}");
        assert!(reason.contains("2 open sockets"), "{reason}");
        drop(first);
        loop {
            let mut again = Socket::connect(edge.address).await;
            let stream = again.open("/a.B/C").await;
            again.receive().await;
            if again.closed.is_none() {
                again.finish(stream).await;
                assert_eq!(again.answer(stream).await.code(), Code::OK);
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_drain_says_goaway_lets_calls_finish_and_then_closes() {
    let (mut edge, _upstream) = echoing(edge::settings()).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let stream = socket.open("/a.B/C").await;
        socket.send(stream, "before").await;
        assert_eq!(socket.message(stream).await, b"before");
        edge.drain();
        let goaway = loop {
            if let session::Event::GoAway(goaway) = socket.next_own().await {
                break goaway;
            }
        };
        assert_eq!((goaway.last_stream, Code(goaway.code)), (stream, Code::UNAVAILABLE));
        socket.send(stream, "after").await;
        assert_eq!(socket.message(stream).await, b"after");
        socket.finish(stream).await;
        assert_eq!(socket.answer(stream).await.code(), Code::OK);
        assert_eq!(socket.close_frame().await.0, 1001);
    })
    .await;
}

#[tokio::test]
async fn at_the_drain_deadline_what_still_runs_ends_as_unavailable() {
    let (mut edge, _upstream) = echoing(edge::settings()).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let stream = socket.open("/a.B/C").await;
        socket.send(stream, "x").await;
        socket.message(stream).await;
        edge.drain();
        edge.cut.cancel();
        assert_refused(&socket.answer(stream).await, Code::UNAVAILABLE, "shutting down");
        assert_eq!(socket.close_frame().await.0, 1001);
    })
    .await;
}
