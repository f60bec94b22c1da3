//! Native gRPC through a whole Bidiway.

use bytes::Bytes;
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tokio::net::TcpStream;

use crate::support::{
    edge::{BOTH, Edge, Http, edge, whole},
    raw::{self, RawConnection},
    upstream::{Exchange, Scripted, echo, end, message, send},
    within,
};

/// Begins a call over a connection of its own.
async fn call(edge: &Edge, headers: &[(&str, &str)]) -> (Response<RecvStream>, SendStream<Bytes>) {
    let io = TcpStream::connect(edge.address).await.unwrap();
    let (mut client, connection) = client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut request = edge.request("POST", "/chat.v1.Chat/Talk").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    (within(5, response).await.unwrap(), body)
}

#[tokio::test]
async fn a_conversation_passes_with_trailers_as_trailers() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let (response, mut request) = call(&edge, &[("content-type", "application/grpc+proto")]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut response = response.into_body();
    for round in 0..100_u32 {
        send(&mut request, message(&round.to_be_bytes())).await;
        let data = within(5, response.data()).await.unwrap().unwrap();
        response.flow_control().release_capacity(data.len()).unwrap();
        assert_eq!(data, message(&round.to_be_bytes()));
    }
    request.send_data(Bytes::new(), true).unwrap();
    assert!(within(5, response.data()).await.is_none());
    let trailers = response.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn a_failure_after_messages_keeps_them_and_its_trailers() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, message(b"1")).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "10".parse().unwrap());
        trailers.insert("x-left", "3".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let edge = edge(&upstream.url).await;
    let (response, _request) = call(&edge, &[("content-type", "application/grpc")]).await;
    let body = BodyExt::collect(H2Body(response.into_body())).await.unwrap();
    let trailers = body.trailers().unwrap().clone();
    assert_eq!((trailers["grpc-status"].as_bytes(), trailers["x-left"].as_bytes()), (&b"10"[..], &b"3"[..]));
    assert_eq!(body.to_bytes(), message(b"1"));
}

/// A connection that speaks HTTP/2 frame by frame.
async fn raw_client(edge: &Edge) -> RawConnection {
    let mut connection = RawConnection { io: TcpStream::connect(edge.address).await.unwrap() };
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    connection.write(&raw::settings_frame(&[])).await;
    connection
}

/// A whole unary request.
async fn raw_call(connection: &mut RawConnection, edge: &Edge, stream: u32, path: &str) {
    let authority = edge.address.to_string();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", &authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    connection.write(&raw::headers(stream, 0, &fields)).await;
    connection.write(&raw::message(stream, raw::END_STREAM, b"")).await;
}

/// A call can still come between the GOAWAY and the client's knowing of it.
#[tokio::test]
async fn a_call_that_comes_while_draining_is_served_as_are_those_that_run() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        while exchange.read().await.is_some() {}
        send(&mut stream, message(b"done")).await;
        end(&mut stream, 0);
    })
    .await;
    let mut edge = edge(&upstream.url).await;
    let mut connection = raw_client(&edge).await;
    let authority = edge.address.to_string();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/chat.v1.Chat/Talk"),
        (":authority", authority.as_str()),
        ("content-type", "application/grpc"),
    ];
    connection.write(&raw::headers(1, 0, &fields)).await;
    assert_eq!(within(5, connection.expect(raw::HEADERS)).await.stream, 1);
    edge.drain();
    within(5, connection.expect(raw::GOAWAY)).await;
    raw_call(&mut connection, &edge, 3, "/chat.v1.Chat/Talk").await;
    for kind in [raw::HEADERS, raw::DATA, raw::HEADERS] {
        let served = within(5, connection.expect(kind)).await;
        assert_eq!(served.stream, 3, "{served:?}");
    }
    assert_eq!(upstream.requests(), 2);
    connection.write(&raw::message(1, raw::END_STREAM, b"last words")).await;
    assert_eq!(within(5, connection.expect(raw::DATA)).await.payload, &message(b"done")[..]);
    assert!(within(5, connection.expect(raw::HEADERS)).await.ends_stream());
    let metrics = edge.metrics.encode();
    let counted = |line: &str| line.contains("\"OK\"") && line.contains("upstream") && line.ends_with(" 2");
    assert!(metrics.lines().any(counted), "{metrics}");
}

/// Clients tell a trailers-only answer by its END_STREAM; with an empty DATA frame behind them, the headers would be
/// initial metadata, and the status lost.
#[tokio::test]
async fn a_trailers_only_answer_is_one_frame() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let response =
            Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
        exchange.respond.send_response(response.body(()).unwrap(), true).unwrap();
    })
    .await;
    let edge = edge(&upstream.url).await;
    for path in ["/chat.v1.Chat/Talk", "/no-such-form"] {
        let mut connection = raw_client(&edge).await;
        raw_call(&mut connection, &edge, 1, path).await;
        let headers = within(5, connection.expect(raw::HEADERS)).await;
        assert!(headers.ends_stream(), "{path}: {headers:?}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_ok() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, message(b"cut off").slice(..9)).await;
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    let (response, _request) = call(&edge, &[("content-type", "application/grpc")]).await;
    let body = BodyExt::collect(H2Body(response.into_body())).await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "13");
}

#[tokio::test]
async fn native_grpc_over_http1_is_told_to_use_http2() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let request = edge.request("POST", "/chat.v1.Chat/Talk").header("content-type", "application/grpc");
    let response = edge.send(Http::One, request.body(whole(message(b""))).unwrap()).await;
    assert_eq!(response.status(), 505);
    assert_eq!(response.headers()["grpc-status"], "12");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"native gRPC needs HTTP/2"), "{text:?}");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_speak_native_grpc_either() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let headers = [("content-type", "application/grpc"), ("origin", "https://evil.example")];
    let (response, _request) = call(&edge, &headers).await;
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn grpc_is_post() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        for content_type in ["application/grpc-web", "application/grpc"] {
            let request = edge.request("PUT", "/chat.v1.Chat/Talk").header("content-type", content_type);
            let response = edge.send(version, request.body(whole(message(b""))).unwrap()).await;
            let native_over_http1 = version == Http::One && content_type == "application/grpc";
            let expected = if native_over_http1 { 505 } else { 405 };
            assert_eq!(response.status(), expected, "{version:?} {content_type}");
            assert_eq!(response.headers()["grpc-status"], "12");
        }
    }
    assert_eq!(upstream.requests(), 0);
}

/// An h2 body as `http_body` has it.
struct H2Body(RecvStream);

impl http_body::Body for H2Body {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, h2::Error>>> {
        if let Some(data) = std::task::ready!(self.0.poll_data(cx)) {
            return std::task::Poll::Ready(Some(data.map(http_body::Frame::data)));
        }
        let trailers = std::task::ready!(self.0.poll_trailers(cx));
        std::task::Poll::Ready(trailers.transpose().map(|trailers| trailers.map(http_body::Frame::trailers)))
    }
}
