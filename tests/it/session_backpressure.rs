//! Clients that do not read: what the proxy holds for them is bounded, and nobody else is held up.

use std::time::Duration;

use bidiway::{
    session::Settings,
    wire::{Code, v1},
};

use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::{Edge, edge, edge_with, settings},
    socket::Socket,
    upstream::Flooding,
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";

/// A session with more credit than anybody uses, so that only the socket can hold the proxy up.
async fn endless(carrier: Carrier, edge: &Edge) -> Socket {
    carrier.connect_to(carrier.port(edge), Settings { stream_credit: 1 << 30, ..Settings::default() }).await
}

/// Waits until the flood comes to a stop, while another session on the same worker gets its answers; returns how many
/// bytes have left the service.
async fn stopped(upstream: &Flooding, other: &mut Socket) -> usize {
    let mut before = 0;
    while before == 0 || before != upstream.sent() {
        before = upstream.sent();
        for _ in 0..50 {
            assert_eq!(other.unary(TALK, "flows").await.code(), Code::OK);
        }
    }
    before
}

#[tokio::test]
async fn a_client_that_never_reads_makes_the_proxy_hold_no_more_than_its_streams_windows() {
    const STREAMS: usize = 100;
    for carrier in CARRIERS {
        let upstream = Flooding::start().await;
        let edge = edge(&upstream.server.url).await;
        within(60, async {
            let mut other = Carrier::Http1.connect(&edge).await;
            let mut socket = endless(carrier, &edge).await;
            for _ in 0..STREAMS {
                socket.unary_request("/t.T/Flood", "go").await;
            }
            let sent = stopped(&upstream, &mut other).await;
            // Each stream has upstream's window, and in the outbox two pieces and the one that made it full. The
            // rest is what two kernels and HTTP/2 hold of the socket.
            let most = STREAMS * (256 + 3 * 16) * 1024 + (12 << 20);
            assert!(sent <= most, "{carrier:?}: {sent} bytes left the service while nobody read; {most} may");
            // And it is not lost: reading again, everything flows again.
            while upstream.sent() < sent + (4 << 20) {
                socket.receive().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_deadline_is_kept_while_the_client_consumes_nothing() {
    let upstream = Flooding::start().await;
    let edge = edge(&upstream.server.url).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        socket.consumes = false;
        // No service of ours keeps the deadline, so the proxy must.
        let open = v1::Open { method: "/t.T/Flood".to_owned(), timeout_ms: 300, ..v1::Open::default() };
        let stream = socket.open_with(open).await;
        let answer = socket.answer(stream).await;
        assert_eq!(
            (answer.code(), answer.by_proxy()),
            (Code::DEADLINE_EXCEEDED, true),
            "{:?}",
            answer.trailers
        );
        upstream.ended(1).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_heard_when_it_cancels_or_closes() {
    for carrier in CARRIERS {
        let upstream = Flooding::start().await;
        let edge = edge(&upstream.server.url).await;
        within(30, async {
            let mut other = Carrier::Http1.connect(&edge).await;
            let mut socket = endless(carrier, &edge).await;
            let mut streams = Vec::new();
            for _ in 0..40 {
                streams.push(socket.unary_request("/t.T/Flood", "go").await);
            }
            stopped(&upstream, &mut other).await;
            for stream in streams.split_off(20) {
                socket.cancel(stream).await;
            }
            within(1, upstream.ended(20)).await;
            socket.close().await;
            within(1, upstream.ended(40)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_given_up_after_two_pings_with_its_socket() {
    let mut settings = settings();
    settings.session.ping = Duration::from_millis(200);
    let settings = &settings;
    let all = CARRIERS.map(|carrier| async move {
        let upstream = Flooding::start().await;
        let edge = edge_with(&upstream.server.url, settings.clone()).await;
        within(20, async {
            let mut socket = endless(carrier, &edge).await;
            for _ in 0..20 {
                socket.unary_request("/t.T/Flood", "go").await;
            }
            upstream.ended(20).await;
            // The session is over, although its last packet cannot be delivered.
            while !edge.metrics.encode().contains("bidiway_sessions_open 0") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // An upgraded connection goes with it; one of HTTP/2 may carry other things.
            if matches!(carrier, Carrier::Http1 | Carrier::Http1Tls) {
                while !edge.metrics.encode().contains("bidiway_connections_open 0") {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        })
        .await;
    });
    futures_util::future::join_all(all).await;
}
