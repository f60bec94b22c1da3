//! The same calls over every carrier: HTTP/1.1 upgrade and RFC 8441, each with and without TLS.

use bidiway::{downstream, session::Event, wire::Code};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::support::{
    carrier::{CARRIERS, handshake, head, tcp, websocket_frame},
    edge::{self, Edge, edge},
    socket::{Io, Socket, first_packet},
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
            let mut socket = carrier.connect(&edge).await;
            let answer = socket.unary(TALK, "hello").await;
            assert_eq!((answer.code(), answer.messages), (Code::OK, vec![b"hello".to_vec()]), "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn cookies_of_the_upgrade_reach_the_service_only_where_the_configuration_names_them() {
    let upstream = Scripted::start(|mut exchange| async move {
        let cookie = exchange.request.headers().get("cookie").cloned();
        let mut stream = exchange.headers();
        send(&mut stream, message(cookie.as_ref().map_or(b"none", |cookie| cookie.as_bytes()))).await;
        end(&mut stream, 0);
    })
    .await;
    for (names, expected) in [(vec![], "none"), (vec![http::header::COOKIE], "sid=1; b=2")] {
        let settings = downstream::Settings { upgrade_headers: names, ..edge::settings() };
        let edge = edge::edge_with(&upstream.url, settings).await;
        for carrier in CARRIERS {
            within(10, async {
                let cookies = [("cookie", "sid=1"), ("cookie", "b=2")];
                let address = carrier.port(&edge);
                let ws = carrier.websocket(address, "/bidiway/session", "bidiway.v1", &cookies).await;
                let mut socket = Socket::new(ws, Default::default());
                for _ in 0..2 {
                    let answer = socket.unary(TALK, "x").await;
                    assert_eq!(answer.messages, [expected.as_bytes()], "{carrier:?}");
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn two_hundred_rounds_of_ping_pong_pass_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    for carrier in CARRIERS {
        within(20, async {
            let mut socket = carrier.connect(&edge).await;
            let stream = socket.open(TALK).await;
            for round in 0..200_u32 {
                let ball = round.to_be_bytes().to_vec();
                socket.send(stream, ball.clone()).await;
                assert_eq!(socket.message(stream).await, ball, "{carrier:?}");
            }
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK, "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_mebibyte_passes_both_ways_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    for carrier in CARRIERS {
        within(30, async {
            let mut socket = carrier.connect(&edge).await;
            let message: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
            let answer = socket.unary(TALK, message.clone()).await;
            assert_eq!(answer.code(), Code::OK, "{carrier:?}");
            assert!(answer.messages == [message], "{carrier:?}: another message came back");
        })
        .await;
    }
}

#[tokio::test]
async fn a_half_close_reaches_the_service_and_its_last_words_come_back_over_every_carrier() {
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
            let mut socket = carrier.connect(&edge).await;
            let stream = socket.open(TALK).await;
            for word in ["one", "two", "three"] {
                socket.send(stream, word).await;
            }
            socket.finish(stream).await;
            let answer = socket.answer(stream).await;
            assert_eq!(answer.code(), Code::OK, "{carrier:?}");
            assert_eq!(answer.messages, [&b"one"[..], b"two", b"three"], "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_cancel_and_a_closed_socket_reach_the_service_over_every_carrier() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        within(10, async {
            let mut socket = carrier.connect(&edge).await;
            let one = socket.open(TALK).await;
            let two = socket.open(TALK).await;
            socket.finish(two).await;
            upstream.begun(2).await;
            socket.cancel(one).await;
            upstream.cancelled(1).await;
            assert!(matches!(socket.next_of(two).await, Event::Headers { .. }), "{carrier:?}: it goes on");
            drop(socket);
            upstream.cancelled(1).await;
        })
        .await;
    }
}

#[tokio::test]
async fn fifty_streams_share_a_socket_over_every_carrier() {
    let (edge, _upstream) = echoing().await;
    for carrier in CARRIERS {
        within(20, async {
            let mut socket = carrier.connect(&edge).await;
            let mut streams = Vec::new();
            for _ in 0..50 {
                streams.push(socket.open(TALK).await);
            }
            for round in 0..5 {
                for &stream in &streams {
                    socket.send(stream, format!("{stream} in {round}")).await;
                }
                for &stream in streams.iter().rev() {
                    let text = socket.message(stream).await;
                    assert_eq!(text, format!("{stream} in {round}").as_bytes(), "{carrier:?}");
                }
            }
            for stream in streams {
                socket.finish(stream).await;
                assert_eq!(socket.answer(stream).await.code(), Code::OK, "{carrier:?}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_stalled_stream_holds_up_no_other_over_any_carrier() {
    for carrier in CARRIERS {
        let upstream = Flooding::start().await;
        let edge = edge(&upstream.server.url).await;
        within(20, async {
            let mut socket = carrier.connect(&edge).await;
            socket.consumes = false;
            let stalled = socket.unary_request("/t.T/Flood", "go").await;
            let mut before = usize::MAX;
            while before != upstream.sent() || before == 0 {
                before = upstream.sent();
                for _ in 0..20 {
                    assert_eq!(socket.unary(TALK, "flows").await.code(), Code::OK, "{carrier:?}");
                }
            }
            // The client's credit, upstream's window, and what is on its way between them.
            let most = (256 + 256 + 48) * 1024;
            assert!(before <= most, "{carrier:?}: {before} bytes left the service while nobody consumed");
            socket.cancel(stalled).await;
            assert_eq!(socket.unary(TALK, "still").await.code(), Code::OK, "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn frames_right_behind_the_handshake_are_not_lost() {
    let (edge, _upstream) = echoing().await;
    within(10, async {
        // All of it in one segment.
        let (packet, session) = first_packet(TALK, b"early", Default::default());
        let mut tcp = tcp(edge.address).await;
        let request = handshake(edge.address);
        tcp.write_all(&[request.as_bytes(), &websocket_frame(&packet)].concat()).await.unwrap();
        assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101"));
        let io: Box<dyn Io> = Box::new(tcp);
        let ws = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        let mut socket = Socket::with(ws, session);
        let answer = socket.answer(1).await;
        assert_eq!((answer.code(), &answer.messages[0][..]), (Code::OK, &b"early"[..]));
        assert_eq!(socket.unary(TALK, "later").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn a_frame_cut_off_in_the_segment_of_the_handshake_is_put_together() {
    let (edge, _upstream) = echoing().await;
    let (packet, _) = first_packet(TALK, b"early", Default::default());
    let request = handshake(edge.address);
    let whole = [request.as_bytes(), &websocket_frame(&packet)].concat();
    for cut in request.len()..whole.len() {
        within(10, async {
            let session = first_packet(TALK, b"early", Default::default()).1;
            let mut tcp = tcp(edge.address).await;
            tcp.write_all(&whole[..cut]).await.unwrap();
            assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101"));
            tcp.write_all(&whole[cut..]).await.unwrap();
            let io: Box<dyn Io> = Box::new(tcp);
            let ws = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
            let answer = Socket::with(ws, session).answer(1).await;
            assert_eq!((answer.code(), &answer.messages[0][..]), (Code::OK, &b"early"[..]), "cut at {cut}");
        })
        .await;
    }
}

#[tokio::test]
async fn messages_of_many_sessions_keep_apart_on_one_worker() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(20, async {
        let mut sockets = Vec::new();
        for n in 0..40 {
            let mut socket = CARRIERS[n % CARRIERS.len()].connect(&edge).await;
            let stream = socket.open(TALK).await;
            sockets.push((socket, stream));
        }
        for round in 0..5 {
            for (n, (socket, stream)) in sockets.iter_mut().enumerate() {
                socket.send(*stream, format!("{n} in {round}")).await;
            }
            for (n, (socket, stream)) in sockets.iter_mut().enumerate() {
                assert_eq!(socket.message(*stream).await, format!("{n} in {round}").as_bytes());
            }
        }
    })
    .await;
    assert_eq!(upstream.connections(), 1, "all share one connection");
}
