//! `grpc-websockets-multiplex`: many calls on a WebSocket, as Deephaven's client speaks it.

use std::time::Duration;

use bidiway::downstream::{RouteSettings, ServicePattern};
use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::{Edge, edge, edge_with, settings},
    grpc_websocket::{HEADERS, MULTIPLEX, Multiplex, Ws},
    upstream::{Flooding, Scripted, Waiting, echo, end, message, send},
    within,
};

const TALK: &str = "chat.v1.Chat/Talk";
const GOAWAY: u32 = 0x7fff_ffff;
const LAST: u32 = 1 << 31;

async fn echoing() -> (Edge, Scripted) {
    let upstream = Scripted::start(echo).await;
    (edge(&upstream.url).await, upstream)
}

#[tokio::test]
async fn fifty_calls_share_a_socket_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    for carrier in CARRIERS {
        within(20, async {
            let mut socket = Multiplex::connect(carrier, &edge).await;
            for id in 0..50 {
                socket.open(id, TALK).await;
            }
            for round in 0..5 {
                for id in 0..50 {
                    socket.send(id, format!("{id} in {round}").as_bytes()).await;
                }
                for id in (0..50).rev() {
                    assert_eq!(
                        socket.message(id).await,
                        format!("{id} in {round}").as_bytes(),
                        "{carrier:?}"
                    );
                }
            }
            for id in 0..50 {
                socket.half_close(id).await;
                assert_eq!(socket.end(id).await.code(), 0, "{carrier:?}");
            }
            assert_eq!(socket.unary(50, TALK, b"still").await.payloads(), [b"still"], "the socket stays");
        })
        .await;
    }
}

