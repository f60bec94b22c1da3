//! HTTP carriers whose requests come to whatever instance a balancer leads them to.

use std::time::Duration;

use bidiway::{
    downstream::{Origins, Settings},
    session::Event,
    wire::Code,
};
use http::HeaderMap;

use crate::{
    session_resume::{resumable, shows},
    support::{
        carrier::Carrier,
        edge::{self, Edge, edge_with},
        http_carrier::{HttpWire, Requests, close, ping, poll, said, up},
        peers::{Ca, instances, instances_with, name_of, own_address, with_peers},
        socket::Socket,
        upstream::{Exchange, Scripted, Waiting, echo, end, message, send},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";

/// A carrier each of whose requests goes to another instance than the one before.
fn spread(carrier: Carrier, edges: &[Edge], polls: bool) -> HttpWire {
    let addresses = edges.iter().map(|edge| carrier.port(edge));
    HttpWire::new(Requests::among(carrier, addresses, HeaderMap::new()), polls)
}

/// A carrier of the first instance, and a way to the other one. The second number is that of the next packet.
async fn opened(edges: &[Edge], polls: bool, headers: HeaderMap) -> (HttpWire, Requests) {
    let here = Requests::new(Carrier::Http1, edges[0].address, headers.clone());
    let there = Requests::new(Carrier::Http1, edges[1].address, headers);
    (HttpWire::new(here, polls).opened(resumable()).await, there)
}

/// `Sum`: reads all, answers once. `Count`: answers a hundred times. Else what comes.
async fn kinds(mut exchange: Exchange) {
    let path = exchange.request.uri().path().to_owned();
    if path.ends_with("Sum") {
        let all = exchange.read_all().await;
        let mut stream = exchange.headers();
        send(&mut stream, message(&all.len().to_be_bytes())).await;
        end(&mut stream, 0);
    } else if path.ends_with("Count") {
        exchange.read_all().await;
        let mut stream = exchange.headers();
        for n in 0..100_u32 {
            send(&mut stream, message(&n.to_be_bytes())).await;
        }
        end(&mut stream, 0);
    } else {
        echo(exchange).await;
    }
}

#[tokio::test]
async fn all_four_kinds_of_call_work_whatever_instances_the_requests_come_to() {
    for (carrier, polls) in [
        (Carrier::Http1, false),
        (Carrier::Http1, true),
        (Carrier::Http2Tls, false),
        (Carrier::Http2Tls, true),
    ] {
        let upstream = Scripted::start(kinds).await;
        let edges = instances(3, &upstream.url).await;
        within(60, async {
            let mut socket = Socket::new(spread(carrier, &edges, polls), resumable());
            let one = socket.unary(TALK, "hello").await;
            assert!(one.code() == Code::OK && one.messages == [b"hello"], "{one:?}");
            // Many up, one down.
            let sum = socket.open("/chat.v1.Chat/Sum").await;
            for n in 0..50 {
                socket.send(sum, vec![n; 3000]).await;
            }
            socket.finish(sum).await;
            let answer = socket.answer(sum).await;
            assert_eq!(answer.messages, [(50 * 3005_usize).to_be_bytes()]);
            // One up, many down.
            let count = socket.unary("/chat.v1.Chat/Count", "go").await;
            let numbers: Vec<_> = (0..100_u32).map(|n| n.to_be_bytes().to_vec()).collect();
            assert_eq!((count.code(), count.messages), (Code::OK, numbers));
            // And both ways, with messages of more than one packet among them.
            let talk = socket.open(TALK).await;
            for n in 0..40_u32 {
                let size = if n % 10 == 9 { 300_000 } else { 4 };
                let text: Vec<u8> = n.to_be_bytes().iter().copied().cycle().take(size).collect();
                socket.send(talk, text.clone()).await;
                assert!(socket.message(talk).await == text, "{carrier:?} {polls} {n}");
            }
            socket.finish(talk).await;
            assert_eq!(socket.answer(talk).await.code(), Code::OK);
            assert_eq!(upstream.requests(), 4);
            // It has one session, one carrier, and the requests went everywhere.
            let opened: Vec<_> =
                edges.iter().filter(|edge| metric(edge, "bidiway_sessions_open") > 0).collect();
            assert_eq!(opened.len(), 1);
            let relaying =
                edges.iter().filter(|edge| metric(edge, "bidiway_carrier_requests_relayed_total") > 20);
            assert_eq!(relaying.count(), 2);
            socket.close().await;
            shows(opened[0], "bidiway_sessions_total{closed=\"client_closed\"} 1").await;
        })
        .await;
    }
}

fn metric(edge: &Edge, name: &str) -> u64 {
    let text = edge.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_session_moves_in_mid_call_between_carriers_whose_requests_are_spread() {
    let upstream = Scripted::start(echo).await;
    let edges = instances(2, &upstream.url).await;
    within(60, async {
        let mut socket = Socket::new(spread(Carrier::Http1, &edges, false), resumable());
        socket.flush().await;
        assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
        let stream = socket.open(TALK).await;
        for n in 0..20_u32 {
            socket.send(stream, n.to_be_bytes().to_vec()).await;
            if n % 3 == 0 {
                // Sent, not answered.
                socket = socket.cut().resume(spread(Carrier::Http1, &edges, n % 2 == 0)).await;
                assert!(matches!(socket.next_own().await, Event::Resumed { .. }));
            }
            assert_eq!(socket.message(stream).await, n.to_be_bytes());
        }
        socket.finish(stream).await;
        let answer = socket.answer(stream).await;
        assert!(answer.code() == Code::OK && answer.messages.is_empty(), "{answer:?}");
        assert_eq!(upstream.requests(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_a_request_does_wrong_is_answered_as_if_the_carrier_were_here() {
    let upstream = Scripted::start(echo).await;
    let edges = instances(2, &upstream.url).await;
    let wire = async |polls| opened(&edges, polls, HeaderMap::new()).await;
    let (up_path, down_path) = ("/bidiway/http/up", "/bidiway/http/down");
    within(30, async {
        // A repetition, which is none for the carrier; and a gap.
        let (mut here, mut there) = wire(false).await;
        let packet = up(&here.carrier, 1, ping(1));
        assert_eq!(said(there.post(up_path, packet.clone()).await).await.0, 204);
        assert_eq!(said(there.post(up_path, packet).await).await.0, 204);
        let (status, _) = said(there.post(up_path, up(&here.carrier, 3, ping(3))).await).await;
        assert_eq!((status, here.closed().await.unwrap().0), (409, 4014));
        // No message of ours, with the carrier's name in it.
        let (mut here, mut there) = wire(false).await;
        let mut broken = up(&here.carrier, 1, ping(1));
        broken.push(7);
        let (status, text) = said(there.post(up_path, broken).await).await;
        assert!(status == 400 && text.contains("HttpUp"), "{status} {text}");
        assert_eq!(here.closed().await.unwrap().0, 4003);
        // Too much.
        let (mut here, mut there) = wire(false).await;
        let (status, _) = said(there.post(up_path, up(&here.carrier, 1, vec![0; 300_000])).await).await;
        assert_eq!((status, here.closed().await.unwrap().0), (413, 4008));
        // A poll where there are none, and those that there are: an answer once, again, and none that is due.
        let (here, mut there) = wire(false).await;
        assert_eq!(said(there.post(down_path, poll(&here.carrier, 1, 0)).await).await.0, 409);
        let (here, mut there) = wire(true).await;
        assert_eq!(said(there.post(up_path, up(&here.carrier, 1, ping(9))).await).await.0, 204);
        let mut answers = Vec::new();
        for _ in 0..2 {
            let response = there.post(down_path, poll(&here.carrier, 1, 0)).await.unwrap();
            assert_eq!(response.headers()["cache-control"], "no-store, no-transform");
            assert!(response.headers().contains_key("content-length"));
            answers.push(said(Ok(response)).await);
        }
        assert!(answers[0].0 == 200 && !answers[0].1.is_empty() && answers[0] == answers[1], "{answers:?}");
        let nothing = said(there.post(down_path, poll(&here.carrier, 2, 1000)).await).await;
        assert_eq!(nothing, (200, String::new()));
        // The end of it, and after that there is none.
        assert_eq!(said(there.post(up_path, close(&here.carrier, 1000)).await).await.0, 204);
        shows(&edges[0], "bidiway_sessions_total{closed=\"client_closed\"} 1").await;
        assert_eq!(said(there.post(up_path, up(&here.carrier, 2, ping(1))).await).await.0, 410);
    })
    .await;
}

#[tokio::test]
async fn a_carrier_is_nobody_elses_through_another_instance_either() {
    let upstream = Scripted::start(echo).await;
    let origins = Origins::parse(&["https://app.example", "https://evil.example"]).unwrap();
    let (edges, ..) = instances_with(2, &upstream.url, Settings { origins, ..edge::settings() }).await;
    within(20, async {
        let of = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("origin", origin.parse().unwrap());
            headers
        };
        let (here, mut there) = opened(&edges, false, of("https://app.example")).await;
        for thief in [of("https://evil.example"), HeaderMap::new()] {
            let mut thief = Requests::new(Carrier::Http1, edges[1].address, thief);
            let (status, text) =
                said(thief.post("/bidiway/http/up", up(&here.carrier, 1, ping(1))).await).await;
            assert!(status == 403 && text.contains("another origin"), "{status} {text}");
        }
        let response = there.post("/bidiway/http/up", up(&here.carrier, 1, ping(1))).await.unwrap();
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");
    })
    .await;
}

#[tokio::test]
async fn a_carrier_of_an_instance_that_is_gone_is_gone_at_once() {
    let upstream = Scripted::start(echo).await;
    for restarted in [false, true] {
        let (ca, listen) = (Ca::new(), [own_address(), own_address()]);
        let addresses = listen.map(name_of);
        let settings = |at: usize| with_peers(&edge::settings(), ca.peers(listen[at], &addresses));
        let mut edges =
            [edge_with(&upstream.url, settings(0)).await, edge_with(&upstream.url, settings(1)).await];
        within(20, async {
            let (here, mut there) = opened(&edges, true, HeaderMap::new()).await;
            let packet = up(&here.carrier, 1, ping(1));
            assert_eq!(said(there.post("/bidiway/http/up", packet.clone()).await).await.0, 204);
            edges[0].drain();
            edges[0].cut.cancel();
            edges[0].stopped().await;
            // At its address there is nobody, or somebody else.
            let _successor = if restarted { Some(edge_with(&upstream.url, settings(0)).await) } else { None };
            let (status, _) = said(there.post("/bidiway/http/up", packet).await).await;
            assert_eq!(status, 410, "restarted: {restarted}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_poll_that_waits_through_another_instance_keeps_no_packet_from_coming() {
    let mut upstream = Waiting::start(true).await;
    let edges = instances(2, &upstream.server.url).await;
    within(20, async {
        let (mut here, mut there) = opened(&edges, true, HeaderMap::new()).await;
        let carrier = here.carrier.clone();
        let mut waiting = there.another();
        let waits = tokio::spawn(async move {
            said(waiting.post("/bidiway/http/down", poll(&carrier, 1, 0)).await).await
        });
        for n in 1..4 {
            let (status, _) =
                here.ask("/bidiway/http/up", up(&here.carrier.clone(), 2 * n - 1, ping(1))).await;
            assert_eq!(status, 204);
            let packet = up(&here.carrier, 2 * n, ping(2));
            assert_eq!(said(there.post("/bidiway/http/up", packet).await).await.0, 204);
        }
        let (status, body) = waits.await.unwrap();
        assert!(status == 200 && !body.is_empty());
        assert!(upstream.begun.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn instances_speak_on_after_their_connection_was_closed_for_being_idle() {
    let upstream = Scripted::start(echo).await;
    let mut settings = edge::settings();
    settings.limits.header_timeout = Duration::from_secs(2);
    let (edges, ..) = instances_with(2, &upstream.url, settings).await;
    within(20, async {
        let (mut here, there) = opened(&edges, false, HeaderMap::new()).await;
        for number in 1..3 {
            let packet = up(&here.carrier, number, ping(1));
            assert_eq!(said(there.another().post("/bidiway/http/up", packet).await).await.0, 204);
            // The response that streams is all that is left.
            shows(&edges[0], "bidiway_connections_open 1").await;
        }
        assert!(here.field().await.is_some());
    })
    .await;
}
