//! JSON sockets, in front of the demo services and of scripted ones, over every carrier.

use std::{future::poll_fn, time::Duration};

use bidiway::downstream::Origins;
use h2::Reason;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::support::{
    carrier::{CARRIERS, Carrier, head, tcp},
    edge::settings,
    json::{Came, JsonSocket, demo, demo_with, pretending, pretending_with},
    upstream::{Flooding, Scripted, Waiting, echo, end, message, send},
    within,
};

const HELLO: &str = "/demo.v1.Greeter/Hello";
const BIDI: &str = "/demo.v1.Lab/Bidi";

#[tokio::test]
async fn all_four_kinds_of_calls_are_texts_each_way() {
    let (_services, edge) = demo().await;
    for carrier in CARRIERS {
        let open = async |path| JsonSocket::open(carrier, &edge, path).await;
        // Unary: the only message is the whole request.
        let mut socket = open(HELLO).await;
        socket.send(r#"{"name":"x"}"#).await;
        assert_eq!(within(10, socket.finish()).await, (vec![json!({"text": "Hello, x!"})], 1000, "".into()));
        // Server streaming: the same.
        let mut socket = open("/demo.v1.Lab/ServerStream").await;
        socket.send(r#"{"count":3}"#).await;
        let (texts, close, _) = within(10, socket.finish()).await;
        assert_eq!((texts.len(), &texts[2]["number"], close), (3, &json!("3"), 1000), "{carrier:?}");
        // Client streaming: an empty text is the half-close.
        let mut socket = open("/demo.v1.Lab/ClientStream").await;
        for text in [r#"{"text":"a"}"#, r#"{"text":"bc"}"#, ""] {
            socket.send(text).await;
        }
        assert_eq!(within(10, socket.finish()).await.0, [json!({"messages": "2", "bytes": "3"})]);
        // Bidirectional.
        let mut socket = open(BIDI).await;
        for text in ["one", "two"] {
            let said = json!({ "text": text });
            socket.send(&said.to_string()).await;
            assert_eq!(within(10, socket.text()).await, said);
        }
        socket.send("").await;
        assert_eq!(within(10, socket.finish()).await, (vec![], 1000, "".into()));
    }
}

#[tokio::test]
async fn a_chat_is_a_chat() {
    let (_services, edge) = demo().await;
    let mut ada = JsonSocket::open(Carrier::Http1, &edge, "/demo.v1.Chat/Talk").await;
    ada.send(r#"{"room":"r","user":"ada"}"#).await;
    assert_eq!(within(10, ada.text()).await["kind"], "JOINED");
    let mut bob = JsonSocket::open(Carrier::Http2Tls, &edge, "/demo.v1.Chat/Talk").await;
    bob.send(r#"{"room":"r","user":"bob","text":"hi"}"#).await;
    assert_eq!(within(10, ada.text()).await["user"], "bob");
    assert_eq!(within(10, ada.text()).await["text"], "hi");
    ada.send("").await;
    assert_eq!(within(10, ada.finish()).await.1, 1000);
}

#[tokio::test]
async fn the_end_is_a_close_code_and_the_status_message_cut_between_characters() {
    let (_services, edge) = demo().await;
    for (code, message, reason) in
        [(5, "weg: ä", "weg: ä"), (16, "", ""), (8, &*"ä".repeat(100), &*"ä".repeat(61))]
    {
        let mut socket = JsonSocket::open(Carrier::Http1, &edge, "/demo.v1.Lab/Fail").await;
        socket.send(&json!({"code": code, "message": message}).to_string()).await;
        assert_eq!(within(10, socket.finish()).await, (vec![], 4000 + code, reason.into()));
    }
}

#[tokio::test]
async fn metadata_and_the_whole_status_come_as_texts_where_asked_for() {
    let (_services, edge) = demo().await;
    let fail = json!({"code": 5, "message": "m", "reason": "R", "after": 1}).to_string();
    let status = json!({"code": 5, "message": "m", "details": [{
        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "domain": "demo.bidiway",
    }]});
    for in_url in [true, false] {
        let path = "/demo.v1.Lab/FailStream";
        let path = if in_url { format!("{path}?@status=1") } else { path.to_owned() };
        let mut socket = JsonSocket::open(Carrier::Http1, &edge, &path).await;
        if !in_url {
            socket.send(r#"{"@status":true}"#).await;
        }
        socket.send(&fail).await;
        let (texts, close, _) = within(10, socket.finish()).await;
        assert_eq!((texts.len(), close), (3, 4005), "{texts:?}");
        assert!(texts[0]["@metadata"].is_object() && texts[1]["number"] == "1", "{texts:?}");
        assert_eq!(texts[2]["@status"], status);
        assert_eq!(texts[2]["@metadata"]["demo-trailing"], "failed");
    }
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, "/demo.v1.Lab/Metadata?@status=1").await;
    socket.send("{}").await;
    let (texts, close, _) = within(10, socket.finish()).await;
    let initial = json!({"demo-initial": ["one", "two"], "demo-initial-bin": "AAEC/f7/"});
    let trailing = json!({"demo-trailing": ["one", "two"], "demo-trailing-bin": "//79AgEA"});
    assert_eq!(texts[0], json!({ "@metadata": initial }));
    assert_eq!(texts[2], json!({"@status": {"code": 0, "message": ""}, "@metadata": trailing}));
    assert_eq!(close, 1000);
}

#[tokio::test]
async fn metadata_and_the_deadline_stand_in_the_url_or_in_the_first_message() {
    let (_services, edge) = demo().await;
    for carrier in CARRIERS {
        let path = "/demo.v1.Lab/Metadata?x-name=Ada%20L&x-bytes-bin=_-8&@timeout=30s";
        let mut socket = JsonSocket::open_with(carrier, &edge, path, &[("cookie", "a=1")]).await;
        socket
            .send(r#"{"@metadata":{"x-many":["1","2"],"authorization":"Bearer t"},"@timeout":"20s"}"#)
            .await;
        socket.send("{}").await;
        let (texts, ..) = within(10, socket.finish()).await;
        let sent = |name: &str| {
            let entries = texts[0]["entries"].as_array().unwrap().iter();
            entries.filter(|e| e["name"] == name).map(|e| e["text"].as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((sent("x-name"), sent("x-bytes-bin")), (vec!["Ada L"], vec!["/+8"]));
        assert_eq!((sent("x-many"), sent("authorization")), (vec!["1", "2"], vec!["Bearer t"]));
        assert!(sent("cookie").is_empty() && sent("sec-websocket-key").is_empty());
        let timeout: u64 = texts[0]["timeoutMs"].as_str().unwrap().parse().unwrap();
        assert!((15_000..=20_000).contains(&timeout), "{timeout}");
    }
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, "/demo.v1.Lab/Wait?@timeout=50ms").await;
    socket.send("{}").await;
    let reason = "the deadline passed before the server ended the call".to_owned();
    assert_eq!(within(10, socket.finish()).await, (vec![], 4004, reason));
}

#[tokio::test]
async fn options_that_cannot_be_end_the_call_before_anything_goes_upstream() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    for (query, first, code, reason) in [
        ("?authorization=Bearer%20t", "{}", 4003, "metadata \"authorization\" may not stand in a URL"),
        ("?access_token=abc", "{}", 4003, "metadata \"access_token\" may not stand in a URL"),
        ("?@deadline=1", "{}", 4003, "\"@deadline\" is no option"),
        ("?@timeout=1", "{}", 4003, "@timeout \"1\" is not valid"),
        ("?host=x", "{}", 4003, "metadata name \"host\" is reserved"),
        ("", r#"{"@metadata":{"x":1}}"#, 4003, "the value of metadata \"x\" must be a string"),
        ("", r#"{"@timeout":"1s","text":"x"}"#, 4003, "\"text\" is no option"),
    ] {
        let mut socket = JsonSocket::open(Carrier::Http1, &edge, &format!("{BIDI}{query}")).await;
        socket.send(first).await;
        let (texts, close, said) = within(10, socket.finish()).await;
        assert_eq!((texts.len(), close), (0, code), "{query} {first}");
        assert!(said.starts_with(reason), "{said}");
        assert!(!said.contains("Bearer") && !said.contains("abc"), "{said}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn binary_messages_and_text_that_is_not_utf8_are_refused() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    for begun in [false, true] {
        let mut socket = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
        if begun {
            socket.send("{}").await;
            within(10, socket.text()).await;
        }
        socket.send_raw(Message::Binary(vec![1].into())).await;
        let reason = "a binary message; JSON sockets have text messages only".to_owned();
        assert_eq!(within(10, socket.finish()).await, (vec![], 1003, reason));
    }
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    use tokio::io::AsyncWriteExt;
    socket.ws.get_mut().write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28]).await.unwrap();
    assert_eq!(within(10, socket.finish()).await.1, 1007);
}

#[tokio::test]
async fn a_text_beyond_the_limit_ends_the_call_at_its_header() {
    let upstream = Scripted::start(echo).await;
    let mut settings = settings();
    settings.routes[0].max_message = 50_000;
    let edge = pretending_with(&upstream.url, settings).await;
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    let text = |size: usize| format!("{{\"text\":\"{}\"}}", "x".repeat(size - 11));
    socket.send(&text(50_000)).await;
    assert_eq!(within(10, socket.text()).await.to_string(), text(50_000));
    socket.send(&text(50_001)).await;
    let (_, close, reason) = within(10, socket.finish()).await;
    assert_eq!((close, &*reason), (4008, "a WebSocket message is larger than 50000 bytes"));
    // Small as protobuf, large as JSON.
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    socket.send(&format!("{{\"text\":\"{}\"}}", "\u{1}")).await;
    within(10, socket.finish()).await;
}

#[tokio::test]
async fn a_response_that_is_too_large_as_json_ends_the_call() {
    let upstream = Scripted::start(|mut exchange| async move {
        let mut stream = exchange.headers();
        // A control character has six letters in JSON.
        let text = [&b"\x12\xe8\x07"[..], &[1; 1000]].concat();
        send(&mut stream, message(&text)).await;
        end(&mut stream, 0);
    })
    .await;
    let mut settings = settings();
    settings.routes[0].max_message = 2000;
    let edge = pretending_with(&upstream.url, settings).await;
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    socket.send("{}").await;
    let reason = "as JSON, a response message has 6011 bytes, more than the limit of 2000 bytes".to_owned();
    assert_eq!(within(10, socket.finish()).await, (vec![], 4008, reason));
}

#[tokio::test]
async fn a_client_that_closes_or_is_lost_cancels_the_call() {
    let (gone, mut reset) = mpsc::channel(1);
    let upstream = Scripted::start(move |mut exchange| {
        let gone = gone.clone();
        async move {
            let mut stream = exchange.headers();
            send(&mut stream, message(b"")).await;
            let reason = poll_fn(|cx| stream.poll_reset(cx)).await;
            gone.send(reason.unwrap()).await.unwrap();
        }
    })
    .await;
    let edge = pretending(&upstream.url).await;
    for carrier in CARRIERS {
        for close in [true, false] {
            let mut socket = JsonSocket::open(carrier, &edge, BIDI).await;
            socket.send("{}").await;
            assert_eq!(within(10, socket.text()).await, json!({}));
            if close {
                socket.ws.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
            }
            drop(socket);
            assert_eq!(within(10, reset.recv()).await.unwrap(), Reason::CANCEL, "{carrier:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_service_and_nobody_else() {
    let flooding = Flooding::start().await;
    // The demo's schema has no method of this name: one that has it.
    let schema = crate::support::reflection::compile(
        "flood",
        &[(
            "flood.proto",
            "syntax = \"proto3\"; package f; message M { bytes data = 1; } service F { rpc Flood(M) returns (stream M); rpc Echo(stream M) returns (stream M); }",
        )],
    );
    let schema = bidiway::schema::Settings::new(bidiway::schema::Source::Files(std::sync::Arc::new(schema)));
    let upstream = crate::support::calls::settings(&[&flooding.server.url]);
    let edge = crate::support::edge::edge_knowing(schema, upstream, settings()).await;
    for carrier in CARRIERS {
        let mut deaf = JsonSocket::open(carrier, &edge, "/f.F/Flood").await;
        deaf.send("{}").await;
        // The flood comes to a stand: twice the same count.
        let mut before = usize::MAX;
        while before != flooding.sent() || before == 0 {
            before = flooding.sent();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut other = JsonSocket::open(carrier, &edge, "/f.F/Echo").await;
        other.send("{\"data\":\"AAEC\"}").await;
        assert_eq!(within(10, other.text()).await, json!({"data": "AAEC"}));
        drop(deaf);
    }
    within(10, flooding.ended(CARRIERS.len())).await;
}

#[tokio::test]
async fn a_service_that_does_not_read_holds_up_the_client() {
    let mut silent = Waiting::start(false).await;
    let edge = pretending(&silent.server.url).await;
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    let text = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000));
    let mut sent = 0;
    while let Ok(()) = tokio::time::timeout(Duration::from_millis(500), socket.send(&text)).await {
        sent += text.len();
        assert!(sent < 64 << 20, "nothing holds the client up");
    }
    within(10, silent.begun(1)).await;
    drop(socket);
    // Nothing of the socket is read; pings find out.
    let reset = within(20, silent.over.recv()).await.unwrap();
    assert_eq!(reset.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn only_a_method_s_path_is_a_json_socket_and_only_without_a_subprotocol() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    for (path, offer) in
        [("/", ""), ("/x", ""), ("/bidiway/session", ""), (BIDI, "sec-websocket-protocol: chat\r\n")]
    {
        let mut io = tcp(edge.address).await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n",
            edge.address
        );
        tokio::io::AsyncWriteExt::write_all(&mut io, request.as_bytes()).await.unwrap();
        let head = within(10, head(&mut io)).await;
        assert!(head.starts_with("HTTP/1.1 400"), "{path}: {head}");
    }
    // A method that no route or service has is told behind the handshake, where a page can read it.
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, "/demo.v1.Lab/Nope").await;
    socket.send("{}").await;
    assert_eq!(within(10, socket.finish()).await.1, 4012);
}

#[tokio::test]
async fn a_page_of_another_origin_opens_no_socket() {
    let mut settings = settings();
    settings.origins = Origins::parse(&["https://app.example"]).unwrap();
    let (_services, edge) = demo_with(settings).await;
    let mut socket =
        JsonSocket::open_with(Carrier::Http1, &edge, HELLO, &[("origin", "https://app.example")]).await;
    socket.send(r#"{"name":"x"}"#).await;
    assert_eq!(within(10, socket.finish()).await.1, 1000);
    let mut io = tcp(edge.address).await;
    let request = format!(
        "GET {HELLO} HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: Upgrade\r\norigin: https://evil.example\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        edge.address
    );
    tokio::io::AsyncWriteExt::write_all(&mut io, request.as_bytes()).await.unwrap();
    assert!(within(10, head(&mut io)).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn sockets_are_pinged_and_silent_ones_given_up() {
    let mut settings = settings();
    settings.session.ping = Duration::from_millis(100);
    let (_services, edge) = demo_with(settings).await;
    // Answers pings while it waits, and lives.
    let mut socket = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), socket.next()).await.is_err());
    socket.send("{}").await;
    assert_eq!(within(10, socket.text()).await, json!({}));
    // Answers nothing.
    let mut dead = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    use tokio::io::AsyncReadExt;
    let mut all = Vec::new();
    within(10, dead.ws.get_mut().read_to_end(&mut all)).await.unwrap();
    assert!(!all.is_empty(), "it was pinged");
}

#[tokio::test]
async fn sockets_beyond_the_address_s_share_are_told_so() {
    let mut settings = settings();
    settings.limits.sockets_per_address = 1;
    let (_services, edge) = demo_with(settings).await;
    let _first = JsonSocket::open(Carrier::Http1, &edge, HELLO).await;
    let mut second = JsonSocket::open(Carrier::Http1, &edge, HELLO).await;
    let reason = "this address has 1 open sockets, which is the limit".to_owned();
    assert_eq!(within(10, second.next()).await, Came::Close(4008, reason));
}

#[tokio::test]
async fn a_drain_lets_calls_finish_and_closes_sockets_without_one() {
    let (_services, mut edge) = demo().await;
    let mut running = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    running.send(r#"{"text":"a"}"#).await;
    within(10, running.text()).await;
    let mut cut = JsonSocket::open(Carrier::Http2, &edge, BIDI).await;
    cut.send(r#"{"text":"a"}"#).await;
    within(10, cut.text()).await;
    let mut idle = JsonSocket::open(Carrier::Http1, &edge, BIDI).await;
    edge.drain();
    let (_, close, reason) = within(10, idle.finish()).await;
    assert_eq!((close, &*reason), (4014, "the proxy is draining and takes no new calls"));
    running.send("").await;
    assert_eq!(within(10, running.finish()).await.1, 1000);
    edge.cut.cancel();
    let (_, close, reason) = within(10, cut.finish()).await;
    assert_eq!(close, 4014);
    assert!(reason.starts_with("the proxy is shutting down"), "{reason}");
}
