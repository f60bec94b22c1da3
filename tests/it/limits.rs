//! How much one client, one route and the whole process may have, and what becomes of what is too much.

use std::{sync::Arc, time::Duration};

use bidiway::{
    downstream::{CallLimits, Resource, RouteLimits, RouteSettings, ServicePattern, Settings},
    session,
    wire::{Code, v1::Trailers},
};
use bytes::Bytes;
use http::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::{
    session_calls::entry,
    support::{
        carrier::{Carrier, tcp},
        edge::{BOTH, Edge, Http, WebAnswer, edge_with, open, settings, whole},
        http_carrier::{Requests, hello, said},
        identity,
        socket::{Socket, text},
        tokens::{self, Issuer},
        upstream::{Scripted, echo, message},
        within,
    },
};

const TALK: &str = "/chat.v1.Chat/Talk";
const OTHER: &str = "/other.v1.Other/Do";

async fn echoing(settings: Settings) -> (Edge, Scripted) {
    let upstream = Scripted::start(echo).await;
    (edge_with(&upstream.url, settings).await, upstream)
}

async fn call(edge: &Edge, version: Http, path: &str) -> WebAnswer {
    let response = edge.send(version, edge.web(path).body(whole(message(b"hi"))).unwrap()).await;
    WebAnswer::read(response).await.unwrap()
}

/// When the proxy says that another try makes sense.
fn pushback(headers: &HeaderMap) -> Option<u64> {
    headers.get("grpc-retry-pushback-ms")?.to_str().unwrap().parse().ok()
}

#[track_caller]
fn assert_limited(edge: &Edge, limit: &str, times: u32) {
    let line = format!("bidiway_limited_total{{limit=\"{limit}\"}} {times}\n");
    let text = edge.metrics.encode();
    assert!(text.contains(&line), "{line} is not in\n{text}");
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_one_more_is_closed_at_once() {
    let mut settings = settings();
    settings.limits.connections_per_address = 3;
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        let mut first = edge.connect(Http::One).await;
        let _second = tcp(edge.address).await;
        let _third = tcp(edge.tls).await;
        let mut closed = tcp(edge.address).await;
        assert_eq!(closed.read(&mut [0; 16]).await.unwrap_or(0), 0);
        assert_limited(&edge, "connections_per_address", 1);
        // Who has a place keeps it.
        let request = edge.web(TALK).body(whole(message(b"hi"))).unwrap();
        let answer = WebAnswer::read(first.send(request).await.unwrap()).await.unwrap();
        assert_eq!(answer.payloads(), [b"hi"]);
        drop(_second);
        loop {
            let mut again = tcp(edge.address).await;
            let silent = tokio::time::timeout(Duration::from_millis(50), again.read(&mut [0; 16])).await;
            if silent.is_err() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgraded_connection_keeps_its_place() {
    let mut settings = settings();
    settings.limits.connections_per_address = 1;
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        assert_eq!(socket.unary(TALK, "1").await.code(), Code::OK);
        let mut closed = tcp(edge.address).await;
        assert_eq!(closed.read(&mut [0; 16]).await.unwrap_or(0), 0);
    })
    .await;
}

#[tokio::test]
async fn sockets_that_come_too_fast_are_closed_with_a_code_that_a_page_can_see() {
    let mut settings = settings();
    settings.limits.upgrades_per_minute = Some(3);
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        for _ in 0..2 {
            let mut socket = Socket::connect(edge.address).await;
            assert_eq!(socket.unary(TALK, "1").await.code(), Code::OK);
            socket.close().await;
        }
        // An HTTP carrier is a socket in another form.
        let _third = Carrier::Http1.http(&edge, true).opened(session::Settings::default()).await;
        let mut requests = Requests::new(Carrier::Http1, edge.address, HeaderMap::new());
        let packet = crate::support::http_carrier::open(hello(session::Settings::default()), false);
        let (status, sentence) = said(requests.post("/bidiway/http/open", packet).await).await;
        assert_eq!(status, 429, "{sentence}");
        assert!(sentence.contains("3 sockets a minute"), "{sentence}");
        let mut fourth = Socket::connect(edge.address).await;
        fourth.flush().await;
        let (code, reason) = fourth.close_frame().await;
        assert_eq!(code, 4008, "{reason}");
        assert!(reason.contains("try again in"), "{reason}");
        assert_limited(&edge, "upgrades_per_address", 2);
    })
    .await;
}

