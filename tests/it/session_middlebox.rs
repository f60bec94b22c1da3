//! Sessions through a network that splits, delays, cuts and swallows.

use std::time::Duration;

use bidiway::{downstream, session, wire::Code};

use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::{Edge, edge, edge_with, settings},
    middlebox::{Manner, Middlebox, Order, Split},
    socket::Socket,
    upstream::{Scripted, Waiting, echo, end, message, send},
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";

/// HTTP/1.1 and HTTP/2; TLS has its own segments.
const CLEARTEXT: [Carrier; 2] = [Carrier::Http1, Carrier::Http2];

async fn through(carrier: Carrier, edge: &Edge, manner: Manner) -> (Middlebox, Socket) {
    let middlebox = Middlebox::before(carrier.port(edge), manner).await;
    let socket = carrier.connect_to(middlebox.address, session::Settings::default()).await;
    (middlebox, socket)
}

/// Pings this often, so that what depends on it can be waited for.
fn pinging(interval: Duration) -> downstream::Settings {
    let mut settings = settings();
    settings.session.ping = interval;
    settings
}

#[tokio::test]
async fn segments_of_one_byte_carry_everything_over_every_carrier() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    for carrier in CARRIERS {
        within(30, async {
            let manner = Manner { split: Split::Bytes, ..Manner::default() };
            let (_middlebox, mut socket) = through(carrier, &edge, manner).await;
            let stream = socket.open(TALK).await;
            for round in 0..20_u8 {
                socket.send(stream, vec![round; usize::from(round) * 20]).await;
                assert_eq!(socket.message(stream).await, vec![round; usize::from(round) * 20], "{carrier:?}");
            }
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK, "{carrier:?}");
            let answer = socket.unary(TALK, vec![9; 20_000]).await;
            assert!(answer.messages == [vec![9; 20_000]], "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn segments_of_any_size_carry_everything_over_every_carrier() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    for (seed, carrier) in (1..).zip(CARRIERS) {
        within(30, async {
            let manner = Manner { split: Split::Random(seed), ..Manner::default() };
            let (_middlebox, mut socket) = through(carrier, &edge, manner).await;
            let message: Vec<u8> = (0..200_000_u32).map(|n| (n % 249) as u8).collect();
            let others = [socket.open(TALK).await, socket.open(TALK).await];
            let answer = socket.unary(TALK, message.clone()).await;
            assert!(answer.messages == [message], "{carrier:?}");
            for stream in others {
                socket.send(stream, "small").await;
                assert_eq!(socket.message(stream).await, b"small", "{carrier:?}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_slow_line_delivers_late_and_whole() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(30, async {
        let manner = Manner { delay: Duration::from_millis(30), ..Manner::default() };
        let (_middlebox, mut socket) = through(Carrier::Http1, &edge, manner).await;
        let answer = socket.unary(TALK, vec![1; 300_000]).await;
        assert!(answer.messages == [vec![1; 300_000]]);
    })
    .await;
}

#[tokio::test]
async fn a_cut_connection_cancels_its_calls_within_a_second_and_the_client_sees_an_end() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    for carrier in CARRIERS {
        for order in [Order::Fin, Order::Reset] {
            within(20, async {
                let (middlebox, mut socket) = through(carrier, &edge, Manner::default()).await;
                for half_closed in [true, false] {
                    let stream = socket.open(TALK).await;
                    socket.send(stream, "x").await;
                    if half_closed {
                        socket.finish(stream).await;
                    }
                }
                upstream.begun(2).await;
                middlebox.order(order);
                upstream.cancelled(2).await;
                assert_eq!(socket.close_frame().await.0, 1006, "{carrier:?} {order:?}");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_message_gives_half_of_it_to_nobody() {
    for order in [Order::Fin, Order::Reset] {
        let mut upstream = Waiting::start(true).await;
        let edge = edge(&upstream.server.url).await;
        within(20, async {
            let (middlebox, mut socket) = through(Carrier::Http1, &edge, Manner::default()).await;
            let stream = socket.open(TALK).await;
            // The first piece of a larger message, and nothing more.
            assert!(socket.session.piece(stream, 1000).is_some());
            socket.session.send(stream, vec![1; 1000].into(), 5000, false);
            socket.flush().await;
            upstream.begun(1).await;
            middlebox.order(order);
            // A reset, and not an end: the service must not take the half for a whole.
            upstream.cancelled(1).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_behind_a_black_hole_is_found_dead_after_two_pings() {
    let mut upstream = Waiting::start(true).await;
    let ping = Duration::from_millis(200);
    let edge = edge_with(&upstream.server.url, pinging(ping)).await;
    for carrier in CARRIERS {
        within(20, async {
            let (middlebox, mut socket) = through(carrier, &edge, Manner::default()).await;
            socket.open(TALK).await;
            socket.open(TALK).await;
            upstream.begun(2).await;
            middlebox.order(Order::Swallow);
            let silent = tokio::time::Instant::now();
            // Two pings at the least; the rest of the second is the promise.
            upstream.cancelled(2).await;
            assert!(silent.elapsed() > ping, "{carrier:?}: {:?}", silent.elapsed());
        })
        .await;
    }
}

#[tokio::test]
async fn a_silent_and_healthy_stream_outlives_the_patience_of_a_middlebox() {
    let ping = Duration::from_millis(200);
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, pinging(ping)).await;
    let manner = Manner { patience: Some(2 * ping), ..Manner::default() };
    within(20, async {
        let mut sockets = Vec::new();
        for carrier in CARRIERS {
            let (middlebox, mut socket) = through(carrier, &edge, manner).await;
            let stream = socket.open(TALK).await;
            socket.send(stream, "before").await;
            assert_eq!(socket.message(stream).await, b"before");
            sockets.push((middlebox, socket, stream));
        }
        // Fifteen intervals in which no call says anything.
        let listening = sockets.iter_mut().map(|(_, socket, _)| socket.listen(15 * ping));
        futures_util::future::join_all(listening).await;
        for (_, socket, stream) in &mut sockets {
            socket.send(*stream, "after").await;
            assert_eq!(socket.message(*stream).await, b"after");
        }
    })
    .await;
}

#[tokio::test]
async fn the_middlebox_of_that_test_does_end_silent_connections() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await; // pings every 20 s
    within(20, async {
        let manner = Manner { patience: Some(Duration::from_millis(200)), ..Manner::default() };
        let (_middlebox, mut socket) = through(Carrier::Http1, &edge, manner).await;
        let stream = socket.open(TALK).await;
        socket.send(stream, "x").await;
        socket.message(stream).await;
        assert_eq!(socket.close_frame().await.0, 1006);
    })
    .await;
}

#[tokio::test]
async fn a_line_that_stands_still_for_a_while_loses_nothing() {
    const MESSAGES: u32 = 20_000;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = sent.clone();
    let upstream = Scripted::start(move |mut exchange| {
        let counter = counter.clone();
        async move {
            let mut stream = exchange.headers();
            for number in 0..MESSAGES {
                let payload = [&number.to_be_bytes()[..], &[0; 1000]].concat();
                send(&mut stream, message(&payload)).await;
                counter.store(number, std::sync::atomic::Ordering::SeqCst);
            }
            end(&mut stream, 0);
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for carrier in CARRIERS {
        within(30, async {
            let middlebox = Middlebox::before(carrier.port(&edge), Manner::default()).await;
            let endless = session::Settings { stream_credit: 1 << 30, ..session::Settings::default() };
            let mut socket = carrier.connect_to(middlebox.address, endless).await;
            let stream = socket.open(TALK).await;
            for number in 0..MESSAGES {
                if number % 5000 == 100 {
                    middlebox.order(Order::Freeze);
                    // The service fills what there is to fill, and stops.
                    let mut before = u32::MAX;
                    while before != sent.load(std::sync::atomic::Ordering::SeqCst) {
                        before = sent.load(std::sync::atomic::Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    middlebox.order(Order::Pass);
                }
                let payload = socket.message(stream).await;
                assert_eq!((&payload[..4], payload.len()), (&number.to_be_bytes()[..], 1004), "{carrier:?}");
            }
            assert_eq!(socket.answer(stream).await.code(), Code::OK, "{carrier:?}");
        })
        .await;
    }
}

/// What a client does whose request waits before a service that reads nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GivesUp {
    Cancels,
    Closes,
    Vanishes(Order),
}

#[tokio::test]
async fn a_blocked_backlog_does_not_keep_a_call_from_being_cancelled() {
    // The service reads nothing: its window fills, then the session's credit is used up.
    let mut upstream = Waiting::start(false).await;
    let edge = edge_with(&upstream.server.url, pinging(Duration::from_millis(200))).await;
    for carrier in CLEARTEXT {
        for how in [
            GivesUp::Cancels,
            GivesUp::Closes,
            GivesUp::Vanishes(Order::Fin),
            GivesUp::Vanishes(Order::Reset),
            GivesUp::Vanishes(Order::Swallow),
        ] {
            within(20, async {
                let (middlebox, mut socket) = through(carrier, &edge, Manner::default()).await;
                let stream = socket.open(TALK).await;
                let filling = socket.send(stream, vec![0; 2 << 20]);
                assert!(
                    tokio::time::timeout(Duration::from_millis(100), filling).await.is_err(),
                    "two MiB were taken"
                );
                upstream.begun(1).await;
                match how {
                    GivesUp::Cancels => socket.cancel(stream).await,
                    GivesUp::Closes => socket.close().await,
                    GivesUp::Vanishes(order) => middlebox.order(order),
                }
                upstream.cancelled(1).await;
            })
            .await;
        }
    }
}
