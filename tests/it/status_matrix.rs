//! Metrics equal what clients saw: every code, dialect and origin of a status.

use std::collections::BTreeMap;

use bidiway::{
    demo::{Services, v1 as demo},
    downstream::{self, RouteSettings, ServicePattern},
    wire::Code,
};
use http::HeaderMap;
use http_body_util::BodyExt;
use prost::Message as _;
use serde_json::json;

use crate::support::{
    calls,
    carrier::CARRIERS,
    edge::{BOTH, Client, Edge, Http, WebAnswer, edge_adjusted, reflection, settings, whole},
    grpc_websocket::{Call, Multiplex},
    json::{self, JsonSocket},
    socket::Socket,
    upstream::message,
    within,
};

/// Dialect, code and origin, as the metrics name them.
type End = (String, String, String);

const FAIL: &str = "/demo.v1.Lab/Fail";
const HELLO: &str = "/demo.v1.Greeter/Hello";
const WAIT: &str = "/demo.v1.Lab/WaitStream";
/// Its route ends it.
const SHORT: &str = "/demo.v1.Lab/Wait";
/// Nobody is there.
const DEAD: &str = "/dead.v1.Dead/Call";
const UNROUTED: &str = "/other.v1.Other/Call";

/// The demo's services, an upstream that nobody can reach, a route that ends calls soon, and none for the rest.
async fn matrix() -> (Services, Edge) {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let package = |name: &str| ServicePattern::Package(name.to_owned());
    let short = ServicePattern::Method("demo.v1.Lab".into(), "Wait".into());
    let routes = vec![
        RouteSettings::new(package("demo."), "chat"),
        RouteSettings {
            timeout: Some(std::time::Duration::from_millis(30)),
            ..RouteSettings::new(short, "chat")
        },
        RouteSettings::new(package("dead."), "dead"),
    ];
    let downstream = downstream::Settings { routes, ..settings() };
    let upstream = calls::settings(&[&format!("http://{}", services.address())]);
    let edge = edge_adjusted(reflection(), vec![upstream], downstream, |settings| {
        let dead = calls::settings(&["http://127.0.0.1:1"]);
        settings.upstreams.push(bidiway::upstream::Settings { name: "dead".into(), ..dead }.into());
    });
    (services, edge.await)
}

/// What a client saw: the code, and whether the proxy made it.
type Seen = (u32, bool);

fn of_map(map: &HeaderMap) -> Seen {
    (map["grpc-status"].to_str().unwrap().parse().unwrap(), map.get("bidiway-origin").is_some())
}

/// Makes one call in each dialect that carries protobuf.
async fn binary(edge: &Edge, path: &str, payload: &[u8]) -> Vec<(&'static str, Seen)> {
    let mut seen = Vec::new();
    for version in BOTH {
        for (dialect, content_type) in
            [("grpc-web", "application/grpc-web+proto"), ("grpc-web-text", "application/grpc-web-text")]
        {
            let mut body = message(payload).to_vec();
            if dialect == "grpc-web-text" {
                use base64::Engine;
                body = base64::engine::general_purpose::STANDARD.encode(body).into_bytes();
            }
            let request = edge.request("POST", path).header("content-type", content_type);
            let answer = edge.send(version, request.body(whole(body)).unwrap()).await;
            let answer = WebAnswer::read(answer).await.unwrap();
            let places = [Some(&answer.headers), answer.trailers.as_ref()];
            let place = places.into_iter().flatten().find(|place| place.contains_key("grpc-status"));
            seen.push((dialect, of_map(place.unwrap())));
        }
    }
    let request =
        edge.request("POST", path).header("content-type", "application/grpc").header("te", "trailers");
    let answer = edge.send(Http::Two, request.body(whole(message(payload))).unwrap()).await;
    let headers = answer.headers().clone();
    let trailers = answer.into_body().collect().await.unwrap().trailers().cloned();
    seen.push(("grpc", of_map(trailers.as_ref().unwrap_or(&headers))));

    let mut socket = Socket::connect(edge.address).await;
    let answer = socket.unary(path, payload.to_vec()).await;
    seen.push(("session", (answer.code().0, answer.by_proxy())));

    for carrier in CARRIERS {
        let call = Call::unary(carrier, edge, path, payload).await;
        seen.push(("grpc-websockets", of_map(call.reader.trailers.as_ref().unwrap())));
        let reader = Multiplex::connect(carrier, edge).await.unary(1, path, payload).await;
        seen.push(("grpc-websockets-multiplex", of_map(reader.trailers.as_ref().unwrap())));
    }
    seen
}

