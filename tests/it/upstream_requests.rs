//! How a request goes out: its headers, its flow control, its end, over hand-written HTTP/2 frames.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bidiway::{
    upstream::{Chunk, Received, Settings, Upstream},
    wire::{Code, Origin},
};
use bytes::Bytes;

use crate::{
    support::{
        calls::{answer, capacity, next, request, settings, upstream},
        raw::{
            self, CANCEL, DATA, MAX_CONCURRENT_STREAMS, RST_STREAM, RawConnection, RawServer, ok_headers,
            trailers,
        },
        within,
    },
    upstream_faults::{OK, capacity_now, open_call},
};

#[tokio::test]
async fn late_settings_hold_calls_back_until_the_limit_is_known() {
    let server = RawServer::bind().await;
    let settings = Settings { max_connections: 1, ..settings(&[&format!("http://{}", server.address)]) };
    let upstream = Upstream::new(Arc::new(settings));
    let (mut one, mut two) = (upstream.call(request()), upstream.call(request()));
    let mut io = RawConnection { io: server.accept().await };
    io.preface().await;
    // Before the server's SETTINGS no request may come, only the client's own SETTINGS and window.
    let early = async { while io.any_frame().await.unwrap().kind != raw::HEADERS {} };
    assert!(tokio::time::timeout(Duration::from_millis(100), early).await.is_err());
    io.write(&raw::settings_frame(&[(MAX_CONCURRENT_STREAMS, 1)])).await;
    let serve = async {
        let stream = io.request().await;
        io.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
    };
    let (first, second, ()) =
        within(5, async { tokio::join!(answer(&mut one), answer(&mut two), serve) }).await;
    first.assert(Origin::Upstream, Code::OK, "");
    second.assert(Origin::Proxy, Code::RESOURCE_EXHAUSTED, "\"chat\" is full: all 1 connections");
}

#[tokio::test]
async fn request_headers_go_out_at_once_and_wait_for_no_message() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let mut call = upstream.call(request());
    // Nobody polls the call.
    let mut connection = within(5, server.http2(&[])).await;
    let stream = within(5, connection.request()).await;
    connection.write(&ok_headers(stream)).await;
    assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)), "and so do the server's");
}

#[tokio::test]
async fn without_window_updates_the_sender_waits_and_goes_on_when_they_come() {
    let server = RawServer::bind().await;
    let (_upstream, mut call, mut connection, stream) = open_call(&server, &[]).await;
    let mut sent = 2;
    while let Some(may) = capacity_now(&mut call, 10_000).await {
        call.send(Chunk::plain(Bytes::from(vec![0; may])), false);
        sent += may;
    }
    assert_eq!(sent, 65_535, "the initial window, and not a byte more");
    let increment = 1000u32.to_be_bytes();
    connection.write(&raw::encode(raw::WINDOW_UPDATE, 0, 0, &increment)).await;
    connection.write(&raw::encode(raw::WINDOW_UPDATE, 0, stream, &increment)).await;
    assert_eq!(within(5, capacity(&mut call, 10_000)).await, 1000);
}

#[tokio::test]
async fn cancelling_resets_the_stream_even_behind_a_blocked_backlog() {
    let server = RawServer::bind().await;
    let (_upstream, mut call, mut connection, _) = open_call(&server, &[]).await;
    while let Some(may) = capacity_now(&mut call, 10_000).await {
        call.send(Chunk::plain(Bytes::from(vec![0; may])), false);
    }
    assert_eq!(capacity_now(&mut call, 1).await, None, "a backlog lies before the server's closed window");
    drop(call);
    assert_eq!(within(1, connection.expect(RST_STREAM)).await.payload, CANCEL.to_be_bytes());
}

#[tokio::test]
async fn either_half_dropped_early_cancels_the_call() {
    for drop_sender in [true, false] {
        let server = RawServer::bind().await;
        let (_upstream, call, mut connection, _) = open_call(&server, &[]).await;
        let (sender, mut receiver) = call.split();
        if drop_sender {
            drop(sender);
            let Received::End(outcome) = within(1, poll_fn(|cx| receiver.poll_receive(cx))).await else {
                panic!("nothing but the end can come")
            };
            assert_eq!((outcome.status.code, outcome.origin), (Code::CANCELLED, Origin::Client));
        } else {
            drop(receiver);
        }
        assert_eq!(within(1, connection.expect(RST_STREAM)).await.payload, CANCEL.to_be_bytes());
    }
}

#[tokio::test]
async fn a_finished_sender_may_be_dropped() {
    let server = RawServer::bind().await;
    let (_upstream, call, mut connection, stream) = open_call(&server, &[]).await;
    let (mut sender, mut receiver) = call.split();
    sender.finish();
    drop(sender);
    while !connection.expect(DATA).await.ends_stream() {}
    connection.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
    let mut receive = async || poll_fn(|cx| receiver.poll_receive(cx)).await;
    assert!(matches!(within(5, receive()).await, Received::Headers(_)));
    let Received::End(outcome) = within(5, receive()).await else { panic!("the end") };
    assert_eq!(outcome.status.code, Code::OK);
}

#[tokio::test]
async fn empty_pieces_are_never_sent_and_a_lone_finish_is_an_empty_last_frame() {
    let server = RawServer::bind().await;
    let (_upstream, mut call, mut connection, _) = open_call(&server, &[]).await;
    call.send(Chunk::plain(Bytes::new()), false);
    call.finish();
    let first = connection.expect(DATA).await;
    assert_eq!((first.payload.as_slice(), first.ends_stream()), (b"hi".as_slice(), false));
    let second = connection.expect(DATA).await;
    assert_eq!((second.payload.as_slice(), second.ends_stream()), (b"".as_slice(), true));
}

#[tokio::test]
async fn a_request_that_was_finished_before_it_was_connected_is_headers_alone() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let mut call = upstream.call(request());
    call.finish();
    let mut connection = server.http2(&[]).await;
    assert!(within(5, connection.expect(raw::HEADERS)).await.ends_stream());
}
