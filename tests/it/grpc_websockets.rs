//! `grpc-websockets`: one call on a WebSocket, as `@improbable-eng/grpc-web` and nice-grpc-web speak it.

use std::time::Duration;

use bidiway::downstream::{RouteSettings, ServicePattern};
use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::mpsc;

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
