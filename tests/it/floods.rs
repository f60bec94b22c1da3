//! Attacks that cost the attacker little, each in small: what they may cost is bounded and counted, and somebody else's
//! call succeeds meanwhile.

use std::time::Duration;

use bidiway::{
    downstream::Settings,
    session,
    wire::{Code, v1},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::support::{
    carrier::{Carrier, tcp},
    edge::{BOTH, Edge, Http, WebAnswer, edge_with, open, settings, whole},
    grpc_websocket::Multiplex,
    raw::{
        CONTINUATION, ENHANCE_YOUR_CALM, Frame, HEADERS, PING, RST_STREAM, RawConnection, call_headers,
        call_headers_with, data, encode, rst_stream, settings_frame,
    },
    socket::Socket,
    upstream::{Exchange, Flooding, Scripted, Waiting, echo, message},
    within,
};

const ECHO: &str = "/chat.v1.Chat/Echo";
const FLOOD: &str = "/chat.v1.Chat/Flood";

/// Somebody else's call.
async fn assert_serves(edge: &Edge) {
    for version in BOTH {
        let response = edge.send(version, edge.web(ECHO).body(whole(message(b"hi"))).unwrap()).await;
        let answer = WebAnswer::read(response).await.unwrap();
        assert_eq!((answer.status().0, answer.payloads()), (0, vec![&b"hi"[..]]));
    }
}

#[track_caller]
fn counted(edge: &Edge, name: &str) -> u64 {
    let text = edge.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// Waits until a counter has this value.
async fn comes_to(edge: &Edge, name: &str, value: u64) {
    while counted(edge, name) != value {
        tokio::task::yield_now().await;
    }
}

/// Calls whose requests are reset right behind their heads.
pub(crate) fn rapid_resets(calls: u32) -> Vec<u8> {
    let both = |call: u32| [call_headers(2 * call + 1, ECHO), rst_stream(2 * call + 1, 8)].concat();
    (0..calls).flat_map(both).collect()
}

#[tokio::test]
async fn a_rapid_reset_ends_the_connection_before_it_reaches_the_service() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings()).await;
    within(20, async {
        let mut attacker = RawConnection::to(edge.address, None).await;
        attacker.write(&rapid_resets(2000)).await;
        assert_serves(&edge).await;
        // GOAWAY, unless the kernel has thrown it away because of what was not read.
        if let Some(code) = attacker.goaway().await {
            assert_eq!(code, ENHANCE_YOUR_CALM);
        }
        assert!(upstream.requests() <= 2 + 250, "{}", upstream.requests());
        assert_serves(&edge).await;
    })
    .await;
}

#[tokio::test]
async fn calls_that_are_opened_and_given_up_again_and_again_cost_the_connection() {
    let mut waiting = Waiting::start(true).await;
    let mut settings = settings();
    settings.limits.cancels_per_second = Some(2);
    let edge = edge_with(&waiting.server.url, settings).await;
    within(20, async {
        let mut attacker = RawConnection::to(edge.address, None).await;
        // Each call reaches the service before it is given up: HTTP/2 itself sees nothing wrong in it.
        let mut calls = 0;
        loop {
            let stream = 2 * calls + 1;
            if attacker.io.write_all(&call_headers(stream, ECHO)).await.is_err() {
                break;
            }
            tokio::select! {
                begun = waiting.begun.recv() => begun.unwrap(),
                () = async { while attacker.any_frame().await.is_some() {} } => break,
            }
            calls += 1;
            let _ = attacker.io.write_all(&rst_stream(stream, 8)).await;
        }
        assert!((20..60).contains(&calls), "{calls}");
        comes_to(&edge, "bidiway_limited_total{limit=\"cancels\"}", 1).await;
        comes_to(&edge, "bidiway_calls_active{route=\"*\",dialect=\"grpc\"}", 0).await;
    })
    .await;
}

