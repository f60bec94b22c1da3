//! Who may not have a session, and how many the proxy keeps.

use std::time::Duration;

use bidiway::{
    downstream::{self, Origins},
    session::Event,
    wire::{Code, frame, v1},
};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::{
    session_resume::{resumable, resumed, session, session_with, shows, websocket, websocket_with},
    support::{
        carrier::Carrier,
        edge::{self, Edge, edge, edge_with},
        socket::{Lost, Socket},
        upstream::{Flooding, Scripted, Waiting, echo},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";

/// Asks for a session in vain; why, and the new session.
pub(crate) async fn refused(
    lost: Lost,
    edge: &Edge,
    headers: &[(&str, &str)],
) -> (v1::ResumeFailure, Socket) {
    let mut socket = lost.resume(websocket_with(Carrier::Http1, edge, headers).await).await;
    let Event::Welcomed(welcome) = socket.next_own().await else { panic!("no Welcome") };
    assert!(!welcome.resumed && !welcome.resume_token.is_empty());
    (welcome.resume_failure(), socket)
}

/// The token of a session, as a thief finds it.
pub(crate) fn stolen(socket: &Socket) -> Bytes {
    socket.session.resume_tokens().next().unwrap().clone()
}

pub(crate) fn hello(token: Bytes) -> Bytes {
    let hello = v1::Hello { versions: vec![1], resume_token: token, resumable: true, ..v1::Hello::default() };
    let mut packet = BytesMut::new();
    frame::encode(&frame::Frame { stream: 0, kind: frame::FrameKind::Hello(Box::new(hello)) }, &mut packet);
    packet.freeze()
}

/// What the proxy answers a Hello with this token.
pub(crate) async fn failure(edge: &Edge, token: &[u8]) -> v1::ResumeFailure {
    failure_with(edge, token, &[]).await
}

/// The same, with headers on the upgrade.
pub(crate) async fn failure_with(edge: &Edge, token: &[u8], headers: &[(&str, &str)]) -> v1::ResumeFailure {
    let mut ws = websocket_with(Carrier::Http1, edge, headers).await;
    ws.send(Message::Binary(hello(Bytes::copy_from_slice(token)))).await.unwrap();
    let Some(Ok(Message::Binary(packet))) = ws.next().await else { panic!("no packet") };
    let mut reader = frame::PacketReader::new(packet);
    let frame::FrameKind::Welcome(welcome) = reader.next().unwrap().unwrap().kind else {
        panic!("no Welcome")
    };
    assert!(!welcome.resumed);
    welcome.resume_failure()
}

#[tokio::test]
async fn only_the_whole_token_opens_a_session_and_what_is_wrong_with_others_is_said() {
    use v1::ResumeFailure::{OtherInstance, StateLost, UnknownToken};
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let token = stolen(&socket);
        assert!(token.len() <= 64);
        let changed = |at: usize| {
            let mut changed = token.to_vec();
            changed[at] ^= 1;
            changed
        };
        assert_eq!(failure(&edge, b"nonsense").await, UnknownToken);
        assert_eq!(failure(&edge, &token[1..]).await, UnknownToken);
        for at in 0..token.len() {
            // Whose it is, since when that one runs, and what nobody can guess.
            let expected = match at {
                0..8 => OtherInstance,
                8..12 => StateLost,
                _ => UnknownToken,
            };
            assert_eq!(failure(&edge, &changed(at)).await, expected, "byte {at}");
        }
        assert_eq!(socket.unary(TALK, "undisturbed").await.code(), Code::OK);
        // One that has ended is remembered.
        let (lost, mut ws) = session(Carrier::Http1, &edge).await.part();
        let token = lost.session.resume_tokens().next().unwrap();
        ws.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
        shows(&edge, "bidiway_sessions_total{closed=\"client_closed\"} 1").await;
        assert_eq!(failure(&edge, token).await, StateLost);
    })
    .await;
}

