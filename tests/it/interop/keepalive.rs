//! Servers with strict policies, and servers that end old connections: grpc-go and gRPC's C core, as they are.

use std::{sync::Arc, time::Duration};

use bidiway::{
    demo::v1::{Payload, lab_client::LabClient},
    telemetry::Metrics,
    upstream::{Call, Received, Request, Roster, Settings, Upstream},
    wire::Code,
};
use tokio::process::Command;

use super::process::{Process, go_server, path};
use crate::support::{
    calls::{next, request, send, settings},
    upstream::message,
    within,
};

/// A kind of server.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Go,
    Core,
}

/// A server that takes offence at pings less than this after each other, or that ends connections of this age.
#[derive(Clone, Copy, Debug)]
enum Policy {
    LeastPing(Duration),
    GreatestAge(Duration),
}

impl Kind {
    async fn start(self, policy: Policy) -> Process {
        let mut command;
        let ms = match policy {
            Policy::LeastPing(time) | Policy::GreatestAge(time) => time.as_millis(),
        };
        match self {
            Self::Go => {
                command = Command::new(go_server().await);
                let flag = match policy {
                    Policy::LeastPing(_) => "-min-ping",
                    Policy::GreatestAge(_) => "-max-age",
                };
                command.args(["-address", "127.0.0.1:0", flag]).arg(format!("{ms}ms"));
            }
            Self::Core => {
                command = Command::new(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
                let name = match policy {
                    Policy::LeastPing(_) => "grpc.http2.min_ping_interval_without_data_ms",
                    Policy::GreatestAge(_) => "grpc.max_connection_age_ms",
                };
                let server = path("examples/python-grpcio/server.py");
                command
                    .arg(server)
                    .args(["--address", "127.0.0.1:0", "--option"])
                    .arg(format!("{name}={ms}"));
            }
        }
        Process::start(command).await
    }
}

fn before(server: &Process, keepalive: Duration) -> (Upstream, Arc<Metrics>) {
    let url = format!("http://{}", server.address);
    let metrics = Metrics::new();
    let settings = Settings { keepalive: Some(keepalive), ..settings(&[&url]) };
    (Upstream::of(&Roster::new(Arc::new(settings), &metrics)), metrics)
}

/// A call on which the server says nothing.
async fn silent(upstream: &Upstream) -> Call {
    let path = http::uri::PathAndQuery::from_static("/demo.v1.Lab/Wait");
    let mut call = upstream.call(Request { path, ..request() });
    assert!(send(&mut call, message(b""), true).await);
    call
}

/// Whether the call still runs after this time.
async fn lasts(call: &mut Call, time: Duration) -> bool {
    match tokio::time::timeout(time, next(call)).await {
        Err(_) => true,
        Ok(Received::End(outcome)) => {
            // C core ends its calls with a status of its own before it ends the connection.
            assert_eq!(outcome.status.code, Code::UNAVAILABLE, "{outcome:?}");
            let text = outcome.status.message.to_lowercase().replace('_', " ");
            assert!(text.contains("too many pings"), "{outcome:?}");
            false
        }
        Ok(other) => panic!("{other:?}"),
    }
}

fn metric(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encode();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

const BACKOFFS: &str = "bidiway_upstream_keepalive_backoffs_total";

/// Waits until so many connections have ended because of their pings: that may be a moment after their calls.
async fn backed_off(metrics: &Metrics, count: u64) {
    within(5, async {
        while metric(metrics, BACKOFFS) != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn pings_a_little_slower_than_a_server_allows_are_never_too_many() {
    for kind in [Kind::Go, Kind::Core] {
        if !super::wanted("keepalive::pings_a_little_slower_than_a_server_allows_are_never_too_many") {
            return;
        }
        // In the proportion of gRPC's five minutes to our default.
        let server = kind.start(Policy::LeastPing(Duration::from_millis(300))).await;
        let (upstream, metrics) = before(&server, Duration::from_millis(310));
        let mut call = silent(&upstream).await;
        assert!(lasts(&mut call, Duration::from_millis(3500)).await, "{kind:?}");
        assert_eq!(metric(&metrics, BACKOFFS), 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_server_that_complains_of_pings_is_given_longer_times_until_it_does_not() {
    for kind in [Kind::Go, Kind::Core] {
        if !super::wanted(
            "keepalive::a_server_that_complains_of_pings_is_given_longer_times_until_it_does_not",
        ) {
            return;
        }
        let server = kind.start(Policy::LeastPing(Duration::from_millis(500))).await;
        let (upstream, metrics) = before(&server, Duration::from_millis(100));
        let mut lost = 0;
        // 100 ms, 200 ms and 400 ms are too often, 800 ms is not.
        while !lasts(&mut silent(&upstream).await, Duration::from_millis(3500)).await {
            lost += 1;
            backed_off(&metrics, lost).await;
            let mut lab = LabClient::new(upstream.channel());
            lab.unary(Payload::default()).await.unwrap();
        }
        assert_eq!(lost, 3, "{kind:?}");
    }
}

#[tokio::test]
async fn a_server_with_the_default_policy_is_pinged_by_default_without_offence() {
    for kind in [Kind::Go, Kind::Core] {
        if !super::wanted("keepalive::a_server_with_the_default_policy_is_pinged_by_default_without_offence")
        {
            return;
        }
        // Grpc-go reads 0 as its default, C core five minutes as what it is.
        let policy = Policy::LeastPing(match kind {
            Kind::Go => Duration::ZERO,
            Kind::Core => Duration::from_secs(300),
        });
        let server = kind.start(policy).await;
        // The servers do count: this is too often for them …
        let (impatient, metrics) = before(&server, Duration::from_millis(100));
        assert!(!lasts(&mut silent(&impatient).await, Duration::from_secs(5)).await, "{kind:?}");
        backed_off(&metrics, 1).await;
        // … and the default, which unit tests run for a virtual day, is no ping within seconds.
        let default = settings(&["http://127.0.0.1:1"]);
        let default = Settings::new("chat", Vec::new(), default.tls).keepalive.unwrap();
        assert!(default > Duration::from_secs(300));
        let (upstream, metrics) = before(&server, default);
        assert!(lasts(&mut silent(&upstream).await, Duration::from_secs(2)).await, "{kind:?}");
        assert_eq!(metric(&metrics, BACKOFFS), 0);
    }
}

#[tokio::test]
async fn servers_that_end_old_connections_under_load_cost_no_call() {
    for kind in [Kind::Go, Kind::Core] {
        if !super::wanted("keepalive::servers_that_end_old_connections_under_load_cost_no_call") {
            return;
        }
        let server = kind.start(Policy::GreatestAge(Duration::from_millis(100))).await;
        let (upstream, metrics) = before(&server, Duration::from_secs(310));
        let callers = (0..8).map(|_| {
            let (mut lab, metrics) = (LabClient::new(upstream.channel()), metrics.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while metric(&metrics, "bidiway_upstream_connects_total") < 10 {
                    lab.unary(Payload { number: calls, ..Payload::default() }).await.unwrap();
                    calls += 1;
                }
                calls
            })
        });
        let callers: Vec<_> = callers.collect();
        for caller in callers {
            assert!(within(30, caller).await.unwrap() > 0, "{kind:?}");
        }
    }
}
