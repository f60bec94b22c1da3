//! Sessions over the HTTP carrier: the same calls as over WebSockets, on each version of HTTP, streaming and polling.

use bidiway::{
    session::{Event, Settings},
    wire::Code,
};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::{
    session_resume::{resumable, shows},
    support::{
        carrier::{CARRIERS, Carrier},
        edge::{Edge, edge, edge_of_workers, settings},
        socket::{Lost, Socket, Wire},
        upstream::{Scripted, Waiting, echo, end, send},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";

/// Every version of HTTP, streaming and polling.
fn ways() -> impl Iterator<Item = (Carrier, bool)> {
    CARRIERS.into_iter().flat_map(|carrier| [(carrier, false), (carrier, true)])
}

async fn echoing() -> (Edge, Scripted) {
    let upstream = Scripted::start(echo).await;
    (edge(&upstream.url).await, upstream)
}

/// A session that can be resumed, after its Welcome.
async fn session(carrier: impl Into<Wire>) -> Socket {
    let mut socket = Socket::new(carrier, resumable());
    socket.flush().await;
    assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
    socket
}

async fn resumed(lost: Lost, carrier: impl Into<Wire>) -> Socket {
    let mut socket = lost.resume(carrier).await;
    let event = socket.next_own().await;
    assert!(matches!(event, Event::Resumed { .. }), "{event:?}");
    socket
}

async fn websocket(carrier: Carrier, edge: &Edge) -> Wire {
    carrier.websocket(carrier.port(edge), "/bidiway/session", "bidiway.v1", &[]).await.into()
}

#[tokio::test]
async fn a_unary_call_gets_its_answer() {
    let (edge, _upstream) = echoing().await;
    for (carrier, polls) in ways() {
        within(10, async {
            let mut socket = Socket::new(carrier.http(&edge, polls), Settings::default());
            let answer = socket.unary(TALK, "hello").await;
            let got = (answer.code(), answer.messages);
            assert_eq!(got, (Code::OK, vec![b"hello".to_vec()]), "{carrier:?} {polls}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_hundred_rounds_of_ping_pong_pass() {
    let (edge, upstream) = echoing().await;
    for (carrier, polls) in ways() {
        within(20, async {
            let mut socket = Socket::new(carrier.http(&edge, polls), Settings::default());
            let stream = socket.open(TALK).await;
            for round in 0..100_u32 {
                let ball = round.to_be_bytes().to_vec();
                socket.send(stream, ball.clone()).await;
                assert_eq!(socket.message(stream).await, ball, "{carrier:?} {polls}");
            }
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK, "{carrier:?} {polls}");
        })
        .await;
    }
    assert_eq!(upstream.requests(), 8);
}

#[tokio::test]
async fn requests_that_stream_are_answered_once_and_answers_that_stream_come_whole() {
    let upstream = Scripted::start(|mut exchange| async move {
        let all = exchange.read_all().await;
        let mut stream = exchange.headers();
        for _ in 0..3 {
            send(&mut stream, all.clone().into()).await;
        }
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for (carrier, polls) in ways() {
        within(10, async {
            let mut socket = Socket::new(carrier.http(&edge, polls), Settings::default());
            let stream = socket.open(TALK).await;
            socket.send(stream, "one").await;
            socket.finish(stream).await;
            let answer = socket.answer(stream).await;
            assert_eq!(answer.code(), Code::OK, "{carrier:?} {polls}");
            assert_eq!(answer.messages, [b"one", b"one", b"one"], "{carrier:?} {polls}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_mebibyte_passes_both_ways() {
    let (edge, _upstream) = echoing().await;
    for (carrier, polls) in ways() {
        within(30, async {
            let mut socket = Socket::new(carrier.http(&edge, polls), Settings::default());
            let message: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
            let answer = socket.unary(TALK, message.clone()).await;
            assert_eq!(answer.code(), Code::OK, "{carrier:?} {polls}");
            assert!(answer.messages == [message], "{carrier:?} {polls}: another message came back");
        })
        .await;
    }
}

#[tokio::test]
async fn cancel_goodbye_and_a_lost_client_reach_the_service() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        within(10, async {
            let mut socket = Socket::new(carrier.http(&edge, false), Settings::default());
            let one = socket.open(TALK).await;
            let two = socket.open(TALK).await;
            upstream.begun(2).await;
            socket.cancel(one).await;
            upstream.cancelled(1).await;
            assert!(matches!(socket.next_of(two).await, Event::Headers { .. }), "{carrier:?}: it goes on");
            drop(socket); // the response is given up
            upstream.cancelled(1).await;

            for polls in [false, true] {
                let mut socket = Socket::new(carrier.http(&edge, polls), resumable());
                socket.open(TALK).await;
                upstream.begun(1).await;
                socket.close().await;
                upstream.cancelled(1).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_call_moves_between_websocket_and_http_and_back_and_every_message_arrives_once() {
    let upstream = Scripted::start(echo).await;
    // The next carrier and each request arrive at any worker.
    for workers in [1, 4] {
        let edge = edge_of_workers(workers, &upstream.url, settings()).await;
        for (carrier, polls) in ways() {
            within(60, async {
                let before = upstream.requests();
                let mut socket = session(websocket(carrier, &edge).await).await;
                let stream = socket.open(TALK).await;
                let number = |n: u32| n.to_be_bytes().to_vec();
                for n in 0..24_u32 {
                    if n % 3 == 2 {
                        socket.send(stream, number(n)).await;
                    }
                    socket = match n % 4 {
                        0 => resumed(socket.cut(), carrier.http(&edge, polls)).await,
                        1 => resumed(socket.cut(), carrier.http(&edge, false)).await,
                        2 => resumed(socket.cut(), websocket(carrier, &edge).await).await,
                        _ => {
                            // While the old one still seems to be alive.
                            let (lost, _old) = socket.part();
                            resumed(lost, carrier.http(&edge, polls)).await
                        }
                    };
                    if n % 3 != 2 {
                        socket.send(stream, number(n)).await;
                    }
                    assert_eq!(socket.message(stream).await, number(n), "{carrier:?} {polls}");
                }
                socket.finish(stream).await;
                assert_eq!(socket.answer(stream).await.code(), Code::OK, "{carrier:?} {polls}");
                assert_eq!(upstream.requests(), before + 1, "{carrier:?}: one call");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_session_whose_response_is_given_up_is_parked_and_goes_on_over_a_websocket() {
    let (edge, upstream) = echoing().await;
    for carrier in CARRIERS {
        within(20, async {
            let before = upstream.requests();
            let mut socket = session(carrier.http(&edge, false)).await;
            let stream = socket.open(TALK).await;
            socket.send(stream, "one").await;
            shows(&edge, "bidiway_carriers_open{carrier=\"http\"} 1").await;
            let lost = socket.cut();
            shows(&edge, "bidiway_sessions_parked 1").await;
            shows(&edge, "bidiway_carriers_open{carrier=\"http\"} 0").await;
            let mut socket = resumed(lost, websocket(carrier, &edge).await).await;
            assert_eq!(socket.message(stream).await, b"one", "{carrier:?}");
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK, "{carrier:?}");
            assert_eq!(upstream.requests(), before + 1);
            let done = CloseFrame { code: 1000.into(), reason: "".into() };
            socket.ws.close(Some(done)).await.unwrap();
            shows(&edge, "bidiway_sessions_open 0").await;
        })
        .await;
    }
}