#[tokio::test]
async fn a_mebibyte_and_a_thousand_empty_messages_pass_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    let payload: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    for carrier in CARRIERS {
        within(30, async {
            let mut socket = Multiplex::connect(carrier, &edge).await;
            let answer = socket.unary(1, TALK, &payload).await;
            assert!(answer.code() == 0 && answer.payloads() == [&payload[..]], "{carrier:?}");
            socket.open(2, TALK).await;
            for _ in 0..1000 {
                socket.send(2, b"").await;
            }
            socket.half_close(2).await;
            let answer = socket.end(2).await;
            assert!(
                answer.code() == 0 && answer.payloads() == vec![b""; 1000],
                "{carrier:?}: {} {}, {} messages",
                answer.code(),
                answer.message(),
                answer.messages.len()
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_call_says_its_method_and_metadata_and_gets_what_the_upgrade_brought() {
    let (tell, mut told) = mpsc::channel::<(String, HeaderMap)>(1);
    let upstream = Scripted::start(move |mut exchange| {
        let tell = tell.clone();
        async move {
            let path = exchange.request.uri().path().to_owned();
            tell.send((path, exchange.request.headers().clone())).await.unwrap();
            end(&mut exchange.headers(), 0);
        }
    })
    .await;
    let mut settings = settings();
    settings.upgrade_headers = vec![http::header::COOKIE];
    let edge = edge_with(&upstream.url, settings).await;
    within(10, async {
        let ws =
            Ws::connect_with(Carrier::Http1, &edge, "/a.B/First", MULTIPLEX, &[("cookie", "sid=1")]).await;
        let mut socket = Multiplex { ws, ..Multiplex::connect(Carrier::Http1, &edge).await };
        for (id, path) in [(7, "a.B/C"), (8, "/d.E/F")] {
            socket.open_with(id, path, "x-call: mine\r\n").await;
            let (came, headers) = told.recv().await.unwrap();
            assert_eq!(came.trim_start_matches('/'), path.trim_start_matches('/'));
            assert_eq!(
                (&headers["x-call"], &headers["cookie"]),
                (&"mine".parse().unwrap(), &"sid=1".parse().unwrap())
            );
            assert!(!headers.contains_key("grpc-websockets-path"));
            assert_eq!(socket.end(id).await.code(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn the_mark_of_the_last_message_half_closes_whatever_it_stands_on() {
    let (edge, _upstream) = echoing().await;
    within(10, async {
        let mut socket = Multiplex::connect(Carrier::Http1, &edge).await;
        // On the headers: a call without messages.
        socket.frame(1 | LAST, format!("{HEADERS}grpc-websockets-path: {TALK}\r\n").as_bytes()).await;
        assert_eq!(socket.end(1).await.code(), 0);
        // On the last message itself; alone; and the half-close without the mark.
        for (id, end) in [(2, vec![]), (3, vec![]), (4, vec![1])] {
            socket.open(id, TALK).await;
            match id {
                2 => socket.frame(2 | LAST, &crate::support::grpc_websocket::data(b"x")).await,
                3 => {
                    socket.send(3, b"x").await;
                    socket.frame(3 | LAST, &end).await;
                }
                _ => {
                    socket.send(4, b"x").await;
                    socket.frame(4, &end).await;
                }
            }
            let answer = socket.end(id).await;
            assert_eq!((answer.code(), answer.payloads()), (0, vec![&b"x"[..]]), "{id}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_call_ends_alone() {
    let mut settings = settings();
    settings.session.max_streams = 3;
    settings.routes[0].pattern = ServicePattern::Package("chat.".into());
    let small = RouteSettings {
        pattern: ServicePattern::Package("small.".into()),
        max_message: 10,
        ..settings.routes[0].clone()
    };
    settings.routes.push(small);
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings).await;
    for carrier in [Carrier::Http1, Carrier::Http2] {
        within(10, async {
            let mut socket = Multiplex::connect(carrier, &edge).await;
            socket.open(1, TALK).await;
            let refusals: [(&str, &str, u32, &str); 4] = [
                ("other.v1.Other/Do", "", 12, "no route"),
                ("", "", 12, "/package.Service/Method"),
                (TALK, "grpc-timeout: soon\r\n", 3, "grpc-timeout"),
                (TALK, "no colon\r\n", 3, "line 4"),
            ];
            for (at, (path, lines, code, part)) in refusals.into_iter().enumerate() {
                let id = 10 + at as u32;
                socket.open_with(id, path, lines).await;
                // What the client has sent meanwhile is thrown away.
                socket.send(id, b"x").await;
                socket.half_close(id).await;
                socket.end(id).await.assert_refused(code, part);
            }
            socket.open(20, "small.S/Do").await;
            socket.send(20, &[0; 11]).await;
            socket.end(20).await.assert_refused(8, "11 bytes is larger than the limit of 10");
            socket.open(21, TALK).await;
            socket.frame(21, &[9, 9]).await;
            socket.end(21).await.assert_refused(3, "byte 0x09");
            socket.open(22, TALK).await;
            socket.open(23, TALK).await;
            socket.open(24, TALK).await;
            socket.end(24).await.assert_refused(8, "3 open calls");
            socket.send(1, b"undisturbed").await;
            assert_eq!(socket.message(1).await, b"undisturbed");
        })
        .await;
    }
    let counted = edge.metrics.encode();
    assert!(counted.contains("dialect=\"grpc-websockets-multiplex\",code=\"UNIMPLEMENTED\""), "{counted}");
}

#[tokio::test]
async fn what_breaks_the_dialect_closes_the_socket_with_a_status_for_every_open_call() {
    let cases: [(&str, Message, u16, &str); 8] = [
        ("text", Message::text("hello"), 1003, "text message"),
        ("nothing", Message::binary(Bytes::new()), 1002, "0 bytes"),
        ("half a number", Message::binary(&[0_u8, 0, 0][..]), 1002, "3 bytes"),
        ("a number alone", Message::binary(&[0_u8, 0, 0, 1][..]), 1002, "4 bytes"),
        (
            "data on an unknown stream",
            Message::binary(&[0_u8, 0, 0, 99, 0, 0, 0, 0, 0, 0][..]),
            1002,
            "stream 99",
        ),
        ("a half-close of one", Message::binary(&[0x80_u8, 0, 0, 99, 1][..]), 1002, "stream 99"),
        ("the last of one", Message::binary(&[0x80_u8, 0, 0, 99][..]), 1002, "stream 99"),
        ("an ACK of nothing", Message::binary(&[0xff_u8, 0xff, 0xff, 0xff, 1][..]), 1002, "GOAWAY"),
    ];
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in [Carrier::Http1, Carrier::Http2] {
        for (name, bad, code, part) in &cases {
            within(5, async {
                let mut other = Multiplex::connect(carrier, &edge).await;
                other.open(1, TALK).await;
                let mut socket = Multiplex::connect(carrier, &edge).await;
                socket.open(1, TALK).await;
                socket.open(2, TALK).await;
                upstream.begun(3).await;
                socket.ws.send_raw(bad.clone()).await;
                for id in [1, 2] {
                    socket.end(id).await.assert_refused(3, part);
                }
                assert_eq!(socket.close_code().await, *code, "{name}");
                upstream.cancelled(2).await;
                assert!(upstream.over.try_recv().is_err(), "{name}: another socket's call goes on");
                drop(other);
                upstream.cancelled(1).await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn messages_on_their_way_when_their_call_ended_are_ignored() {
    let upstream = Scripted::start(|mut exchange| async move {
        if exchange.request.uri().path().ends_with("Talk") {
            echo(exchange).await;
        } else {
            end(&mut exchange.headers(), 9);
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let mut socket = Multiplex::connect(Carrier::Http1, &edge).await;
        socket.open(5, "chat.v1.Chat/Fails").await;
        assert_eq!(socket.end(5).await.code(), 9);
        socket.send(5, b"late").await;
        socket.half_close(5).await;
        assert_eq!(socket.unary(6, TALK, b"on").await.payloads(), [b"on"]);
    })
    .await;
}

#[tokio::test]
async fn a_stalled_service_holds_up_the_other_calls_for_a_moment_and_then_loses_its_own() {
    let upstream = Scripted::start(|mut exchange| async move {
        if exchange.request.uri().path().ends_with("Stall") {
            let mut stream = exchange.headers();
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        } else {
            echo(exchange).await;
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for carrier in [Carrier::Http1, Carrier::Http2Tls] {
        within(30, async {
            let mut socket = Multiplex::connect(carrier, &edge).await;
            socket.open(1, "a.B/Stall").await;
            socket.open(2, TALK).await;
            // More than a socket holds; the proxy stops reading, and then goes on.
            for _ in 0..100 {
                socket.send(1, &[7; 64 * 1024]).await;
            }
            socket.end(1).await.assert_refused(8, "more slowly than they come");
            socket.send(2, b"goes on").await;
            assert_eq!(socket.message(2).await, b"goes on", "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_service_that_is_merely_slower_than_its_client_gets_everything() {
    let upstream = Scripted::start(|mut exchange| async move {
        let (mut all, mut since) = (0, 0);
        while let Some(bytes) = exchange.read().await {
            all += bytes.len() as u64;
            since += bytes.len();
            if since >= 64 * 1024 {
                since = 0;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let mut stream = exchange.headers();
        send(&mut stream, message(&all.to_be_bytes())).await;
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(60, async {
        let mut socket = Multiplex::connect(Carrier::Http1, &edge).await;
        socket.open(1, TALK).await;
        for _ in 0..400 {
            socket.send(1, &[7; 64 * 1024]).await;
        }
        socket.half_close(1).await;
        assert_eq!(socket.message(1).await, (400_u64 * (64 * 1024 + 5)).to_be_bytes());
        assert_eq!(socket.end(1).await.code(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_the_proxy_hold_no_more_than_its_calls_windows() {
    const CALLS: u32 = 50;
    let upstream = Flooding::start().await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        within(60, async {
            let start = upstream.sent();
            let mut other = Multiplex::connect(Carrier::Http1, &edge).await;
            let mut socket = Multiplex::connect(carrier, &edge).await;
            for id in 0..CALLS {
                socket.open(id, "t.T/Flood").await;
            }
            let (mut before, mut id) = (start, 0);
            while before == start || before != upstream.sent() {
                before = upstream.sent();
                for _ in 0..50 {
                    id += 1;
                    assert_eq!(other.unary(id, TALK, b"flows").await.code(), 0);
                }
            }
            let most = CALLS as usize * (256 + 48) * 1024 + (12 << 20);
            assert!(before - start <= most, "{carrier:?}: {} bytes, {most} may", before - start);
            // A deadline of a call that nobody reads is kept, too; and the socket's end is seen.
            socket.ws.close().await;
        })
        .await;
    }
    within(1, upstream.ended(CARRIERS.len() * CALLS as usize)).await;
}

#[tokio::test]
async fn a_deadline_is_kept_while_the_client_does_not_read() {
    let upstream = Flooding::start().await;
    let edge = edge(&upstream.server.url).await;
    for (at, carrier) in CARRIERS.into_iter().enumerate() {
        within(20, async {
            let mut socket = Multiplex::connect(carrier, &edge).await;
            for id in 0..20 {
                socket.open_with(id, "t.T/Flood", "grpc-timeout: 500m\r\n").await;
            }
            upstream.ended(20 * (at + 1)).await;
            for id in 0..20 {
                // Behind half a large message there could be none; these are small.
                socket.end(id).await.assert_refused(4, "the deadline passed");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_socket_beyond_the_address_s_limit_is_refused_with_its_first_call() {
    let mut settings = settings();
    settings.limits.sockets_per_address = 1;
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings).await;
    for carrier in CARRIERS {
        within(10, async {
            let mut first = Multiplex::connect(carrier, &edge).await;
            while first.unary(1, TALK, b"x").await.code() != 0 {
                // The one before is not quite gone.
                first = Multiplex::connect(carrier, &edge).await;
            }
            let mut second = Multiplex::connect(carrier, &edge).await;
            second.open(1, TALK).await;
            second.end(1).await.assert_refused(8, "1 open sockets");
            assert_eq!(second.close_code().await, 1000, "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_lost_socket_cancels_every_call_on_it() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        for says_goodbye in [false, true] {
            within(10, async {
                let mut socket = Multiplex::connect(carrier, &edge).await;
                for id in 0..20 {
                    socket.open(id, TALK).await;
                    if id % 2 == 0 {
                        socket.half_close(id).await;
                    }
                }
                upstream.begun(20).await;
                if says_goodbye {
                    socket.ws.close().await;
                } else {
                    drop(socket);
                }
                upstream.cancelled(20).await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_draining_proxy_says_goaway_lets_calls_finish_and_closes_when_none_are_left() {
    let upstream = Scripted::start(echo).await;
    for carrier in CARRIERS {
        let mut edge = edge(&upstream.url).await;
        within(20, async {
            let mut socket = Multiplex::connect(carrier, &edge).await;
            socket.open(1, TALK).await;
            socket.send(1, b"before").await;
            assert_eq!(socket.message(1).await, b"before", "{carrier:?}");
            edge.drain();
            socket.until_goaway().await;
            // Opened before the client knew.
            assert_eq!(socket.unary(2, TALK, b"late").await.code(), 0, "{carrier:?}");
            socket.frame(GOAWAY | LAST, &[1]).await;
            socket.send(1, b"after").await;
            assert_eq!(socket.message(1).await, b"after", "{carrier:?}");
            socket.half_close(1).await;
            assert_eq!(socket.end(1).await.code(), 0, "{carrier:?}");
            assert_eq!(socket.close_code().await, 1000, "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_call_after_the_acknowledged_goaway_closes_the_socket() {
    let upstream = Scripted::start(echo).await;
    let mut edge = edge(&upstream.url).await;
    within(10, async {
        let mut socket = Multiplex::connect(Carrier::Http1, &edge).await;
        socket.open(1, TALK).await;
        socket.send(1, b"x").await;
        socket.message(1).await;
        edge.drain();
        socket.until_goaway().await;
        socket.frame(GOAWAY | LAST, &[1]).await;
        socket.open(2, TALK).await;
        socket.end(1).await.assert_refused(3, "after the GOAWAY");
        assert_eq!(socket.close_code().await, 1002);
    })
    .await;
}

#[tokio::test]
async fn calls_that_outlive_the_drain_are_unavailable_and_silent_clients_do_not_hold_it_up() {
    let upstream = Scripted::start(echo).await;
    for carrier in CARRIERS {
        let mut edge = edge(&upstream.url).await;
        within(20, async {
            let mut idle = Multiplex::connect(carrier, &edge).await;
            assert_eq!(idle.unary(1, TALK, b"x").await.code(), 0);
            let mut busy = Multiplex::connect(carrier, &edge).await;
            busy.open(1, TALK).await;
            busy.send(1, b"x").await;
            busy.message(1).await;
            edge.drain();
            idle.until_goaway().await;
            assert_eq!(idle.close_code().await, 1001, "{carrier:?}: it never acknowledges");
            busy.until_goaway().await;
            edge.cut.cancel();
            busy.end(1).await.assert_refused(14, "shutting down");
            assert_eq!(busy.close_code().await, 1001, "{carrier:?}");
        })
        .await;
    }
}
