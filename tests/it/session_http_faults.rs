//! The HTTP carrier where things go wrong: answers that are lost, clients that do not read, middleboxes that hold
//! responses back, drains.

use std::time::Duration;

use bidiway::{
    session::{Event, Settings},
    wire::{Code, v1::HttpDown},
};
use prost::Message as _;

use crate::{
    session_resume::{resumable, shows},
    support::{
        carrier::{CARRIERS, Carrier},
        edge::{Edge, edge, edge_of_workers, edge_with, settings},
        http_carrier::{HttpWire, Requests, ping, poll, up},
        middlebox::{Manner, Middlebox},
        socket::{Socket, Wire},
        upstream::{Flooding, Scripted, Waiting, echo},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";
const UP: &str = "/bidiway/http/up";
const DOWN: &str = "/bidiway/http/down";

fn http(socket: &mut Socket) -> &mut HttpWire {
    match &mut socket.ws {
        Wire::Http(http) => http,
        Wire::WebSocket(_) => panic!("it is a WebSocket"),
    }
}

/// The next packet of a session, which is not sent.
fn packet(socket: &mut Socket) -> bytes::Bytes {
    let mut packet = bytes::BytesMut::new();
    assert!(socket.session.poll_packet(&mut packet, 1 << 16), "there is nothing to send");
    packet.freeze()
}

#[tokio::test]
async fn a_packet_that_is_sent_again_is_taken_once() {
    let upstream = Scripted::start(echo).await;
    for workers in [1, 3] {
        let edge = edge_of_workers(workers, &upstream.url, settings()).await;
        for carrier in CARRIERS {
            within(20, async {
                let before = upstream.requests();
                let mut socket = Socket::new(carrier.http(&edge, false), Settings::default());
                let stream = socket.open(TALK).await;
                assert!(socket.message_sent(stream, "one"));
                let packet = packet(&mut socket);
                let wire = http(&mut socket);
                wire.number += 1;
                let body = up(&wire.carrier, wire.number, packet);
                // At the same time, on connections of their own; and once more afterwards.
                let mut others: Vec<_> = (0..4).map(|_| wire.up.another()).collect();
                let answers = others.iter_mut().map(|other| other.post(UP, body.clone()));
                for answer in futures_util::future::join_all(answers).await {
                    assert_eq!(answer.unwrap().status(), 204, "{carrier:?}");
                }
                assert_eq!(wire.ask(UP, body.clone()).await.0, 204);
                assert_eq!(socket.message(stream).await, b"one");
                socket.send(stream, "two").await;
                assert_eq!(socket.message(stream).await, b"two", "{carrier:?}: not one again");
                socket.finish(stream).await;
                assert!(socket.answer(stream).await.messages.is_empty());
                assert_eq!(upstream.requests(), before + 1);
                assert_eq!(http(&mut socket).ask(UP, body).await.0, 204, "however old");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_poll_that_is_repeated_gets_the_same_answer_and_one_that_waits_gives_way() {
    let edge = edge("http://127.0.0.1:1").await;
    for carrier in CARRIERS {
        within(20, async {
            let mut wire = carrier.http(&edge, true).opened(Settings::default()).await;
            let name = wire.carrier.clone();
            let mut polls: Vec<Requests> = (0..3).map(|_| wire.up.another()).collect();
            let [one, two, three] = &mut polls[..] else { panic!() };
            let ask = async |requests: &mut Requests, number| {
                let response = requests.post(DOWN, poll(&name, number, 0)).await.unwrap();
                let status = response.status().as_u16();
                let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
                (status, HttpDown::decode(body).unwrap())
            };
            // The first waits; the second takes its place, and gets the Pong.
            let (first, second) = futures_util::future::join(ask(one, 1), async {
                let mut second = std::pin::pin!(ask(two, 1));
                // Which of the two comes first is the network's affair: one of them has to give way.
                let other = async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    wire.ask(UP, up(&name, 1, ping(7))).await
                };
                let (second, sent) = futures_util::future::join(second.as_mut(), other).await;
                assert_eq!(sent.0, 204);
                second
            })
            .await;
            let mut answers = [first, second];
            answers.sort_by_key(|(status, _)| *status);
            let [(200, answer), (204, nothing)] = answers else { panic!("{answers:?}") };
            assert_eq!(nothing, HttpDown::default());
            assert_eq!(answer.packet, [[0x0a, 2, 0x68, 7].as_slice()], "Pong 7");
            // Lost on its way: asked for again, as often as it takes.
            for _ in 0..3 {
                assert_eq!(ask(three, 1).await, (200, answer.clone()), "{carrier:?}");
            }
            // Nothing comes within a second.
            let response = three.post(DOWN, poll(&name, 2, 1)).await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-length"]),
                (200, &"0".parse().unwrap())
            );
            assert_eq!(ask(three, 2).await, (200, HttpDown::default()), "the same again");
            assert_eq!(wire.ask(DOWN, poll(&name, 1, 0)).await.0, 204, "too old");
        })
        .await;
    }
}

#[tokio::test]
async fn a_middlebox_that_holds_responses_back_lets_polls_pass() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    within(30, async {
        let manner = Manner { holds_responses: true, ..Manner::default() };
        let middlebox = Middlebox::before(edge.address, manner).await;
        let requests = || Requests::new(Carrier::Http1, middlebox.address, http::HeaderMap::new());
        let streaming = HttpWire::new(requests(), false).opened(resumable());
        let nothing = tokio::time::timeout(Duration::from_millis(300), streaming).await;
        assert!(nothing.is_err(), "the response came through");

        let mut socket = Socket::new(HttpWire::new(requests(), true), resumable());
        let stream = socket.open(TALK).await;
        for n in 0..20_u32 {
            socket.send(stream, n.to_be_bytes().to_vec()).await;
            assert_eq!(socket.message(stream).await, n.to_be_bytes());
        }
        socket.finish(stream).await;
        assert_eq!(socket.answer(stream).await.code(), Code::OK);
        let large = vec![7; 300_000];
        assert!(socket.unary(TALK, large.clone()).await.messages == [large]);
    })
    .await;
}

/// A session with more credit than anybody uses, so that only the carrier can hold the proxy up.
fn endless(carrier: Carrier, edge: &Edge, polls: bool) -> Socket {
    Socket::new(carrier.http(edge, polls), Settings { stream_credit: 1 << 30, ..Settings::default() })
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_or_poll_is_not_sent_more_than_its_streams_windows() {
    const STREAMS: usize = 50;
    for (carrier, polls) in CARRIERS.into_iter().flat_map(|c| [(c, false), (c, true)]) {
        let upstream = Flooding::start().await;
        let edge = edge(&upstream.server.url).await;
        within(60, async {
            let mut other = Carrier::Http1.connect(&edge).await;
            let mut socket = endless(carrier, &edge, polls);
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                streams.push(socket.unary_request("/t.T/Flood", "go").await);
            }
            let mut sent = 0;
            while sent == 0 || sent != upstream.sent() {
                sent = upstream.sent();
                for _ in 0..50 {
                    assert_eq!(other.unary(TALK, "flows").await.code(), Code::OK);
                }
            }
            let most = STREAMS * (256 + 3 * 16) * 1024 + (12 << 20);
            assert!(sent <= most, "{carrier:?} {polls}: {sent} bytes left the service while nobody read");
            // It is heard all the same.
            for stream in streams.split_off(STREAMS / 2) {
                socket.cancel(stream).await;
            }
            upstream.ended(STREAMS / 2).await;
            // And nothing is lost: reading again, everything flows again.
            while upstream.sent() < sent + (4 << 20) {
                socket.receive().await;
            }
            socket.close().await;
            upstream.ended(STREAMS).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_given_up_after_two_pings() {
    let mut settings = settings();
    settings.session.ping = Duration::from_millis(200);
    for (carrier, polls) in CARRIERS.into_iter().flat_map(|c| [(c, false), (c, true)]) {
        let upstream = Flooding::start().await;
        let edge = edge_with(&upstream.server.url, settings.clone()).await;
        within(20, async {
            let mut socket = endless(carrier, &edge, polls);
            for _ in 0..20 {
                socket.unary_request("/t.T/Flood", "go").await;
            }
            upstream.ended(20).await;
            shows(&edge, "bidiway_sessions_open 0").await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_drain_says_goaway_lets_calls_finish_on_new_connections_and_then_closes() {
    for (carrier, polls) in CARRIERS.into_iter().flat_map(|c| [(c, false), (c, true)]) {
        let upstream = Scripted::start(echo).await;
        let mut edge = edge(&upstream.url).await;
        within(20, async {
            let mut socket = Socket::new(carrier.http(&edge, polls), resumable());
            let stream = socket.open(TALK).await;
            socket.send(stream, "before").await;
            assert_eq!(socket.message(stream).await, b"before");
            edge.drain();
            loop {
                match socket.next_own().await {
                    Event::GoAway(_) => break,
                    Event::Welcomed(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            // Whatever becomes of the connections it had.
            for n in 0..5_u32 {
                socket.send(stream, n.to_be_bytes().to_vec()).await;
                assert_eq!(socket.message(stream).await, n.to_be_bytes(), "{carrier:?} {polls}");
            }
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK);
            assert_eq!(socket.close_frame().await.0, 1001, "{carrier:?} {polls}");
        })
        .await;
    }
}

#[tokio::test]
async fn at_the_drain_deadline_what_still_runs_ends_as_unavailable() {
    for (carrier, polls) in CARRIERS.into_iter().flat_map(|c| [(c, false), (c, true)]) {
        let mut upstream = Waiting::start(true).await;
        let mut edge = edge(&upstream.server.url).await;
        within(20, async {
            let mut socket = Socket::new(carrier.http(&edge, polls), resumable());
            let stream = socket.open(TALK).await;
            upstream.begun(1).await;
            edge.drain();
            while !matches!(socket.next_own().await, Event::GoAway(_)) {}
            let cut = edge.cut.clone();
            let cut = async move {
                // A poll has to be there: later ones are turned away.
                tokio::time::sleep(Duration::from_millis(200)).await;
                cut.cancel();
            };
            let (answer, ()) = futures_util::future::join(socket.answer(stream), cut).await;
            assert_eq!((answer.code(), answer.by_proxy()), (Code::UNAVAILABLE, true), "{carrier:?} {polls}");
        })
        .await;
    }
}