#[tokio::test]
async fn calls_that_come_too_fast_are_refused_in_every_dialect_with_the_time_to_come_again() {
    let mut settings = settings();
    settings.limits.per_address = CallLimits { calls_per_second: Some(1), ..CallLimits::default() };
    let (edge, upstream) = echoing(settings).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        assert_eq!(call(&edge, Http::One, TALK).await.status().0, 0);
        for version in BOTH {
            let answer = call(&edge, version, TALK).await;
            answer.assert_trailers_only(8, "more than 1 calls a second");
            let wait = pushback(&answer.headers).unwrap();
            assert!((1..=1000).contains(&wait), "{wait}");
        }
        let answer = socket.unary(TALK, "2").await;
        assert_eq!((answer.code(), answer.by_proxy()), (Code::RESOURCE_EXHAUSTED, true));
        let Trailers { metadata, .. } = &answer.trailers;
        assert!(text(metadata, "grpc-retry-pushback-ms").is_some(), "{metadata:?}");
        assert_eq!(upstream.requests(), 1, "a refused call goes nowhere");
        assert_limited(&edge, "calls_per_address", 3);
        // Who waits as long as was said gets through.
        loop {
            let answer = call(&edge, Http::Two, TALK).await;
            let Some(wait) = pushback(&answer.headers) else { break assert_eq!(answer.status().0, 0) };
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_has_so_many_calls_at_a_time_and_its_place_is_free_when_one_ends() {
    let mut settings = settings();
    settings.limits.per_address = CallLimits { concurrent_calls: Some(2), ..CallLimits::default() };
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let one = socket.open(TALK).await;
        socket.send(one, "1").await;
        assert_eq!(socket.message(one).await, b"1");
        let two = socket.open(TALK).await;
        socket.send(two, "2").await;
        assert_eq!(socket.message(two).await, b"2");
        let answer = socket.unary(TALK, "3").await;
        assert_eq!(answer.code(), Code::RESOURCE_EXHAUSTED);
        assert!(answer.trailers.message.contains("2 open calls"), "{}", answer.trailers.message);
        call(&edge, Http::One, TALK).await.assert_trailers_only(8, "2 open calls");
        socket.finish(one).await;
        assert_eq!(socket.answer(one).await.code(), Code::OK);
        assert_eq!(call(&edge, Http::Two, TALK).await.status().0, 0);
        socket.cancel(two).await;
        assert_eq!(socket.unary(TALK, "4").await.code(), Code::OK);
        assert_limited(&edge, "concurrent_calls_per_address", 2);
    })
    .await;
}

#[tokio::test]
async fn a_user_has_so_many_calls_whatever_he_comes_from_and_others_do_not_notice() {
    let issuer = Issuer::new("a");
    let mut settings =
        identity::downstream(identity::identity(identity::provider(&issuer)), identity::required());
    settings.limits.per_principal = CallLimits { concurrent_calls: Some(2), ..CallLimits::default() };
    let (edge, upstream) = echoing(settings).await;
    // Two tokens of one subject are one user.
    let token = |subject, seconds| format!("Bearer {}", issuer.token(&tokens::claims(subject, seconds)));
    let (ada, later_ada, eve) = (token("ada", 60.0), token("ada", 90.0), token("eve", 60.0));
    let call = async |version, name: &str, value: &str| {
        let request = edge.web(TALK).header(name, value).body(whole(message(b"hi")));
        WebAnswer::read(edge.send(version, request.unwrap()).await).await.unwrap()
    };
    within(20, async {
        let metadata = vec![entry("authorization", &ada)];
        let settings = session::Settings { metadata, ..session::Settings::default() };
        let mut socket = Carrier::Http1.connect_to(edge.address, settings).await;
        let one = socket.open(TALK).await;
        socket.send(one, "1").await;
        assert_eq!(socket.message(one).await, b"1");
        // On another connection, in another dialect.
        let (body, request) = open();
        body.send(message(b"2")).await.unwrap();
        let request = edge.web(TALK).header("authorization", &later_ada).body(request).unwrap();
        let mut client = edge.connect(Http::Two).await;
        let two = client.send(request).await.unwrap();

        for version in BOTH {
            let answer = call(version, "authorization", &later_ada).await;
            answer.assert_trailers_only(8, "this user has 2 open calls");
        }
        let answer = socket.unary(TALK, "3").await;
        assert_eq!((answer.code(), answer.by_proxy()), (Code::RESOURCE_EXHAUSTED, true));
        assert_eq!(call(Http::Two, "authorization", &eve).await.status().0, 0);
        assert_eq!(call(Http::Two, "x-api-key", identity::KEY).await.status().0, 0);
        assert_eq!(upstream.requests(), 4, "a refused call goes nowhere");
        assert_limited(&edge, "concurrent_calls_per_principal", 3);

        drop(body);
        assert_eq!(WebAnswer::read(two).await.unwrap().payloads(), [b"2"]);
        assert_eq!(call(Http::One, "authorization", &ada).await.status().0, 0);
        socket.finish(one).await;
        assert_eq!(socket.answer(one).await.code(), Code::OK);
    })
    .await;
}

