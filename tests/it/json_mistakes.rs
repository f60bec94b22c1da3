//! What is wrong with a JSON call, and what its client reads: the same in every dialect, and nothing of it upstream.

use crate::support::{
    carrier::Carrier,
    edge::{Http, settings},
    json::{JsonSocket, call, pretending_with, request_with},
    upstream::{Scripted, echo},
    within,
};

/// The largest message.
const LIMIT: u64 = 1000;

/// A method, what is sent to it, and the code and message that come back.
const MISTAKES: &[(&str, &str, u64, &str)] = &[
    (
        "Greeter/Hello",
        "nonsense",
        3,
        "demo.v1.Greeter/Hello: not valid JSON: expected ident at line 1 column 2",
    ),
    (
        "Greeter/Hello",
        "{\"name\":\"x\"",
        3,
        "demo.v1.Greeter/Hello: not valid JSON: EOF while parsing an object at line 1 column 11",
    ),
    (
        "Greeter/Hello",
        "{} {}",
        3,
        "demo.v1.Greeter/Hello: not valid JSON: trailing characters at line 1 column 4",
    ),
    ("Greeter/Hello", "null", 3, "demo.v1.Greeter/Hello: expected an object, found null"),
    ("Greeter/Hello", "[]", 3, "demo.v1.Greeter/Hello: expected an object, found a list"),
    (
        "Greeter/Hello",
        "{\"nam\":\"x\"}",
        3,
        "demo.v1.Greeter/Hello: demo.v1.HelloRequest has no field \"nam\"; did you mean \"name\"?",
    ),
    ("Greeter/Hello", "{\"name\":1}", 3, "demo.v1.Greeter/Hello: at name: expected a text, found 1"),
    (
        "Greeter/Hello",
        "{\"name\":\"x\",\"name\":\"y\"}",
        3,
        "demo.v1.Greeter/Hello: at name: the field is there twice",
    ),
    (
        "Lab/ServerStream",
        "{\"count\":-1}",
        3,
        "demo.v1.Lab/ServerStream: at count: expected an unsigned 32-bit integer, found -1",
    ),
    (
        "Lab/ServerStream",
        "{\"count\":1.5}",
        3,
        "demo.v1.Lab/ServerStream: at count: expected an unsigned 32-bit integer, found 1.5",
    ),
    (
        "Lab/Fail",
        "{\"violations\":[{\"field\":\"a\"},{\"field\":{}}]}",
        3,
        "demo.v1.Lab/Fail: at violations[1].field: expected a text, found an object",
    ),
    (
        "Lab/Bidi",
        "{\"data\":\"not base64!\"}",
        3,
        "demo.v1.Lab/Bidi: at data: expected a text in base64, found \"not base64!\"",
    ),
    (
        "Lab/Bidi",
        "{\"number\":\"18446744073709551616\"}",
        3,
        "demo.v1.Lab/Bidi: at number: expected an unsigned 64-bit integer, found \"18446744073709551616\"",
    ),
    (
        "Chat/Talk",
        "{\"kind\":\"SHOUTED\"}",
        3,
        "demo.v1.Chat/Talk: at kind: expected a value of demo.v1.ChatMessage.Kind (TEXT, JOINED, LEFT, NOTICE), found \"SHOUTED\"",
    ),
    ("Lab/Nope", "{}", 12, "upstream \"chat\" has no method \"/demo.v1.Lab/Nope\""),
    ("Nope/Nope", "{}", 12, "upstream \"chat\" has no service \"demo.v1.Nope\""),
];

