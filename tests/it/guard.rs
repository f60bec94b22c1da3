//! Who may call, and what browsers are told, through a whole Bidiway.

use axum::{Router, routing::get};
use bidiway::downstream::{Origins, Settings};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::support::{
    edge::{BOTH, Edge, Http, WebAnswer, edge, edge_with, settings, whole},
    upstream::{Exchange, Scripted, echo, message},
    within,
};

const TALK: &str = "/chat.v1.Chat/Talk";
const APP: &str = "https://app.example";

fn allowing(entries: &[&str]) -> Settings {
    Settings { origins: Origins::parse(entries).unwrap(), ..settings() }
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn call_from(edge: &Edge, version: Http, origin: &str) -> WebAnswer {
    let request = edge.web(TALK).header("origin", origin).body(whole(message(b"hi"))).unwrap();
    WebAnswer::read(edge.send(version, request).await).await.unwrap()
}

/// Asserts what a page of this origin needs to read an answer.
#[track_caller]
fn assert_readable(headers: &HeaderMap, origin: &str) {
    assert_eq!(headers["access-control-allow-origin"], origin);
    assert!(headers.get_all("vary").iter().any(|value| value == "origin"), "{headers:?}");
    let exposed = headers["access-control-expose-headers"].to_str().unwrap();
    let exposed: Vec<&str> = exposed.split(", ").collect();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin", "bidiway-origin"] {
        assert!(exposed.contains(&name), "{name} in {exposed:?}");
    }
    // Besides those that every page may read, HTTP's own, which belong to no call.
    let safe = ["content-type", "content-length", "vary", "date", "transfer-encoding"];
    for name in headers.keys().map(|name| name.as_str()) {
        let shown = exposed.contains(&name) || safe.contains(&name) || name.starts_with("access-control-");
        assert!(shown, "{name} in {exposed:?}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_before_anything_goes_upstream() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, allowing(&[APP])).await;
    for version in BOTH {
        for origin in
            ["https://evil.example", "null", "http://app.example", "https://app.example:8443", "nonsense"]
        {
            let answer = call_from(&edge, version, origin).await;
            assert_eq!(answer.http, 403, "{origin}");
            let (code, sentence) = answer.status();
            assert_eq!(code, 7, "{origin}");
            assert!(sentence.contains("may not call"), "{sentence}");
            assert!(!answer.headers.contains_key("access-control-allow-origin"));
        }
    }
    assert_eq!(upstream.requests(), 0);
    assert!(edge.metrics.encode().contains("reason=\"origin\""), "{}", edge.metrics.encode());
}

#[tokio::test]
async fn listed_same_and_absent_origins_pass() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, allowing(&[APP])).await;
    let same = format!("http://{}", edge.address);
    for version in BOTH {
        for (origin, credentials) in [(APP, true), (&same, false)] {
            let answer = call_from(&edge, version, origin).await;
            assert_eq!(answer.payloads(), [b"hi"]);
            assert_readable(&answer.headers, origin);
            assert_eq!(answer.headers.contains_key("access-control-allow-credentials"), credentials);
        }
        let response = edge.send(version, edge.web(TALK).body(whole(message(b"hi"))).unwrap()).await;
        let answer = WebAnswer::read(response).await.unwrap();
        assert_eq!(answer.payloads(), [b"hi"]);
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn null_does_not_pass_where_any_origin_does() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, allowing(&["*"])).await;
    let answer = call_from(&edge, Http::One, "https://whoever.example").await;
    assert_readable(&answer.headers, "https://whoever.example");
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    assert_eq!(call_from(&edge, Http::One, "null").await.http, 403);
}

#[tokio::test]
async fn failures_can_be_read_across_origins_too() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .header("access-control-allow-origin", "*")
            .header("x-why", "because");
        exchange.respond.send_response(response.body(()).unwrap(), true).unwrap();
    })
    .await;
    let mut narrow = allowing(&[APP]);
    narrow.routes[0].pattern = bidiway::downstream::ServicePattern::Package("chat.v1.".into());
    let edge = edge_with(&upstream.url, narrow).await;
    for version in BOTH {
        let answer = call_from(&edge, version, APP).await;
        answer.assert_trailers_only(5, "");
        assert_readable(&answer.headers, APP);
        assert_eq!(answer.headers.get_all("access-control-allow-origin").iter().count(), 1);
        let request = edge.web("/other.Service/Method").header("origin", APP);
        let response = edge.send(version, request.body(whole(message(b""))).unwrap()).await;
        let answer = WebAnswer::read(response).await.unwrap();
        answer.assert_trailers_only(12, "no route serves");
        assert_readable(&answer.headers, APP);
        let request =
            edge.request("GET", TALK).header("content-type", "application/grpc-web").header("origin", APP);
        let response = edge.send(version, request.body(whole("")).unwrap()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &"POST".parse().unwrap())
        );
        assert_readable(response.headers(), APP);
    }
}

