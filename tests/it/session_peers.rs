//! Sessions whose clients come back to another instance of the proxy.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use bidiway::{
    downstream::{Origins, Settings, carrier::PeerSettings},
    session::Event,
    upstream::ClientTls,
    wire::{Code, v1::ResumeFailure},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::{
    session_resume::{resumed, session, session_with, shows, websocket, websocket_with},
    session_resume_refusals::{hello, refused, stolen},
    support::{
        carrier::{CARRIERS, Carrier},
        edge::{self, Edge, Http, edge_of_workers, edge_with, whole},
        peers::{Ca, NAME, instances, instances_with, name_of, own_address, with_peers},
        socket::Socket,
        upstream::{Flooding, Scripted, Waiting, echo},
        within,
    },
};

pub(crate) const TALK: &str = "/chat.v1.Chat/Talk";

/// A session whose client has come to another instance.
pub(crate) async fn relayed(owner: &Edge, other: &Edge) -> Socket {
    resumed(session(Carrier::Http1, owner).await.cut(), Carrier::Http1, other).await
}

#[tokio::test]
async fn a_call_goes_on_whatever_instance_its_client_comes_back_to_and_every_message_arrives_once() {
    for carrier in CARRIERS {
        let upstream = Scripted::start(echo).await;
        let edges = instances(3, &upstream.url).await;
        within(60, async {
            let mut socket = session(carrier, &edges[0]).await;
            let stream = socket.open(TALK).await;
            let number = |n: u32| n.to_be_bytes().to_vec();
            let mut received = 0;
            for n in 0..45_u32 {
                // 0, 1 and 2 in turn, and each of them twice.
                let edge = &edges[(n as usize / 2 + 1) % 3];
                if n % 5 == 0 {
                    socket = resumed(socket.cut(), carrier, edge).await; // before anything is sent
                }
                socket.send(stream, number(n)).await;
                match n % 5 {
                    1 => socket = resumed(socket.cut(), carrier, edge).await, // sent, not answered
                    2 => {
                        // Cut again before Welcome, and right after it.
                        let lost = socket.cut().resume(websocket(carrier, edge).await).await.cut();
                        let lost = resumed(lost, carrier, edge).await.cut();
                        socket = resumed(lost, carrier, &edges[n as usize % 3]).await;
                    }
                    3 => {
                        while received < n {
                            assert_eq!(socket.message(stream).await, number(received));
                            received += 1;
                        }
                    }
                    _ => {}
                }
            }
            socket.finish(stream).await;
            socket = resumed(socket.cut(), carrier, &edges[1]).await;
            let answer = socket.answer(stream).await;
            assert_eq!(answer.code(), Code::OK, "{answer:?}");
            let rest: Vec<_> = (received..45).map(number).collect();
            assert_eq!(answer.messages, rest, "{carrier:?}");
            assert_eq!(socket.unary(TALK, "afterwards").await.code(), Code::OK);
            assert_eq!(upstream.requests(), 2, "{carrier:?}: one call, and the one afterwards");
            shows(&edges[1], "bidiway_relays_open 1").await;
            socket.close().await;
            shows(&edges[1], "bidiway_relays_open 0").await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_comes_back_by_http_is_relayed_too() {
    for polls in [false, true] {
        let upstream = Scripted::start(echo).await;
        let edges = instances(2, &upstream.url).await;
        within(20, async {
            let mut socket = session(Carrier::Http1, &edges[0]).await;
            let stream = socket.open(TALK).await;
            for n in 0..10_u8 {
                let large = vec![n; 100_000];
                socket.send(stream, large.clone()).await;
                let mut back = socket.cut().resume(Carrier::Http1.http(&edges[1], polls)).await;
                assert!(matches!(back.next_own().await, Event::Resumed { .. }));
                assert!(back.message(stream).await == large, "{n}, polls: {polls}");
                socket = back;
            }
            socket.finish(stream).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK);
            assert_eq!(upstream.requests(), 1);
        })
        .await;
    }
}

#[tokio::test]
async fn large_messages_pass_both_ways_and_between_workers() {
    let upstream = Scripted::start(echo).await;
    let (ca, listen) = (Ca::new(), [own_address(), own_address()]);
    let addresses = listen.map(name_of);
    let settings = |at: usize| with_peers(&edge::settings(), ca.peers(listen[at], &addresses));
    let owner = edge_of_workers(2, &upstream.url, settings(0)).await;
    let other = edge_of_workers(2, &upstream.url, settings(1)).await;
    within(60, async {
        let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7) as u8).collect();
        for _ in 0..8 {
            let mut socket = relayed(&owner, &other).await;
            let answer = socket.unary(TALK, large.clone()).await;
            assert!(answer.messages == [large.clone()] && answer.code() == Code::OK);
            socket.close().await;
        }
    })
    .await;
}

#[tokio::test]
async fn without_peers_a_session_of_another_instance_is_told_so_and_a_new_one_begins() {
    let upstream = Scripted::start(echo).await;
    let (owner, other) = (edge::edge(&upstream.url).await, edge::edge(&upstream.url).await);
    within(10, async {
        let socket = session(Carrier::Http1, &owner).await;
        let (failure, mut socket) = refused(socket.cut(), &other, &[]).await;
        assert_eq!(failure, ResumeFailure::OtherInstance);
        assert_eq!(socket.unary(TALK, "anew").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn when_the_owner_is_gone_its_clients_are_told_at_once_and_their_calls_end_unavailable() {
    let mut upstream = Waiting::start(true).await;
    let mut edges = instances(3, &upstream.server.url).await;
    within(20, async {
        // The others know where it was.
        let mut socket = relayed(&edges[0], &edges[1]).await;
        let call = socket.open(TALK).await;
        upstream.begun(1).await;
        let lost = socket.cut();
        edges[0].drain();
        edges[0].cut.cancel();
        edges[0].stopped().await;
        let began = Instant::now();
        let (failure, mut socket) = refused(lost, &edges[1], &[]).await;
        assert_eq!(failure, ResumeFailure::OtherInstance);
        assert!(began.elapsed() < Duration::from_secs(4));
        assert_eq!(socket.answer(call).await.code(), Code::UNAVAILABLE);
        shows(&edges[1], "bidiway_relay_failures_total{reason=\"unreachable\"} 1").await;
        shows(&edges[1], "bidiway_resume_failures_total{reason=\"other_instance\"} 1").await;
        // Its new session is as good as any.
        socket.open(TALK).await;
        upstream.begun(1).await;
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edges[2]).await;
        socket.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_owner_that_says_nothing_is_given_up_within_seconds() {
    let upstream = Scripted::start(echo).await;
    let silent = TcpListener::bind(own_address()).unwrap();
    let (ca, listen) = (Ca::new(), own_address());
    let addresses = [name_of(silent.local_addr().unwrap()), name_of(listen)];
    let other = edge_with(&upstream.url, with_peers(&edge::settings(), ca.peers(listen, &addresses))).await;
    let owner = edge::edge(&upstream.url).await;
    within(20, async {
        let began = Instant::now();
        let (failure, _socket) = refused(session(Carrier::Http1, &owner).await.cut(), &other, &[]).await;
        assert_eq!(failure, ResumeFailure::OtherInstance);
        assert!(began.elapsed() < Duration::from_secs(4));
        // All that ask meanwhile share one search, and its answer holds for a moment.
        let waiting: Vec<_> = (0..20)
            .map(|_| async { refused(session(Carrier::Http1, &owner).await.cut(), &other, &[]).await.0 })
            .collect();
        let began = Instant::now();
        let failures = futures_util::future::join_all(waiting).await;
        assert!(failures.iter().all(|&failure| failure == ResumeFailure::OtherInstance));
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test]
async fn an_address_that_another_instance_has_by_now_is_not_believed() {
    let upstream = Scripted::start(echo).await;
    let (ca, listen) = (Ca::new(), [own_address(), own_address(), own_address()]);
    let addresses = listen.map(name_of);
    let settings = |at: usize| with_peers(&edge::settings(), ca.peers(listen[at], &addresses));
    let mut owner = edge_with(&upstream.url, settings(0)).await;
    let other = edge_with(&upstream.url, settings(1)).await;
    within(20, async {
        let lost = relayed(&owner, &other).await.cut();
        owner.drain();
        owner.cut.cancel();
        owner.stopped().await;
        let successor = edge_with(&upstream.url, settings(0)).await;
        let (failure, socket) = refused(lost, &other, &[]).await;
        assert_eq!(failure, ResumeFailure::OtherInstance);
        // The successor's own sessions are found there, and one that came later elsewhere.
        let mut socket = resumed(socket.cut(), Carrier::Http1, &successor).await;
        assert_eq!(socket.unary(TALK, "found").await.code(), Code::OK);
        let mut socket = relayed(&successor, &other).await;
        assert_eq!(socket.unary(TALK, "found").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn an_instance_with_a_certificate_of_somebody_else_gets_nothing() {
    let upstream = Scripted::start(echo).await;
    let (ca, listen) = (Ca::new(), [own_address(), own_address()]);
    let addresses = listen.map(name_of);
    let owner =
        edge_with(&upstream.url, with_peers(&edge::settings(), ca.peers(listen[0], &addresses))).await;
    // It trusts the owner, but is not trusted.
    let peers = PeerSettings { client: Ca::new().client(true), ..ca.peers(listen[1], &addresses) };
    let mut untrusted = peers.clone();
    untrusted.client.config = {
        let (mine, theirs) = (ca.client(false), peers.client);
        let mut config = (*mine.config).clone();
        config.client_auth_cert_resolver = theirs.config.client_auth_cert_resolver.clone();
        Arc::new(config)
    };
    let stranger = edge_with(&upstream.url, with_peers(&edge::settings(), untrusted)).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &owner).await;
        let token = stolen(&socket);
        let failure = crate::session_resume_refusals::failure(&stranger, &token).await;
        assert_eq!(failure, ResumeFailure::OtherInstance);
        shows(&owner, "bidiway_tls_handshake_failures_total 1").await;
        assert_eq!(socket.unary(TALK, "undisturbed").await.code(), Code::OK);
        // And with none at all.
        let mut io = peer(listen[0], &ca.client(false)).await;
        let _ = io.write_all(b"GET /bidiway/peer HTTP/1.1\r\nhost: peer\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = io.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn the_public_port_knows_nothing_of_peers() {
    let upstream = Scripted::start(echo).await;
    let edges = instances(2, &upstream.url).await;
    within(10, async {
        for upgrade in [false, true] {
            let mut request = edges[0].request("GET", "/bidiway/peer");
            if upgrade {
                request = request
                    .header("connection", "upgrade")
                    .header("upgrade", "bidiway-peer/1")
                    .header("bidiway-client", "192.0.2.1:1")
                    .header("bidiway-client-scheme", "https");
            }
            let response = edges[0].send(Http::One, request.body(whole("")).unwrap()).await;
            assert_eq!(response.status(), 404, "{upgrade}");
            assert!(!response.headers().contains_key("bidiway-instance"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_stolen_token_is_worth_nothing_through_another_instance() {
    let mut upstream = Waiting::start(true).await;
    let settings = Settings {
        origins: Origins::parse(&["https://app.example", "https://evil.example"]).unwrap(),
        upgrade_headers: vec![http::header::COOKIE, "x-user".parse().unwrap()],
        ..edge::settings()
    };
    let (edges, ..) = instances_with(2, &upstream.server.url, settings).await;
    within(20, async {
        let own = [("origin", "https://app.example"), ("cookie", "user=ada"), ("x-user", "ada")];
        let thieves: [&[(&str, &str)]; 5] = [
            &[("origin", "https://evil.example"), ("cookie", "user=ada"), ("x-user", "ada")],
            &[("origin", "https://app.example"), ("cookie", "user=eve"), ("x-user", "ada")],
            &[("origin", "https://app.example"), ("cookie", "user=ada"), ("x-user", "eve")],
            &[("origin", "https://app.example")],
            &[("cookie", "user=ada"), ("x-user", "ada")],
        ];
        let mut socket = session_with(Carrier::Http1, &edges[0], &own).await;
        socket.open(TALK).await;
        upstream.begun(1).await;
        let token = stolen(&socket);
        for thief in thieves {
            let failure = crate::session_resume_refusals::failure_with(&edges[1], &token, thief).await;
            assert_eq!(failure, ResumeFailure::WrongPrincipal, "{thief:?}");
        }
        let ws = websocket_with(Carrier::Http1, &edges[1], &own).await;
        let mut socket = socket.cut().resume(ws).await;
        assert!(matches!(socket.next_own().await, Event::Resumed { .. }));
        assert!(upstream.over.try_recv().is_err(), "the call was not touched");
        // What failed is counted where it was tried, and nothing was relayed for long.
        shows(&edges[1], "bidiway_resume_failures_total{reason=\"wrong_principal\"} 5").await;
        shows(&edges[1], "bidiway_carriers_relayed_total 1").await;
    })
    .await;
}

#[tokio::test]
async fn a_session_that_the_owner_has_no_more_begins_anew_where_its_client_is() {
    let upstream = Scripted::start(echo).await;
    let edges = instances(2, &upstream.url).await;
    within(20, async {
        let (lost, mut ws) = session(Carrier::Http1, &edges[0]).await.part();
        ws.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
        shows(&edges[0], "bidiway_sessions_total{closed=\"client_closed\"} 1").await;
        let mut unknown = lost.session.resume_tokens().next().unwrap().to_vec();
        let (failure, mut socket) = refused(lost, &edges[1], &[]).await;
        assert_eq!(failure, ResumeFailure::StateLost);
        assert_eq!(socket.unary(TALK, "anew").await.code(), Code::OK);
        assert!(edges[1].metrics.encode().contains("bidiway_relays_open 0\n"));
        unknown[14] ^= 1;
        let failure = crate::session_resume_refusals::failure(&edges[1], &unknown).await;
        assert_eq!(failure, ResumeFailure::UnknownToken);
    })
    .await;
}

#[tokio::test]
async fn a_relayed_carrier_is_never_relayed_again() {
    let upstream = Scripted::start(echo).await;
    let (edges, listen, ca) = instances_with(3, &upstream.url, edge::settings()).await;
    within(20, async {
        let mut socket = session(Carrier::Http1, &edges[0]).await;
        let packet = hello(stolen(&socket));
        // An instance that is wrong about whose session it is.
        let mut io = peer(listen[1], &ca.client(true)).await;
        io.write_all(b"GET /bidiway/peer HTTP/1.1\r\nhost: peer\r\n\r\n").await.unwrap();
        let head = crate::support::carrier::head(&mut io).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let id = head.lines().find_map(|line| line.strip_prefix("bidiway-instance: ")).unwrap();
        let request = |id: &str| {
            format!(
                "GET /bidiway/peer HTTP/1.1\r\nhost: peer\r\nconnection: upgrade\r\nupgrade: bidiway-peer/1\r\n\
                 bidiway-instance: {id}\r\nbidiway-client: 192.0.2.1:1\r\nbidiway-client-scheme: https\r\n\r\n"
            )
        };
        io.write_all(request(id).as_bytes()).await.unwrap();
        let head = crate::support::carrier::head(&mut io).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        io.write_all(&[0x82, packet.len() as u8]).await.unwrap();
        io.write_all(&packet).await.unwrap();
        let mut close = [0; 4];
        io.read_exact(&mut close).await.unwrap();
        let code = 3000 + ResumeFailure::OtherInstance as u16;
        assert_eq!(close, [0x88, 2, (code >> 8) as u8, code as u8]);
        // One that asks for an instance by its old address.
        let mut io = peer(listen[2], &ca.client(true)).await;
        io.write_all(request(id).as_bytes()).await.unwrap();
        let head = crate::support::carrier::head(&mut io).await;
        assert!(head.starts_with("HTTP/1.1 421"), "{head}");
        for edge in &edges {
            shows(edge, "bidiway_carriers_relayed_total 0").await;
        }
        assert_eq!(socket.unary(TALK, "undisturbed").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn close_codes_and_reasons_pass_both_ways() {
    let mut upstream = Waiting::start(true).await;
    let edges = instances(3, &upstream.server.url).await;
    within(20, async {
        // The client says that it goes for good.
        let mut socket = relayed(&edges[0], &edges[1]).await;
        socket.open(TALK).await;
        upstream.begun(1).await;
        socket.send_raw(Message::Close(Some(CloseFrame { code: 1000.into(), reason: "".into() }))).await;
        upstream.cancelled(1).await;
        shows(&edges[0], "bidiway_sessions_total{closed=\"client_closed\"} 1").await;
        // It goes without a word, and may come back.
        let mut socket = relayed(&edges[0], &edges[1]).await;
        socket.close().await;
        shows(&edges[0], "bidiway_carriers_lost_total{reason=\"client_left\"} 1").await;
        // It breaks the protocol of sessions, and that of packets.
        let mut socket = relayed(&edges[0], &edges[1]).await;
        socket.send_raw(Message::Binary(vec![0x0a, 2, 0x60].into())).await;
        let (code, reason) = socket.close_frame().await;
        assert!(code == 4003 && reason.contains("protobuf"), "{code} {reason}");
        let mut socket = relayed(&edges[0], &edges[1]).await;
        socket.send_raw(Message::Text("{}".into())).await;
        let (code, reason) = socket.close_frame().await;
        assert!(code == 4003 && reason.contains("text"), "{code} {reason}");
        let mut socket = relayed(&edges[0], &edges[1]).await;
        socket.send_raw(Message::Binary(vec![0; 300_000].into())).await;
        let (code, reason) = socket.close_frame().await;
        assert!(code == 4008 && reason.contains("262144"), "{code} {reason}");
        shows(&edges[0], "bidiway_sessions_total{closed=\"client_closed\"} 2").await;
        // Another carrier takes the session over, by another instance.
        let (lost, ws) = relayed(&edges[0], &edges[1]).await.part();
        let new = resumed(lost, Carrier::Http1, &edges[2]).await;
        let mut old = Socket::with(ws, new.cut().session);
        let (code, reason) = old.close_frame().await;
        assert!(code == 4014 && reason.contains("another carrier"), "{code} {reason}");
    })
    .await;
}

#[tokio::test]
async fn only_the_client_itself_can_show_that_it_lives() {
    let upstream = Scripted::start(echo).await;
    let mut settings = edge::settings();
    settings.session.ping = Duration::from_millis(200);
    let (edges, ..) = instances_with(2, &upstream.url, settings).await;
    within(20, async {
        let mut socket = relayed(&edges[0], &edges[1]).await;
        // It answers the pings of the WebSocket, whatever its script does.
        socket.listen(Duration::from_millis(1200)).await;
        assert!(socket.closed.is_none());
        shows(&edges[1], "bidiway_relays_open 1").await;
        // It does not.
        shows(&edges[0], "bidiway_carriers_lost_total{reason=\"silent\"} 1").await;
        shows(&edges[1], "bidiway_relays_open 0").await;
        let mut socket = resumed(socket.cut(), Carrier::Http1, &edges[1]).await;
        assert_eq!(socket.unary(TALK, "back").await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_service_and_not_the_memory() {
    let upstream = Flooding::start().await;
    let edges = instances(2, &upstream.server.url).await;
    within(30, async {
        let mut socket = relayed(&edges[0], &edges[1]).await;
        socket.consumes = false;
        socket.open(TALK).await;
        let mut before = usize::MAX;
        while before != upstream.sent() {
            before = upstream.sent();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(before < 4 << 20, "{before} bytes left the service");
    })
    .await;
}

/// A TLS connection to a peer port.
async fn peer(address: SocketAddr, client: &ClientTls) -> TlsStream<TcpStream> {
    let mut config = (*client.config).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let io = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), io).await.unwrap()
}
