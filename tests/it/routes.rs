//! Routes through a whole Bidiway: which upstream gets a call, and what becomes of its metadata.

use std::collections::BTreeMap;

use bidiway::{
    downstream::{
        HostPattern, MetadataCondition, Origins, RouteSettings, ServicePattern, Settings, ValuePattern,
    },
    session,
    telemetry::Dialect,
    upstream,
    wire::{Code, metadata_rules::MetadataRules, v1},
};
use http::{HeaderName, HeaderValue, Request, Response};

use crate::{
    grpc_web::{TALK, trailers_only},
    session_calls::entry,
    session_peers::relayed,
    support::{
        calls,
        carrier::Carrier,
        edge::{BOTH, Client, Edge, Http, WebAnswer, edge_among, edge_with, open, settings, whole},
        grpc_websocket,
        peers::instances_with,
        socket::{self, Socket, text},
        upstream::{Exchange, Scripted, end_with, message, send},
        within,
    },
};

/// A service that says who it is, and what metadata it got: `name` and lines of `name=value`.
async fn service(name: &'static str) -> Scripted {
    Scripted::start(move |mut exchange: Exchange| async move {
        let headers = exchange.request.headers().clone();
        if headers.contains_key("x-fail") {
            let fields = [("grpc-status", "5"), ("x-internal", "secret"), ("x-backend", name)];
            return trailers_only(&mut exchange, &fields);
        }
        let mut said = name.to_owned();
        for (name, value) in &headers {
            said.push_str(&format!("\n{name}={}", value.to_str().unwrap()));
        }
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("x-internal", "secret")
            .header("x-backend", name);
        let mut stream = exchange.respond.send_response(response.body(()).unwrap(), false).unwrap();
        send(&mut stream, message(said.as_bytes())).await;
        end_with(&mut stream, 0, &[("x-internal", "secret"), ("x-trailing", name)]);
    })
    .await
}

fn named(name: &str, scripted: &Scripted) -> upstream::Settings {
    upstream::Settings { name: name.to_owned(), ..calls::settings(&[&scripted.url]) }
}

/// Bidiway before two services, `one` and `two`.
async fn between(routes: Vec<RouteSettings>) -> (Edge, [Scripted; 2]) {
    between_with(Settings { routes, ..Settings::default() }).await
}

async fn between_with(settings: Settings) -> (Edge, [Scripted; 2]) {
    let services = [service("one").await, service("two").await];
    let upstreams = vec![named("one", &services[0]), named("two", &services[1])];
    (edge_among(upstreams, settings).await, services)
}

fn any(upstream: &str) -> RouteSettings {
    RouteSettings::new(ServicePattern::Any, upstream)
}

fn on(hosts: &[&str], route: RouteSettings) -> RouteSettings {
    RouteSettings { hosts: hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(), ..route }
}

fn with(name: &'static str, value: &str, route: RouteSettings) -> RouteSettings {
    let name = HeaderName::from_static(name);
    RouteSettings { metadata: vec![MetadataCondition { name, value: ValuePattern::parse(value) }], ..route }
}

/// What the service at the end of a gRPC-Web call says, by who it is.
#[derive(Debug)]
struct Said {
    by: String,
    metadata: BTreeMap<String, String>,
}

impl Said {
    fn read(payload: &[u8]) -> Self {
        let text = std::str::from_utf8(payload).unwrap();
        let mut lines = text.lines();
        let by = lines.next().unwrap().to_owned();
        let pairs = lines.map(|line| line.split_once('=').unwrap());
        let mut metadata: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in pairs {
            let all = metadata.entry(name.to_owned()).or_default();
            if !all.is_empty() {
                all.push('+');
            }
            all.push_str(value);
        }
        Self { by, metadata }
    }

    fn of(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }
}

/// A gRPC-Web call under a host's name.
async fn web(edge: &Edge, version: Http, host: &str, path: &str, headers: &[(&str, &str)]) -> WebAnswer {
    let mut request = Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc-web+proto")
        .body(whole(message(b"")))
        .unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    let mut client = Client::connect(edge.address, version).await;
    let response = within(10, client.send(request)).await.unwrap();
    WebAnswer::read(response).await.unwrap()
}

