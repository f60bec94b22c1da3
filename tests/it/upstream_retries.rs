//! Which calls are sent again, how often, and what is said and counted when one is not.

use std::{sync::Arc, time::Duration};

use bidiway::{
    telemetry::Metrics,
    upstream::{Retries, Roster, Settings, Upstream},
    wire::{Code, Origin},
};
use futures_util::FutureExt;

use crate::support::{
    calls::{Answer, answer, request, request_with_timeout, send, settings, unary},
    raw::{DATA, NO_ERROR, REFUSED_STREAM, RawServer, goaway, ok_headers, rst_stream, trailers},
    upstream::message,
    within,
};

const OK: &[(&str, &str)] = &[("grpc-status", "0")];

/// An upstream with these retries, and the metrics that count it.
fn counted(server: &RawServer, retries: Option<Retries>) -> (Upstream, Arc<Metrics>) {
    let settings = Settings { retries, ..settings(&[&format!("http://{}", server.address)]) };
    let metrics = Metrics::new();
    (Upstream::of(&Roster::new(Arc::new(settings), &metrics)), metrics)
}

#[track_caller]
fn assert_counted(metrics: &Metrics, family: &str, reason: &str, count: u64) {
    let line = format!("bidiway_upstream_{family}_total{{upstream=\"chat\",reason=\"{reason}\"}} {count}");
    let text = metrics.encode();
    assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
}

/// The answer of a unary call to a server that refuses every stream, and how often it came.
async fn refused(retries: Option<Retries>) -> (Answer, usize, Arc<Metrics>) {
    let server = RawServer::bind().await;
    let (upstream, metrics) = counted(&server, retries);
    let mut attempts = 0;
    let serve = async {
        let mut connection = server.http2(&[]).await;
        loop {
            let stream = connection.request().await;
            attempts += 1;
            connection.write(&rst_stream(stream, REFUSED_STREAM)).await;
        }
    };
    let answer = within(5, async {
        tokio::select! { answer = unary(&upstream, b"x") => answer, () = serve => unreachable!() }
    })
    .await;
    (answer, attempts, metrics)
}

#[tokio::test]
async fn a_call_is_tried_as_often_as_is_allowed() {
    for attempts in [1, 2, 6] {
        let (answer, tried, metrics) = refused(Some(Retries { attempts, ..Retries::default() })).await;
        let text = format!("REFUSED_STREAM (0x7); not sent again: this was attempt {attempts}");
        answer.assert(Origin::Proxy, Code::UNAVAILABLE, &text);
        assert_eq!(tried, attempts);
        assert_counted(&metrics, "retries", "refused_stream", attempts as u64 - 1);
        assert_counted(&metrics, "retries_denied", "attempts", 1);
    }
}

#[tokio::test]
async fn without_retries_a_refused_call_fails() {
    let (answer, tried, metrics) = refused(None).await;
    answer.assert(Origin::Proxy, Code::UNAVAILABLE, "not sent again: the upstream's retries are off");
    assert_eq!(tried, 1);
    assert_counted(&metrics, "retries_denied", "off", 1);
}

#[tokio::test]
async fn a_budget_that_is_used_up_ends_retries_until_there_are_more_calls() {
    let server = RawServer::bind().await;
    let retries = Retries { budget: 50, per_second: 0, attempts: 2 };
    let (upstream, metrics) = counted(&server, Some(retries));
    let serve = async {
        let mut connection = server.http2(&[]).await;
        loop {
            let stream = connection.request().await;
            let end = connection.expect(DATA).await;
            let reply = match end.payload[5] {
                b'r' => rst_stream(stream, REFUSED_STREAM),
                _ => [ok_headers(stream), trailers(stream, OK)].concat(),
            };
            connection.write(&reply).await;
        }
    };
    let calls = async {
        for _ in 0..4 {
            unary(&upstream, b"ok").await.assert(Origin::Upstream, Code::OK, "");
        }
        // Of 4 calls and these 4, half; of 9, no more.
        for _ in 0..4 {
            let answer = unary(&upstream, b"refused").await;
            answer.assert(Origin::Proxy, Code::UNAVAILABLE, "this was attempt 2");
        }
        let answer = unary(&upstream, b"refused").await;
        let text = "not sent again: 50% of the upstream's recent calls were, and 0 a second";
        answer.assert(Origin::Proxy, Code::UNAVAILABLE, text);
        assert_counted(&metrics, "retries", "refused_stream", 4);
        assert_counted(&metrics, "retries_denied", "budget", 1);
        unary(&upstream, b"ok").await;
        unary(&upstream, b"refused").await;
        assert_counted(&metrics, "retries", "refused_stream", 5);
    };
    within(5, async {
        tokio::select! { () = calls => {}, () = serve => {} }
    })
    .await;
}

