//! What a call makes of servers that misbehave, break off or answer in odd ways, over hand-written HTTP/2 frames.

use std::{future::poll_fn, task::Poll, time::Duration};

use bidiway::{
    upstream::{Call, Chunk, Received, Upstream},
    wire::{Code, Origin},
};
use bytes::Bytes;

use crate::support::{
    calls::{Answer, answer, capacity, next, request, request_with_timeout, send, unary, upstream},
    raw::{
        CANCEL, DATA, END_STREAM, INITIAL_WINDOW_SIZE, NO_ERROR, REFUSED_STREAM, RST_STREAM, RawConnection,
        RawServer, data, goaway, headers, message, ok_headers, rst_stream, trailers,
    },
    upstream::{Scripted, end},
    within,
};

/// A server that waits for one request, with its message, and then writes what `script` makes of its stream.
async fn answered_with(script: impl FnOnce(u32) -> Vec<u8>) -> Answer {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let serve = async {
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        while !connection.expect(DATA).await.ends_stream() {}
        connection.write(&script(stream)).await;
        connection
    };
    let (answer, _connection) = within(5, async { tokio::join!(unary(&upstream, b"hi"), serve) }).await;
    answer
}

/// Opens a call that has sent one message and goes on, on a fresh connection.
pub(crate) async fn open_call(
    server: &RawServer,
    settings: &[(u16, u32)],
) -> (Upstream, Call, RawConnection, u32) {
    let upstream = upstream(&format!("http://{}", server.address));
    let mut call = upstream.call(request());
    let serve = async {
        let mut connection = server.http2(settings).await;
        let stream = connection.request().await;
        (connection, stream)
    };
    let ((connection, stream), sent) = tokio::join!(serve, send(&mut call, Bytes::from_static(b"hi"), false));
    assert!(sent);
    (upstream, call, connection, stream)
}

pub(crate) const OK: &[(&str, &str)] = &[("grpc-status", "0"), ("t", "1")];

#[tokio::test]
async fn a_proper_answer_comes_back_as_headers_data_and_the_servers_status() {
    let answer = answered_with(|s| {
        let end = trailers(s, &[("grpc-status", "5"), ("grpc-message", "no%20such"), ("extra-bin", "AAEC")]);
        [ok_headers(s), message(s, 0, b"hello"), end].concat()
    })
    .await;
    answer.assert(Origin::Upstream, Code::NOT_FOUND, "no such");
    assert_eq!(answer.headers.unwrap()["initial"], "yes");
    assert_eq!(answer.body, b"\0\0\0\0\x05hello");
    assert_eq!(answer.outcome.trailers["extra-bin"], "AAEC");
    assert!(!answer.outcome.trailers.contains_key("grpc-status"));
}

#[tokio::test]
async fn a_trailers_only_answer_is_nothing_but_its_end() {
    let answer = answered_with(|s| {
        headers(
            s,
            END_STREAM,
            &[
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", "7"),
                ("grpc-message", "no"),
                ("why", "x"),
            ],
        )
    })
    .await;
    answer.assert(Origin::Upstream, Code::PERMISSION_DENIED, "no");
    assert!(answer.headers.is_none());
    assert_eq!(answer.outcome.trailers["why"], "x");
    assert!(!answer.outcome.trailers.contains_key("content-type"));
}

#[tokio::test]
async fn a_status_in_headers_counts_when_an_empty_frame_ends_the_stream() {
    let first =
        [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "7"), ("why", "x")];
    let answer = answered_with(|s| [headers(s, 0, &first), data(s, END_STREAM, b"")].concat()).await;
    answer.assert(Origin::Upstream, Code::PERMISSION_DENIED, "");
    assert!(answer.headers.is_none());
    assert_eq!(answer.outcome.trailers["why"], "x");
}