#[tokio::test]
async fn a_users_calls_that_come_too_fast_are_refused_with_the_time_to_come_again() {
    let issuer = Issuer::new("a");
    let mut settings =
        identity::downstream(identity::identity(identity::provider(&issuer)), identity::required());
    settings.limits.per_principal = CallLimits { calls_per_second: Some(1), ..CallLimits::default() };
    let (edge, _upstream) = echoing(settings).await;
    let call = async |subject| {
        let token = format!("Bearer {}", issuer.token(&tokens::claims(subject, 60.0)));
        let request = edge.web(TALK).header("authorization", token).body(whole(message(b"hi")));
        WebAnswer::read(edge.send(Http::Two, request.unwrap()).await).await.unwrap()
    };
    within(20, async {
        assert_eq!(call("ada").await.status().0, 0);
        let refused = loop {
            let answer = call("ada").await;
            if answer.status().0 != 0 {
                break answer;
            }
        };
        refused.assert_trailers_only(8, "more than 1 calls a second");
        let wait = pushback(&refused.headers).unwrap();
        assert_eq!(call("eve").await.status().0, 0);
        assert_limited(&edge, "calls_per_principal", 1);
        identity::later(wait as f64 / 1000.0).await;
        assert_eq!(call("ada").await.status().0, 0);
    })
    .await;
}

#[tokio::test]
async fn a_route_takes_as_much_as_it_may_and_other_routes_do_not_notice() {
    let route = |service: &str, limits| RouteSettings {
        limits,
        ..RouteSettings::new(ServicePattern::Service(service.into()), "chat")
    };
    let limits =
        Arc::new(RouteLimits::new(CallLimits { concurrent_calls: Some(1), ..CallLimits::default() }));
    let routes = vec![route("chat.v1.Chat", Some(limits)), route("other.v1.Other", None)];
    let (edge, _upstream) = echoing(Settings { routes, ..settings() }).await;
    within(10, async {
        let (body, request) = open();
        let mut client = edge.connect(Http::Two).await;
        body.send(message(b"on")).await.unwrap();
        let running = client.send(edge.web(TALK).body(request).unwrap()).await.unwrap();
        call(&edge, Http::One, TALK).await.assert_trailers_only(8, "route chat.v1.Chat has 1 open calls");
        assert_eq!(call(&edge, Http::One, OTHER).await.status().0, 0);
        drop(body);
        assert_eq!(WebAnswer::read(running).await.unwrap().payloads(), [b"on"]);
        assert_eq!(call(&edge, Http::One, TALK).await.status().0, 0);
        assert_limited(&edge, "concurrent_calls_per_route", 1);
    })
    .await;
}

/// Settings under which only the test says what runs short.
fn unwatched() -> Settings {
    let mut settings = settings();
    settings.limits.overload.memory = 1.0;
    settings.limits.overload.files = 1.0;
    settings
}