#[tokio::test]
async fn an_open_and_cancel_storm_in_a_session_closes_it_and_leaves_others_alone() {
    let upstream = Scripted::start(echo).await;
    for carrier in [Carrier::Http1, Carrier::Http2] {
        let mut settings = settings();
        settings.limits.cancels_per_second = Some(5);
        let edge = edge_with(&upstream.url, settings).await;
        within(20, async {
            let mut honest = carrier.connect(&edge).await;
            let mut attacker = carrier.connect(&edge).await;
            assert_eq!(attacker.unary(ECHO, "1").await.code(), Code::OK);
            let mut calls = 0;
            while attacker.closed.is_none() {
                let stream = attacker.open(ECHO).await;
                attacker.cancel(stream).await;
                calls += 1;
                assert!(calls < 10_000, "nobody stops it");
                attacker.listen(Duration::ZERO).await;
            }
            let (code, reason) = attacker.close_frame().await;
            assert_eq!(code, 4008, "{reason}");
            assert!(reason.contains("given up"), "{reason}");
            assert_eq!(counted(&edge, "bidiway_limited_total{limit=\"cancels\"}"), 1);
            assert_eq!(honest.unary(ECHO, "2").await.code(), Code::OK);
            assert_serves(&edge).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_page_that_is_left_may_give_up_every_call_that_it_has() {
    let mut waiting = Waiting::start(true).await;
    let edge = edge_with(&waiting.server.url, settings()).await;
    within(20, async {
        let mut socket = Socket::connect(edge.address).await;
        let mut streams = Vec::new();
        for _ in 0..256 {
            streams.push(socket.open(ECHO).await);
        }
        waiting.begun(256).await;
        for stream in streams {
            socket.cancel(stream).await;
        }
        comes_to(&edge, "bidiway_calls_active{route=\"*\",dialect=\"session\"}", 0).await;
        assert_eq!((socket.closed.is_none(), counted(&edge, "bidiway_sessions_open")), (true, 1));
    })
    .await;
}

#[tokio::test]
async fn a_header_block_without_end_ends_the_connection() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings()).await;
    within(20, async {
        let mut attacker = RawConnection::to(edge.address, None).await;
        // A head that could be complete, and then pieces of nothing.
        let mut flood = call_headers(1, ECHO);
        flood[4] = 0;
        assert_eq!(flood[3], HEADERS);
        attacker.write(&flood).await;
        let piece = encode(CONTINUATION, 0, 1, &[]).repeat(100);
        let taken = attacker.flood(&piece).await;
        assert!(taken < 16 << 20, "{taken}");
        assert_eq!(upstream.requests(), 0);
        assert_serves(&edge).await;
    })
    .await;
}

#[tokio::test]
async fn a_large_header_block_is_not_collected() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings()).await;
    within(20, async {
        let mut attacker = RawConnection::to(edge.address, None).await;
        let mut flood = call_headers(1, ECHO);
        flood[4] = 0;
        attacker.write(&flood).await;
        // Fields of 16 KB each, far beyond the largest head: without index and Huffman code, `x: yyyy…`.
        let mut field = vec![0, 1, b'x', 127];
        field.extend([0xf1, 0x7e]); // 16,368 = 127 + 0x71 + 0x7e * 128
        field.resize(field.len() + 127 + 0x71 + 0x7e * 128, b'y');
        let taken = attacker.flood(&encode(CONTINUATION, 0, 1, &field)).await;
        assert!(taken < 16 << 20, "{taken}");
        assert_eq!(upstream.requests(), 0);
        assert_serves(&edge).await;
    })
    .await;
}

#[tokio::test]
async fn answers_to_pings_and_settings_do_not_pile_up_for_who_does_not_read_them() {
    let upstream = Scripted::start(echo).await;
    for flood in [encode(PING, 0, 0, &[7; 8]).repeat(256), settings_frame(&[(4, 65_535)]).repeat(256)] {
        let mut settings = settings();
        settings.limits.write_timeout = Duration::from_millis(300);
        let edge = edge_with(&upstream.url, settings).await;
        within(60, async {
            let mut attacker = RawConnection::to(edge.address, Some(4096)).await;
            let flooding = async {
                let taken = attacker.flood(&flood).await;
                assert!(taken < 64 << 20, "{taken}");
            };
            tokio::join!(flooding, assert_serves(&edge));
            comes_to(&edge, "bidiway_write_stalls_total", 1).await;
            assert_serves(&edge).await;
        })
        .await;
    }
}

