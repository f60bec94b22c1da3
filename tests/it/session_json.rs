//! Sessions in JSON: streams with the JSON codec, and sessions whose frames are text.

use bidiway::wire::{Code, v1};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::support::{
    carrier::{CARRIERS, Carrier},
    edge::Edge,
    json::{demo, pretending},
    socket::{Io, Socket},
    upstream::{Scripted, echo},
    within,
};

fn open(method: &str) -> v1::Open {
    v1::Open { method: format!("/demo.v1.{method}"), codec: v1::Codec::Json.into(), ..v1::Open::default() }
}

/// A call with these messages and nothing else; its answers as JSON, and its status.
async fn call(socket: &mut Socket, method: &str, messages: &[&str]) -> (Vec<Value>, u32, String) {
    let stream = socket.open_with(open(method)).await;
    for message in messages {
        socket.send(stream, (*message).to_owned()).await;
    }
    socket.finish(stream).await;
    let answer = socket.answer(stream).await;
    let messages = answer.messages.iter().map(|message| serde_json::from_slice(message).unwrap()).collect();
    (messages, answer.trailers.code, answer.trailers.message)
}

#[tokio::test]
async fn a_stream_with_the_json_codec_speaks_json_in_all_four_kinds() {
    let (_services, edge) = demo().await;
    for carrier in CARRIERS {
        within(20, async {
            let mut socket = carrier.connect(&edge).await;
            let mut all = async |method, messages: &[&str]| {
                let (messages, code, message) = call(&mut socket, method, messages).await;
                assert_eq!((code, &*message), (0, ""), "{method}");
                messages
            };
            assert_eq!(all("Greeter/Hello", &[r#"{"name":"x"}"#]).await, [json!({"text": "Hello, x!"})]);
            assert_eq!(all("Lab/ServerStream", &[r#"{"count":3}"#]).await.len(), 3);
            let sum = all("Lab/ClientStream", &[r#"{"text":"a"}"#, r#"{"text":"bc"}"#]).await;
            assert_eq!(sum, [json!({"messages": "2", "bytes": "3"})]);
            let said = [r#"{"text":"a"}"#, "{}", r#"{"data":"AAEC"}"#];
            let echoed: Vec<_> = all("Lab/Bidi", &said).await.iter().map(Value::to_string).collect();
            assert_eq!(echoed, said);
            // And another one beside them does not.
            let answer = socket.unary("/demo.v1.Greeter/Hello", &b"\x0a\x01x"[..]).await;
            assert_eq!((answer.code(), &answer.messages[0][..]), (Code::OK, &b"\x0a\x09Hello, x!"[..]));
        })
        .await;
    }
}

#[tokio::test]
async fn a_json_message_larger_than_all_windows_passes_each_way() {
    let (_services, edge) = demo().await;
    within(30, async {
        let mut socket = Carrier::Http1.connect(&edge).await;
        let message = json!({ "text": "ä".repeat(600_000) });
        let (echoed, code, _) = call(&mut socket, "Lab/Bidi", &[&message.to_string(), "{}"]).await;
        assert_eq!((code, echoed.len()), (0, 2));
        assert!(echoed[0] == message);
    })
    .await;
}

#[tokio::test]
async fn a_mistake_ends_its_stream_with_the_same_words_as_elsewhere_and_stays_here() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    within(10, async {
        let mut socket = Carrier::Http1.connect(&edge).await;
        let known =
            "demo.v1.Greeter/Hello: demo.v1.HelloRequest has no field \"nam\"; did you mean \"name\"?";
        for (method, messages, code, message) in [
            ("Greeter/Hello", &[r#"{"nam":"x"}"#][..], 3, known),
            ("Greeter/Hello", &[], 3, "demo.v1.Greeter/Hello takes one request message, and none came"),
            (
                "Greeter/Hello",
                &["{}", "{}"],
                3,
                "demo.v1.Greeter/Hello takes one request message, and another one came",
            ),
            (
                "Greeter/Hello",
                &[""],
                3,
                "demo.v1.Greeter/Hello: the message is empty; one without fields is written {}",
            ),
            ("Lab/Bidi", &["["], 3, "demo.v1.Lab/Bidi: expected an object, found a list"),
            ("Lab/Nope", &["{}"], 12, "upstream \"chat\" has no method \"/demo.v1.Lab/Nope\""),
        ] {
            assert_eq!(
                call(&mut socket, method, messages).await,
                (vec![], code, message.into()),
                "{messages:?}"
            );
        }
        assert_eq!(upstream.requests(), 0);
        assert_eq!(call(&mut socket, "Lab/Bidi", &["{}"]).await, (vec![json!({})], 0, "".into()));
    })
    .await;
}

#[tokio::test]
async fn a_schema_that_does_not_come_holds_up_no_other_stream() {
    let upstream = Scripted::start(|exchange| async move {
        if exchange.request.uri().path().starts_with("/grpc.reflection") {
            std::future::pending::<()>().await;
        }
        echo(exchange).await;
    })
    .await;
    let edge = crate::support::edge::edge(&upstream.url).await;
    within(10, async {
        let mut socket = Carrier::Http1.connect(&edge).await;
        let waits = socket.open_with(open("Greeter/Hello")).await;
        socket.send(waits, "{}").await;
        for _ in 0..10 {
            assert_eq!(socket.unary("/a.B/C", "x").await.messages, [b"x"]);
        }
        socket.cancel(waits).await;
        let timed = v1::Open { timeout_ms: 50, ..open("Greeter/Hello") };
        let stream = socket.open_with(timed).await;
        let answer = socket.answer(stream).await;
        assert_eq!(answer.trailers.message, "the deadline passed before the call was sent");
    })
    .await;
}

/// A session of text, as a person types it.
struct Text(WebSocketStream<Box<dyn Io>>);

impl Text {
    async fn connect(carrier: Carrier, edge: &Edge) -> Self {
        Self(carrier.websocket(carrier.port(edge), "/bidiway/session", "bidiway.v1+json", &[]).await)
    }

    /// The same, greeted.
    async fn greeted(carrier: Carrier, edge: &Edge, hello: &str) -> Self {
        let mut session = Self::connect(carrier, edge).await;
        session.send(hello).await;
        let welcome = session.next().await;
        assert_eq!(welcome["welcome"]["version"], 1, "{welcome}");
        session
    }

    async fn send(&mut self, text: &str) {
        self.0.send(Message::Text(text.into())).await.unwrap();
    }

    /// The next frame that is no housekeeping.
    async fn next(&mut self) -> Value {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame.get("credit").is_none() && frame.get("ping").is_none() {
                        return frame;
                    }
                }
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn close(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.0.next().await.unwrap().unwrap() {
                let frame = frame.unwrap();
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }
}

#[tokio::test]
async fn every_frame_of_a_text_session_is_a_line_that_can_be_typed_and_read() {
    let (_services, edge) = demo().await;
    for carrier in CARRIERS {
        within(20, async {
            let mut session = Text::greeted(carrier, &edge, r#"{"hello":{}}"#).await;
            session.send(r#"{"stream":1,"open":{"method":"/demo.v1.Lab/Bidi"}}"#).await;
            session.send(r#"{"stream":2,"open":{"method":"/demo.v1.Greeter/Hello"}}"#).await;
            session.send(r#"{"stream":2,"message":{"name":"x"},"last":true}"#).await;
            let mut frames = Vec::new();
            while frames.last().is_none_or(|frame: &Value| frame.get("trailers").is_none()) {
                frames.push(session.next().await);
            }
            frames.retain(|frame| frame["stream"] == 2);
            assert_eq!(
                frames,
                [
                    json!({"stream": 2, "headers": {"metadata": {}}}),
                    json!({"stream": 2, "message": {"text": "Hello, x!"}}),
                    json!({"stream": 2, "trailers": {"code": 0, "message": "", "metadata": {}}}),
                ]
            );
            session.send(r#"{"stream":1,"message":{"text":"grüß"}}"#).await;
            let echoed = loop {
                let frame = session.next().await;
                if frame.get("message").is_some() {
                    break frame;
                }
            };
            assert_eq!(echoed, json!({"stream": 1, "message": {"text": "grüß"}}));
            session.send(r#"{"stream":1,"halfClose":{}}"#).await;
            assert_eq!(session.next().await["trailers"]["code"], 0);
        })
        .await;
    }
}

#[tokio::test]
async fn metadata_and_rich_status_are_readable() {
    let (_services, edge) = demo().await;
    within(20, async {
        let mut session =
            Text::greeted(Carrier::Http1, &edge, r#"{"hello":{"metadata":{"x-default":"d"}}}"#).await;
        session
            .send(r#"{"stream":1,"open":{"method":"/demo.v1.Lab/Metadata","metadata":{"x-a":["1","2"],"b-bin":"AAE="}}}"#)
            .await;
        session.send(r#"{"stream":1,"message":{},"last":true}"#).await;
        let headers = session.next().await;
        assert_eq!(headers["headers"]["metadata"]["demo-initial"], json!(["one", "two"]));
        assert_eq!(headers["headers"]["metadata"]["demo-initial-bin"], "AAEC/f7/");
        let reply = session.next().await;
        let has = |name: &str, text: &str| {
            let entries = reply["message"]["entries"].as_array().unwrap();
            assert!(entries.iter().any(|e| e["name"] == name && e["text"] == text), "{name} in {reply}");
        };
        has("x-default", "d");
        has("x-a", "1");
        has("x-a", "2");
        has("b-bin", "AAE");
        assert_eq!(session.next().await["trailers"]["metadata"]["demo-trailing"], json!(["one", "two"]));
        session.send(r#"{"stream":2,"open":{"method":"/demo.v1.Lab/Fail"}}"#).await;
        session.send(r#"{"stream":2,"message":{"code":5,"message":"m","reason":"R"},"last":true}"#).await;
        let trailers = session.next().await;
        assert_eq!(trailers["trailers"]["code"], 5);
        assert_eq!(
            trailers["trailers"]["details"],
            json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "domain": "demo.bidiway"}])
        );
    })
    .await;
}

#[tokio::test]
async fn a_message_that_credit_or_size_forbids_in_one_frame_is_cut_text() {
    let upstream = Scripted::start(echo).await;
    let edge = pretending(&upstream.url).await;
    within(30, async {
        let mut session = Text::greeted(Carrier::Http1, &edge, r#"{"hello":{"streamCredit":70000}}"#).await;
        session.send(r#"{"stream":1,"open":{"method":"/demo.v1.Lab/Bidi"}}"#).await;
        let message = json!({ "text": "ä".repeat(50_000) }).to_string();
        // In one frame: it fits the credit of a greeted session.
        session.send(&format!("{{\"stream\":1,\"message\":{message}}}")).await;
        // And in pieces that the client has cut.
        let (front, back) = message.split_at(message.ceil_char_boundary(30_001));
        let piece = |text: &str, remaining: usize| {
            json!({"stream": 1, "piece": text, "remaining": remaining}).to_string()
        };
        assert!(session.next().await.get("headers").is_some());
        for again in [false, true] {
            if again {
                session.send(&piece(front, back.len())).await;
                session.send(&piece(back, 0)).await;
            }
            let mut text = String::new();
            loop {
                let frame = session.next().await;
                let piece = frame["piece"].as_str().unwrap_or_else(|| panic!("{frame:.100}"));
                text += piece;
                session.send(&format!("{{\"stream\":1,\"credit\":{}}}", piece.len() + 32)).await;
                if frame["remaining"] == 0 {
                    break;
                }
            }
            let (text, sent): (Value, Value) =
                (serde_json::from_str(&text).unwrap(), serde_json::from_str(&message).unwrap());
            assert!(text == sent);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_frame_closes_the_session_and_says_why() {
    let (_services, edge) = demo().await;
    for (texts, code, part) in [
        (&["hello"][..], 4003, "the text is not a frame: expected value at line 1 column 1"),
        (&[r#"{"stream":1,"open":{"method":"/a.B/C"}}"#], 4003, "the first frame must be Hello, not Open"),
        (
            &[r#"{"hello":{}}"#, r#"{"stream":1,"massage":{}}"#],
            4003,
            "the text is not a frame: unknown field `massage`",
        ),
        (&[r#"{"hello":{}}"#, r#"{"stream":5,"message":{}}"#], 4003, "stream 5"),
        (
            &[r#"{"hello":{"resumeToken":"AAE="}}"#],
            4003,
            "the text is not a frame: unknown field `resumeToken`",
        ),
    ] {
        within(10, async {
            let mut session = Text::connect(Carrier::Http1, &edge).await;
            for text in texts {
                session.send(text).await;
            }
            let (close, reason) = session.close().await;
            assert_eq!(close, code, "{reason}");
            assert!(reason.contains(part), "{texts:?}: {reason}");
        })
        .await;
    }
    let mut session = Text::connect(Carrier::Http1, &edge).await;
    session.0.send(Message::Binary(vec![0].into())).await.unwrap();
    let close = within(10, session.close()).await;
    assert_eq!(close, (4003, "a binary message in a session of text".into()));
}

#[tokio::test]
async fn json_streams_are_counted_as_sessions_and_cancelled_with_them() {
    let mut waiting = crate::support::upstream::Waiting::start(true).await;
    let edge = pretending(&waiting.server.url).await;
    let mut session = Text::greeted(Carrier::Http1, &edge, r#"{"hello":{}}"#).await;
    session.send(r#"{"stream":1,"open":{"method":"/demo.v1.Lab/Bidi"}}"#).await;
    session.send(r#"{"stream":2,"open":{"method":"/demo.v1.Lab/Bidi"}}"#).await;
    within(10, waiting.begun(2)).await;
    session.send(r#"{"stream":1,"cancel":{}}"#).await;
    within(10, waiting.cancelled(1)).await;
    drop(session);
    within(10, waiting.cancelled(1)).await;
    let metrics = edge.metrics.encode();
    let count = r#"bidiway_calls_total{route="*",dialect="session",code="CANCELLED",origin="client"} 2"#;
    assert!(metrics.contains(count), "{metrics}");
}
