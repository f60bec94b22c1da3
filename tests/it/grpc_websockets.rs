//! `grpc-websockets`: one call on a WebSocket, as `@improbable-eng/grpc-web` and nice-grpc-web speak it.

use std::time::Duration;

use bidiway::downstream::{RouteSettings, ServicePattern};
use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::{Edge, edge, edge_with, settings, whole},
    grpc_websocket::{Call, HEADERS, PLAIN, Ws, data},
    upstream::{Flooding, Scripted, Waiting, echo, end, message, send},
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";

async fn echoing() -> (Edge, Scripted) {
    let upstream = Scripted::start(echo).await;
    (edge(&upstream.url).await, upstream)
}

#[tokio::test]
async fn a_unary_call_gets_its_answer_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    for carrier in CARRIERS {
        within(10, async {
            let call = Call::unary(carrier, &edge, TALK, b"hello").await;
            assert_eq!((call.reader.code(), call.closed), (0, Some(1000)), "{carrier:?}");
            assert_eq!(call.reader.payloads(), [b"hello"], "{carrier:?}");
            let headers = call.reader.headers.as_ref().unwrap();
            assert_eq!(headers["content-type"], "application/grpc-web+proto");
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_stream_is_answered_after_its_half_close_over_every_carrier() {
    let upstream = Scripted::start(|mut exchange| async move {
        let all = exchange.read_all().await;
        let mut stream = exchange.headers();
        send(&mut stream, all.into()).await;
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for carrier in CARRIERS {
        within(10, async {
            let mut call = Call::open(carrier, &edge, TALK, "").await;
            for word in ["one", "", "three"] {
                call.send(word.as_bytes()).await;
            }
            call.half_close().await;
            let (reader, close) = call.finish().await;
            assert_eq!((reader.code(), close), (0, 1000), "{carrier:?}");
            assert_eq!(reader.payloads(), [&b"one"[..], b"", b"three"], "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_stream_of_a_thousand_empty_messages_has_a_thousand_over_every_carrier() {
    let upstream = Scripted::start(|mut exchange| async move {
        exchange.read_all().await;
        let mut stream = exchange.headers();
        for _ in 0..1000 {
            send(&mut stream, message(b"")).await;
        }
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for carrier in CARRIERS {
        within(20, async {
            let call = Call::unary(carrier, &edge, TALK, b"").await;
            assert_eq!((call.reader.code(), call.closed), (0, Some(1000)), "{carrier:?}");
            assert!(call.reader.payloads() == vec![b""; 1000], "{}", call.reader.messages.len());
        })
        .await;
    }
}

#[tokio::test]
async fn two_hundred_rounds_of_ping_pong_pass_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    for carrier in CARRIERS {
        within(20, async {
            let mut call = Call::open(carrier, &edge, TALK, "").await;
            for round in 0..200_u32 {
                call.send(&round.to_be_bytes()).await;
                assert_eq!(call.message().await, round.to_be_bytes(), "{carrier:?}");
            }
            call.half_close().await;
            let (reader, close) = call.finish().await;
            assert_eq!((reader.code(), close), (0, 1000), "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_mebibyte_passes_both_ways_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    let payload: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    for carrier in CARRIERS {
        within(30, async {
            let call = Call::unary(carrier, &edge, TALK, &payload).await;
            assert_eq!((call.reader.code(), call.closed), (0, Some(1000)), "{carrier:?}");
            assert!(call.reader.payloads() == [&payload[..]], "{carrier:?}: another message came back");
        })
        .await;
    }
}

#[tokio::test]
async fn messages_may_span_websocket_messages_and_share_them() {
    let (edge, _upstream) = echoing().await;
    let stream = [message(b"one"), message(b""), message(b"three")].concat();
    for size in 1..=stream.len() {
        within(10, async {
            let mut call = Call::open(Carrier::Http1, &edge, TALK, "").await;
            for piece in stream.chunks(size) {
                call.ws.send([&[0], piece].concat()).await;
                // Nothing, and no bytes of a message: neither says anything.
                call.ws.send(Bytes::new()).await;
                call.ws.send(&[0][..]).await;
            }
            call.half_close().await;
            let (reader, close) = call.finish().await;
            assert_eq!((reader.code(), close), (0, 1000), "pieces of {size}");
            assert_eq!(reader.payloads(), [&b"one"[..], b"", b"three"], "pieces of {size}");
        })
        .await;
    }
}

#[tokio::test]
async fn metadata_goes_up_without_what_is_the_protocol_s_and_comes_down_with_repeats() {
    let (tell, mut told) = mpsc::channel(1);
    let upstream = Scripted::start(move |mut exchange| {
        let tell = tell.clone();
        async move {
            tell.send((exchange.request.uri().path().to_owned(), exchange.request.headers().clone()))
                .await
                .unwrap();
            let response = http::Response::builder()
                .header("content-type", "application/grpc")
                .header("x-h", "1")
                .header("x-h", "2")
                .header("h-bin", "AAEC")
                .header("x-latin", http::HeaderValue::from_bytes(b"caf\xe9").unwrap());
            let mut stream = exchange.respond.send_response(response.body(()).unwrap(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 9.into());
            trailers.insert("grpc-message", "n%C3%A9 100%25 %E2%9C%93".parse().unwrap());
            trailers.insert("grpc-status-details-bin", "CAkSA25vdA".parse().unwrap());
            trailers.append("x-h", "also a trailer".parse().unwrap());
            trailers.append("x-t", "1".parse().unwrap());
            trailers.append("x-t", "2".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let lines = "X-Custom: a, b\r\nx-lines: 1\r\nx-lines: 2\r\nb-bin: AQID\r\nc-bin: AA==, AQ==\r\n\
                     authorization: Bearer t\r\nconnection: x-gone\r\nx-gone: 1\r\ngrpc-accept-encoding: gzip\r\n\
                     cookie: forged=1\r\nhost: evil\r\ngrpc-timeout: 5S\r\nuser-agent: me\r\nx-empty:\r\n";
        let mut call = Call::open(Carrier::Http1, &edge, &format!("{TALK}?query=1"), lines).await;
        let (path, headers) = told.recv().await.unwrap();
        assert_eq!(path, TALK);
        let values = |name: &str| -> Vec<&str> {
            headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(values("x-custom"), ["a, b"]);
        assert_eq!(values("x-lines"), ["1", "2"]);
        assert_eq!(values("b-bin"), ["AQID"]);
        assert_eq!(values("c-bin"), ["AA==", "AQ=="], "each value by itself");
        assert_eq!(values("authorization"), ["Bearer t"]);
        assert_eq!(values("x-empty"), [""]);
        assert_eq!(values("content-type"), ["application/grpc+proto"]);
        assert_eq!(values("grpc-accept-encoding"), ["identity"]);
        assert_eq!(values("te"), ["trailers"]);
        assert_eq!(values("grpc-timeout").len(), 1);
        assert!(values("user-agent")[0].starts_with("bidiway/"));
        for gone in ["x-grpc-web", "connection", "x-gone", "cookie", "host", "upgrade", "sec-websocket-key"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }

        let (reader, close) = call.finish().await;
        assert_eq!((reader.code(), close), (9, 1000));
        assert_eq!(reader.message(), "n\u{e9} 100% \u{2713}");
        let came = reader.headers.as_ref().unwrap();
        assert_eq!(came.get_all("x-h").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(came["h-bin"], "AAEC");
        assert!(!came.contains_key("x-latin"), "clients fail a call for one such byte");
        let trailers = reader.trailers.as_ref().unwrap();
        assert_eq!(trailers["x-h"], "also a trailer", "although it was a header too");
        assert_eq!(trailers.get_all("x-t").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(trailers["grpc-status-details-bin"], "CAkSA25vdA");
        assert!(!trailers.contains_key("bidiway-origin"), "it is the service's own status");
    })
    .await;
}

#[tokio::test]
async fn a_trailers_only_answer_is_one_block_and_the_close() {
    let upstream = Scripted::start(|mut exchange| async move {
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .header("grpc-message", "no%20such");
        exchange.respond.send_response(response.body(()).unwrap(), true).unwrap();
    })
    .await;
    let edge = edge(&upstream.url).await;
    for carrier in CARRIERS {
        within(10, async {
            let call = Call::unary(carrier, &edge, TALK, b"x").await;
            assert_eq!((call.reader.code(), call.closed), (5, Some(1000)), "{carrier:?}");
            assert_eq!(call.reader.message(), "no such");
            assert!(call.reader.headers.is_none() && call.reader.messages.is_empty(), "{:?}", call.reader);
        })
        .await;
    }
}

#[tokio::test]
async fn headers_arrive_while_the_service_is_silent() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    within(10, async {
        let mut call = Call::open(Carrier::Http1, &edge, TALK, "").await;
        assert_eq!(call.headers().await["content-type"], "application/grpc-web+proto");
        upstream.begun(1).await;
    })
    .await;
}

#[tokio::test]
async fn a_close_and_a_lost_connection_reach_the_service_before_and_after_the_half_close() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        for half_closes in [false, true] {
            for says_goodbye in [false, true] {
                within(10, async {
                    let mut call = Call::open(carrier, &edge, TALK, "").await;
                    call.send(b"x").await;
                    if half_closes {
                        call.half_close().await;
                    }
                    upstream.begun(1).await;
                    call.headers().await;
                    if says_goodbye {
                        call.ws.close().await;
                    } else {
                        drop(call);
                    }
                    upstream.cancelled(1).await;
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn a_close_is_seen_behind_a_backlog_that_the_service_does_not_take() {
    let mut upstream = Waiting::start(false).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        within(20, async {
            let mut call = Call::open(carrier, &edge, TALK, "").await;
            upstream.begun(1).await;
            for _ in 0..36 {
                call.send(&[7; 64 * 1024]).await;
            }
            call.ws.close().await;
            upstream.cancelled(1).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_is_noticed_although_nothing_more_is_read_of_it() {
    let mut upstream = Waiting::start(false).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        within(30, async {
            let mut call = Call::open(carrier, &edge, TALK, "").await;
            upstream.begun(1).await;
            // Until nothing goes any more: the proxy's buffer is full, and so are two kernels'.
            let message = data(&vec![7; 64 * 1024]);
            let mut sent = 0;
            while let Ok(true) =
                tokio::time::timeout(Duration::from_millis(500), call.ws.try_send(message.clone())).await
            {
                sent += message.len();
                assert!(sent < 64 << 20, "{carrier:?}: the proxy reads on without end");
            }
            drop(call);
            let reset = within(4, upstream.over.recv()).await.unwrap();
            assert_eq!(reset.unwrap(), h2::Reason::CANCEL, "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_slow_service_slows_its_client_down_and_gets_everything() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let upstream = Scripted::start(move |mut exchange| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|go| *go).await.unwrap();
            let all = exchange.read_all().await;
            let mut stream = exchange.headers();
            send(&mut stream, message(&(all.len() as u64).to_be_bytes())).await;
            end(&mut stream, 0);
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(60, async {
        let mut call = Call::open(Carrier::Http1, &edge, TALK, "").await;
        let message = data(&vec![7; 64 * 1024]);
        let all = 48 << 20;
        let mut sent = 0;
        while sent < all {
            let sending = call.ws.send(message.clone());
            if tokio::time::timeout(Duration::from_secs(2), sending).await.is_err() {
                // tungstenite keeps what it could not write, and writes it with the next.
                assert!(!go.send_replace(true), "it stood still although the service reads");
            }
            sent += message.len() - 1;
        }
        assert!(*go.borrow(), "48 MiB went into a proxy whose service takes nothing");
        call.half_close().await;
        assert_eq!(call.message().await, (sent as u64).to_be_bytes());
        assert_eq!(call.finish().await.0.code(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_service_and_is_heard_when_it_closes() {
    for carrier in CARRIERS {
        let upstream = Flooding::start().await;
        let edge = edge(&upstream.server.url).await;
        within(30, async {
            let mut call = Call::open(carrier, &edge, "/t.T/Flood", "").await;
            call.half_close().await;
            let mut before = 0;
            while before == 0 || before != upstream.sent() {
                before = upstream.sent();
                for _ in 0..20 {
                    assert_eq!(Call::unary(carrier, &edge, TALK, b"flows").await.reader.code(), 0);
                }
            }
            // Upstream's window and what two kernels and HTTP/2 hold of the socket.
            let most = (256 + 64) * 1024 + (12 << 20);
            assert!(before <= most, "{carrier:?}: {before} bytes left the service while nobody read");
            call.ws.close().await;
            within(1, upstream.ended(1)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_deadline_of_the_client_or_of_the_route_ends_the_call_whether_or_not_the_client_reads() {
    let limited = RouteSettings {
        pattern: ServicePattern::Package("limited.".into()),
        timeout: Some(Duration::from_millis(200)),
        ..settings().routes[0].clone()
    };
    for (path, lines) in [(TALK, "grpc-timeout: 200m\r\n"), ("/limited.T/Wait", "")] {
        let mut upstream = Waiting::start(true).await;
        let mut settings = settings();
        settings.routes.push(limited.clone());
        let edge = edge_with(&upstream.server.url, settings).await;
        within(10, async {
            let mut call = Call::open(Carrier::Http1, &edge, path, lines).await;
            let (reader, close) = call.finish().await;
            reader.assert_refused(4, "the deadline passed");
            assert_eq!(close, 1000);
            upstream.cancelled(1).await;
        })
        .await;
    }
    for carrier in CARRIERS {
        let upstream = Flooding::start().await;
        let edge = edge(&upstream.server.url).await;
        within(20, async {
            let mut call = Call::open(carrier, &edge, "/t.T/Flood", "grpc-timeout: 500m\r\n").await;
            call.half_close().await;
            upstream.ended(1).await;
            // Read late, the status is there, behind what was on its way.
            let (reader, close) = call.finish().await;
            reader.assert_refused(4, "the deadline passed");
            assert_eq!(close, 1000, "{carrier:?}");
        })
        .await;
    }
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
async fn a_draining_proxy_gives_calls_their_time_and_then_ends_them_with_a_status() {
    let upstream = Scripted::start(echo).await;
    for carrier in CARRIERS {
        let mut edge = edge(&upstream.url).await;
        within(20, async {
            let mut early = Call::silent(carrier, &edge, TALK).await;
            let mut long = Call::open(carrier, &edge, TALK, "").await;
            let mut short = Call::open(carrier, &edge, TALK, "").await;
            for call in [&mut long, &mut short] {
                call.send(b"before").await;
                assert_eq!(call.message().await, b"before", "{carrier:?}");
            }
            edge.drain();
            // Its socket was there before the drain: the client has nowhere else to go.
            early.ws.send(HEADERS).await;
            short.send(b"during").await;
            assert_eq!(short.message().await, b"during", "{carrier:?}");
            short.half_close().await;
            assert_eq!(short.finish().await.0.code(), 0, "{carrier:?}");
            edge.cut.cancel();
            let (reader, close) = long.finish().await;
            reader.assert_refused(14, "shutting down");
            assert_eq!(close, 1000, "{carrier:?}");
            let (reader, close) = early.finish().await;
            assert_eq!((reader.code(), close), (14, 1000), "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_silent_call_is_pinged_and_a_dead_client_found_out() {
    let mut settings = settings();
    settings.session.ping = Duration::from_millis(100);
    let settings = &settings;
    let all = CARRIERS.map(|carrier| async move {
        let mut upstream = Waiting::start(true).await;
        let edge = edge_with(&upstream.server.url, settings.clone()).await;
        within(10, async {
            let mut call = Call::open(carrier, &edge, TALK, "").await;
            call.headers().await;
            upstream.begun(1).await;
            // tungstenite answers pings while it is read.
            let _ = tokio::time::timeout(Duration::from_millis(1000), call.receive()).await;
            assert!(call.closed.is_none() && call.ws.pings >= 5, "{carrier:?}: {} pings", call.ws.pings);
            assert!(upstream.over.try_recv().is_err(), "{carrier:?}: it lives");
            // Not read any more, it answers none.
            upstream.cancelled(1).await;
        })
        .await;
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn headers_of_the_upgrade_reach_the_service_only_where_the_configuration_names_them() {
    let (tell, mut told) = mpsc::channel::<HeaderMap>(1);
    let upstream = Scripted::start(move |mut exchange| {
        let tell = tell.clone();
        async move {
            tell.send(exchange.request.headers().clone()).await.unwrap();
            end(&mut exchange.headers(), 0);
        }
    })
    .await;
    let upgrade = [("cookie", "sid=1; b=2"), ("x-user", "ada"), ("x-other", "no")];
    for names in [&[][..], &["cookie", "x-user"]] {
        let mut settings = settings();
        settings.upgrade_headers = names.iter().map(|name| name.parse().unwrap()).collect();
        let edge = edge_with(&upstream.url, settings).await;
        for carrier in CARRIERS {
            within(10, async {
                let mut ws = Ws::connect_with(carrier, &edge, TALK, PLAIN, &upgrade).await;
                ws.send(format!("{HEADERS}x-user: eve\r\ncookie: forged=1\r\n")).await;
                let headers = told.recv().await.unwrap();
                let values = |name: &str| headers.get_all(name).iter().collect::<Vec<_>>();
                assert_eq!(values("x-other"), [""; 0], "{carrier:?}");
                if names.is_empty() {
                    assert_eq!(values("cookie"), [""; 0], "{carrier:?}");
                    assert_eq!(values("x-user"), ["eve"], "{carrier:?}");
                } else {
                    assert_eq!(values("cookie"), ["sid=1; b=2"], "{carrier:?}");
                    assert_eq!(values("x-user"), ["ada"], "{carrier:?}: what vouched for the upgrade wins");
                }
            })
            .await;
        }
        // A gRPC-Web request's own cookie, too.
        within(10, async {
            let request = edge.web(TALK).header("cookie", "sid=1").header("cookie", "b=2");
            let sent =
                edge.send(crate::support::edge::Http::Two, request.body(whole(message(b"x"))).unwrap());
            let (_, headers) = tokio::join!(sent, told.recv());
            let cookies: Vec<_> = headers.as_ref().unwrap().get_all("cookie").iter().collect();
            assert_eq!(cookies, ["sid=1; b=2"][..usize::from(!names.is_empty())]);
        })
        .await;
    }
}

#[tokio::test]
async fn calls_that_are_given_up_one_after_the_other_leave_nothing_behind() {
    const CALLS: usize = 500;
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    within(60, async {
        for _ in 0..CALLS {
            let mut call = Call::open(Carrier::Http1, &edge, TALK, "").await;
            call.half_close().await;
            call.headers().await;
            drop(call);
        }
        upstream.begun(CALLS).await;
        upstream.cancelled(CALLS).await;
        while !edge.metrics.encode().contains("bidiway_connections_open 0") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let counted = edge.metrics.encode();
        let active =
            counted.lines().filter(|line| line.starts_with("bidiway_calls_active")).collect::<Vec<_>>();
        assert!(!active.is_empty() && active.iter().all(|line| line.ends_with(" 0")), "{active:?}");
    })
    .await;
}