#[tokio::test]
async fn trailers_win_over_a_status_in_headers() {
    let first =
        [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0"), ("why", "x")];
    let with_data = answered_with(|s| {
        [headers(s, 0, &first), message(s, 0, b"m"), trailers(s, &[("grpc-status", "9")])].concat()
    })
    .await;
    with_data.assert(Origin::Upstream, Code::FAILED_PRECONDITION, "");
    assert_eq!(with_data.headers.unwrap()["why"], "x");
    assert_eq!(with_data.body, b"\0\0\0\0\x01m");
    let without =
        answered_with(|s| [headers(s, 0, &first), trailers(s, &[("grpc-status", "9")])].concat()).await;
    without.assert(Origin::Upstream, Code::FAILED_PRECONDITION, "");
    assert_eq!(without.headers.unwrap()["why"], "x");
}

#[tokio::test]
async fn an_ok_in_headers_is_not_believed_when_the_stream_then_breaks() {
    let first = |status| [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", status)];
    let answer = answered_with(|s| [headers(s, 0, &first("0")), rst_stream(s, CANCEL)].concat()).await;
    answer.assert(Origin::Proxy, Code::CANCELLED, "CANCEL");
    let answer = answered_with(|s| [headers(s, 0, &first("3")), rst_stream(s, CANCEL)].concat()).await;
    answer.assert(Origin::Upstream, Code::INVALID_ARGUMENT, "");
}

#[tokio::test]
async fn an_end_without_trailers_is_internal() {
    let answer = answered_with(|s| [ok_headers(s), message(s, END_STREAM, b"m")].concat()).await;
    answer.assert(Origin::Proxy, Code::INTERNAL, "without trailers");
    assert_eq!(answer.body.len(), 6);
}

#[tokio::test]
async fn trailers_without_a_status_are_unknown_and_keep_their_metadata() {
    let answer = answered_with(|s| [ok_headers(s), trailers(s, &[("t", "1")])].concat()).await;
    answer.assert(Origin::Proxy, Code::UNKNOWN, "no grpc-status");
    assert_eq!(answer.outcome.trailers["t"], "1");
}

#[tokio::test]
async fn headers_that_end_the_stream_without_a_status_are_unknown() {
    let first = [(":status", "200"), ("content-type", "application/grpc")];
    let answer = answered_with(|s| headers(s, END_STREAM, &first)).await;
    answer.assert(Origin::Proxy, Code::UNKNOWN, "no grpc-status");
}

#[tokio::test]
async fn a_status_that_is_no_number_is_unknown() {
    let answer = answered_with(|s| [ok_headers(s), trailers(s, &[("grpc-status", "fine")])].concat()).await;
    assert_eq!(answer.code(), Code::UNKNOWN);
}

#[tokio::test]
async fn http_errors_become_the_codes_of_the_grpc_document_and_quote_the_body() {
    let html = "<html>\n<h1>upstream connect error</h1></html>";
    for (status, code) in [
        ("400", Code::INTERNAL),
        ("401", Code::UNAUTHENTICATED),
        ("403", Code::PERMISSION_DENIED),
        ("404", Code::UNIMPLEMENTED),
        ("429", Code::UNAVAILABLE),
        ("502", Code::UNAVAILABLE),
        ("503", Code::UNAVAILABLE),
        ("504", Code::UNAVAILABLE),
        ("302", Code::UNKNOWN),
    ] {
        let answer = answered_with(|s| {
            let first = headers(s, 0, &[(":status", status), ("content-type", "text/html")]);
            [first, data(s, END_STREAM, html.as_bytes())].concat()
        })
        .await;
        answer.assert(Origin::Proxy, code, &format!("HTTP status {status}"));
        assert!(answer.message().ends_with("<html> <h1>upstream connect error</h1></html>"), "{answer:?}");
        assert!(answer.headers.is_none() && answer.body.is_empty());
    }
}

#[tokio::test]
async fn an_endless_error_page_is_cut_off_and_reset() {
    let server = RawServer::bind().await;
    let (_upstream, mut call, mut connection, stream) = open_call(&server, &[]).await;
    let first = headers(stream, 0, &[(":status", "503"), ("content-type", "text/plain")]);
    connection.write(&[first, data(stream, 0, &[b'x'; 16_000])].concat()).await;
    let answer = within(5, answer(&mut call)).await;
    answer.assert(Origin::Proxy, Code::UNAVAILABLE, "503");
    assert!(answer.message().len() < 400);
    assert_eq!(within(5, connection.expect(RST_STREAM)).await.payload, CANCEL.to_be_bytes());
}

#[tokio::test]
async fn a_grpc_status_counts_whatever_the_http_status_is() {
    let answer = answered_with(|s| headers(s, END_STREAM, &[(":status", "503"), ("grpc-status", "8")])).await;
    answer.assert(Origin::Upstream, Code::RESOURCE_EXHAUSTED, "");
}

#[tokio::test]
async fn an_answer_that_is_not_grpc_is_unknown_and_names_its_content_type() {
    for content_type in ["text/html", "application/grpc-web+proto", "application/json"] {
        let answer = answered_with(|s| {
            let first = headers(s, 0, &[(":status", "200"), ("content-type", content_type)]);
            [first, data(s, END_STREAM, b"hello")].concat()
        })
        .await;
        answer.assert(Origin::Proxy, Code::UNKNOWN, content_type);
    }
    let answer = answered_with(|s| headers(s, 0, &[(":status", "200")])).await;
    answer.assert(Origin::Proxy, Code::UNKNOWN, "no content-type");
}

#[tokio::test]
async fn content_types_with_a_format_or_parameters_are_grpc() {
    for content_type in ["application/grpc+json", "application/grpc; charset=utf-8", "Application/GRPC"] {
        let answer = answered_with(|s| {
            [headers(s, 0, &[(":status", "200"), ("content-type", content_type)]), trailers(s, OK)].concat()
        })
        .await;
        answer.assert(Origin::Upstream, Code::OK, "");
        assert_eq!(answer.headers.unwrap()["content-type"], content_type);
    }
}

#[tokio::test]
async fn a_reset_becomes_the_code_of_the_grpc_document() {
    for (error, code) in [
        (NO_ERROR, Code::INTERNAL),
        (1, Code::INTERNAL),
        (REFUSED_STREAM, Code::UNAVAILABLE),
        (CANCEL, Code::CANCELLED),
        (11, Code::RESOURCE_EXHAUSTED),
        (12, Code::PERMISSION_DENIED),
    ] {
        let after_a_message =
            answered_with(|s| [ok_headers(s), message(s, 0, b"one"), rst_stream(s, error)].concat()).await;
        after_a_message.assert(Origin::Proxy, code, "reset the stream");
        assert_eq!(after_a_message.body, b"\0\0\0\0\x03one", "what came before the reset is delivered");
        if error != REFUSED_STREAM {
            let at_once = answered_with(|s| rst_stream(s, error)).await;
            at_once.assert(Origin::Proxy, code, "reset the stream");
        }
    }
}

#[tokio::test]
async fn a_reset_after_the_end_spoils_nothing() {
    for error in [NO_ERROR, CANCEL, 2] {
        let whole = |s| [ok_headers(s), message(s, 0, b"m"), trailers(s, OK), rst_stream(s, error)].concat();
        let answer = answered_with(whole).await;
        answer.assert(Origin::Upstream, Code::OK, "");
        assert_eq!(answer.outcome.trailers["t"], "1");
        let first = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")];
        let only = answered_with(|s| [headers(s, END_STREAM, &first), rst_stream(s, error)].concat()).await;
        only.assert(Origin::Upstream, Code::OK, "");
    }
}

#[tokio::test]
async fn an_early_end_stops_the_sender_and_keeps_the_outcome() {
    let server = RawServer::bind().await;
    // No window for data: the request can never be sent whole.
    let (_upstream, mut call, mut connection, stream) = open_call(&server, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    while capacity_now(&mut call, 1000).await.is_some_and(|may| {
        call.send(Chunk::plain(Bytes::from(vec![0; may])), false);
        true
    }) {}
    let end = [ok_headers(stream), trailers(stream, OK), rst_stream(stream, NO_ERROR)].concat();
    connection.write(&end).await;
    assert_eq!(within(5, capacity(&mut call, 1)).await, 0, "a waiting sender is told");
    within(5, answer(&mut call)).await.assert(Origin::Upstream, Code::OK, "");
    assert_eq!(capacity(&mut call, 1).await, 0);
}

#[tokio::test]
async fn an_early_end_without_a_reset_makes_us_reset_with_no_error() {
    let server = RawServer::bind().await;
    let (_upstream, mut call, mut connection, stream) = open_call(&server, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    connection.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
    within(5, answer(&mut call)).await.assert(Origin::Upstream, Code::OK, "");
    assert_eq!(capacity(&mut call, 1).await, 0);
    assert_eq!(within(5, connection.expect(RST_STREAM)).await.payload, NO_ERROR.to_be_bytes());
}

#[tokio::test]
async fn a_finished_request_that_the_server_never_reads_is_not_left_behind() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let serve = async {
        let mut connection = server.http2(&[(INITIAL_WINDOW_SIZE, 0)]).await;
        let stream = connection.request().await;
        connection.write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "16")])].concat()).await;
        assert_eq!(connection.expect(RST_STREAM).await.payload, NO_ERROR.to_be_bytes());
    };
    let (answer, ()) = within(5, async { tokio::join!(unary(&upstream, b"unread"), serve) }).await;
    answer.assert(Origin::Upstream, Code::UNAUTHENTICATED, "");
}

