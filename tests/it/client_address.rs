//! Who the client is, behind other proxies: what is believed, and what services are told.

use std::net::SocketAddr;

use bidiway::{
    downstream::{Hosts, Settings, TrustedProxies},
    session,
    wire::{Code, v1},
};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    session_calls::entry,
    support::{
        carrier::{CARRIERS, Carrier, tcp, tls},
        edge::{BOTH, Edge, Http, WebAnswer, edge_behind_tcp_proxy, edge_with, settings, whole},
        socket::Socket,
        upstream::{Scripted, echo, end, message},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";

/// What the balancer of these tests is: everything on this machine.
fn behind_a_proxy() -> Settings {
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    Settings { trusted_proxies: TrustedProxies::new(networks), ..settings() }
}

/// A service that tells which headers its calls have.
async fn telling() -> (Scripted, mpsc::Receiver<HeaderMap>) {
    let (seen, calls) = mpsc::channel(16);
    let upstream = Scripted::start(move |mut exchange| {
        let seen = seen.clone();
        async move {
            seen.send(exchange.request.headers().clone()).await.unwrap();
            end(&mut exchange.headers(), 0);
        }
    })
    .await;
    (upstream, calls)
}

/// The names of who the client is, as a service reads them.
fn told(headers: &HeaderMap) -> Vec<String> {
    let names = ["x-forwarded-for", "x-forwarded-proto", "x-real-ip", "forwarded", "x-forwarded-host"];
    let told =
        names.iter().filter_map(|name| Some(format!("{name}: {}", headers.get(*name)?.to_str().unwrap())));
    told.collect()
}

async fn call_with(edge: &Edge, version: Http, headers: &[(&str, &str)]) -> WebAnswer {
    let mut request = edge.web(TALK);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = edge.send(version, request.body(whole(message(b"hi"))).unwrap()).await;
    WebAnswer::read(response).await.unwrap()
}

const CLAIMS: [(&str, &str); 5] = [
    ("x-forwarded-for", "198.51.100.66, 203.0.113.9"),
    ("x-forwarded-proto", "https"),
    ("x-real-ip", "203.0.113.9"),
    ("forwarded", "for=203.0.113.9"),
    ("x-forwarded-host", "app.example"),
];

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_passed_on_and_nobody_else_is() {
    let (upstream, mut calls) = telling().await;
    let (trusting, alone) =
        (edge_with(&upstream.url, behind_a_proxy()).await, edge_with(&upstream.url, settings()).await);
    for version in BOTH {
        call_with(&trusting, version, &CLAIMS).await;
        assert_eq!(
            told(&calls.recv().await.unwrap()),
            [
                "x-forwarded-for: 198.51.100.66, 203.0.113.9, 127.0.0.1",
                "x-forwarded-proto: https",
                "x-real-ip: 203.0.113.9",
                "forwarded: for=203.0.113.9",
                "x-forwarded-host: app.example",
            ]
        );
        call_with(&alone, version, &CLAIMS).await;
        let headers = calls.recv().await.unwrap();
        assert_eq!(told(&headers), ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"]);
    }
}

#[tokio::test]
async fn what_a_page_writes_into_its_metadata_is_never_a_proxys_word() {
    let (upstream, mut calls) = telling().await;
    let edge = edge_with(&upstream.url, behind_a_proxy()).await;
    for carrier in [Carrier::Http1, Carrier::Http2] {
        within(10, async {
            let by_proxy = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
            let ws =
                carrier.websocket(carrier.port(&edge), "/bidiway/session", "bidiway.v1", &by_proxy).await;
            let mut socket = Socket::new(ws, session::Settings::default());
            let metadata = CLAIMS.iter().map(|(name, value)| entry(name, value)).collect();
            let stream =
                socket.open_with(v1::Open { method: TALK.into(), metadata, ..v1::Open::default() }).await;
            assert_eq!(socket.answer(stream).await.code(), Code::OK);
            let headers = calls.recv().await.unwrap();
            let expected = ["x-forwarded-for: 203.0.113.9, 127.0.0.1", "x-forwarded-proto: https"];
            assert_eq!(told(&headers), expected, "{carrier:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn the_same_origin_is_told_by_the_scheme_that_the_client_used() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, behind_a_proxy()).await;
    let origin = format!("https://{}", edge.address);
    for version in BOTH {
        let answer = call_with(&edge, version, &[("origin", &origin), ("x-forwarded-proto", "https")]).await;
        assert_eq!((answer.http, answer.status().0), (200, 0));
        let answer = call_with(&edge, version, &[("origin", &origin)]).await;
        assert_eq!(answer.http, 403, "the proxy does not say that it was https");
    }
    let alone = edge_with(&upstream.url, settings()).await;
    let origin = format!("https://{}", alone.address);
    let answer = call_with(&alone, Http::One, &[("origin", &origin), ("x-forwarded-proto", "https")]).await;
    assert_eq!(answer.http, 403, "a client must not choose its scheme");
}

#[tokio::test]
async fn clients_behind_one_proxy_are_counted_apart() {
    let upstream = Scripted::start(echo).await;
    let mut settings = behind_a_proxy();
    settings.limits.sockets_per_address = 1;
    settings.session.resume = std::time::Duration::ZERO;
    let edge = edge_with(&upstream.url, settings).await;
    within(10, async {
        let socket = async |client: &str| {
            let headers = [("x-forwarded-for", client)];
            let ws = Carrier::Http1.websocket(edge.address, "/bidiway/session", "bidiway.v1", &headers).await;
            Socket::new(ws, session::Settings::default())
        };
        let mut ada = socket("203.0.113.9").await;
        assert_eq!(ada.unary(TALK, "1").await.code(), Code::OK);
        let mut bob = socket("203.0.113.10").await;
        assert_eq!(bob.unary(TALK, "2").await.code(), Code::OK);
        let mut again = socket("198.51.100.66, 203.0.113.9").await;
        again.flush().await;
        assert_eq!(again.close_frame().await.0, 4008);
        assert_eq!(ada.unary(TALK, "3").await.code(), Code::OK);
    })
    .await;
}

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for 203.0.113.9:4711, whose client came by TLS or not.
fn v2(tls: bool) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([0x21, 0x11, 0, 20]);
    header.extend([203, 0, 113, 9, 127, 0, 0, 1, 0x12, 0x67, 1, 0xbb]);
    header.extend([0x20, 0, 5, u8::from(tls), 0, 0, 0, 0]);
    header
}

/// One call in JSON over HTTP/1.1 behind these bytes, which are sent in pieces; what the service is told of the client.
async fn call_behind(io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), origin: &str) -> String {
    let body = message(b"hi");
    let head = format!(
        "POST {TALK} HTTP/1.1\r\nhost: edge.example\r\norigin: {origin}\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    io.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

async fn in_pieces(address: SocketAddr, header: &[u8]) -> tokio::net::TcpStream {
    let mut io = tcp(address).await;
    for byte in header {
        io.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    io
}

#[tokio::test]
async fn a_proxy_header_before_http_or_tls_names_the_client() {
    let (upstream, mut calls) = telling().await;
    let edge = edge_behind_tcp_proxy(&upstream.url, behind_a_proxy()).await;
    within(20, async {
        let v1 = b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n".to_vec();
        for (header, origin, scheme) in [
            (v1, "http://edge.example", "http"),
            (v2(false), "http://edge.example", "http"),
            (v2(true), "https://edge.example", "https"),
        ] {
            let mut io = in_pieces(edge.address, &header).await;
            assert_eq!(call_behind(&mut io, origin).await, "HTTP/1.1 200 OK");
            let expected =
                ["x-forwarded-for: 203.0.113.9".to_owned(), format!("x-forwarded-proto: {scheme}")];
            assert_eq!(told(&calls.recv().await.unwrap()), expected);
        }
        // Behind it TLS, of which not a byte may be lost; header and hello may come in one segment.
        let mut io = tcp(edge.tls).await;
        io.write_all(&v2(false)).await.unwrap();
        let mut io = tls(io, "http/1.1").await;
        assert_eq!(call_behind(&mut io, "https://edge.example").await, "HTTP/1.1 200 OK");
        let expected = ["x-forwarded-for: 203.0.113.9", "x-forwarded-proto: https"];
        assert_eq!(told(&calls.recv().await.unwrap()), expected);
        // The proxy's own health check.
        let mut local = V2_SIGNATURE.to_vec();
        local.extend([0x20, 0, 0, 0]);
        let mut io = tcp(edge.address).await;
        io.write_all(&local).await.unwrap();
        assert_eq!(call_behind(&mut io, "http://edge.example").await, "HTTP/1.1 200 OK");
        let expected = ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"];
        assert_eq!(told(&calls.recv().await.unwrap()), expected);
    })
    .await;
}

#[tokio::test]
async fn a_connection_without_a_header_that_is_believed_is_closed_and_counted() {
    let upstream = Scripted::start(echo).await;
    let mut settings = behind_a_proxy();
    settings.limits.handshake_timeout = std::time::Duration::from_millis(300);
    let edge = edge_behind_tcp_proxy(&upstream.url, settings.clone()).await;
    settings.trusted_proxies = TrustedProxies::new(vec!["192.0.2.0/24".parse().unwrap()]);
    let strict = edge_behind_tcp_proxy(&upstream.url, settings).await;
    within(10, async {
        let ends = async |edge: &Edge, bytes: &[u8], reason: &str| {
            let mut io = tcp(edge.address).await;
            io.write_all(bytes).await.unwrap();
            if reason == "ended" {
                io.shutdown().await.unwrap();
            }
            // Closed, or reset because of what was not read.
            let mut answer = Vec::new();
            let _ = io.read_to_end(&mut answer).await;
            assert_eq!(answer, b"", "{reason}");
            let line = format!("bidiway_proxy_header_failures_total{{reason=\"{reason}\"}} 1");
            assert!(edge.metrics.encode().contains(&line), "{line}");
        };
        ends(&edge, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "malformed").await;
        ends(&edge, b"PROXY TCP4 203.0", "timeout").await;
        ends(&edge, b"PROXY TCP4 203.0", "ended").await;
        ends(&strict, b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\nGET / HTTP/1.1\r\n\r\n", "untrusted")
            .await;
    })
    .await;
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn requests_for_other_names_than_those_listed_are_refused_in_every_dialect() {
    let upstream = Scripted::start(echo).await;
    let mut hosts = Hosts::default();
    hosts.add("127.0.0.1").unwrap();
    let edge = edge_with(&upstream.url, Settings { hosts, ..settings() }).await;
    for version in BOTH {
        let answer = call_with(&edge, version, &[]).await;
        assert_eq!((answer.http, answer.status().0), (200, 0));
    }
    // A page that rebound its name to our address: its origin is its host.
    let rebound = "rebound.example";
    let request = edge.web(TALK).header("host", rebound).header("origin", format!("http://{rebound}"));
    let response = edge.send(Http::One, request.body(whole(message(b"hi"))).unwrap()).await;
    let answer = WebAnswer::read(response).await.unwrap();
    assert_eq!((answer.http, answer.status().0), (421, 7));
    for carrier in CARRIERS.into_iter().filter(|carrier| matches!(carrier, Carrier::Http1)) {
        let mut io = tcp(carrier.port(&edge)).await;
        let handshake = format!(
            "GET /bidiway/session HTTP/1.1\r\nhost: {rebound}\r\norigin: http://{rebound}\r\nupgrade: websocket\r\n\
             connection: Upgrade, close\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: bidiway.v1\r\n\r\n"
        );
        io.write_all(handshake.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 421");
    }
    assert_eq!(upstream.requests(), 2);
    assert!(edge.metrics.encode().contains("bidiway_refused_total{reason=\"host\"} 2"));
}

#[tokio::test]
async fn where_a_proxy_header_names_nobody_what_the_client_writes_is_not_believed() {
    let (upstream, mut calls) = telling().await;
    let edge = edge_behind_tcp_proxy(&upstream.url, behind_a_proxy()).await;
    within(20, async {
        let mut local = V2_SIGNATURE.to_vec();
        local.extend([0x20, 0, 0, 0]);
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), local] {
            let mut io = tcp(edge.address).await;
            io.write_all(&header).await.unwrap();
            let body = message(b"hi");
            let head = format!(
                "POST {TALK} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-forwarded-for: 203.0.113.9\r\n\
                 x-forwarded-proto: https\r\nx-real-ip: 203.0.113.9\r\n\
                 content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            io.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            let headers = calls.recv().await.unwrap();
            assert_eq!(told(&headers), ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"]);
        }
    })
    .await;
}