#[tokio::test]
async fn the_deadline_ends_a_call_that_is_sent_again_and_again() {
    let server = RawServer::bind().await;
    let retries = Retries { budget: 100, per_second: 1000, attempts: 1000 };
    let (upstream, _) = counted(&server, Some(retries));
    let mut call = upstream.call(request_with_timeout(Duration::from_millis(200)));
    let serve = async {
        let mut connection = server.http2(&[]).await;
        loop {
            let stream = connection.request().await;
            connection.write(&rst_stream(stream, REFUSED_STREAM)).await;
        }
    };
    let answer = within(5, async {
        tokio::select! { answer = answer(&mut call) => answer, () = serve => unreachable!() }
    })
    .await;
    answer.assert(Origin::Proxy, Code::DEADLINE_EXCEEDED, "deadline");
}

#[tokio::test]
async fn a_call_whose_headers_were_never_written_is_sent_again_even_without_retries() {
    let server = RawServer::bind().await;
    let (upstream, metrics) = counted(&server, None);
    let first = async {
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        connection.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
        connection
    };
    let (answer_1, connection) = within(5, async { tokio::join!(unary(&upstream, b"1"), first) }).await;
    answer_1.assert(Origin::Upstream, Code::OK, "");
    // The server hangs up; before the proxy's side of the connection hears of it, there is a call.
    drop(connection);
    let mut call = upstream.call(request());
    assert!(send(&mut call, message(b"again"), true).now_or_never().is_some());
    let second = async {
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        assert_eq!(connection.expect(DATA).await.payload, message(b"again"));
        connection.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
        connection
    };
    let (answer_2, _connection) = within(5, async { tokio::join!(answer(&mut call), second) }).await;
    answer_2.assert(Origin::Upstream, Code::OK, "");
    assert_counted(&metrics, "retries", "unsent", 1);
}

#[tokio::test]
async fn a_call_that_was_written_is_not_sent_again_when_the_connection_is_lost() {
    let server = RawServer::bind().await;
    let (upstream, metrics) = counted(&server, Some(Retries::default()));
    let serve = async {
        let mut connection = server.http2(&[]).await;
        connection.request().await;
    };
    let (answer, ()) = within(5, async { tokio::join!(unary(&upstream, b"once"), serve) }).await;
    answer.assert(Origin::Proxy, Code::UNAVAILABLE, "the connection to the server was lost");
    for reason in ["refused_stream", "goaway", "unsent", "connect"] {
        assert_counted(&metrics, "retries", reason, 0);
    }
}

#[tokio::test]
async fn a_goaway_is_heard_although_the_server_hangs_up_with_requests_unread() {
    let server = RawServer::bind().await;
    let (upstream, metrics) = counted(&server, Some(Retries::default()));
    let serve = async {
        let mut old = server.http2(&[]).await;
        let stream = old.request().await;
        old.write(&goaway(stream - 1, NO_ERROR)).await;
        // The request's DATA is not read: the kernel resets the connection behind the GOAWAY.
        drop(old);
        let mut new = server.http2(&[]).await;
        let stream = new.request().await;
        new.write(&[ok_headers(stream), trailers(stream, OK)].concat()).await;
        new
    };
    let (answer, _new) = within(5, async { tokio::join!(unary(&upstream, &[7; 10_000]), serve) }).await;
    answer.assert(Origin::Upstream, Code::OK, "");
    assert_counted(&metrics, "retries", "goaway", 1);
}

#[tokio::test]
async fn a_request_of_which_more_was_sent_than_is_kept_is_not_sent_again() {
    let server = RawServer::bind().await;
    let (upstream, metrics) = counted(&server, Some(Retries::default()));
    let serve = async {
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        while !connection.expect(DATA).await.ends_stream() {}
        connection.write(&rst_stream(stream, REFUSED_STREAM)).await;
        connection
    };
    let (answer, _c) = within(5, async { tokio::join!(unary(&upstream, &[7; 20_000]), serve) }).await;
    let text = "REFUSED_STREAM (0x7); not sent again: more than 16 KiB of the request were sent";
    answer.assert(Origin::Proxy, Code::UNAVAILABLE, text);
    assert_counted(&metrics, "retries_denied", "sent", 1);
}