#[tokio::test]
async fn a_mistake_has_the_same_answer_in_every_dialect_and_nothing_of_it_reaches_upstream() {
    let upstream = Scripted::start(echo).await;
    let mut settings = settings();
    settings.routes[0].max_message = LIMIT;
    let edge = pretending_with(&upstream.url, settings).await;
    let too_long = format!("{{\"name\":\"{}\"}}", "x".repeat(LIMIT as usize));
    let too_large = (
        "Greeter/Hello",
        &*too_long,
        8,
        "as JSON, a request message has 1011 bytes, more than the limit of 1000 bytes",
    );
    let mut wrong = Vec::new();
    for &(method, body, code, message) in MISTAKES.iter().chain([&too_large]) {
        let path = format!("/demo.v1.{method}");
        for content_type in ["application/json", "application/x-ndjson"] {
            // On a line there is no more than a line.
            if content_type == "application/x-ndjson" && body.contains('\n') {
                continue;
            }
            let request = request_with(&edge, &path, body.to_owned(), &[("content-type", content_type)]);
            let answer = within(10, call(&edge, Http::One, request)).await;
            let found = (
                answer.json()["code"].as_u64().unwrap(),
                answer.json()["message"].as_str().unwrap().to_owned(),
            );
            if found != (code, message.to_owned()) {
                wrong.push(format!("{content_type} {method} {body:.50}: {found:?}"));
            }
        }
        let mut socket = JsonSocket::open(Carrier::Http1, &edge, &path).await;
        socket.send(body).await;
        let (texts, close, reason) = within(10, socket.finish()).await;
        let cut = &message[..message.floor_char_boundary(123)];
        if (close, &*reason) != (4000 + code as u16, cut) || !texts.is_empty() {
            wrong.push(format!("socket {method} {body:.50}: {close} {reason:?} {texts:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let started = upstream.requests();
    assert_eq!(started, 0, "nothing has reached the service");
}

/// What is wrong with how many messages there are.
#[tokio::test]
async fn a_method_with_one_request_message_takes_exactly_one() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending_with(&upstream.url, settings()).await;
    for (body, message) in [
        ("", "demo.v1.Greeter/Hello takes one request message, and none came"),
        ("\n\n", "demo.v1.Greeter/Hello takes one request message, and none came"),
        ("{}\n{}", "demo.v1.Greeter/Hello takes one request message, and another one came"),
        ("{}\n{}\n{}\n", "demo.v1.Greeter/Hello takes one request message, and another one came"),
    ] {
        let request =
            request_with(&edge, "/demo.v1.Greeter/Hello", body, &[("content-type", "application/x-ndjson")]);
        within(10, call(&edge, Http::One, request)).await.assert_refused(400, 3, message);
    }
    let request = request_with(&edge, "/demo.v1.Greeter/Hello", "", &[]);
    let message = "demo.v1.Greeter/Hello: the message is empty; one without fields is written {}";
    within(10, call(&edge, Http::One, request)).await.assert_refused(400, 3, message);
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, "/demo.v1.Greeter/Hello").await;
    socket.send("").await;
    let reason = "demo.v1.Greeter/Hello takes one request message, and none came".to_owned();
    assert_eq!(within(10, socket.finish()).await, (vec![], 4003, reason));
    assert_eq!(upstream.requests(), 0);
}

/// Of a stream, what came before the mistake has gone up; the mistake has not.
#[tokio::test]
async fn a_mistake_in_the_middle_of_a_stream_ends_the_call_and_stays_here() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending_with(&upstream.url, settings()).await;
    let message = "demo.v1.Lab/Bidi: at number: expected";
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, "/demo.v1.Lab/Bidi").await;
    socket.send("{\"text\":\"a\"}").await;
    assert_eq!(within(10, socket.text()).await, serde_json::json!({"text": "a"}));
    socket.send("{\"number\":{}}").await;
    let (texts, close, reason) = within(10, socket.finish()).await;
    assert_eq!((texts.len(), close), (0, 4003));
    assert!(reason.starts_with(message), "{reason}");
    let body = "{\"text\":\"a\"}\n{\"number\":{}}\n{\"text\":\"b\"}\n";
    let request = request_with(&edge, "/demo.v1.Lab/Bidi", body, &[("content-type", "application/x-ndjson")]);
    let answer = within(10, call(&edge, Http::One, request)).await;
    assert!(answer.body.contains(message) && !answer.body.contains("\"b\""), "{answer:?}");
}