fn stalls_after(write_timeout: Duration) -> Settings {
    let mut settings = settings();
    settings.limits.write_timeout = write_timeout;
    settings
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_connection_and_its_call_is_cancelled() {
    let service = Flooding::start().await;
    let edge = edge_with(&service.server.url, stalls_after(Duration::from_millis(300))).await;
    within(30, async {
        let stalled = async |request: Vec<u8>| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut io = socket.connect(edge.address).await.unwrap();
            io.write_all(&request).await.unwrap();
            io
        };
        let body = message(b"on");
        let head = format!(
            "POST {FLOOD} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let _http1 = stalled([head.as_bytes(), &body].concat()).await;
        service.ended(1).await;
        comes_to(&edge, "bidiway_write_stalls_total", 1).await;
        comes_to(&edge, "bidiway_connections_open", 0).await;
        assert_serves(&edge).await;

        let query = "sec-websocket-protocol: grpc-websockets\r\n";
        let upgrade = format!(
            "GET {FLOOD} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n{query}\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut io = stalled(upgrade.into_bytes()).await;
        let head = b"content-type: application/grpc-web+proto\r\n";
        for payload in [&head[..], &[&[0], &body[..]].concat(), &[1]] {
            io.write_all(&masked(payload)).await.unwrap();
        }
        service.ended(2).await;
        comes_to(&edge, "bidiway_write_stalls_total", 2).await;
        assert_serves(&edge).await;
    })
    .await;
}

/// A binary WebSocket message whose mask is nothing.
fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn a_client_that_reads_slowly_keeps_its_connection() {
    let service = Flooding::start().await;
    let edge = edge_with(&service.server.url, stalls_after(Duration::from_millis(400))).await;
    within(30, async {
        let body = message(b"on");
        let head = format!(
            "POST {FLOOD} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut io = tcp(edge.address).await;
        io.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        let mut piece = vec![0; 1 << 20];
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Enough for the kernel to tell the sender of the room.
            let mut read = 0;
            while read < 1 << 20 {
                read += io.read(&mut piece).await.unwrap();
            }
        }
        assert_eq!(counted(&edge, "bidiway_write_stalls_total"), 0);
    })
    .await;
}

#[tokio::test]
async fn heads_that_come_byte_by_byte_are_not_waited_for() {
    let upstream = Scripted::start(echo).await;
    let mut settings = settings();
    settings.limits.header_timeout = Duration::from_millis(300);
    let edge = edge_with(&upstream.url, settings).await;
    within(20, async {
        let half_of_http2 = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings_frame(&[]), {
            let mut head = call_headers(1, ECHO);
            head[4] = 0;
            head
        }];
        for beginning in [b"POST / HTTP/1.1\r\nx: ".to_vec(), half_of_http2.concat(), b"PRI".to_vec()] {
            let mut attacker = tcp(edge.address).await;
            attacker.write_all(&beginning).await.unwrap();
            let (mut read, mut write) = attacker.split();
            let trickling = async {
                while write.write_all(b"y").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let mut answer = Vec::new();
            tokio::select! {
                () = trickling => {}
                _ = read.read_to_end(&mut answer) => {}
            }
            assert_serves(&edge).await;
        }
        assert_eq!(upstream.requests(), 6, "only the others' calls");
    })
    .await;
}

#[tokio::test]
async fn a_body_that_trickles_ends_with_its_routes_timeout() {
    let upstream = Scripted::start(echo).await;
    let mut settings = settings();
    settings.routes[0].timeout = Some(Duration::from_millis(400));
    let edge = edge_with(&upstream.url, settings).await;
    within(20, async {
        for version in BOTH {
            let (body, request) = open();
            let mut client = edge.connect(version).await;
            let trickling = async {
                while body.send(vec![0].into()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let response = async {
                let response = client.send(edge.web(ECHO).body(request).unwrap()).await.unwrap();
                WebAnswer::read(response).await.unwrap()
            };
            tokio::select! {
                () = trickling => panic!("the request was given up without an answer"),
                answer = response => assert_eq!(answer.status().0, 4, "{answer:?}"),
            }
            assert_serves(&edge).await;
        }
    })
    .await;
}

#[tokio::test]
async fn compressed_messages_pass_as_they_are_and_their_compressed_size_counts() {
    let upstream = Scripted::start(echo).await;
    let mut settings = settings();
    settings.routes[0].max_message = 100;
    let edge = edge_with(&upstream.url, settings).await;
    // 60 bytes that say that they are gzip: whoever decompressed them would fail, or find a bomb.
    let compressed = |size: usize| {
        let mut bytes = vec![1];
        bytes.extend(u32::try_from(size).unwrap().to_be_bytes());
        bytes.resize(5 + size, 0x1f);
        bytes
    };
    within(10, async {
        for version in BOTH {
            let request = edge.web(ECHO).header("grpc-encoding", "gzip");
            let response = edge.send(version, request.body(whole(compressed(60))).unwrap()).await;
            let answer = WebAnswer::read(response).await.unwrap();
            assert_eq!(answer.status().0, 0);
            assert_eq!(answer.messages, [(1, vec![0x1f; 60])]);
            let request = edge.web(ECHO).header("grpc-encoding", "gzip");
            let response = edge.send(version, request.body(whole(compressed(101))).unwrap()).await;
            assert_eq!(WebAnswer::read(response).await.unwrap().status().0, 8);
        }
        // HTTP's own compression is nobody's here: the body is read as it is, and is no gRPC message.
        let request = edge.web(ECHO).header("content-encoding", "gzip").body(whole(vec![0x1f; 60])).unwrap();
        let answer = WebAnswer::read(edge.send(Http::Two, request).await).await.unwrap();
        assert_ne!(answer.status().0, 0);
        let request = edge.request("POST", ECHO).header("content-type", "application/json");
        let request = request.header("content-encoding", "gzip").body(whole(vec![0x1f; 60])).unwrap();
        let response = edge.send(Http::One, request).await;
        assert!(response.status().is_client_error() || response.status().is_server_error());
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_sessions_that_say_nothing_is_over_when_their_time_is() {
    let upstream = Scripted::start(echo).await;
    let mut settings = settings();
    settings.session.hello_timeout = Duration::from_millis(300);
    let edge = edge_with(&upstream.url, settings).await;
    within(20, async {
        let mut silent = Vec::new();
        for _ in 0..50 {
            let ws = Carrier::Http1.websocket(edge.address, "/bidiway/session", "bidiway.v1", &[]).await;
            silent.push(Socket::new(ws, session::Settings::default()));
        }
        assert_serves(&edge).await;
        comes_to(&edge, "bidiway_sessions_open", 0).await;
        assert_eq!(counted(&edge, "bidiway_sessions_total{closed=\"hello_timeout\"}"), 50);
    })
    .await;
}

/// How a call ends that costs its client nothing, by the proxy's own hand.
#[derive(Clone, Copy, Debug)]
enum Provoked {
    /// By an invalid request.
    Invalid,
    /// By a message that is too large.
    TooLarge,
    /// By a deadline that nobody could keep.
    Deadline,
}

#[tokio::test]
async fn calls_that_a_client_makes_the_proxy_reset_again_and_again_cost_the_connection() {
    for provoked in [Provoked::Invalid, Provoked::TooLarge, Provoked::Deadline] {
        let mut waiting = Waiting::start(true).await;
        let mut settings = settings();
        settings.limits.cancels_per_second = Some(2);
        settings.routes[0].max_message = 100;
        let edge = edge_with(&waiting.server.url, settings).await;
        within(20, async {
            let mut attacker = RawConnection::to(edge.address, None).await;
            let mut calls = 0;
            loop {
                let stream = 2 * calls + 1;
                let head = match provoked {
                    Provoked::Deadline => call_headers_with(stream, ECHO, &[("grpc-timeout", "30m")]),
                    Provoked::Invalid | Provoked::TooLarge => call_headers(stream, ECHO),
                };
                let open = [head, data(stream, 0, &message(b"hi"))].concat();
                if attacker.io.write_all(&open).await.is_err() {
                    break;
                }
                calls += 1;
                assert!(calls < 100, "nobody stops it");
                let bad: &[u8] = match provoked {
                    Provoked::Invalid => &[0x80, 0, 0, 0, 0],
                    Provoked::TooLarge => &[0, 0, 1, 0, 0],
                    Provoked::Deadline => &[],
                };
                if !bad.is_empty() {
                    tokio::select! {
                        begun = waiting.begun.recv() => begun.unwrap(),
                        () = async { while attacker.any_frame().await.is_some() {} } => break,
                    }
                    let _ = attacker.io.write_all(&data(stream, 0, bad)).await;
                }
                let ended = |frame: &Frame| {
                    frame.stream == stream && (frame.ends_stream() || frame.kind == RST_STREAM)
                };
                let mut last = attacker.any_frame().await;
                while last.as_ref().is_some_and(|frame| !ended(frame)) {
                    last = attacker.any_frame().await;
                }
                if last.is_none() {
                    break;
                }
            }
            assert!((20..60).contains(&calls), "{provoked:?}: {calls}");
            comes_to(&edge, "bidiway_limited_total{limit=\"cancels\"}", 1).await;
            comes_to(&edge, "bidiway_calls_active{route=\"*\",dialect=\"grpc\"}", 0).await;
        })
        .await;
    }
}

#[tokio::test]
async fn calls_that_a_session_makes_the_proxy_reset_again_and_again_close_it() {
    let cases = [(Provoked::TooLarge, true), (Provoked::TooLarge, false), (Provoked::Deadline, true)];
    for (provoked, by_the_route) in cases {
        let silent = Scripted::start(|exchange: Exchange| async move {
            let _held = exchange;
            std::future::pending::<()>().await;
        });
        let upstream = silent.await;
        let mut settings = settings();
        settings.limits.cancels_per_second = Some(2);
        // A session refuses by itself what is too large for any route.
        let limits = (&mut settings.routes[0].max_message, &mut settings.limits.max_message);
        *(if by_the_route { limits.0 } else { limits.1 }) = 100;
        let edge = edge_with(&upstream.url, settings).await;
        within(20, async {
            let mut attacker = Carrier::Http1.connect(&edge).await;
            let mut calls = 0;
            while attacker.closed.is_none() {
                let timeout_ms = if matches!(provoked, Provoked::Deadline) { 30 } else { 0 };
                let open = v1::Open { method: ECHO.into(), timeout_ms, ..v1::Open::default() };
                let stream = attacker.open_with(open).await;
                if timeout_ms == 0 {
                    attacker.send(stream, vec![7; 101]).await;
                }
                calls += 1;
                assert!(calls < 100, "nobody stops it");
                tokio::select! {
                    _ = attacker.next_of(stream) => {}
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                }
            }
            let (code, reason) = attacker.close_frame().await;
            assert_eq!(code, 4008, "{reason}");
            assert!((20..60).contains(&calls), "{provoked:?}: {calls}");
        })
        .await;
    }
}

#[tokio::test]
async fn calls_that_a_socket_of_many_makes_the_proxy_reset_again_and_again_close_it() {
    let upstream = Waiting::start(true).await;
    let mut settings = settings();
    settings.limits.cancels_per_second = Some(2);
    let edge = edge_with(&upstream.server.url, settings).await;
    within(20, async {
        let mut attacker = Multiplex::connect(Carrier::Http1, &edge).await;
        let mut id = 0;
        while attacker.closed.is_none() {
            id += 1;
            assert!(id < 100, "nobody stops it");
            attacker.open(id, ECHO).await;
            attacker.frame(id, b"what is this").await;
            let is_over =
                |socket: &Multiplex| socket.streams.get(&id).is_some_and(|it| it.trailers.is_some());
            while !is_over(&attacker) && attacker.receive().await {}
        }
        assert_eq!(attacker.closed, Some(1008));
        assert!((20..60).contains(&id), "{id}");
        comes_to(&edge, "bidiway_limited_total{limit=\"cancels\"}", 1).await;
    })
    .await;
}

#[tokio::test]
async fn deadlines_that_a_service_could_have_kept_are_no_flood() {
    let upstream = Waiting::start(true).await;
    let mut settings = settings();
    settings.limits.cancels_per_second = Some(1);
    let edge = edge_with(&upstream.server.url, settings).await;
    within(20, async {
        let mut socket = Carrier::Http1.connect(&edge).await;
        for _ in 0..40 {
            let open = v1::Open { method: ECHO.into(), timeout_ms: 200, ..v1::Open::default() };
            socket.open_with(open).await;
        }
        comes_to(&edge, "bidiway_calls_total{route=\"*\",dialect=\"session\",code=\"DEADLINE_EXCEEDED\",origin=\"proxy\"}", 40).await;
        assert_eq!((socket.closed.is_none(), counted(&edge, "bidiway_sessions_open")), (true, 1));
        assert_eq!(counted(&edge, "bidiway_limited_total{limit=\"cancels\"}"), 0);
    })
    .await;
}
