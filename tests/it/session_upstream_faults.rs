//! What a client of a session, and one of gRPC-Web, learns of an upstream that misbehaves.

use std::time::Duration;

use bidiway::{
    session::Event,
    upstream,
    wire::{Code, v1},
};
use h2::server;
use tokio::net::TcpListener;

use crate::support::{
    calls,
    edge::{BOTH, Edge, Http, WebAnswer, edge, edge_over, settings, whole},
    raw::{
        CANCEL, DATA, END_STREAM, NO_ERROR, RST_STREAM, RawServer, data, goaway, headers, message,
        ok_headers, rst_stream, trailers,
    },
    socket::{Socket, text},
    upstream::{Scripted, echo, message as grpc_message},
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";
const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// One way for an upstream to answer, and what must come of it.
struct Case {
    name: &'static str,
    /// The frames that answer the request on this stream.
    frames: fn(u32) -> Vec<u8>,
    /// Whether the connection is then closed.
    closes: bool,
    code: Code,
    /// Whether the proxy made the status, and says so.
    by_proxy: bool,
    /// A part of the status message.
    part: &'static str,
    /// Whole messages that arrive before the end.
    messages: usize,
    /// Whether the status has [`DETAILS`].
    details: bool,
}

const CASE: Case = Case {
    name: "",
    frames: |_| Vec::new(),
    closes: false,
    code: Code::OK,
    by_proxy: false,
    part: "",
    messages: 0,
    details: false,
};

/// A google.rpc.Status with a code and a message, in base64 without padding.
const DETAILS: &str = "CAkSA25vdA";

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "a proper answer",
            frames: |s| {
                let end = trailers(s, &[("grpc-status", "0"), ("t", "1")]);
                [ok_headers(s), message(s, 0, b"one"), message(s, 0, b"two"), end].concat()
            },
            messages: 2,
            ..CASE
        },
        Case {
            name: "trailers only",
            frames: |s| {
                let fields = [(":status", "200"), GRPC, ("grpc-status", "7"), ("grpc-message", "not%20you")];
                headers(s, END_STREAM, &fields)
            },
            code: Code::PERMISSION_DENIED,
            part: "not you",
            ..CASE
        },
        Case {
            name: "trailers only, with OK",
            frames: |s| headers(s, END_STREAM, &[(":status", "200"), GRPC, ("grpc-status", "0")]),
            ..CASE
        },
        Case {
            name: "trailers only, with details",
            frames: |s| {
                let fields = [
                    (":status", "200"),
                    GRPC,
                    ("grpc-status", "9"),
                    ("grpc-message", "not"),
                    ("grpc-status-details-bin", DETAILS),
                ];
                headers(s, END_STREAM, &fields)
            },
            code: Code::FAILED_PRECONDITION,
            part: "not",
            details: true,
            ..CASE
        },
        Case {
            name: "an error after messages",
            frames: |s| {
                let fields =
                    [("grpc-status", "10"), ("grpc-message", "late"), ("grpc-status-details-bin", DETAILS)];
                [ok_headers(s), message(s, 0, b"one"), trailers(s, &fields)].concat()
            },
            code: Code::ABORTED,
            part: "late",
            details: true,
            messages: 1,
            ..CASE
        },
        Case {
            name: "a reset before headers",
            frames: |s| rst_stream(s, 2),
            code: Code::INTERNAL,
            by_proxy: true,
            part: "reset the stream: INTERNAL_ERROR",
            ..CASE
        },
        Case {
            name: "a reset after headers",
            frames: |s| [ok_headers(s), rst_stream(s, 11)].concat(),
            code: Code::RESOURCE_EXHAUSTED,
            by_proxy: true,
            part: "reset the stream: ENHANCE_YOUR_CALM",
            ..CASE
        },
        Case {
            name: "a reset after messages",
            frames: |s| [ok_headers(s), message(s, 0, b"one"), rst_stream(s, CANCEL)].concat(),
            code: Code::CANCELLED,
            by_proxy: true,
            part: "reset the stream: CANCEL",
            messages: 1,
            ..CASE
        },
        Case {
            name: "a reset in the middle of a message",
            frames: |s| [ok_headers(s), message(s, 0, b"one"), half(s, 0), rst_stream(s, 1)].concat(),
            code: Code::INTERNAL,
            by_proxy: true,
            part: "PROTOCOL_ERROR",
            messages: 1,
            ..CASE
        },
        Case {
            name: "a reset after the end",
            frames: |s| {
                let end = trailers(s, &[("grpc-status", "0")]);
                [ok_headers(s), message(s, 0, b"one"), end, rst_stream(s, NO_ERROR)].concat()
            },
            messages: 1,
            ..CASE
        },
        Case {
            name: "a GOAWAY that lets the call finish",
            frames: |s| {
                let end = trailers(s, &[("grpc-status", "0")]);
                [ok_headers(s), goaway(s, NO_ERROR), message(s, 0, b"one"), end].concat()
            },
            messages: 1,
            ..CASE
        },
        Case {
            name: "a GOAWAY and the end of the connection",
            frames: |s| [ok_headers(s), message(s, 0, b"one"), goaway(s, 2)].concat(),
            closes: true,
            code: Code::UNAVAILABLE,
            by_proxy: true,
            part: "lost",
            messages: 1,
            ..CASE
        },
        Case {
            name: "the end of the connection",
            frames: ok_headers,
            closes: true,
            code: Code::UNAVAILABLE,
            by_proxy: true,
            part: "lost",
            ..CASE
        },
        Case {
            name: "no HTTP/2 frames",
            frames: |_| b"\xff\xff\xff HTTP/1.1 500 Internal Server Error\r\n\r\n".to_vec(),
            code: Code::UNAVAILABLE,
            by_proxy: true,
            part: "lost",
            ..CASE
        },
        Case {
            name: "HTTP 503 with HTML",
            frames: |s| {
                let first = headers(s, 0, &[(":status", "503"), ("content-type", "text/html")]);
                [first, data(s, END_STREAM, b"<h1>no healthy upstream</h1>")].concat()
            },
            code: Code::UNAVAILABLE,
            by_proxy: true,
            part: "HTTP status 503 Service Unavailable and no grpc-status; its body begins: <h1>no healthy",
            ..CASE
        },
        Case {
            name: "HTTP 200 with HTML",
            frames: |s| {
                let first = headers(s, 0, &[(":status", "200"), ("content-type", "text/html")]);
                [first, data(s, END_STREAM, b"<h1>welcome</h1>")].concat()
            },
            code: Code::UNKNOWN,
            by_proxy: true,
            part: "not gRPC: its content-type is \"text/html\"",
            ..CASE
        },
        Case {
            name: "an end without trailers",
            frames: |s| [ok_headers(s), message(s, END_STREAM, b"one")].concat(),
            code: Code::INTERNAL,
            by_proxy: true,
            part: "without trailers",
            messages: 1,
            ..CASE
        },
        Case {
            name: "trailers without a status",
            frames: |s| [ok_headers(s), message(s, 0, b"one"), trailers(s, &[("t", "1")])].concat(),
            code: Code::UNKNOWN,
            by_proxy: true,
            part: "no grpc-status",
            messages: 1,
            ..CASE
        },
        Case {
            name: "OK in the middle of a message",
            frames: |s| {
                let end = trailers(s, &[("grpc-status", "0")]);
                [ok_headers(s), message(s, 0, b"one"), half(s, 0), end].concat()
            },
            code: Code::INTERNAL,
            by_proxy: true,
            part: "the response of the service is not valid: the stream ended in the middle of a message",
            messages: 1,
            ..CASE
        },
        Case {
            name: "OK in the middle of a prefix",
            frames: |s| {
                let end = trailers(s, &[("grpc-status", "0")]);
                [ok_headers(s), message(s, 0, b"one"), data(s, 0, &[0, 0]), end].concat()
            },
            code: Code::INTERNAL,
            by_proxy: true,
            part: "the response of the service is not valid: the stream ended in the middle of a message",
            messages: 1,
            ..CASE
        },
        Case {
            name: "the end of the stream in the middle of a message",
            frames: |s| [ok_headers(s), half(s, END_STREAM)].concat(),
            code: Code::INTERNAL,
            by_proxy: true,
            ..CASE
        },
        Case {
            name: "an error in the middle of a message",
            frames: |s| {
                let end = trailers(s, &[("grpc-status", "8"), ("grpc-message", "out of it")]);
                [ok_headers(s), half(s, 0), end].concat()
            },
            code: Code::RESOURCE_EXHAUSTED,
            part: "out of it",
            ..CASE
        },
        Case {
            name: "headers that HTTP/2 forbids",
            frames: |s| headers(s, 0, &[(":status", "200"), GRPC, ("connection", "close")]),
            code: Code::INTERNAL,
            by_proxy: true,
            part: "not valid HTTP/2",
            ..CASE
        },
    ]
}

