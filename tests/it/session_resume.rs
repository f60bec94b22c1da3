//! Sessions that go on with another carrier: nothing is lost, nothing comes twice, and the service sees one call.

use std::{sync::Arc, time::Duration};

use bidiway::{
    session::{Event, Settings},
    wire::{Code, v1},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::Reason;
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::CloseFrame},
};

use crate::session_resume_refusals::hello;
use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::{self, Edge, edge, edge_of_workers, edge_with},
    middlebox::{Manner, Middlebox, Order},
    socket::{Io, Lost, Socket},
    upstream::{Scripted, Waiting, echo, end, message, send},
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";

pub(crate) fn resumable() -> Settings {
    Settings { resumable: true, ..Settings::default() }
}

pub(crate) async fn websocket(carrier: Carrier, edge: &Edge) -> WebSocketStream<Box<dyn Io>> {
    websocket_with(carrier, edge, &[]).await
}

pub(crate) async fn websocket_with(
    carrier: Carrier,
    edge: &Edge,
    headers: &[(&str, &str)],
) -> WebSocketStream<Box<dyn Io>> {
    carrier.websocket(carrier.port(edge), "/bidiway/session", "bidiway.v1", headers).await
}

/// A session that can be resumed, after its Welcome.
pub(crate) async fn session(carrier: Carrier, edge: &Edge) -> Socket {
    session_with(carrier, edge, &[]).await
}

pub(crate) async fn session_with(carrier: Carrier, edge: &Edge, headers: &[(&str, &str)]) -> Socket {
    let mut socket = Socket::new(websocket_with(carrier, edge, headers).await, resumable());
    socket.flush().await;
    assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
    assert!(socket.session.is_resumable());
    socket
}

/// The session goes on, on a new carrier.
pub(crate) async fn resumed(lost: Lost, carrier: Carrier, edge: &Edge) -> Socket {
    let mut socket = lost.resume(websocket(carrier, edge).await).await;
    let event = socket.next_own().await;
    assert!(matches!(event, Event::Resumed { .. }), "{event:?}");
    socket
}