async fn said_to_web(edge: &Edge, version: Http, host: &str, headers: &[(&str, &str)]) -> Said {
    let answer = web(edge, version, host, TALK, headers).await;
    assert_eq!(answer.status().0, 0, "{answer:?}");
    Said::read(answer.payloads()[0])
}

/// A session whose WebSocket was opened with these headers.
async fn session(
    edge: &Edge,
    path: &str,
    headers: &[(&'static str, &str)],
    metadata: Vec<v1::Metadata>,
) -> Socket {
    let mut request = socket::request(edge.address);
    *request.uri_mut() = format!("ws://{}{path}", edge.address).parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let io = crate::support::carrier::tcp(edge.address).await;
    let settings = session::Settings { metadata, ..session::Settings::default() };
    Socket::over(Box::new(io), request, settings).await.unwrap()
}

async fn call(socket: &mut Socket, metadata: Vec<v1::Metadata>) -> socket::Answer {
    let open = v1::Open { method: TALK.to_owned(), metadata, ..v1::Open::default() };
    let stream = socket.open_with(open).await;
    socket.send(stream, Vec::new()).await;
    socket.finish(stream).await;
    within(10, socket.answer(stream)).await
}

async fn said_to_session(socket: &mut Socket, metadata: Vec<v1::Metadata>) -> Said {
    let answer = call(socket, metadata).await;
    assert_eq!(answer.code(), Code::OK, "{answer:?}");
    Said::read(&answer.messages[0])
}

#[tokio::test]
async fn the_host_of_a_call_or_of_its_carrier_chooses_the_upstream() {
    let (edge, _services) =
        between(vec![any("one"), on(&["app.example.com", "*.two.example.com"], any("two"))]).await;
    for (host, by) in [
        ("app.example.com", "two"),
        ("APP.example.com:8080", "two"),
        ("a.two.example.com", "two"),
        ("two.example.com", "one"),
        ("other.example.com", "one"),
    ] {
        for version in BOTH {
            assert_eq!(said_to_web(&edge, version, host, &[]).await.by, by, "{host} {version:?}");
        }
        let mut socket = session(&edge, "/bidiway/session", &[("host", host)], vec![]).await;
        assert_eq!(said_to_session(&mut socket, vec![]).await.by, by, "{host}");
    }
}

#[tokio::test]
async fn a_socket_s_call_takes_the_route_of_the_host_it_was_opened_on() {
    let (edge, _services) = between(vec![any("one"), on(&["127.0.0.1"], any("two"))]).await;
    for carrier in [Carrier::Http1, Carrier::Http2] {
        let call = grpc_websocket::Call::unary(carrier, &edge, TALK, b"").await;
        assert_eq!(Said::read(call.reader.payloads()[0]).by, "two", "{carrier:?}");
        let mut socket = carrier.connect(&edge).await;
        assert_eq!(said_to_session(&mut socket, vec![]).await.by, "two", "{carrier:?}");
        for polls in [false, true] {
            let mut socket = Socket::new(carrier.http(&edge, polls), session::Settings::default());
            assert_eq!(said_to_session(&mut socket, vec![]).await.by, "two", "{carrier:?} {polls}");
        }
    }
}

#[tokio::test]
async fn the_host_is_known_to_the_instance_that_has_the_session_too() {
    let upstream = service("one").await;
    let routes = vec![on(&["127.0.0.1"], any("chat"))];
    let (edges, ..) = instances_with(2, &upstream.url, Settings { routes, ..settings() }).await;
    let mut socket = within(10, relayed(&edges[0], &edges[1])).await;
    assert_eq!(said_to_session(&mut socket, vec![]).await.by, "one");
    assert_eq!(
        edges[0].metrics.encode().matches("route=\"127.0.0.1 *\",dialect=\"session\",code=\"OK\"").count(),
        1
    );
}

#[tokio::test]
async fn metadata_of_a_call_or_of_its_session_chooses_the_upstream() {
    let (edge, _services) = between(vec![any("one"), with("x-version", "v2.*", any("two"))]).await;
    for version in BOTH {
        assert_eq!(said_to_web(&edge, version, "a.b", &[("x-version", "v2.1")]).await.by, "two");
        assert_eq!(said_to_web(&edge, version, "a.b", &[("x-version", "v1.9")]).await.by, "one");
        assert_eq!(said_to_web(&edge, version, "a.b", &[]).await.by, "one");
    }
    let mut socket = session(&edge, "/bidiway/session", &[], vec![]).await;
    assert_eq!(said_to_session(&mut socket, vec![entry("x-version", "v2.7")]).await.by, "two");
    assert_eq!(said_to_session(&mut socket, vec![]).await.by, "one");
    let mut socket = session(&edge, "/bidiway/session", &[], vec![entry("x-version", "v2.0")]).await;
    assert_eq!(said_to_session(&mut socket, vec![]).await.by, "two", "said once for all calls");
    assert_eq!(
        said_to_session(&mut socket, vec![entry("x-version", "v1")]).await.by,
        "one",
        "its own goes before"
    );
}

#[tokio::test]
async fn what_is_no_metadata_of_the_call_is_not_looked_at() {
    let mut settings =
        Settings { routes: vec![any("one"), with("cookie", "*", any("two"))], ..Settings::default() };
    let (edge, _services) = between_with(settings.clone()).await;
    assert_eq!(said_to_web(&edge, Http::One, "a.b", &[("cookie", "a=1")]).await.by, "one");
    settings.upgrade_headers = vec![http::header::COOKIE];
    let (edge, _services) = between_with(settings).await;
    assert_eq!(said_to_web(&edge, Http::One, "a.b", &[("cookie", "a=1")]).await.by, "two");
    assert_eq!(said_to_web(&edge, Http::One, "a.b", &[]).await.by, "one");
}

#[tokio::test]
async fn calls_are_drawn_by_weight() {
    let route = RouteSettings { upstreams: vec![("one".into(), 3), ("two".into(), 1)], ..any("one") };
    let (edge, services) = between(vec![route]).await;
    let mut socket = session(&edge, "/bidiway/session", &[], vec![]).await;
    for _ in 0..1000 {
        assert_eq!(call(&mut socket, vec![]).await.code(), Code::OK);
    }
    let counts = services.each_ref().map(Scripted::requests);
    assert_eq!(counts[0] + counts[1], 1000);
    // 250, and more than seven times the standard deviation to either side.
    assert!((150..=350).contains(&counts[1]), "{counts:?}");
}

#[tokio::test]
async fn a_dialect_that_a_route_does_not_offer_is_unimplemented() {
    let only = |dialects: &[Dialect]| RouteSettings { dialects: dialects.to_vec(), ..any("one") };
    let (edge, services) = between(vec![only(&[Dialect::Session])]).await;
    for version in BOTH {
        let answer = web(&edge, version, "a.b", TALK, &[]).await;
        answer.assert_trailers_only(12, "this method is not offered over grpc-web, only over session");
    }
    let refused = grpc_websocket::Call::unary(Carrier::Http1, &edge, TALK, b"").await;
    refused.reader.assert_refused(12, "not offered over grpc-websockets");
    let json = edge.request("POST", TALK).header("content-type", "application/json");
    let response = edge.send(Http::One, json.body(whole("{}")).unwrap()).await;
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(services[0].requests(), 0);
    let mut socket = session(&edge, "/bidiway/session", &[], vec![]).await;
    assert_eq!(said_to_session(&mut socket, vec![]).await.by, "one");

    let (edge, _services) = between(vec![only(&[Dialect::GrpcWeb])]).await;
    assert_eq!(said_to_web(&edge, Http::Two, "a.b", &[]).await.by, "one");
    let mut socket = session(&edge, "/bidiway/session", &[], vec![]).await;
    let answer = call(&mut socket, vec![]).await;
    assert_eq!((answer.code(), answer.by_proxy()), (Code::UNIMPLEMENTED, true), "{answer:?}");
}

fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

#[tokio::test]
async fn rules_change_the_metadata_of_requests_and_responses() {
    let name = HeaderName::from_static;
    let rules = MetadataRules {
        remove: vec![name("x-secret"), name("x-forwarded-for")],
        rename: vec![(name("x-old"), name("x-new"))],
        set: vec![header("x-edge", "eu")],
        add: vec![header("x-tag", "edge"), header("x-sum-bin", "AAE")],
    };
    let response = MetadataRules {
        remove: vec![name("x-internal")],
        rename: vec![(name("x-backend"), name("x-served-by"))],
        set: vec![header("x-edge", "eu")],
        add: vec![],
    };
    let route =
        RouteSettings { request_metadata: rules, response_metadata: Some(response.into()), ..any("one") };
    let (edge, _services) = between(vec![route]).await;
    let client =
        [("x-secret", "s"), ("x-old", "o"), ("x-edge", "forged"), ("x-tag", "mine"), ("x-other", "stays")];
    let check = |said: &Said, dialect: &str| {
        for (name, value) in [
            ("x-secret", None),
            ("x-forwarded-for", None),
            ("x-old", None),
            ("x-new", Some("o")),
            ("x-edge", Some("eu")),
            ("x-tag", Some("mine+edge")),
            ("x-sum-bin", Some("AAE")),
            ("x-other", Some("stays")),
        ] {
            assert_eq!(said.of(name), value, "{name} over {dialect}: {said:?}");
        }
    };
    for version in BOTH {
        let answer = web(&edge, version, "a.b", TALK, &client).await;
        check(&Said::read(answer.payloads()[0]), "gRPC-Web");
        assert_eq!(
            (&answer.headers["x-served-by"], &answer.headers["x-edge"]),
            (&"one".parse().unwrap(), &"eu".parse().unwrap())
        );
        assert!(!answer.headers.contains_key("x-internal") && !answer.headers.contains_key("x-backend"));
        let trailers = answer.trailers.as_ref().unwrap();
        assert_eq!((trailers.get("x-internal"), trailers.get("x-edge")), (None, None), "{trailers:?}");
        assert_eq!(trailers["x-trailing"], "one");

        let failed = web(&edge, version, "a.b", TALK, &[("x-fail", "1")]).await;
        assert_eq!(failed.status().0, 5);
        assert_eq!(
            (&failed.headers["x-served-by"], &failed.headers["x-edge"]),
            (&"one".parse().unwrap(), &"eu".parse().unwrap())
        );
        assert!(!failed.headers.contains_key("x-internal"), "{failed:?}");
    }
    let mut socket = session(&edge, "/bidiway/session", &[], vec![]).await;
    let answer = call(&mut socket, client.map(|(name, value)| entry(name, value)).into()).await;
    check(&Said::read(&answer.messages[0]), "a session");
    let headers = answer.headers.as_ref().unwrap();
    assert_eq!(text(headers, "x-served-by").as_deref(), Some("one"));
    assert_eq!(text(headers, "x-internal"), None);
    assert_eq!(text(&answer.trailers.metadata, "x-internal"), None);
}

#[tokio::test]
async fn cookies_become_metadata_that_a_page_cannot_forge() {
    let cookies = vec![("session".to_owned(), HeaderName::from_static("x-session"))];
    let settings = Settings {
        cookies: vec!["session".into()],
        routes: vec![RouteSettings { cookies, ..any("one") }],
        origins: Origins::parse(&["https://app.example.com"]).unwrap(),
        ..Settings::default()
    };
    let (edge, _services) = between_with(settings).await;
    let cookie = ("cookie", "theme=dark; session=s-1; session=s-2");
    for version in BOTH {
        let said = said_to_web(&edge, version, "a.b", &[cookie, ("x-session", "forged")]).await;
        assert_eq!((said.of("x-session"), said.of("cookie")), (Some("s-1"), None), "{said:?}");
        let said = said_to_web(&edge, version, "a.b", &[("x-session", "forged")]).await;
        assert_eq!(said.of("x-session"), None, "no cookie, no metadata");
    }
    let headers = [cookie, ("origin", "https://app.example.com")];
    let mut socket = session(&edge, "/bidiway/session", &headers, vec![]).await;
    let said = said_to_session(&mut socket, vec![entry("x-session", "forged")]).await;
    assert_eq!((said.of("x-session"), said.of("cookie")), (Some("s-1"), None), "{said:?}");
}

#[tokio::test]
async fn a_prefix_is_served_like_nothing() {
    let (edge, _services) = between_with(Settings {
        prefix: Some("/api".into()),
        routes: vec![any("one")],
        ..Settings::default()
    })
    .await;
    for version in BOTH {
        for path in [TALK.to_owned(), format!("/api{TALK}")] {
            let answer = web(&edge, version, "a.b", &path, &[]).await;
            assert_eq!(Said::read(answer.payloads()[0]).by, "one", "{path}");
        }
        let answer = web(&edge, version, "a.b", &format!("/apis{TALK}"), &[]).await;
        answer.assert_trailers_only(12, "is no gRPC method");
        let page = edge.request("GET", "/api/bidiway/index.js").body(whole("")).unwrap();
        assert_eq!(edge.send(version, page).await.status(), 200);
    }
    for path in ["/bidiway/session", "/api/bidiway/session"] {
        let mut socket = session(&edge, path, &[], vec![]).await;
        assert_eq!(said_to_session(&mut socket, vec![]).await.by, "one", "{path}");
    }
    let call = grpc_websocket::Call::unary(Carrier::Http2, &edge, &format!("/api{TALK}"), b"").await;
    assert_eq!(Said::read(call.reader.payloads()[0]).by, "one");
}

#[tokio::test]
async fn metrics_name_the_route_by_what_it_takes_or_as_the_operator_does() {
    let canary = RouteSettings { name: Some("canary".into()), ..with("x-canary", "*", any("two")) };
    let (edge, _services) = between(vec![on(&["app.example.com"], any("one")), canary]).await;
    said_to_web(&edge, Http::One, "app.example.com", &[("x-canary", "1")]).await;
    said_to_web(&edge, Http::One, "a.b", &[("x-canary", "1")]).await;
    let text = edge.metrics.encode();
    for route in ["app.example.com *", "canary"] {
        let line = format!(
            "bidiway_calls_total{{route=\"{route}\",dialect=\"grpc-web\",code=\"OK\",origin=\"upstream\"}} 1"
        );
        assert!(text.contains(&line), "{route}: {text}");
    }
}

/// `curl` takes a request that is stopped for one that failed, over HTTP/2 too, and shows no answer.
#[tokio::test]
async fn an_upload_that_is_refused_before_it_is_a_call_is_heard_out() {
    let upstream = service("one").await;
    let edge = edge_with(&upstream.url, settings()).await;
    for (headers, status) in [
        (&[("content-type", "application/json"), ("origin", "https://evil.example")][..], 403),
        (&[("content-type", "text/plain")], 415),
        (&[], 415),
    ] {
        for version in BOTH {
            let (sender, body) = open();
            let request = headers
                .iter()
                .fold(edge.request("POST", TALK), |request, (name, value)| request.header(*name, *value));
            let mut client = edge.connect(version).await;
            sender.send(vec![b' '; 1000].into()).await.unwrap();
            let response = within(10, client.send(request.body(body).unwrap())).await.unwrap();
            assert_eq!(response.status(), status, "{headers:?} {version:?}");
            for _ in 0..128 {
                within(10, sender.send(vec![b' '; 1 << 16].into())).await.expect("the request may go on");
            }
        }
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn json_that_is_not_posted_to_a_method_is_told_to_be() {
    let upstream = service("one").await;
    let mut narrow = settings();
    narrow.routes[0].pattern = ServicePattern::Package("chat.".into());
    let edge = edge_with(&upstream.url, narrow).await;
    let ask = async |version, method: &str, path: &str| {
        let request = edge.request(method, path).header("content-type", "application/json");
        let response = edge.send(version, request.body(whole("{}")).unwrap()).await;
        let allow = response.headers().get("allow").map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), allow)
    };
    for version in BOTH {
        for method in ["PUT", "GET", "DELETE", "PATCH"] {
            assert_eq!(ask(version, method, TALK).await, (405, Some("POST".into())), "{method}");
        }
        assert_eq!(ask(version, "PUT", "/other.v1.Service/Method").await, (404, None));
        assert_eq!(ask(version, "GET", "/bidiway/index.js").await.0, 200);
    }
}