/// Makes one call in each dialect that carries JSON.
async fn textual(edge: &Edge, path: &str, payload: &str) -> Vec<(&'static str, Seen)> {
    let mut seen = Vec::new();
    for version in BOTH {
        let answer = json::call(edge, version, json::request(edge, path, payload.to_owned())).await;
        let code = if answer.http == 200 { (0, false) } else { of_map(&answer.headers) };
        seen.push(("json-http", code));
    }
    let mut socket = JsonSocket::open(CARRIERS[0], edge, path).await;
    socket.send(payload).await;
    let (texts, close, _) = socket.finish().await;
    let code = if close == 1000 { 0 } else { u32::from(close) - 4000 };
    let by_proxy = texts.last().is_some_and(|text| text.to_string().contains("\"proxy\""));
    seen.push(("json-socket", (code, by_proxy)));
    seen
}

/// What the metrics say of calls that ended.
fn counted(edge: &Edge) -> BTreeMap<End, u64> {
    let mut counted = BTreeMap::new();
    for line in edge.metrics.encode().lines() {
        let Some(rest) = line.strip_prefix("bidiway_calls_total{") else { continue };
        let (labels, value) = rest.split_once("} ").unwrap();
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        *counted.entry((label("dialect"), label("code"), label("origin"))).or_default() +=
            value.parse::<u64>().unwrap();
    }
    counted
}