#[tokio::test]
async fn a_stolen_token_is_worth_nothing_to_another_origin_or_with_other_credentials() {
    let mut upstream = Waiting::start(true).await;
    let settings = downstream::Settings {
        origins: Origins::parse(&["https://app.example", "https://evil.example"]).unwrap(),
        upgrade_headers: vec![http::header::COOKIE],
        ..edge::settings()
    };
    let edge = edge_with(&upstream.server.url, settings).await;
    within(20, async {
        let own = [("origin", "https://app.example"), ("cookie", "user=ada")];
        let same = [("origin", "HTTPS://app.example:443"), ("cookie", "user=ada")];
        let thieves: [&[(&str, &str)]; 4] = [
            &[("origin", "https://evil.example"), ("cookie", "user=ada")],
            &[("origin", "https://app.example"), ("cookie", "user=eve")],
            &[("origin", "https://app.example")],
            &[("cookie", "user=ada")],
        ];
        let mut socket = session_with(Carrier::Http1, &edge, &own).await;
        socket.open(TALK).await;
        upstream.begun(1).await;
        let token = stolen(&socket);
        for thief in thieves {
            let mut ws = websocket_with(Carrier::Http1, &edge, thief).await;
            ws.send(Message::Binary(hello(token.clone()))).await.unwrap();
            let Some(Ok(Message::Binary(packet))) = ws.next().await else { panic!("no packet") };
            let mut reader = frame::PacketReader::new(packet);
            let frame::FrameKind::Welcome(welcome) = reader.next().unwrap().unwrap().kind else {
                panic!("no Welcome")
            };
            assert_eq!(welcome.resume_failure(), v1::ResumeFailure::WrongPrincipal, "{thief:?}");
            assert!(!welcome.resumed && welcome.resume_token != token);
        }
        // Its owner has noticed nothing, and comes back.
        let lost = socket.cut();
        let mut socket = lost.resume(websocket_with(Carrier::Http1, &edge, &same).await).await;
        assert!(matches!(socket.next_own().await, Event::Resumed { .. }));
        assert!(upstream.over.try_recv().is_err(), "the call was not touched");
    })
    .await;
}