/// Capacity that is there without waiting for the server.
pub(crate) async fn capacity_now(call: &mut Call, want: usize) -> Option<usize> {
    let mut turns = 0;
    poll_fn(|cx| match call.poll_capacity(cx, want) {
        Poll::Ready(may) => Poll::Ready(Some(may).filter(|may| *may > 0)),
        // The connection's task gets a few turns to answer.
        Poll::Pending if turns < 50 => {
            turns += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_goaway_above_our_stream_lets_the_call_finish_and_takes_no_new_one() {
    let server = RawServer::bind().await;
    let (upstream, mut call, mut old, stream) = open_call(&server, &[]).await;
    old.write(&[ok_headers(stream), goaway(stream, NO_ERROR)].concat()).await;
    assert!(matches!(within(5, next(&mut call)).await, Received::Headers(_)));
    let second = async {
        let mut new = server.http2(&[]).await;
        let stream = new.request().await;
        new.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
        new
    };
    let (answer_2, _new) = within(5, async { tokio::join!(unary(&upstream, b"2"), second) }).await;
    answer_2.assert(Origin::Upstream, Code::OK, "");
    old.write(&[message(stream, 0, b"still"), trailers(stream, &[("grpc-status", "10")])].concat()).await;
    let Received::Data(bytes) = within(5, next(&mut call)).await else { panic!("the old call goes on") };
    assert_eq!(&bytes[5..], b"still");
    let Received::End(outcome) = within(5, next(&mut call)).await else { panic!("and ends") };
    assert_eq!(outcome.status.code, Code::ABORTED);
    within(5, old.closed()).await;
}

#[tokio::test]
async fn a_call_that_a_goaway_leaves_out_is_sent_again_elsewhere() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let serve = async {
        let mut old = server.http2(&[]).await;
        let stream = old.request().await;
        old.write(&goaway(stream - 1, NO_ERROR)).await;
        let mut new = server.http2(&[]).await;
        let stream = new.request().await;
        let request = new.expect(DATA).await;
        assert_eq!(request.payload, b"\0\0\0\0\x05again");
        assert!(request.ends_stream());
        new.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
        (old, new)
    };
    let (answer, _connections) = within(5, async { tokio::join!(unary(&upstream, b"again"), serve) }).await;
    answer.assert(Origin::Upstream, Code::OK, "");
}

#[tokio::test]
async fn a_call_left_out_by_a_goaway_after_too_much_was_sent_is_unavailable() {
    let server = RawServer::bind().await;
    let (_upstream, mut call, mut connection, stream) = open_call(&server, &[]).await;
    within(5, send(&mut call, Bytes::from(vec![0; 40_000]), false)).await;
    connection.write(&goaway(stream - 1, NO_ERROR)).await;
    let answer = within(5, answer(&mut call)).await;
    answer.assert(Origin::Proxy, Code::UNAVAILABLE, "GOAWAY");
}

#[tokio::test]
async fn a_refused_stream_is_tried_again_and_not_for_ever() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let serve = async {
        let mut connection = server.http2(&[]).await;
        for round in 0..6 {
            let stream = connection.request().await;
            if round == 1 {
                connection.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
            } else {
                connection.write(&rst_stream(stream, REFUSED_STREAM)).await;
            }
        }
        connection
    };
    let calls = async {
        unary(&upstream, b"1").await.assert(Origin::Upstream, Code::OK, "");
        unary(&upstream, b"2").await.assert(Origin::Proxy, Code::UNAVAILABLE, "REFUSED_STREAM");
    };
    within(5, async { tokio::join!(serve, calls) }).await;
}

#[tokio::test]
async fn a_lost_connection_is_unavailable_for_each_of_its_calls() {
    let server = RawServer::bind().await;
    let (upstream, mut one, mut connection, stream) = open_call(&server, &[]).await;
    let mut two = upstream.call(request());
    connection.request().await;
    connection.write(&[ok_headers(stream), message(stream, 0, b"m")].concat()).await;
    assert!(matches!(within(5, next(&mut one)).await, Received::Headers(_)));
    drop(connection);
    let Received::Data(_) = within(5, next(&mut one)).await else { panic!("what came is delivered") };
    let Received::End(outcome) = within(5, next(&mut one)).await else { panic!("and then the end") };
    assert_eq!((outcome.status.code, outcome.origin), (Code::UNAVAILABLE, Origin::Proxy), "{outcome:?}");
    within(5, answer(&mut two)).await.assert(
        Origin::Proxy,
        Code::UNAVAILABLE,
        "connection to the server was lost",
    );
}

#[tokio::test]
async fn garbage_instead_of_frames_is_unavailable() {
    let server = RawServer::bind().await;
    let (_upstream, mut call, mut connection, _) = open_call(&server, &[]).await;
    connection.write(b"\xff\xff\xff HTTP/1.1 500 Internal Server Error\r\n\r\n").await;
    within(5, answer(&mut call)).await.assert(Origin::Proxy, Code::UNAVAILABLE, "lost");
}

#[tokio::test]
async fn headers_and_then_silence_last_until_the_deadline_and_reset_the_stream() {
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let mut call = upstream.call(request_with_timeout(Duration::from_millis(300)));
    call.finish();
    let serve = async {
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        connection.write(&ok_headers(stream)).await;
        connection.expect(RST_STREAM).await.payload
    };
    let (answer, reset) = within(5, async { tokio::join!(answer(&mut call), serve) }).await;
    answer.assert(Origin::Proxy, Code::DEADLINE_EXCEEDED, "deadline");
    assert!(answer.headers.is_some());
    assert_eq!(reset, CANCEL.to_be_bytes());
}

#[tokio::test]
async fn a_server_that_keeps_the_deadline_itself_and_calls_it_cancelled_is_understood() {
    let server = Scripted::start(|mut exchange| async move {
        let value = exchange.request.headers()["grpc-timeout"].as_bytes();
        let left = bidiway::wire::timeout::decode(value).unwrap();
        let mut stream = exchange.headers();
        // As a service does whose own timer fires: the proxy's fires at the same moment, before or after.
        tokio::time::sleep(left).await;
        end(&mut stream, Code::CANCELLED.0);
    })
    .await;
    let upstream = upstream(&server.url);
    for _ in 0..10 {
        let mut call = upstream.call(request_with_timeout(Duration::from_millis(20)));
        call.finish();
        within(5, answer(&mut call)).await.assert(Origin::Proxy, Code::DEADLINE_EXCEEDED, "deadline");
    }
}

#[tokio::test]
async fn sixty_four_kibibytes_of_trailers_arrive_in_continuation_frames() {
    let value = "v".repeat(16_000);
    let names: Vec<String> = (0..4).map(|n| format!("details-{n}")).collect();
    let mut fields = vec![("grpc-status", "2")];
    fields.extend(names.iter().map(|name| (name.as_str(), value.as_str())));
    let answer = answered_with(|s| [ok_headers(s), trailers(s, &fields)].concat()).await;
    answer.assert(Origin::Upstream, Code::UNKNOWN, "");
    for name in &names {
        assert_eq!(answer.outcome.trailers[name.as_str()], value);
    }
}

#[tokio::test]
async fn headers_and_trailers_beyond_the_limit_fail_the_call_and_not_the_connection() {
    let value = "v".repeat(30_000);
    let big = ["a", "b", "c", "d"].map(|name| (name, value.as_str()));
    let server = RawServer::bind().await;
    let (upstream, mut call, mut connection, stream) = open_call(&server, &[]).await;
    let first = [&[(":status", "200"), ("content-type", "application/grpc")], big.as_slice()].concat();
    connection.write(&headers(stream, 0, &first)).await;
    let answer = within(5, answer(&mut call)).await;
    answer.assert(Origin::Proxy, Code::RESOURCE_EXHAUSTED, "headers of 12");
    assert_eq!(within(5, connection.expect(RST_STREAM)).await.payload, CANCEL.to_be_bytes());
    let serve = async {
        let stream = connection.request().await;
        let last = [&[("grpc-status", "0")], big.as_slice()].concat();
        connection.write(&[ok_headers(stream), trailers(stream, &last)].concat()).await;
        let stream = connection.request().await;
        connection.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
    };
    let calls = async {
        let answer = unary(&upstream, b"2").await;
        answer.assert(Origin::Proxy, Code::RESOURCE_EXHAUSTED, "limit of 65536 bytes");
        unary(&upstream, b"3").await.assert(Origin::Upstream, Code::OK, "");
    };
    within(5, async { tokio::join!(calls, serve) }).await;
}

#[tokio::test]
async fn an_answer_that_is_not_valid_http2_fails_the_call_and_not_the_connection() {
    let first = [(":status", "200"), ("content-type", "application/grpc"), ("connection", "keep-alive")];
    let answer = answered_with(|s| headers(s, 0, &first)).await;
    answer.assert(Origin::Proxy, Code::INTERNAL, "not valid HTTP/2: PROTOCOL_ERROR (0x1)");
}

#[tokio::test]
async fn a_response_may_be_split_at_every_byte() {
    let whole = |s| {
        let end = trailers(s, &[("grpc-status", "0"), ("t", "1")]);
        [ok_headers(s), message(s, 0, b"hello"), message(s, 0, b""), end].concat()
    };
    let server = RawServer::bind().await;
    let upstream = upstream(&format!("http://{}", server.address));
    let len = whole(1).len();
    let serve = async {
        let mut connection = server.http2(&[]).await;
        // Each cut once, and then all of them.
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
    };
    let calls = async {
        for cut in 1..=len {
            let answer = unary(&upstream, b"hi").await;
            answer.assert(Origin::Upstream, Code::OK, "");
            assert_eq!(answer.body, b"\0\0\0\0\x05hello\0\0\0\0\0", "cut at {cut}");
            assert_eq!(answer.headers.unwrap()["initial"], "yes", "cut at {cut}");
            assert_eq!(answer.outcome.trailers["t"], "1", "cut at {cut}");
        }
    };
    within(20, async { tokio::join!(serve, calls) }).await;
}