#[tokio::test]
async fn metrics_equal_what_clients_saw_over_all_codes_dialects_and_origins() {
    let (_services, edge) = matrix().await;
    let mut expected: BTreeMap<End, u64> = BTreeMap::new();
    let mut note = |seen: Vec<(&'static str, Seen)>, code: u32, origin: &str, marked: bool| {
        for (dialect, (found, by_proxy)) in seen {
            assert_eq!(found, code, "{dialect}, {origin}");
            if marked {
                assert_eq!(by_proxy, origin == "proxy", "{dialect} of {code}");
            }
            let end = (dialect.to_owned(), Code(code).name().to_owned(), origin.to_owned());
            *expected.entry(end).or_default() += 1;
        }
    };
    within(60, async {
        for code in 1..=16 {
            let payload = demo::FailRequest { code, ..Default::default() };
            note(binary(&edge, FAIL, &payload.encode_to_vec()).await, code, "upstream", true);
            note(textual(&edge, FAIL, &json!({ "code": code }).to_string()).await, code, "upstream", true);
        }
        let hello = demo::HelloRequest { name: "x".into() }.encode_to_vec();
        note(binary(&edge, HELLO, &hello).await, 0, "upstream", true);
        note(textual(&edge, HELLO, r#"{"name":"x"}"#).await, 0, "upstream", true);
        for (path, code) in [(DEAD, 14), (UNROUTED, 12), (SHORT, 4)] {
            note(binary(&edge, path, b"").await, code, "proxy", true);
        }
        note(textual(&edge, SHORT, "{}").await, 4, "proxy", false);
    })
    .await;

    // Nobody sees the end of a call that he gives up himself.
    within(60, async {
        for (at, dialect) in ["grpc", "grpc-web", "session", "grpc-websockets", "json-http", "json-socket"]
            .into_iter()
            .enumerate()
        {
            let waits = |edge: &Edge| {
                let active = format!("bidiway_calls_active{{route=\"demo.*\",dialect=\"{dialect}\"}} 1");
                edge.metrics.encode().lines().any(|line| line == active)
            };
            let begun = async {
                while !waits(&edge) {
                    tokio::task::yield_now().await;
                }
            };
            match dialect {
                "grpc" | "grpc-web" | "json-http" => {
                    let (content_type, body) = match dialect {
                        "json-http" => ("application/json", whole("{}")),
                        "grpc" => ("application/grpc", whole(message(b""))),
                        _ => ("application/grpc-web", whole(message(b""))),
                    };
                    let request = edge.request("POST", WAIT).header("content-type", content_type);
                    let mut client = Client::connect(edge.address, Http::Two).await;
                    let sending = async {
                        let _answer = client.send(request.body(body).unwrap()).await;
                        std::future::pending().await
                    };
                    tokio::select! {
                        () = sending => {}
                        () = begun => {}
                    }
                }
                "session" => {
                    let mut socket = Socket::connect(edge.address).await;
                    let stream = socket.unary_request(WAIT, "").await;
                    begun.await;
                    socket.cancel(stream).await;
                    while waits(&edge) {
                        tokio::task::yield_now().await;
                    }
                }
                "grpc-websockets" => {
                    let mut call = Call::open(CARRIERS[0], &edge, WAIT, "").await;
                    call.send(b"").await;
                    begun.await;
                    call.ws.close().await;
                }
                _ => {
                    let mut socket = JsonSocket::open(CARRIERS[0], &edge, WAIT).await;
                    socket.send("{}").await;
                    begun.await;
                    drop(socket);
                }
            }
            while counted(&edge).iter().filter(|((_, _, origin), _)| origin == "client").count() <= at {
                tokio::task::yield_now().await;
            }
            expected.insert((dialect.to_owned(), "CANCELLED".into(), "client".into()), 1);
        }
    })
    .await;

    assert_eq!(counted(&edge), expected);
    assert!(expected.len() >= 17 * 8 + 3 * 6 + 6, "{}", expected.len());
    let text = edge.metrics.encode();
    let sum = |name: &str| -> u64 {
        let of = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
        text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).map(of).sum()
    };
    let calls: u64 = expected.values().sum();
    assert_eq!(sum("bidiway_calls_started_total"), calls);
    assert_eq!(sum("bidiway_call_duration_seconds_count"), calls);
    assert_eq!(sum("bidiway_calls_active"), 0);
    let failed = format!(
        "bidiway_method_calls_total{{method=\"demo.v1.Lab/Fail\",code=\"DATA_LOSS\"}} {}",
        5 + 1 + 1 + 3 + 2 * CARRIERS.len() - 1
    );
    assert!(text.lines().any(|line| line == failed), "{failed} is not in\n{text}");
    assert!(
        !text.contains("other.v1") && !text.contains("dead.v1"),
        "what no service has answered is no label"
    );
}

#[tokio::test]
async fn the_time_that_bytes_wait_is_counted_for_the_side_that_is_slow() {
    use crate::support::upstream::{Flooding, Waiting};
    let seconds = |edge: &Edge, direction: &str| -> f64 {
        let name =
            format!("bidiway_backpressure_seconds_total{{upstream=\"chat\",direction=\"{direction}\"}} ");
        let text = edge.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0.0, |value| value.parse().unwrap())
    };
    // A service that does not read.
    let mut waiting = Waiting::start(false).await;
    let edge = crate::support::edge::edge(&waiting.server.url).await;
    let mut socket = Socket::connect(edge.address).await;
    let stream = socket.open("/a.B/C").await;
    within(5, waiting.begun(1)).await;
    let much = vec![0; 1 << 20];
    let sent = tokio::time::timeout(std::time::Duration::from_millis(1500), socket.send(stream, much)).await;
    assert!(sent.is_err(), "the service takes less");
    socket.cancel(stream).await;
    waiting.cancelled(1).await;
    assert!(seconds(&edge, "up") >= 0.75, "{}", seconds(&edge, "up"));
    assert!(seconds(&edge, "down") < 0.5, "{}", seconds(&edge, "down"));

    // A client that does not read.
    let flooding = Flooding::start().await;
    let edge = crate::support::edge::edge(&flooding.server.url).await;
    let mut socket = Socket::connect(edge.address).await;
    socket.consumes = false;
    let stream = socket.unary_request("/a.B/Flood", "").await;
    socket.listen(std::time::Duration::from_millis(1500)).await;
    socket.cancel(stream).await;
    within(5, flooding.ended(1)).await;
    assert!(seconds(&edge, "down") >= 0.75, "{}", seconds(&edge, "down"));
    assert!(seconds(&edge, "up") < 0.5, "{}", seconds(&edge, "up"));
}
