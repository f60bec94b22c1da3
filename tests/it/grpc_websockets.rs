//! `grpc-websockets`: one call on a WebSocket, as `@improbable-eng/grpc-web` and nice-grpc-web speak it.

use bytes::Bytes;
use http::HeaderMap;

use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::{Edge, edge},
    grpc_websocket::{Call, data},
    upstream::{Scripted, echo, end, message, send},
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