#[tokio::test]
async fn under_overload_new_work_is_refused_and_what_runs_goes_on() {
    let (edge, upstream) = echoing(unwatched()).await;
    within(10, async {
        let mut socket = Socket::connect(edge.address).await;
        let running = socket.open(TALK).await;
        socket.send(running, "before").await;
        assert_eq!(socket.message(running).await, b"before");
        let strain = |used| edge.clients.overload.measured(Resource::Memory, used, 0.8);
        strain(0.85);

        for version in BOTH {
            let answer = call(&edge, version, TALK).await;
            answer.assert_trailers_only(14, "short of memory");
            assert_eq!(pushback(&answer.headers), Some(1000));
        }
        assert_eq!(socket.unary(TALK, "new").await.code(), Code::UNAVAILABLE);
        let mut other = Socket::connect(edge.address).await;
        other.flush().await;
        let (code, reason) = other.close_frame().await;
        assert_eq!(code, 4014, "{reason}");
        assert_eq!(upstream.requests(), 1);
        socket.send(running, "meanwhile").await;
        assert_eq!(socket.message(running).await, b"meanwhile");

        strain(0.95);
        let mut closed = tcp(edge.address).await;
        assert_eq!(closed.read(&mut [0; 16]).await.unwrap_or(0), 0, "new connections are closed now");
        socket.send(running, "still").await;
        assert_eq!(socket.message(running).await, b"still");

        strain(0.5);
        assert_eq!(socket.unary(TALK, "again").await.code(), Code::OK);
        socket.finish(running).await;
        assert_eq!(socket.answer(running).await.code(), Code::OK);
        let text = edge.metrics.encode();
        for line in ["work=\"call\"} 3", "work=\"session\"} 1", "work=\"connection\"} 1"] {
            let line = format!("bidiway_shed_total{{resource=\"memory\",{line}\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    })
    .await;
}

/// Lets everything in this thread wait, again and again, as a worker does that has too much to do.
#[expect(clippy::disallowed_methods, reason = "a thread that is kept busy is what the test is about")]
async fn keep_busy(done: CancellationToken) {
    while !done.is_cancelled() {
        std::thread::sleep(Duration::from_millis(300));
        // What became due in the meantime has its turn.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_worker_that_is_kept_busy_sheds_new_work_and_what_runs_goes_on() {
    let mut settings = unwatched();
    settings.limits.overload.lag = Duration::from_millis(5);
    let (edge, upstream) = echoing(settings).await;
    within(120, async {
        let mut socket = Socket::connect(edge.address).await;
        let running = socket.open(TALK).await;
        socket.send(running, "before").await;
        assert_eq!(socket.message(running).await, b"before");
        let lagging = |count: u32| {
            edge.metrics.encode().contains(&format!("bidiway_overload{{resource=\"event_loop\"}} {count}\n"))
        };
        let done = CancellationToken::new();
        let busy = tokio::spawn(keep_busy(done.clone()));
        while !lagging(1) {
            tokio::task::yield_now().await;
        }
        let answer = call(&edge, Http::Two, TALK).await;
        answer.assert_trailers_only(14, "short of time");
        assert_eq!(pushback(&answer.headers), Some(1000));
        assert_eq!(socket.unary(TALK, "new").await.code(), Code::UNAVAILABLE);
        assert_eq!(upstream.requests(), 1);
        socket.send(running, "meanwhile").await;
        assert_eq!(socket.message(running).await, b"meanwhile");

        done.cancel();
        busy.await.unwrap();
        while !lagging(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(socket.unary(TALK, "again").await.code(), Code::OK);
        socket.finish(running).await;
        assert_eq!(socket.answer(running).await.code(), Code::OK);
        let text = edge.metrics.encode();
        assert!(text.contains("bidiway_shed_total{resource=\"event_loop\",work=\"call\"} 2\n"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn a_session_comes_back_under_overload() {
    let (edge, _upstream) = echoing(unwatched()).await;
    within(10, async {
        let settings = session::Settings { resumable: true, ..session::Settings::default() };
        let mut socket = Carrier::Http1.connect_to(edge.address, settings).await;
        let running = socket.open(TALK).await;
        socket.send(running, "before").await;
        assert_eq!(socket.message(running).await, b"before");
        let lost = socket.cut();
        edge.clients.overload.measured(Resource::Files, 0.85, 0.8);
        let ws = Carrier::Http1.websocket(edge.address, "/bidiway/session", "bidiway.v1", &[]).await;
        let mut socket = lost.resume(ws).await;
        socket.send(running, Bytes::from_static(b"after")).await;
        assert_eq!(socket.message(running).await, b"after");
    })
    .await;
}

#[tokio::test]
async fn what_the_process_uses_is_measured_and_too_little_memory_is_noticed() {
    let mut settings = settings();
    settings.limits.overload.max_memory = Some(1 << 20);
    let (edge, _upstream) = echoing(settings).await;
    within(10, async {
        loop {
            let text = edge.metrics.encode();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse::<u64>().ok()
            };
            if value("bidiway_overload{resource=\"memory\"} ") == Some(1) {
                assert_eq!(value("bidiway_memory_max_bytes "), Some(1 << 20));
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut closed = tcp(edge.address).await;
        assert_eq!(closed.read(&mut [0; 16]).await.unwrap_or(0), 0);
    })
    .await;
}
