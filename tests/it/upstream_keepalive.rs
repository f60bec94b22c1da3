//! Pings that a server finds too many.

use std::{sync::Arc, time::Duration};

use bidiway::{
    telemetry::Metrics,
    upstream::{Roster, Settings, Upstream},
    wire::{Code, Origin},
};

use crate::support::{
    calls::{answer, request, settings},
    raw::{ACK, GOAWAY, PING, RawConnection, RawServer, encode, ok_headers, trailers},
    within,
};

/// Answers so many pings; returns the times between them.
async fn pings(connection: &mut RawConnection, count: usize) -> Vec<Duration> {
    let (mut times, mut last) = (Vec::new(), None);
    while times.len() < count {
        let frame = within(10, connection.any_frame()).await.unwrap();
        if (frame.kind, frame.flags) == (PING, 0) {
            let now = tokio::time::Instant::now();
            times.push(last.map_or(Duration::ZERO, |last| now - last));
            last = Some(now);
            connection.write(&encode(PING, ACK, 0, &frame.payload)).await;
        }
    }
    times
}

#[tokio::test]
async fn a_server_that_complains_of_pings_gets_half_as_many_on_the_next_connection() {
    let server = RawServer::bind().await;
    let keepalive = Duration::from_millis(60);
    let url = format!("http://{}", server.address);
    let metrics = Metrics::new();
    let settings = Settings { keepalive: Some(keepalive), ..settings(&[&url]) };
    let upstream = Upstream::of(&Roster::new(Arc::new(settings), &metrics));
    for round in 0..3 {
        let mut call = upstream.call(request());
        let mut connection = server.http2(&[]).await;
        let stream = connection.request().await;
        for (n, time) in pings(&mut connection, 3).await.into_iter().enumerate().skip(1) {
            // The clocks of timers and of this test are not one.
            let least = keepalive * (1 << round) - Duration::from_millis(5);
            assert!(time >= least, "round {round}, ping {n}: {time:?}");
        }
        // As grpc-go and C core say it: the call was seen, and is lost.
        let text = [&stream.to_be_bytes()[..], &11_u32.to_be_bytes(), b"too_many_pings"].concat();
        connection.write(&encode(GOAWAY, 0, 0, &text)).await;
        drop(connection);
        within(5, answer(&mut call)).await.assert(Origin::Proxy, Code::UNAVAILABLE, "too_many_pings");
        let line = format!("bidiway_upstream_keepalive_backoffs_total{{upstream=\"chat\"}} {}", round + 1);
        assert!(metrics.encode().lines().any(|l| l == line), "{line}");
    }
    // And calls go on.
    let mut call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = connection.request().await;
    connection.write(&[ok_headers(stream), trailers(stream, &[("grpc-status", "0")])].concat()).await;
    within(5, answer(&mut call)).await.assert(Origin::Upstream, Code::OK, "");
}

#[tokio::test]
async fn a_server_that_is_calm_for_another_reason_changes_nothing() {
    let server = RawServer::bind().await;
    let url = format!("http://{}", server.address);
    let metrics = Metrics::new();
    let upstream = Upstream::of(&Roster::new(Arc::new(settings(&[&url])), &metrics));
    let mut call = upstream.call(request());
    let mut connection = server.http2(&[]).await;
    let stream = connection.request().await;
    let text = [&stream.to_be_bytes()[..], &11_u32.to_be_bytes(), b"too_many_resets"].concat();
    connection.write(&encode(GOAWAY, 0, 0, &text)).await;
    drop(connection);
    within(5, answer(&mut call)).await.assert(Origin::Proxy, Code::UNAVAILABLE, "too_many_resets");
    let line = "bidiway_upstream_keepalive_backoffs_total{upstream=\"chat\"} 0";
    assert!(metrics.encode().lines().any(|l| l == line), "{line}");
}
