//! JSON over HTTP, in front of the demo services and of scripted ones.

use bidiway::{
    downstream::{Origins, Settings as Downstream},
    schema,
};
use h2::Reason;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{
    calls,
    edge::{BOTH, Edge, Http, edge_knowing, open, settings},
    json::{Answer, call, demo, demo_with, pretending, pretending_with, request, request_with},
    upstream::{Scripted, echo, end, message, send},
    within,
};

const HELLO: &str = "/demo.v1.Greeter/Hello";
const BIDI: &str = "/demo.v1.Lab/Bidi";
const LINES: (&str, &str) = ("content-type", "application/x-ndjson");
const EVENTS: (&str, &str) = ("accept", "text/event-stream");

/// The numbers of a stream's messages.
fn numbers(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["number"].as_str().unwrap_or("?")).collect()
}

#[tokio::test]
async fn a_unary_call_is_a_post_and_its_answer_is_a_message() {
    let (_services, edge) = demo().await;
    for version in BOTH {
        for content_type in
            ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/x-ndjson"]
        {
            let request = request_with(&edge, HELLO, r#"{"name":"x"}"#, &[("content-type", content_type)]);
            let answer = within(10, call(&edge, version, request)).await;
            assert_eq!((answer.http, answer.json()), (200, json!({"text": "Hello, x!"})), "{content_type}");
            assert_eq!(answer.headers["content-type"], "application/json");
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        }
    }
}

#[tokio::test]
async fn the_status_of_a_service_is_the_http_status_and_the_body_with_its_details() {
    let (_services, edge) = demo().await;
    for (code, http) in [(1, 499), (3, 400), (5, 404), (7, 403), (8, 429), (12, 501), (14, 503), (16, 401)] {
        let body = json!({"code": code, "message": "Grüße", "reason": "WHY", "info": {"a": "b"}});
        let answer =
            within(10, call(&edge, Http::One, request(&edge, "/demo.v1.Lab/Fail", body.to_string()))).await;
        assert_eq!(answer.http, http, "{answer:?}");
        assert_eq!(
            answer.json(),
            json!({"code": code, "message": "Grüße", "details": [{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "WHY", "domain": "demo.bidiway", "metadata": {"a": "b"},
            }]})
        );
        assert_eq!(answer.headers["trailer-demo-trailing"], "failed");
        assert!(!answer.headers.contains_key("bidiway-origin"), "the service has said it");
    }
}

#[tokio::test]
async fn headers_are_metadata_and_metadata_is_headers() {
    let (_services, edge) = demo().await;
    let headers = [
        ("x-user", "ada"),
        ("authorization", "Bearer t"),
        ("demo-echo-x", "y"),
        ("grpc-timeout", "30S"),
        ("grpc-encoding", "gzip"),
        ("cookie", "secret=1"),
    ];
    for version in BOTH {
        let answer =
            within(10, call(&edge, version, request_with(&edge, "/demo.v1.Lab/Metadata", "{}", &headers)))
                .await;
        let reply = answer.json();
        let sent = |name: &str| {
            let entries = reply["entries"].as_array().unwrap().iter();
            entries
                .filter(|e| e["name"] == name)
                .map(|e| e["text"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(sent("x-user"), ["ada"]);
        assert_eq!(sent("authorization"), ["Bearer t"]);
        assert_eq!(sent("content-type"), ["application/grpc"]);
        assert_eq!(sent("grpc-accept-encoding"), ["identity"], "nobody here reads compressed messages");
        assert!(sent("grpc-encoding").is_empty() && sent("cookie").is_empty() && sent("accept").is_empty());
        let timeout: u64 = reply["timeoutMs"].as_str().unwrap().parse().unwrap();
        assert!((25_000..=30_000).contains(&timeout), "{timeout}");
        let initial: Vec<_> = answer.headers.get_all("demo-initial").iter().collect();
        assert_eq!(initial, ["one", "two"]);
        assert_eq!(answer.headers["demo-initial-bin"], "AAEC/f7/");
        let trailing: Vec<_> = answer.headers.get_all("trailer-demo-trailing").iter().collect();
        assert_eq!(trailing, ["one", "two"]);
        assert_eq!(
            (&answer.headers["demo-echo-x"], &answer.headers["trailer-demo-echo-x"]),
            (&"y".parse().unwrap(), &"y".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_server_stream_is_lines_that_come_one_by_one() {
    let (_services, edge) = demo().await;
    for version in BOTH {
        let request = request(&edge, "/demo.v1.Lab/ServerStream", r#"{"count":3,"size":2}"#);
        let answer = within(10, call(&edge, version, request)).await;
        assert_eq!(answer.headers["content-type"], "application/x-ndjson");
        assert_eq!(numbers(&answer.lines()), ["1", "2", "3"]);
        if version == Http::Two {
            assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        }
    }
    // The first is here although there never is a second.
    let response = edge.send(Http::One, request(&edge, "/demo.v1.Lab/WaitStream", "{}")).await;
    let mut body = response.into_body();
    let first = within(10, body.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&first).unwrap()["number"], "1");
}

#[tokio::test]
async fn a_stream_that_fails_midway_ends_with_its_error_and_never_looks_complete() {
    let (_services, edge) = demo().await;
    let fail = json!({"code": 5, "message": "gone", "reason": "R", "after": 2}).to_string();
    let status = json!({"code": 5, "message": "gone", "details": [{
        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "domain": "demo.bidiway",
    }]});
    for version in BOTH {
        let answer =
            within(10, call(&edge, version, request(&edge, "/demo.v1.Lab/FailStream", fail.clone()))).await;
        let lines = answer.lines();
        assert_eq!((answer.http, numbers(&lines)), (200, vec!["1", "2", "?"]));
        assert_eq!(lines[2], json!({"@error": status}));
        if version == Http::Two {
            assert_eq!(answer.trailers.unwrap()["grpc-status"], "5");
        }
        let request = request_with(&edge, "/demo.v1.Lab/FailStream", fail.clone(), &[EVENTS]);
        let answer = within(10, call(&edge, version, request)).await;
        let events: Vec<_> = answer.body.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 3, "{events:?}");
        let (_, data) = events[2].split_once("event: error\ndata: ").unwrap();
        assert_eq!(serde_json::from_str::<Value>(data).unwrap(), status);
    }
    // Before its first message a failure is an HTTP status.
    let now = json!({"code": 5, "message": "gone"}).to_string();
    let answer = call(&edge, Http::One, request(&edge, "/demo.v1.Lab/FailStream", now)).await;
    assert!(
        matches!((answer.http, answer.json()["code"].as_u64()), (404, Some(5)) | (200, None)),
        "{answer:?}"
    );
}

#[tokio::test]
async fn events_have_an_explicit_end() {
    let (_services, edge) = demo().await;
    let request = request_with(&edge, "/demo.v1.Lab/ServerStream", r#"{"count":2}"#, &[EVENTS]);
    let answer = within(10, call(&edge, Http::One, request)).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let events: Vec<_> = answer.body.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[..2].iter().all(|event| event.starts_with("data: {\"number\"")), "{events:?}");
    assert_eq!(events[2], "event: end\ndata: {\"code\":0,\"message\":\"\"}");
}

#[tokio::test]
async fn a_silent_stream_of_events_has_comments() {
    let mut settings = settings();
    settings.session.ping = std::time::Duration::from_millis(20);
    let (_services, edge) = demo_with(settings).await;
    let request = request_with(&edge, "/demo.v1.Lab/WaitStream", "{}", &[EVENTS]);
    let mut body = edge.send(Http::One, request).await.into_body();
    let mut seen = String::new();
    while !seen.ends_with(":\n\n:\n\n") {
        let frame = within(10, body.frame()).await.unwrap().unwrap().into_data().unwrap();
        seen.push_str(std::str::from_utf8(&frame).unwrap());
    }
    assert!(seen.starts_with("data: {\"number\":\"1\""), "{seen}");
}

#[tokio::test]
async fn a_client_stream_is_lines_and_its_answer_is_one_message() {
    let (_services, edge) = demo().await;
    for version in BOTH {
        let body = "{\"text\":\"a\"}\n\n{\"text\":\"bc\"}\r\n{\"data\":\"AAEC\"}";
        let request = request_with(&edge, "/demo.v1.Lab/ClientStream", body, &[LINES]);
        let answer = within(10, call(&edge, version, request)).await;
        assert_eq!(answer.json(), json!({"messages": "3", "bytes": "6"}));
    }
    let none = request_with(&edge, "/demo.v1.Lab/ClientStream", "\n", &[LINES]);
    assert_eq!(within(10, call(&edge, Http::One, none)).await.json(), json!({}));
    let one = request(&edge, "/demo.v1.Lab/ClientStream", "{\n \"text\": \"a\"\n}");
    assert_eq!(within(10, call(&edge, Http::One, one)).await.json(), json!({"messages": "1", "bytes": "1"}));
}

#[tokio::test]
async fn a_bidirectional_call_answers_while_it_is_asked() {
    let (_services, edge) = demo().await;
    for version in BOTH {
        let (lines, body) = open();
        let request = edge.request("POST", BIDI).header(LINES.0, LINES.1).body(body).unwrap();
        let mut client = edge.connect(version).await;
        let answer = tokio::spawn(async move { client.send(request).await.unwrap() });
        lines.send("{\"text\":\"one\"}\n{\"te".into()).await.unwrap();
        let mut body = within(10, answer).await.unwrap().into_body();
        let mut next = async || within(10, body.frame()).await.map(|frame| frame.unwrap().into_data());
        assert_eq!(next().await.unwrap().unwrap(), "{\"text\":\"one\"}\n");
        lines.send("xt\":\"two\"}\n".into()).await.unwrap();
        assert_eq!(next().await.unwrap().unwrap(), "{\"text\":\"two\"}\n");
        drop(lines);
        assert!(next().await.is_none_or(|frame| frame.is_err()), "trailers, or the end");
    }
}

#[tokio::test]
async fn a_large_stream_each_way_passes_although_the_client_reads_only_at_the_end() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    // More than all buffers and windows hold.
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(50_000));
    let body = line.repeat(20);
    let answer = within(20, call(&edge, Http::Two, request_with(&edge, BIDI, body.clone(), &[LINES]))).await;
    assert_eq!(answer.body.len(), body.len());
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_call() {
    let (gone, mut reset) = mpsc::channel(1);
    let upstream = Scripted::start(move |mut exchange| {
        let gone = gone.clone();
        async move {
            let mut stream = exchange.headers();
            send(&mut stream, message(b"\x0a\x01a")).await;
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            gone.send(reason.unwrap()).await.unwrap();
        }
    })
    .await;
    let edge = pretending(&upstream.url).await;
    for version in BOTH {
        for path in [BIDI, "/demo.v1.Lab/ServerStream"] {
            let mut response = edge.send(version, request(&edge, path, "{}")).await;
            within(10, response.frame()).await.unwrap().unwrap();
            drop(response);
            assert_eq!(within(10, reset.recv()).await.unwrap(), Reason::CANCEL);
        }
    }
}

#[tokio::test]
async fn a_deadline_ends_a_call_from_the_header_or_the_url() {
    let (_services, edge) = demo().await;
    // The schema is here already.
    within(10, call(&edge, Http::One, request(&edge, "/demo.v1.Lab/Unary", "{}"))).await;
    let message = "the deadline passed before the server ended the call";
    for (path, headers) in
        [("/demo.v1.Lab/Wait", &[("grpc-timeout", "50m")][..]), ("/demo.v1.Lab/Wait?@timeout=50ms&x=y", &[])]
    {
        let answer = within(10, call(&edge, Http::One, request_with(&edge, path, "{}", headers))).await;
        answer.assert_refused(504, 4, message);
    }
    let answer = call(&edge, Http::One, request(&edge, "/demo.v1.Lab/WaitStream?@timeout=50ms", "{}")).await;
    assert_eq!(answer.lines()[1], json!({"@error": {"code": 4, "message": message}}));
    let answer = call(&edge, Http::One, request(&edge, "/demo.v1.Lab/Wait?@timeout=soon", "{}")).await;
    answer.assert_refused(
        400,
        3,
        "@timeout \"soon\" is not valid: write a whole number and one of the units ms, s, m, h, such as 5s",
    );
}

/// `curl` takes a request that is stopped for one that failed, over HTTP/2 too, and shows no answer.
#[tokio::test]
async fn a_refused_upload_over_http2_is_heard_out() {
    let upstream = Scripted::start(echo).await;
    let mut small = settings();
    small.routes[0].max_message = 1000;
    let edge = pretending_with(&upstream.url, small).await;
    let (sender, body) = open();
    let request = request(&edge, HELLO, "").map(|_| body);
    sender.send(vec![b' '; 1001].into()).await.unwrap();
    assert_eq!(within(10, call(&edge, Http::Two, request)).await.http, 429);
    for _ in 0..128 {
        within(10, sender.send(vec![b' '; 1 << 16].into())).await.expect("the request may go on");
    }
    assert_eq!(upstream.requests(), 0);
}

/// What a page of another site can send without being asked, and what `curl -d` sends.
#[tokio::test]
async fn what_a_form_can_send_is_no_call_unless_curl_sent_it() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
    const CURL: (&str, &str) = ("user-agent", "curl/8.5.0");
    for headers in [
        &[("content-type", "text/plain")][..],
        &[("content-type", "text/plain;charset=UTF-8"), ("sec-fetch-mode", "no-cors")],
        &[("content-type", "multipart/form-data; boundary=x")],
        &[("content-type", "application/json; charset=utf-16")],
        &[("content-type", "application/jsonp")],
        &[FORM, CURL, ("sec-fetch-site", "cross-site")],
        &[FORM, CURL, ("referer", "https://evil.example/")],
        &[FORM, CURL, ("cookie", "session=1")],
        // A browser of 2019, with a page that takes off what it can; and the same behind a proxy that takes off more.
        &[FORM, ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0")],
        &[FORM, ("user-agent", "Mozilla/5.0 curl/8.5.0")],
        &[FORM, ("user-agent", "Mozilla/5.0"), CURL],
        &[FORM],
    ] {
        for version in BOTH {
            let answer = within(10, call(&edge, version, request_with(&edge, BIDI, "{}", headers))).await;
            assert_eq!((answer.http, &answer.json()["code"]), (415, &3.into()), "{headers:?}");
            let said = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(said.contains(headers[0].1) && said.contains("application/json"), "{said}");
        }
    }
    // Whoever says that he is a page of another site is refused before anything else.
    let evil = [FORM, ("origin", "https://evil.example")];
    let answer = call(&edge, Http::One, request_with(&edge, BIDI, "{}", &evil)).await;
    assert_eq!(answer.http, 403);
    let nothing = edge.request("POST", BIDI).body(crate::support::edge::whole("{}")).unwrap();
    assert_eq!(call(&edge, Http::One, nothing).await.http, 415);
    assert_eq!(upstream.requests(), 0);
    // `curl -d` calls it a form, and is no browser.
    let curl = [FORM, CURL, ("accept", "*/*")];
    let answer = call(&edge, Http::One, request_with(&edge, BIDI, "{}", &curl)).await;
    assert_eq!((answer.http, &*answer.body), (200, "{}\n"));
}

#[tokio::test]
async fn an_allowed_page_may_read_everything_and_others_are_refused_in_json() {
    let settings = Downstream { origins: Origins::parse(&["https://app.example"]).unwrap(), ..settings() };
    let (_services, edge) = demo_with(settings).await;
    let answer = call(
        &edge,
        Http::One,
        request_with(&edge, "/demo.v1.Lab/Metadata", "{}", &[("origin", "https://app.example")]),
    )
    .await;
    assert_eq!(
        (answer.http, &answer.headers["access-control-allow-origin"]),
        (200, &"https://app.example".parse().unwrap())
    );
    let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("demo-initial") && exposed.contains("trailer-demo-trailing"), "{exposed}");
    let answer =
        call(&edge, Http::One, request_with(&edge, HELLO, "{}", &[("origin", "https://evil.example")])).await;
    answer.assert_refused(
        403,
        7,
        "the origin \"https://evil.example\" may not call; `origins` in the configuration lists those that may",
    );
    let preflight = edge
        .request("OPTIONS", HELLO)
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type")
        .body(crate::support::edge::whole(""))
        .unwrap();
    assert_eq!(edge.send(Http::One, preflight).await.status(), 403);
}

#[tokio::test]
async fn getting_a_method_is_no_call() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    for version in BOTH {
        for (headers, status) in [(&[][..], 405), (&[("content-type", "text/plain")], 404)] {
            let mut request = request_with(&edge, BIDI, "", headers);
            *request.method_mut() = http::Method::GET;
            let response = edge.send(version, request).await;
            assert_eq!(response.status(), status, "{headers:?}");
        }
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn without_a_schema_it_is_said_what_to_do() {
    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        end(&mut stream, 12);
    })
    .await;
    // No reflection.
    let edge = crate::support::edge::edge(&upstream.url).await;
    let answer = within(10, call(&edge, Http::One, request(&edge, HELLO, "{}"))).await;
    answer.assert_refused(
        501,
        12,
        "upstream \"chat\" does not offer server reflection, which JSON needs; add it to the service, or give the \
         upstream's schema as a descriptor set or as .proto files",
    );
    // Nobody there.
    let edge = crate::support::edge::edge("http://127.0.0.1:1").await;
    let answer = within(10, call(&edge, Http::One, request(&edge, HELLO, "{}"))).await;
    assert_eq!((answer.http, &answer.json()["code"]), (503, &14.into()), "{answer:?}");
    assert!(answer.body.contains("reflection of upstream \\\"chat\\\" failed"), "{answer:?}");
}

#[tokio::test]
async fn a_schema_that_does_not_come_holds_up_nobody_else_and_not_for_ever() {
    // Reflection hangs; everything else echoes.
    let upstream = Scripted::start(|exchange| async move {
        if exchange.request.uri().path().starts_with("/grpc.reflection") {
            std::future::pending::<()>().await;
        }
        echo(exchange).await;
    })
    .await;
    let mut reflection = schema::Settings::new(schema::Source::Reflection { fallback: None });
    reflection.timeout = std::time::Duration::from_millis(300);
    let edge = edge_knowing(reflection, calls::settings(&[&upstream.url]), settings()).await;
    let json = async {
        let expired = call(&edge, Http::One, request(&edge, &format!("{HELLO}?@timeout=20ms"), "{}"));
        within(10, expired).await.assert_refused(504, 4, "the deadline passed before the call was sent");
        within(10, call(&edge, Http::One, request(&edge, HELLO, "{}"))).await
    };
    let binary = async {
        for _ in 0..20 {
            let answer = within(10, crate::grpc_web::call(&edge, Http::One, message(b"x"))).await;
            assert_eq!(answer.payloads(), [b"x"]);
        }
    };
    let (answer, ()) = tokio::join!(json, binary);
    answer.assert_refused(503, 14, "reflection of upstream \"chat\" failed: no answer within 300ms");
}

/// What upstream saw of a binary call.
async fn binary(edge: &Edge, seen: &mut mpsc::Receiver<String>) -> (String, String) {
    let answer =
        within(10, crate::grpc_web::call(edge, Http::Two, [message(b"\x0a\x01a"), message(b"")].concat()))
            .await;
    let mut headers = answer.headers.clone();
    headers.remove("date");
    (seen.recv().await.unwrap(), format!("{headers:?} {:?} {:?}", answer.messages, answer.trailers))
}

#[tokio::test]
async fn a_binary_call_is_the_same_with_and_without_a_schema() {
    let (saw, mut seen) = mpsc::channel(1);
    let upstream = Scripted::start(move |mut exchange| {
        let saw = saw.clone();
        async move {
            let mut headers = exchange.request.headers().clone();
            headers.remove("x-forwarded-for");
            let body = exchange.read_all().await;
            saw.send(format!("{} {headers:?} {body:?}", exchange.request.uri().path())).await.unwrap();
            let mut stream = exchange.headers();
            send(&mut stream, body.into()).await;
            end(&mut stream, 0);
        }
    })
    .await;
    let without = crate::support::edge::edge(&upstream.url).await;
    let with = pretending(&upstream.url).await;
    assert_eq!(binary(&without, &mut seen).await, binary(&with, &mut seen).await);
    assert_eq!(upstream.requests(), 2, "nobody asked for reflection");
}

#[tokio::test]
async fn a_drain_ends_json_streams_with_their_status() {
    let (_services, mut edge) = demo().await;
    let response = edge.send(Http::One, request(&edge, "/demo.v1.Lab/WaitStream", "{}")).await;
    edge.drain();
    edge.cut.cancel();
    let answer = within(10, Answer::read(response)).await;
    assert_eq!(
        answer.lines().last().unwrap(),
        &json!({"@error": {"code": 14, "message": "the proxy is draining and has ended the call"}})
    );
}

#[tokio::test]
async fn json_calls_are_counted_as_what_they_are() {
    let (_services, edge) = demo().await;
    call(&edge, Http::One, request(&edge, HELLO, r#"{"name":"x"}"#)).await;
    let text = edge.metrics.encode();
    let count = r#"bidiway_calls_total{route="*",dialect="json-http",code="OK",origin="upstream"} 1"#;
    assert!(text.contains(count), "{text}");
    assert!(
        text.contains(r#"bidiway_message_bytes_total{route="*",dialect="json-http",direction="up"} 3"#),
        "{text}"
    );
}
