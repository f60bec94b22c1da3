//! Instances that stop while they bring carriers to each other.

use bidiway::{session::Event, wire::Code};

use crate::{
    session_peers::{TALK, relayed},
    session_resume::{resumed, session, shows},
    support::{
        carrier::Carrier,
        peers::instances,
        socket::Lost,
        upstream::{Scripted, Waiting, echo},
        within,
    },
};

#[tokio::test]
async fn an_instance_that_stops_sends_its_guests_elsewhere_and_waits_for_nobody() {
    let upstream = Scripted::start(echo).await;
    let mut edges = instances(3, &upstream.url).await;
    within(20, async {
        let mut socket = relayed(&edges[0], &edges[1]).await;
        let stream = socket.open(TALK).await;
        socket.send(stream, "before").await;
        edges[1].drain();
        let (code, _) = socket.close_frame().await;
        assert_eq!(code, 4014);
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edges[2]).await;
        assert_eq!(socket.message(stream).await, b"before");
        edges[1].stopped().await;
        socket.send(stream, "after").await;
        assert_eq!(socket.message(stream).await, b"after");
        assert_eq!(upstream.requests(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_owner_that_stops_tells_its_clients_through_the_relay_and_takes_them_back_until_its_end() {
    let upstream = Scripted::start(echo).await;
    let mut edges = instances(2, &upstream.url).await;
    within(20, async {
        let mut socket = relayed(&edges[0], &edges[1]).await;
        let stream = socket.open(TALK).await;
        socket.send(stream, "one").await;
        assert_eq!(socket.message(stream).await, b"one");
        edges[0].drain();
        assert!(matches!(socket.next_own().await, Event::GoAway(_)));
        // Its clients still find it.
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edges[1]).await;
        assert!(matches!(socket.next_own().await, Event::GoAway(_)));
        socket.send(stream, "two").await;
        assert_eq!(socket.message(stream).await, b"two");
        socket.finish(stream).await;
        assert_eq!(socket.answer(stream).await.code(), Code::OK);
        let (code, _) = socket.close_frame().await;
        assert_eq!(code, 1001);
        edges[0].stopped().await;
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_stops_still_brings_carriers_to_others() {
    let mut upstream = Waiting::start(true).await;
    let mut edges = instances(2, &upstream.server.url).await;
    within(20, async {
        // Its own session keeps the port open.
        let mut own = session(Carrier::Http1, &edges[1]).await;
        own.open(TALK).await;
        let mut socket = session(Carrier::Http1, &edges[0]).await;
        socket.open(TALK).await;
        upstream.begun(2).await;
        edges[1].drain();
        assert!(matches!(own.next_own().await, Event::GoAway(_)));
        let socket = resumed(socket.cut(), Carrier::Http1, &edges[1]).await;
        let lost: Lost = socket.cut();
        let socket = resumed(lost, Carrier::Http1, &edges[1]).await;
        shows(&edges[1], "bidiway_carriers_relayed_total 2").await;
        edges[1].cut.cancel();
        edges[1].stopped().await;
        let _back = resumed(socket.cut(), Carrier::Http1, &edges[0]).await;
        assert_eq!(upstream.server.requests(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_guest_that_comes_while_an_instance_stops_keeps_it_no_longer_than_its_own_sessions_do() {
    for by_http in [false, true] {
        let mut upstream = Waiting::start(true).await;
        let mut edges = instances(3, &upstream.server.url).await;
        within(20, async {
            let mut own = session(Carrier::Http1, &edges[1]).await;
            let call = own.open(TALK).await;
            let mut guest = session(Carrier::Http1, &edges[0]).await;
            guest.open(TALK).await;
            upstream.begun(2).await;
            edges[1].drain();
            assert!(matches!(own.next_own().await, Event::GoAway(_)));
            let lost = guest.cut();
            let mut guest = if by_http {
                let mut guest = lost.resume(Carrier::Http1.http(&edges[1], false)).await;
                assert!(matches!(guest.next_own().await, Event::Resumed { .. }));
                guest
            } else {
                resumed(lost, Carrier::Http1, &edges[1]).await
            };
            shows(&edges[1], "bidiway_relays_open 1").await;
            own.cancel(call).await;
            let (code, _) = own.close_frame().await;
            assert_eq!(code, 1001);
            let (code, reason) = guest.close_frame().await;
            assert!(code == 4014 && reason.contains("shutting down"), "{code} {reason}");
            let lost = guest.cut();
            edges[1].stopped().await;
            upstream.cancelled(1).await;
            let _guest = resumed(lost, Carrier::Http1, &edges[2]).await;
            assert!(upstream.over.try_recv().is_err(), "its call was not touched");
        })
        .await;
    }
}
