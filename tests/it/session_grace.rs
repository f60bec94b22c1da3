//! How long sessions and their calls go on without a carrier: by listener, and by route.

use std::time::Duration;

use bidiway::{
    downstream::{RouteSettings, ServicePattern, Settings},
    session::Event,
    wire::{Code, v1::ResumeFailure},
};

use crate::{
    session_resume::{resumable, resumed, session, shows, websocket},
    session_resume_refusals::refused,
    support::{
        carrier::Carrier,
        edge::{self, Edge, edge_adjusted, edge_with},
        socket::{Answer, Socket},
        upstream::{Scripted, Waiting, echo},
        within,
    },
};

/// Of the route that says nothing about carriers.
const STAYS: &str = "/chat.v1.Chat/Stay";

/// Of the route of its own.
const GOES: &str = "/chat.v1.Room/Go";

/// A route of its own for one service.
fn with_route(resume: Duration) -> Settings {
    let mut settings = edge::settings();
    let pattern = ServicePattern::Service("chat.v1.Room".into());
    settings.routes.push(RouteSettings { resume: Some(resume), ..RouteSettings::new(pattern, "chat") });
    settings
}

#[track_caller]
fn assert_given_up(answer: &Answer) {
    assert!(answer.code() == Code::UNAVAILABLE && answer.by_proxy(), "{answer:?}");
    assert!(answer.trailers.message.contains("connection was lost"), "{answer:?}");
}

#[tokio::test]
async fn a_call_of_a_route_that_waits_for_nobody_ends_with_its_carrier_and_the_session_goes_on() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge_with(&upstream.server.url, with_route(Duration::ZERO)).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let (stays, goes) = (socket.open(STAYS).await, socket.open(GOES).await);
        upstream.begun(2).await;
        let lost = socket.cut();
        upstream.cancelled(1).await;
        shows(&edge, "bidiway_sessions_parked 1").await;
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        assert_given_up(&socket.answer(goes).await);
        // The other one never noticed, and new calls of the route are as good as any.
        socket.open(GOES).await;
        upstream.begun(1).await;
        assert!(upstream.over.try_recv().is_err());
        socket.cancel(stays).await;
        upstream.cancelled(1).await;
    })
    .await;
}

#[tokio::test]
async fn such_a_call_ends_also_if_the_proxy_notices_the_loss_by_the_next_carrier_only() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge_with(&upstream.server.url, with_route(Duration::ZERO)).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let (stays, goes) = (socket.open(STAYS).await, socket.open(GOES).await);
        upstream.begun(2).await;
        let (lost, _alive) = socket.part();
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        assert_given_up(&socket.answer(goes).await);
        upstream.cancelled(1).await;
        socket.cancel(stays).await;
        upstream.cancelled(1).await;
    })
    .await;
}

#[tokio::test]
async fn a_call_goes_on_for_as_long_as_its_route_says_and_no_longer() {
    let mut upstream = Waiting::start(true).await;
    let edge = edge_with(&upstream.server.url, with_route(Duration::from_secs(3))).await;
    within(30, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let (stays, goes) = (socket.open(STAYS).await, socket.open(GOES).await);
        upstream.begun(2).await;
        // Back in time, as often as it likes: each absence counts for itself.
        for _ in 0..3 {
            let lost = socket.cut();
            shows(&edge, "bidiway_sessions_parked 1").await;
            socket = resumed(lost, Carrier::Http1, &edge).await;
        }
        assert!(upstream.over.try_recv().is_err());
        let lost = socket.cut();
        assert_eq!(upstream.over.recv().await.unwrap().unwrap(), h2::Reason::CANCEL);
        shows(&edge, "bidiway_sessions_parked 1").await;
        let mut socket = resumed(lost, Carrier::Http1, &edge).await;
        assert_given_up(&socket.answer(goes).await);
        assert!(upstream.over.try_recv().is_err(), "the other call goes on");
        socket.cancel(stays).await;
        upstream.cancelled(1).await;
    })
    .await;
}

#[tokio::test]
async fn what_a_service_had_answered_in_full_is_not_lost_with_the_carrier() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, with_route(Duration::ZERO)).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &edge).await;
        let call = socket.unary_request(GOES, "done").await;
        let ended = |line: &str| {
            ["bidiway_calls_total{", "chat.v1.Room", "\"OK\""].iter().all(|part| line.contains(part))
        };
        while !edge.metrics.encode().lines().any(ended) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edge).await;
        let answer = socket.answer(call).await;
        assert!(answer.code() == Code::OK && answer.messages == [b"done"], "{answer:?}");
    })
    .await;
}

/// A Bidiway whose second listener, with TLS, has a grace of its own.
async fn with_listener(url: &str, resume: Duration) -> Edge {
    let upstreams = vec![crate::support::calls::settings(&[url])];
    let adjust = |settings: &mut bidiway::server::Settings| settings.listeners[1].resume = Some(resume);
    edge_adjusted(edge::reflection(), upstreams, edge::settings(), adjust).await
}

#[tokio::test]
async fn on_a_listener_that_switches_it_off_sessions_end_with_their_carriers_and_others_may_come_back() {
    let mut upstream = Waiting::start(true).await;
    let edge = with_listener(&upstream.server.url, Duration::ZERO).await;
    within(20, async {
        let mut socket = Socket::new(websocket(Carrier::Http1Tls, &edge).await, resumable());
        socket.flush().await;
        let Event::Welcomed(welcome) = socket.next_own().await else { panic!("no Welcome") };
        assert!(welcome.resume_token.is_empty() && welcome.resume_grace_ms == 0, "{welcome:?}");
        socket.open(STAYS).await;
        upstream.begun(1).await;
        drop(socket);
        upstream.cancelled(1).await;
        // One that began elsewhere is what it was when it began.
        let mut socket = session(Carrier::Http1, &edge).await;
        let call = socket.open(STAYS).await;
        upstream.begun(1).await;
        let mut socket = resumed(socket.cut(), Carrier::Http1Tls, &edge).await;
        let mut socket = {
            socket.cancel(call).await;
            upstream.cancelled(1).await;
            resumed(socket.cut(), Carrier::Http1Tls, &edge).await
        };
        socket.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_listener_says_how_long_its_sessions_wait_wherever_they_come_back() {
    let upstream = Scripted::start(echo).await;
    let edge = with_listener(&upstream.url, Duration::from_millis(1500)).await;
    within(20, async {
        for carrier in [Carrier::Http1, Carrier::Http1Tls] {
            let mut socket = Socket::new(websocket(carrier, &edge).await, resumable());
            socket.flush().await;
            let Event::Welcomed(welcome) = socket.next_own().await else { panic!("no Welcome") };
            let expected = if carrier == Carrier::Http1 { 30_000 } else { 1500 };
            assert_eq!(welcome.resume_grace_ms, expected, "{carrier:?}");
            if carrier == Carrier::Http1 {
                continue;
            }
            let socket = resumed(socket.cut(), Carrier::Http1, &edge).await;
            let lost = socket.cut();
            shows(&edge, "bidiway_sessions_total{closed=\"resume_expired\"} 1").await;
            let (failure, _socket) = refused(lost, &edge, &[]).await;
            assert_eq!(failure, ResumeFailure::Expired);
        }
    })
    .await;
}