/// The first half of a message.
fn half(stream: u32, flags: u8) -> Vec<u8> {
    data(stream, flags, &grpc_message(b"a message")[..9])
}

/// Serves one case: each request is answered as it says.
async fn serve(server: &RawServer, case: &Case) {
    loop {
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        while !connection.expect(DATA).await.ends_stream() {}
        connection.write(&(case.frames)(stream)).await;
        if !case.closes {
            connection.closed().await;
        }
    }
}

/// A Bidiway in front of a raw server.
async fn before(server: &RawServer) -> Edge {
    edge(&format!("http://{}", server.address)).await
}

#[tokio::test]
async fn every_fault_of_an_upstream_is_one_true_status_in_a_session() {
    let cases = cases();
    assert_eq!(cases.len(), 23);
    for case in cases {
        let server = RawServer::bind().await;
        let edge = before(&server).await;
        let call = async {
            let mut socket = Socket::connect(edge.address).await;
            let answer = socket.unary(TALK, "hi").await;
            // The session goes on.
            let other = socket.unary("/none", "x").await;
            assert_eq!(other.code(), Code::UNIMPLEMENTED, "{}", case.name);
            answer
        };
        let answer = within(10, async {
            tokio::select! { answer = call => answer, () = serve(&server, &case) => unreachable!() }
        })
        .await;
        let name = case.name;
        assert_eq!((answer.code(), answer.by_proxy()), (case.code, case.by_proxy), "{name}: {answer:?}");
        assert!(answer.trailers.message.contains(case.part), "{name}: {answer:?}");
        assert_eq!(
            answer.messages.len() - usize::from(answer.incomplete),
            case.messages,
            "{name}: {answer:?}"
        );
        let details: &[u8] = if case.details { b"\x08\x09\x12\x03not" } else { b"" };
        assert_eq!(answer.trailers.details, details, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn every_fault_of_an_upstream_is_one_true_status_in_grpc_web() {
    for case in cases() {
        let server = RawServer::bind().await;
        let edge = before(&server).await;
        for version in BOTH {
            let call = async {
                let request = edge.web(TALK).body(whole(grpc_message(b"hi"))).unwrap();
                WebAnswer::read(edge.send(version, request).await).await.expect("a whole body")
            };
            let answer = within(10, async {
                tokio::select! { answer = call => answer, () = serve(&server, &case) => unreachable!() }
            })
            .await;
            let name = case.name;
            let (code, message) = answer.status();
            assert_eq!(code, case.code.0, "{name}: {answer:?}");
            assert!(message.contains(case.part), "{name}: {answer:?}");
            assert_eq!(answer.messages.len(), case.messages, "{name}: {answer:?}");
            let last = answer.trailers.as_ref().unwrap_or(&answer.headers);
            assert_eq!(last.contains_key("bidiway-origin"), case.by_proxy, "{name}: {answer:?}");
            let details = last.get("grpc-status-details-bin").map(|value| value.to_str().unwrap());
            assert_eq!(details, case.details.then_some(DETAILS), "{name}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn headers_and_then_silence_end_at_the_clients_deadline() {
    let server = RawServer::bind().await;
    let edge = before(&server).await;
    let call = async {
        let mut socket = Socket::connect(edge.address).await;
        let open = v1::Open { method: TALK.to_owned(), timeout_ms: 200, ..v1::Open::default() };
        let stream = socket.open_with(open).await;
        socket.answer(stream).await
    };
    let serve = async {
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        connection.write(&ok_headers(stream)).await;
        assert_eq!(connection.expect(RST_STREAM).await.payload, CANCEL.to_be_bytes());
    };
    let (answer, ()) = within(10, async { tokio::join!(call, serve) }).await;
    assert_eq!((answer.code(), answer.by_proxy()), (Code::DEADLINE_EXCEEDED, true), "{answer:?}");
    assert_eq!(text(answer.headers.as_ref().unwrap(), "initial").as_deref(), Some("yes"));
}

#[tokio::test]
async fn sixty_four_kibibytes_of_rich_details_arrive_whole() {
    let details: Vec<u8> = (0..46_000_u32).map(|n| (n % 253) as u8).collect();
    let field = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, &details);
    let server = RawServer::bind().await;
    let edge = before(&server).await;
    let serve = async {
        let mut connection = server.http2(&[]).await;
        for _ in 0..2 {
            let stream = connection.request().await;
            let fields =
                [("grpc-status", "13"), ("grpc-message", "rich"), ("grpc-status-details-bin", &field)];
            connection.write(&[ok_headers(stream), trailers(stream, &fields)].concat()).await;
        }
        connection
    };
    let calls = async {
        let mut socket = Socket::connect(edge.address).await;
        let answer = socket.unary(TALK, "x").await;
        assert_eq!((answer.code(), answer.by_proxy()), (Code::INTERNAL, false));
        assert!(answer.trailers.details == details, "{} bytes of details", answer.trailers.details.len());
        let request = edge.web(TALK).body(whole(grpc_message(b"hi"))).unwrap();
        let answer = WebAnswer::read(edge.send(Http::One, request).await).await.unwrap();
        assert_eq!(answer.status(), (13, "rich".to_owned()));
        assert!(answer.trailers.unwrap()["grpc-status-details-bin"] == field);
    };
    within(10, async { tokio::join!(calls, serve) }).await;
}

#[tokio::test]
async fn a_response_split_at_any_byte_is_the_same_in_a_session() {
    let whole = |s| {
        let end = trailers(s, &[("grpc-status", "0"), ("t", "1")]);
        [
            ok_headers(s),
            message(s, 0, b"hello"),
            message(s, 0, b""),
            data(s, 0, b"\0"),
            data(s, 0, b"\0\0\0\x02hi"),
            end,
        ]
        .concat()
    };
    let server = RawServer::bind().await;
    let edge = before(&server).await;
    let len = whole(1).len();
    let serve = async {
        let mut connection = server.http2(&[]).await;
        for cut in 1..=len {
            let stream = connection.request().await;
            let bytes = whole(stream);
            let pieces: Vec<&[u8]> =
                if cut < len { vec![&bytes[..cut], &bytes[cut..]] } else { bytes.chunks(1).collect() };
            for piece in pieces {
                connection.write(piece).await;
                tokio::task::yield_now().await;
            }
        }
        connection
    };
    let calls = async {
        let mut socket = Socket::connect(edge.address).await;
        for cut in 1..=len {
            let answer = socket.unary(TALK, "x").await;
            assert_eq!(answer.code(), Code::OK, "cut at {cut}: {answer:?}");
            assert_eq!(answer.messages, [&b"hello"[..], b"", b"hi"], "cut at {cut}");
            assert_eq!(
                text(answer.headers.as_ref().unwrap(), "initial").as_deref(),
                Some("yes"),
                "cut at {cut}"
            );
            assert_eq!(text(&answer.trailers.metadata, "t").as_deref(), Some("1"), "cut at {cut}");
        }
    };
    within(20, async { tokio::join!(serve, calls) }).await;
}

#[tokio::test]
async fn a_limit_of_one_stream_gives_each_call_a_connection_and_past_the_cap_an_answer_at_once() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1);
    for (cap, refused) in [(8, 0), (3, 2)] {
        let upstream = Scripted::with(builder.clone(), echo).await;
        let upstreams = upstream::Settings { max_connections: cap, ..calls::settings(&[&upstream.url]) };
        let edge = edge_over(upstreams, settings()).await;
        within(10, async {
            let mut socket = Socket::connect(edge.address).await;
            let mut streams = Vec::new();
            for _ in 0..5 {
                streams.push(socket.open(TALK).await);
            }
            let mut running = Vec::new();
            for stream in streams {
                match socket.next_of(stream).await {
                    Event::Headers { .. } => running.push(stream),
                    Event::Ended { trailers, .. } => {
                        assert_eq!(Code(trailers.code), Code::RESOURCE_EXHAUSTED);
                        assert!(trailers.message.contains("\"chat\" is full"), "{}", trailers.message);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((5 - running.len(), upstream.connections()), (refused, cap.min(5)));
            for stream in running {
                socket.send(stream, "x").await;
                assert_eq!(socket.message(stream).await, b"x");
                socket.finish(stream).await;
                assert_eq!(socket.answer(stream).await.code(), Code::OK);
            }
            assert_eq!(socket.unary(TALK, "room again").await.code(), Code::OK);
        })
        .await;
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_unavailable_and_only_its_name_is_told() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    // It accepts, and says nothing.
    let mute = RawServer::bind().await;
    let short = Duration::from_millis(100);
    for url in [
        format!("http://{address}"),
        format!("http://{}", mute.address),
        "http://no-such-host.invalid:1".to_owned(),
    ] {
        let upstreams = upstream::Settings { connect_timeout: short, ..calls::settings(&[&url]) };
        let edge = edge_over(upstreams, settings()).await;
        within(20, async {
            let mut socket = Socket::connect(edge.address).await;
            let answer = socket.unary(TALK, "x").await;
            assert_eq!((answer.code(), answer.by_proxy()), (Code::UNAVAILABLE, true), "{answer:?}");
            assert!(answer.headers.is_none(), "{answer:?}");
            // Not where it is, nor why: that is for the log.
            assert_eq!(answer.trailers.message, "cannot connect to upstream \"chat\"");
        })
        .await;
    }
}

#[tokio::test]
async fn an_early_end_reaches_a_client_that_is_still_sending() {
    for (code, resets) in [(0, true), (0, false), (3, true), (3, false)] {
        // It answers at once, reads nothing, and perhaps resets with NO_ERROR (RFC 9113, section 8.1).
        let server = RawServer::bind().await;
        let edge = before(&server).await;
        let serve = async {
            let mut connection = server.http2(&[]).await;
            loop {
                let s = connection.request().await;
                let end = trailers(s, &[("grpc-status", if code == 0 { "0" } else { "3" })]);
                let reset = if resets { rst_stream(s, NO_ERROR) } else { Vec::new() };
                connection.write(&[ok_headers(s), message(s, 0, b"enough"), end, reset].concat()).await;
            }
        };
        let calls = async {
            let mut socket = Socket::connect(edge.address).await;
            let other = socket.open(TALK).await;
            let stream = socket.open(TALK).await;
            let mut rest = 1 << 20;
            while rest > 0
                && let Some(room) = socket.session.piece(stream, rest)
            {
                rest -= room;
                socket.session.send(stream, vec![0; room].into(), rest as u64, false);
                socket.flush().await;
            }
            let answer = socket.answer(stream).await;
            assert_eq!((answer.code(), answer.by_proxy()), (Code(code), false), "{resets}: {answer:?}");
            assert_eq!(answer.messages, [b"enough"], "{resets}");
            // What the client sent before it knew is no violation.
            assert_eq!(socket.answer(other).await.messages, [b"enough"]);
            assert_eq!(socket.unary(TALK, "x").await.messages, [b"enough"]);
        };
        within(10, async {
            tokio::select! { () = calls => {}, () = serve => {} }
        })
        .await;
    }
}
