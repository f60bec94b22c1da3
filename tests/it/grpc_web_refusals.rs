//! gRPC-Web calls that break a rule or a limit: each gets its code, whatever the HTTP version.

use bytes::Bytes;
use http_body_util::BodyExt;

use crate::{
    grpc_web::{TALK, call, trailers_only},
    support::{
        edge::{BOTH, Http, WebAnswer, edge, edge_with, open, settings, whole},
        upstream::{Exchange, Scripted, echo, end, message, send},
        within,
    },
};

#[tokio::test]
async fn a_request_that_is_no_grpc_is_refused_with_its_reason() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        while exchange.read().await.is_some() {}
        trailers_only(&mut exchange, &[("grpc-status", "0")]);
    })
    .await;
    let edge = edge(&upstream.url).await;
    let binary = "application/grpc-web";
    let text = "application/grpc-web-text";
    let cases: [(&str, &[u8], u32, &str); 6] = [
        (binary, b"\0\0\0\0\x05abc", 3, "2 bytes are missing"),
        (binary, b"\0\0\0", 3, "in the middle of a message"),
        (binary, b"\x80\0\0\0\0", 3, "flag byte 0x80"),
        (binary, b"\0\x7f\0\0\0abc", 8, "larger than the limit"),
        (text, b"AAAA AAA", 3, "offset 4"),
        (text, b"AAAAAAA", 3, "in the middle of a base64 quantum"),
    ];
    for version in BOTH {
        for (content_type, body, code, part) in cases {
            let request = edge.request("POST", TALK).header("content-type", content_type);
            let response = edge.send(version, request.body(whole(body)).unwrap()).await;
            let answer = within(5, WebAnswer::read(response)).await.unwrap();
            answer.assert_trailers_only(code, part);
            assert_eq!(answer.headers["bidiway-origin"], "proxy");
        }
    }
}

#[tokio::test]
async fn an_invalid_request_ends_a_call_that_already_answers() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let (sender, body) = open();
    let mut response = within(5, edge.send(Http::Two, edge.web(TALK).body(body).unwrap())).await;
    sender.send(message(b"good")).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    sender.send(Bytes::from_static(b"\x07bad")).await.unwrap();
    let answer = within(5, WebAnswer::read(response)).await.unwrap();
    let (code, sentence) = answer.status();
    assert_eq!(code, 3, "{sentence}");
    assert!(sentence.contains("flag byte 0x07"), "{sentence}");
}

#[tokio::test]
async fn a_large_upload_past_the_limit_still_learns_why() {
    let upstream = Scripted::start(echo).await;
    let mut small = settings();
    small.routes[0].max_message = 1000;
    let edge = edge_with(&upstream.url, small).await;
    for version in BOTH {
        let answer = within(10, call(&edge, version, message(&vec![0; 1 << 20]))).await;
        answer.assert_trailers_only(8, "1048576 bytes is larger than the limit of 1000 bytes");
    }
    assert_eq!(call(&edge, Http::One, message(&[0; 1000])).await.status().0, 0, "the limit itself passes");
}

#[tokio::test]
async fn a_response_message_past_the_limit_is_refused_behind_those_before_it() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, [message(b"fits"), message(&[0; 1001])].concat().into()).await;
        end(&mut stream, 0);
    })
    .await;
    let mut small = settings();
    small.routes[0].max_message = 1000;
    let edge = edge_with(&upstream.url, small).await;
    for version in BOTH {
        let answer = within(5, call(&edge, version, message(b""))).await;
        assert_eq!(answer.payloads(), [b"fits"]);
        let (code, sentence) = answer.status();
        assert_eq!(code, 8, "{sentence}");
    }
}

#[tokio::test]
async fn a_compressed_message_passes_with_its_flag() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let body: &[u8] = b"\x01\0\0\0\x03zip";
    assert_eq!(call(&edge, Http::One, body).await.messages, [(1, b"zip".to_vec())]);
}

#[tokio::test]
async fn methods_that_no_route_serves_are_unimplemented() {
    let upstream = Scripted::start(echo).await;
    let mut narrow = settings();
    narrow.routes[0].pattern = bidiway::downstream::ServicePattern::Service("chat.v1.Chat".into());
    let edge = edge_with(&upstream.url, narrow).await;
    for (path, part) in [
        ("/other.v1.Other/Talk", "no route serves /other.v1.Other/Talk"),
        ("/chat.v1.Chat/Talk/More", "is no gRPC method"),
        ("/", "is no gRPC method"),
    ] {
        let response = edge.send(Http::One, edge.web(path).body(whole(message(b""))).unwrap()).await;
        WebAnswer::read(response).await.unwrap().assert_trailers_only(12, part);
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn many_small_entries_of_metadata_pass_within_the_limit() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let mut request = edge.web(TALK);
        for number in 0..300 {
            request = request.header(format!("x-{number}"), "1");
        }
        let response = edge.send(version, request.body(whole(message(b"hi"))).unwrap()).await;
        assert_eq!(WebAnswer::read(response).await.unwrap().payloads(), [b"hi"], "{version:?}");
    }
}

#[tokio::test]
async fn metadata_past_the_limit_is_refused() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    for (version, size) in BOTH.into_iter().flat_map(|version| [(version, 17_000), (version, 50_000)]) {
        let request = edge.web(TALK).header("x-large", "a".repeat(size));
        let response = edge.send(version, request.body(whole(message(b""))).unwrap()).await;
        WebAnswer::read(response)
            .await
            .unwrap()
            .assert_trailers_only(8, "more than the limit of 16384 bytes");
    }
    assert_eq!(upstream.requests(), 0);
}