/// Waits until the metrics have this line.
pub(crate) async fn shows(edge: &Edge, line: &str) {
    within(10, async {
        while !edge.metrics.encode().lines().any(|l| l == line) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[track_caller]
fn assert_shows(edge: &Edge, line: &str) {
    let text = edge.metrics.encode();
    assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
}

#[tokio::test]
async fn a_call_that_is_cut_at_every_point_is_one_call_and_every_message_arrives_once() {
    for carrier in CARRIERS {
        let upstream = Scripted::start(echo).await;
        let edge = edge(&upstream.url).await;
        within(60, async {
            let mut socket = session(carrier, &edge).await;
            let stream = socket.open(TALK).await;
            let number = |n: u32| n.to_be_bytes().to_vec();
            let mut received = 0;
            for n in 0..60_u32 {
                if n % 6 == 0 {
                    socket = resumed(socket.cut(), carrier, &edge).await; // before anything is sent
                }
                socket.send(stream, number(n)).await;
                match n % 6 {
                    1 => socket = resumed(socket.cut(), carrier, &edge).await, // sent, not answered
                    2 => {
                        // Sent several, and one is answered.
                        assert_eq!(socket.message(stream).await, number(received));
                        received += 1;
                        socket = resumed(socket.cut(), carrier, &edge).await;
                    }
                    3 => {
                        // Without a carrier.
                        let mut lost = socket.cut();
                        assert_eq!(lost.session.piece(stream, 1), None, "nothing can be sent");
                        socket = resumed(lost, carrier, &edge).await;
                    }
                    4 => {
                        // Cut again before Welcome, and right after it.
                        let lost = socket.cut().resume(websocket(carrier, &edge).await).await.cut();
                        let lost = resumed(lost, carrier, &edge).await.cut();
                        socket = resumed(lost, carrier, &edge).await;
                    }
                    _ => {
                        while received < n {
                            assert_eq!(socket.message(stream).await, number(received));
                            received += 1;
                        }
                    }
                }
            }
            socket.finish(stream).await;
            socket = resumed(socket.cut(), carrier, &edge).await;
            let answer = socket.answer(stream).await;
            assert_eq!(answer.code(), Code::OK, "{answer:?}");
            let rest: Vec<_> = (received..60).map(number).collect();
            assert_eq!(answer.messages, rest, "{carrier:?}");
            // Headers came once, with the first message; the Trailers come once too.
            assert!(answer.headers.is_none());
            socket = resumed(socket.cut(), carrier, &edge).await;
            let answer = socket.unary(TALK, "afterwards").await;
            assert!(answer.messages == [b"afterwards"] && answer.headers.is_some());
            assert_eq!(upstream.requests(), 2, "{carrier:?}: one call, and the one afterwards");
        })
        .await;
    }
}

#[tokio::test]
async fn a_carrier_that_breaks_in_the_middle_of_large_messages_loses_no_byte_of_them() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(60, async {
        let middlebox = Middlebox::before(edge.address, Manner::default()).await;
        let new = || Carrier::Http1.websocket(middlebox.address, "/bidiway/session", "bidiway.v1", &[]);
        let mut socket = Socket::new(new().await, resumable());
        let stream = socket.open(TALK).await;
        let whole: Vec<u8> = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
        let mut rest = Bytes::from(whole.clone());
        let (mut received, mut cuts, mut steps) = (Vec::new(), 0, 0);
        while received.len() < whole.len() {
            // A cut now and then, while both directions are full.
            steps += 1;
            if steps % 5 == 0 && socket.session.is_resumable() {
                middlebox.order(Order::Reset);
                let lost = socket.cut();
                middlebox.order(Order::Pass);
                socket = lost.resume(new().await).await;
                cuts += 1;
            }
            while !rest.is_empty()
                && let Some(room) = socket.session.piece(stream, rest.len())
            {
                let piece = rest.split_to(room);
                socket.session.send(stream, piece, rest.len() as u64, false);
            }
            socket.flush().await;
            socket.receive().await;
            while let Some(event) = socket.pop() {
                if let Event::Data { bytes, .. } = event {
                    received.extend_from_slice(&bytes);
                }
            }
        }
        assert!(received == whole && cuts > 3, "{cuts} cuts");
        assert_eq!(upstream.requests(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_session_goes_on_whatever_carrier_its_client_comes_back_on() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(30, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let stream = socket.open(TALK).await;
        for (n, carrier) in (0..8_u8).zip(CARRIERS.into_iter().cycle()) {
            socket.send(stream, vec![n]).await;
            socket = resumed(socket.cut(), carrier, &edge).await;
            assert_eq!(socket.message(stream).await, [n]);
        }
        assert_eq!(upstream.requests(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_new_carrier_takes_over_while_the_old_one_lives_on_any_worker() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_of_workers(4, &upstream.url, edge::settings()).await;
    within(30, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let stream = socket.open(TALK).await;
        for n in 0..24_u8 {
            socket.send(stream, vec![n]).await;
            let (lost, mut old) = socket.part();
            let carrier = CARRIERS[usize::from(n) % 4];
            socket = resumed(lost, carrier, &edge).await;
            assert_eq!(socket.message(stream).await, [n]);
            let close = loop {
                if let Message::Close(frame) = old.next().await.unwrap().unwrap() {
                    break frame.unwrap();
                }
            };
            assert_eq!(u16::from(close.code), 4014, "a client object must not take it for the end");
        }
        assert_eq!(upstream.requests(), 1);
        assert_shows(&edge, "bidiway_sessions_resumed_total 24");
        assert_shows(&edge, "bidiway_sessions_open 1");
        assert_shows(&edge, "bidiway_sessions_parked 0");
    })
    .await;
}

/// 1000, 1001 and 4000 + n are the client's own end; with others it may come back.
#[tokio::test]
async fn what_the_client_says_when_it_closes_decides_whether_its_session_waits() {
    for (code, ends) in
        [(1000, true), (1001, true), (4001, true), (4016, true), (4014, false), (1012, false), (3000, false)]
    {
        let mut upstream = Waiting::start(true).await;
        let edge = edge(&upstream.server.url).await;
        within(10, async {
            let mut socket = session(Carrier::Http1, &edge).await;
            socket.open(TALK).await;
            upstream.begun(1).await;
            let (lost, mut ws) = socket.part();
            let frame = CloseFrame { code: code.into(), reason: "".into() };
            ws.close(Some(frame)).await.unwrap();
            if ends {
                upstream.cancelled(1).await;
                assert_shows(&edge, "bidiway_sessions_parked 0");
            } else {
                shows(&edge, "bidiway_sessions_parked 1").await;
                resumed(lost, Carrier::Http1, &edge).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_answer_to_a_unary_call_waits_for_the_client() {
    let (answer, answered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (answer.clone(), answered.clone());
    let upstream = Scripted::start(move |mut exchange| {
        let (answer, answered) = signals.clone();
        async move {
            exchange.read_all().await;
            answer.notified().await;
            let mut stream = exchange.headers();
            send(&mut stream, message(b"late")).await;
            end(&mut stream, 0);
            answered.notify_one();
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let stream = socket.unary_request(TALK, "question").await;
        let lost = socket.cut();
        shows(&edge, "bidiway_sessions_parked 1").await;
        answer.notify_one();
        answered.notified().await;
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        let answer = socket.answer(stream).await;
        assert!(answer.headers.is_some() && answer.messages == [b"late"] && answer.code() == Code::OK);
        assert_eq!(upstream.requests(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_a_client_said_to_a_dead_carrier_is_heard_on_the_next_one() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let middlebox = Middlebox::before(edge.address, Manner::default()).await;
        let mut socket = Carrier::Http1.connect_to(middlebox.address, resumable()).await;
        socket.flush().await;
        assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
        assert_eq!(socket.unary(TALK, "first").await.messages, [b"first"]);
        middlebox.order(Order::Swallow);
        // Nobody hears of this call, nor of its end, and the proxy has no stream.
        let stream = socket.unary_request(TALK, "swallowed").await;
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edge).await;
        assert_eq!(socket.answer(stream).await.messages, [b"swallowed"]);
        assert_eq!(upstream.requests(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_passes_while_the_client_is_away() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge(&upstream.server.url).await;
    within(10, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let open = v1::Open { method: TALK.into(), timeout_ms: 300, ..v1::Open::default() };
        let stream = socket.open_with(open).await;
        upstream.begun(1).await;
        let lost = socket.cut();
        shows(&edge, "bidiway_sessions_parked 1").await;
        let reset = upstream.over.recv().await.unwrap();
        assert_eq!(reset.unwrap(), Reason::CANCEL);
        assert_shows(&edge, "bidiway_sessions_parked 1");
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        assert_eq!(socket.answer(stream).await.code(), Code::DEADLINE_EXCEEDED);
    })
    .await;
}

#[tokio::test]
async fn a_silent_carrier_is_closed_and_the_session_waits() {
    let upstream = Scripted::start(echo).await;
    let mut settings = edge::settings();
    settings.session.ping = Duration::from_millis(200);
    let edge = edge_with(&upstream.url, settings).await;
    within(10, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let stream = socket.open(TALK).await;
        socket.send(stream, "one").await;
        // It reads nothing, and so answers no Ping.
        shows(&edge, "bidiway_carriers_lost_total{reason=\"silent\"} 1").await;
        shows(&edge, "bidiway_sessions_parked 1").await;
        assert_eq!(socket.close_frame().await.0, 4014);
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edge).await;
        assert_eq!(socket.message(stream).await, b"one");
    })
    .await;
}

#[tokio::test]
async fn calls_of_a_client_that_does_not_come_back_are_cancelled_after_the_grace() {
    let mut upstream = Waiting::start(true).await;
    let mut settings = edge::settings();
    settings.session.resume = Duration::from_millis(100);
    let edge = edge_with(&upstream.server.url, settings).await;
    within(10, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let (first, second) = (socket.open(TALK).await, socket.open(TALK).await);
        upstream.begun(2).await;
        let lost = socket.cut();
        upstream.cancelled(2).await;
        shows(&edge, "bidiway_sessions_total{closed=\"resume_expired\"} 1").await;
        assert_shows(&edge, "bidiway_sessions_parked 0");
        assert_shows(
            &edge,
            "bidiway_calls_total{route=\"*\",dialect=\"session\",code=\"CANCELLED\",origin=\"client\"} 2",
        );
        // Too late: it is told so, and a new session begins on the same carrier.
        let mut socket = lost.resume(websocket(Carrier::Http1, &edge).await).await;
        for stream in [first, second] {
            let answer = socket.answer(stream).await;
            assert_eq!(answer.code(), Code::UNAVAILABLE, "{answer:?}");
        }
        let Event::Welcomed(welcome) = socket.next_own().await else { panic!("no Welcome") };
        assert_eq!(welcome.resume_failure(), v1::ResumeFailure::Expired);
        assert_shows(&edge, "bidiway_resume_failures_total{reason=\"expired\"} 1");
        assert_eq!(socket.open(TALK).await, 1);
        upstream.begun(1).await;
    })
    .await;
}

#[tokio::test]
async fn without_resume_a_session_ends_with_its_carrier_as_ever() {
    let mut upstream = Waiting::start(true).await;
    let mut settings = edge::settings();
    settings.session.resume = Duration::ZERO;
    let edge = edge_with(&upstream.server.url, settings).await;
    within(10, async {
        let mut socket = Socket::new(websocket(Carrier::Http1, &edge).await, resumable());
        socket.open(TALK).await;
        let Event::Welcomed(welcome) = socket.next_own().await else { panic!("no Welcome") };
        assert!(welcome.resume_token.is_empty() && welcome.resume_grace_ms == 0);
        upstream.begun(1).await;
        drop(socket);
        upstream.cancelled(1).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_vanishes_before_welcome_leaves_nothing_behind_for_long() {
    let mut upstream = Waiting::start(true).await;
    let mut settings = edge::settings();
    settings.session.resume = Duration::from_millis(100);
    let edge = edge_with(&upstream.server.url, settings).await;
    within(10, async {
        let mut socket = Socket::new(websocket(Carrier::Http1, &edge).await, resumable());
        socket.open(TALK).await;
        upstream.begun(1).await;
        drop(socket);
        upstream.cancelled(1).await;
        shows(&edge, "bidiway_sessions_open 0").await;
    })
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_clients_that_come_back_and_says_goaway_to_them() {
    let upstream = Scripted::start(echo).await;
    let mut edge = edge(&upstream.url).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let stream = socket.open(TALK).await;
        socket.send(stream, "before").await;
        assert_eq!(socket.message(stream).await, b"before");
        let lost = socket.cut();
        shows(&edge, "bidiway_sessions_parked 1").await;
        edge.drain();
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        let Event::GoAway(goaway) = socket.next_own().await else { panic!("no GoAway") };
        assert_eq!((goaway.last_stream, Code(goaway.code)), (stream, Code::UNAVAILABLE));
        socket.send(stream, "after").await;
        assert_eq!(socket.message(stream).await, b"after");
        // And once more, after it has heard of it.
        let mut socket = resumed(socket.cut(), Carrier::Http2Tls, &edge).await;
        socket.finish(stream).await;
        assert_eq!(socket.answer(stream).await.code(), Code::OK);
        assert_eq!(socket.close_frame().await.0, 1001);
        // Nobody is left who could come back: the port is closed.
        while tokio::net::TcpStream::connect(edge.address).await.is_ok() {}
    })
    .await;
}

#[tokio::test]
async fn who_comes_in_a_drain_is_served_and_sent_elsewhere_when_the_port_is_closed() {
    let upstream = Scripted::start(echo).await;
    let mut edge = edge(&upstream.url).await;
    within(20, async {
        let mut early = session(Carrier::Http1, &edge).await;
        let stream = early.open(TALK).await;
        edge.drain();
        assert!(matches!(early.next_own().await, Event::GoAway(_)));
        // Its client may come back, so the port is open, and a balancer that asks nobody brings others.
        let mut idle = session(Carrier::Http1, &edge).await;
        assert_eq!(idle.unary(TALK, "well").await.code(), Code::OK);
        let mut busy = session(Carrier::Http2Tls, &edge).await;
        let talk = busy.open(TALK).await;
        busy.send(talk, "one").await;
        assert_eq!(busy.message(talk).await, b"one");
        // They come back, too.
        let mut busy = resumed(busy.cut(), Carrier::Http1, &edge).await;
        busy.send(talk, "two").await;
        assert_eq!(busy.message(talk).await, b"two");
        assert_eq!(idle.unary(TALK, "still well").await.code(), Code::OK);

        // But the port is not open for their sake.
        early.finish(stream).await;
        assert_eq!(early.answer(stream).await.code(), Code::OK);
        assert_eq!(early.close_frame().await.0, 1001);
        let Event::GoAway(goaway) = idle.next_own().await else { panic!("no GoAway") };
        assert_eq!((goaway.last_stream, goaway.reconnect_delay_ms), (2, 0));
        while tokio::net::TcpStream::connect(edge.address).await.is_ok() {}
        assert_eq!(idle.close_frame().await.0, 1001);
        assert!(matches!(busy.next_own().await, Event::GoAway(_)));
        busy.send(talk, "three").await;
        assert_eq!(busy.message(talk).await, b"three");
        busy.finish(talk).await;
        assert_eq!(busy.answer(talk).await.code(), Code::OK);
        assert_eq!(busy.close_frame().await.0, 1001);
        edge.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_parked_at_the_drain_deadline_ends() {
    let mut upstream = Waiting::start(true).await;
    let mut edge = edge(&upstream.server.url).await;
    within(10, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        socket.open(TALK).await;
        upstream.begun(1).await;
        drop(socket.cut());
        shows(&edge, "bidiway_sessions_parked 1").await;
        edge.drain();
        edge.cut.cancel();
        upstream.cancelled(1).await;
        assert_shows(
            &edge,
            "bidiway_calls_total{route=\"*\",dialect=\"session\",code=\"UNAVAILABLE\",origin=\"proxy\"} 1",
        );
        shows(&edge, "bidiway_sessions_open 0").await;
    })
    .await;
}

/// The service's own stream of messages stops within the windows, and goes on where it stopped.
#[tokio::test]
async fn a_service_that_sends_while_the_client_is_away_waits_and_nothing_is_lost() {
    let (sent, mut sends) = mpsc::channel(1000);
    let upstream = Scripted::start(move |mut exchange| {
        let sent = sent.clone();
        async move {
            let mut stream = exchange.headers();
            for n in 0..500_u32 {
                let mut payload = vec![0; 4096];
                payload[..4].copy_from_slice(&n.to_be_bytes());
                send(&mut stream, message(&payload)).await;
                let _ = sent.try_send(n);
            }
            end(&mut stream, 0);
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let stream = socket.open(TALK).await;
        sends.recv().await;
        let lost = socket.cut();
        shows(&edge, "bidiway_sessions_parked 1").await;
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        let answer = socket.answer(stream).await;
        assert_eq!(answer.code(), Code::OK);
        let numbers: Vec<_> =
            answer.messages.iter().map(|m| u32::from_be_bytes(m[..4].try_into().unwrap())).collect();
        assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_session_whose_carrier_ends_with_its_hello_is_counted_once() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let mut ws = websocket(Carrier::Http1, &edge).await;
        // Both in one write, so that the end is read before Welcome is written.
        ws.feed(Message::Binary(hello(Bytes::new()))).await.unwrap();
        ws.feed(Message::Close(Some(CloseFrame { code: 4014.into(), reason: "".into() }))).await.unwrap();
        ws.flush().await.unwrap();
        while ws.next().await.is_some_and(|message| message.is_ok()) {}
        shows(&edge, "bidiway_connections_open 0").await;
        assert_shows(&edge, "bidiway_sessions_open 0");
    })
    .await;
}