#[tokio::test]
async fn a_token_that_was_used_is_void_once_the_next_one_is_known() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let socket = session(Carrier::Http1, &edge).await;
        let token = stolen(&socket);
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edge).await;
        // The client's Ack has come before the answer to this.
        assert_eq!(socket.unary(TALK, "x").await.code(), Code::OK);
        assert_eq!(failure(&edge, &token).await, v1::ResumeFailure::UnknownToken);
        assert_eq!(socket.unary(TALK, "undisturbed").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn a_hello_that_contradicts_the_books_is_closed_and_the_session_goes_on() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(10, async {
        let socket = session(Carrier::Http1, &edge).await;
        let token = stolen(&socket);
        let hello = v1::Hello {
            versions: vec![1],
            resume_token: token,
            received: 1000,
            resumable: true,
            ..v1::Hello::default()
        };
        let mut packet = BytesMut::new();
        frame::encode(
            &frame::Frame { stream: 0, kind: frame::FrameKind::Hello(Box::new(hello)) },
            &mut packet,
        );
        let mut ws = websocket(Carrier::Http1, &edge).await;
        ws.send(Message::Binary(packet.freeze())).await.unwrap();
        let Some(Ok(Message::Close(Some(frame)))) = ws.next().await else { panic!("no close frame") };
        assert_eq!(u16::from(frame.code), 4003, "{frame:?}");
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edge).await;
        assert_eq!(socket.unary(TALK, "undisturbed").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn beyond_the_limit_the_session_that_waits_longest_goes() {
    for per_address in [false, true] {
        let mut upstream = Waiting::start(true).await;
        let mut settings = edge::settings();
        if per_address {
            settings.limits.parked_per_address = 2;
        } else {
            settings.limits.parked_sessions = 2;
        }
        let edge = edge_with(&upstream.server.url, settings).await;
        within(20, async {
            let mut parked = Vec::new();
            for n in 1..=3 {
                let mut socket = session(Carrier::Http1, &edge).await;
                let stream = socket.open(TALK).await;
                upstream.begun(1).await;
                parked.push((socket.cut(), stream));
                shows(&edge, &format!("bidiway_carriers_lost_total{{reason=\"lost\"}} {n}")).await;
            }
            upstream.cancelled(1).await;
            shows(&edge, "bidiway_sessions_parked 2").await;
            let mut parked = parked.into_iter();
            let (first, stream) = parked.next().unwrap();
            let (why, mut socket) = refused(first, &edge, &[]).await;
            assert_eq!(why, v1::ResumeFailure::StateLost);
            assert_eq!(socket.answer(stream).await.code(), Code::UNAVAILABLE);
            for (lost, _) in parked {
                resumed(lost, Carrier::Http1, &edge).await;
            }
            assert!(upstream.over.try_recv().is_err(), "one call was cancelled, and no other");
        })
        .await;
    }
}

/// The proxy notices late that a client's sockets are dead; they must not keep it out.
#[tokio::test]
async fn an_address_at_its_limit_of_sockets_may_still_go_on_with_its_sessions() {
    let upstream = Scripted::start(echo).await;
    let mut settings = edge::settings();
    settings.limits.sockets_per_address = 2;
    let edge = edge_with(&upstream.url, settings).await;
    within(10, async {
        let (first, second) = (session(Carrier::Http1, &edge).await, session(Carrier::Http1, &edge).await);
        let (lost, _old) = first.part();
        let mut first = resumed(lost, Carrier::Http1, &edge).await;
        assert_eq!(first.unary(TALK, "x").await.code(), Code::OK);
        // But not begin another one, whatever token it shows.
        let mut socket = Socket::new(websocket(Carrier::Http1, &edge).await, resumable());
        socket.flush().await;
        assert_eq!(socket.close_frame().await.0, 4008);
        let mut ws = websocket(Carrier::Http1, &edge).await;
        ws.send(Message::Binary(hello(Bytes::from_static(b"nonsense")))).await.unwrap();
        let Some(Ok(Message::Close(Some(frame)))) = ws.next().await else { panic!("no close frame") };
        assert_eq!(u16::from(frame.code), 4008);
        drop(second);
    })
    .await;
}

/// The value of a metric without labels.
fn metric(edge: &Edge, name: &str) -> u64 {
    let text = edge.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    line.parse().unwrap()
}

#[tokio::test]
async fn what_parked_sessions_keep_stays_within_its_bound() {
    let upstream = Flooding::start().await;
    let mut settings = edge::settings();
    settings.limits.parked_bytes = 1_000_000;
    settings.session.resume_buffer = 128 * 1024;
    let edge = edge_with(&upstream.server.url, settings).await;
    within(30, async {
        let mut parked = Vec::new();
        for n in 1..=20 {
            let mut socket = session(Carrier::Http1, &edge).await;
            // Takes nothing of it, so what was sent is not acknowledged.
            socket.consumes = false;
            socket.open("/a.B/Flood").await;
            socket.message(1).await;
            parked.push(socket.cut());
            shows(&edge, &format!("bidiway_carriers_lost_total{{reason=\"lost\"}} {n}")).await;
            assert!(metric(&edge, "bidiway_parked_bytes") <= 1_000_000);
        }
        // Each call has a window of 256 KiB, which the service fills sooner or later: three are left at the end.
        upstream.ended(17).await;
        shows(&edge, "bidiway_sessions_parked 3").await;
        assert!(metric(&edge, "bidiway_parked_bytes") > 3 * 200_000);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_acknowledges_stops_its_own_session_and_no_other() {
    let upstream = Flooding::start().await;
    let mut settings = edge::settings();
    settings.session.resume_buffer = 128 * 1024;
    settings.session.ping = Duration::from_millis(100);
    let edge = edge_with(&upstream.server.url, settings).await;
    within(30, async {
        let mut ws = websocket(Carrier::Http1, &edge).await;
        let mut packet = BytesMut::new();
        let hello = v1::Hello { versions: vec![1], resumable: true, ..v1::Hello::default() };
        let open = v1::Open { method: "/a.B/Flood".into(), ..v1::Open::default() };
        for (stream, kind) in [
            (0, frame::FrameKind::Hello(Box::new(hello))),
            (1, frame::FrameKind::Open(Box::new(open))),
            // More than it can ever use.
            (1, frame::FrameKind::Credit(1 << 30)),
        ] {
            frame::encode(&frame::Frame { stream, kind }, &mut packet);
        }
        ws.send(Message::Binary(packet.freeze())).await.unwrap();
        // It reads everything and answers pings, but sends no Ack. Three pings without data: nothing comes any more.
        let (mut received, mut pings) = (0, 0);
        while pings < 3 {
            let Some(Ok(message)) = ws.next().await else { panic!("the socket was closed") };
            let Message::Binary(packet) = message else { continue };
            let mut reader = frame::PacketReader::new(packet);
            while let Some(frame) = reader.next().unwrap() {
                match frame.kind {
                    frame::FrameKind::Data { bytes, .. } => (received, pings) = (received + bytes.len(), 0),
                    frame::FrameKind::Ping(number) => {
                        pings += 1;
                        let mut pong = BytesMut::new();
                        let kind = frame::FrameKind::Pong(number);
                        frame::encode(&frame::Frame { stream: 0, kind }, &mut pong);
                        ws.send(Message::Binary(pong.freeze())).await.unwrap();
                    }
                    _ => {}
                }
            }
        }
        let bound = 128 * 1024 + 64 * 1024;
        assert!((100 * 1024..=bound).contains(&received), "{received} bytes came unacknowledged");
        // The windows of its upstream call are full, and that is all.
        let mut other = session(Carrier::Http1, &edge).await;
        let answer = other.unary("/a.B/Echo", vec![7; 500_000]).await;
        assert!(answer.messages == [vec![7; 500_000]]);
    })
    .await;
}

#[tokio::test]
async fn a_named_instance_that_was_restarted_says_that_the_state_is_lost() {
    let upstream = Scripted::start(echo).await;
    let named = downstream::Settings { instance: Some("edge-0".into()), ..edge::settings() };
    let mut before = edge_with(&upstream.url, named.clone()).await;
    within(20, async {
        let lost = session(Carrier::Http1, &before).await.cut();
        before.drain();
        before.cut.cancel();
        before.stopped().await;
        let after = edge_with(&upstream.url, named).await;
        let (failure, mut socket) = refused(lost, &after, &[]).await;
        assert_eq!(failure, v1::ResumeFailure::StateLost);
        // What it gives out now is its own.
        assert_eq!(socket.unary(TALK, "anew").await.code(), Code::OK);
        let mut token = stolen(&socket).to_vec();
        let mut socket = resumed(socket.cut(), Carrier::Http1, &after).await;
        token[20] ^= 1;
        assert_eq!(failure_with(&after, &token, &[]).await, v1::ResumeFailure::UnknownToken);
        assert_eq!(socket.unary(TALK, "undisturbed").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn who_comes_back_is_not_counted_among_those_that_an_overloaded_proxy_refuses() {
    let upstream = Scripted::start(echo).await;
    let mut settings = edge::settings();
    settings.limits.sockets_per_address = 1;
    let edge = edge_with(&upstream.url, settings).await;
    within(20, async {
        let (lost, _alive) = session(Carrier::Http1, &edge).await.part();
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        assert_eq!(socket.unary(TALK, "back").await.code(), Code::OK);
        shows(&edge, "bidiway_sessions_resumed_total 1").await;
        assert!(!edge.metrics.encode().contains("bidiway_refused_total{reason=\"sockets_per_address\"}"));
    })
    .await;
}