#[tokio::test]
async fn a_preflight_is_answered_here() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, allowing(&[APP])).await;
    let asked = "authorization,connect-protocol-version,content-type,grpc-timeout,x-grpc-web,x-trace-bin,x-user-agent";
    for version in BOTH {
        let preflight = |origin: &str| {
            edge.request("OPTIONS", TALK)
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", asked)
                .body(whole(""))
                .unwrap()
        };
        let response = edge.send(version, preflight(APP)).await;
        assert_eq!(response.status(), 204);
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], APP);
        assert_eq!(headers["access-control-allow-methods"], "POST");
        assert_eq!(headers["access-control-max-age"], "7200");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-allow-headers"].to_str().unwrap().replace(", ", ","), asked);
        let vary = headers["vary"].to_str().unwrap();
        assert!(vary.contains("origin") && vary.contains("access-control-request-headers"), "{vary}");

        let response = edge.send(version, preflight("https://evil.example")).await;
        assert_eq!(response.status(), 403);
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_websocket_of_another_origin_is_refused_before_the_upgrade() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let request = edge
        .request("GET", "/bidiway/session")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "bidiway.v1")
        .header("origin", "https://evil.example");
    let response = edge.send(Http::One, request.body(whole("")).unwrap()).await;
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert!(!response.headers().contains_key("upgrade"));
    assert!(text(response).await.contains("may not call"));
}

#[tokio::test]
async fn whoever_is_lost_is_told_what_this_is() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/favicon.ico"), ("OPTIONS", "/")] {
            let response = edge.send(version, edge.request(method, path).body(whole("")).unwrap()).await;
            assert_eq!(response.status(), 404, "{method} {path}");
            assert!(text(response).await.starts_with("This is Bidiway"), "{method} {path}");
        }
        let response =
            edge.send(version, edge.request("GET", "/bidiway/no.js").body(whole("")).unwrap()).await;
        assert_eq!(response.status(), 404);
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn extra_pages_are_served_beside_the_proxy_s_own() {
    let upstream = Scripted::start(echo).await;
    let pages = Router::new().route("/", get(async || "the demo's page"));
    let edge = edge_with(&upstream.url, Settings { pages, ..settings() }).await;
    let response = edge.send(Http::One, edge.request("GET", "/").body(whole("")).unwrap()).await;
    assert_eq!(text(response).await, "the demo's page");
    let response = edge.send(Http::One, edge.request("GET", "/other").body(whole("")).unwrap()).await;
    assert_eq!(response.status(), 404);
    let answer = call_from(&edge, Http::One, &format!("http://{}", edge.address)).await;
    assert_eq!(answer.payloads(), [b"hi"]);
}

#[tokio::test]
async fn the_shim_s_files_are_served_with_an_etag_and_to_allowed_origins() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, allowing(&[APP])).await;
    for version in BOTH {
        let ask = |etag: Option<&str>| {
            let mut request = edge.request("GET", "/bidiway/index.js").header("origin", APP);
            if let Some(etag) = etag {
                request = request.header("if-none-match", etag);
            }
            request.body(whole("")).unwrap()
        };
        let response = edge.send(version, ask(None)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/javascript; charset=utf-8");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        assert_readable_page(response.headers());
        let etag = response.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(text(response).await, std::fs::read_to_string("shim/src/index.js").unwrap());
        let response = within(5, edge.send(version, ask(Some(&format!("\"other\", W/{etag}"))))).await;
        assert_eq!(response.status(), 304);
        assert_eq!(text(response).await, "");
    }
}

#[track_caller]
fn assert_readable_page(headers: &HeaderMap) {
    assert_eq!(headers["access-control-allow-origin"], APP);
    assert!(headers.get_all("vary").iter().any(|value| value == "origin"));
}
