//! gRPC-Web through a whole Bidiway, over both HTTP versions, in front of scripted gRPC servers.

use std::future::poll_fn;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::support::{
    edge::{BOTH, Edge, Http, WebAnswer, edge, edge_with, open, settings, whole},
    upstream::{Exchange, Scripted, echo, end, message, send},
    within,
};

pub(crate) const TALK: &str = "/chat.v1.Chat/Talk";

pub(crate) async fn call(edge: &Edge, version: Http, body: impl Into<Bytes>) -> WebAnswer {
    let request = edge.web(TALK).body(whole(body)).unwrap();
    WebAnswer::read(edge.send(version, request).await).await.unwrap()
}

/// Answers with these trailers alone, in the response's headers.
pub(crate) fn trailers_only(exchange: &mut Exchange, fields: &[(&str, &str)]) {
    let mut response = Response::builder().header("content-type", "application/grpc");
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    exchange.respond.send_response(response.body(()).unwrap(), true).unwrap();
}

#[tokio::test]
async fn messages_come_back_with_their_trailers_in_the_body() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let body = [message(b"one"), message(b""), message(&[7; 70_000])].concat();
        let answer = within(10, call(&edge, version, body)).await;
        assert_eq!(answer.http, 200);
        assert_eq!(answer.headers["content-type"], "application/grpc-web+proto");
        assert_eq!(answer.payloads(), [&b"one"[..], b"", &[7; 70_000]]);
        assert_eq!(answer.trailers.as_ref().unwrap()["grpc-status"], "0");
        assert!(!answer.headers.contains_key("grpc-status"));
        assert!(!answer.http_trailers, "trailers are in the body, and nowhere else");
    }
}

#[tokio::test]
async fn a_text_call_may_be_padded_anywhere_and_gets_text_back() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let bytes = [message(b"first"), message(b"second!")].concat();
    for cut in 0..=bytes.len() {
        let text = STANDARD.encode(&bytes[..cut]) + &STANDARD.encode(&bytes[cut..]);
        let request = edge.request("POST", TALK).header("content-type", "application/grpc-web-text");
        let response = edge.send(BOTH[cut % 2], request.body(whole(text)).unwrap()).await;
        assert_eq!(response.headers()["content-type"], "application/grpc-web-text+proto");
        let answer = WebAnswer::read(response).await.unwrap();
        assert_eq!(answer.payloads(), [&b"first"[..], b"second!"], "cut at {cut}");
        assert_eq!(answer.status().0, 0);
    }
}

#[tokio::test]
async fn the_response_takes_the_form_that_the_client_accepts() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let request = edge.web(TALK).header("accept", "application/grpc-web-text+proto");
    let response = edge.send(Http::One, request.body(whole(message(b"hi"))).unwrap()).await;
    assert_eq!(response.headers()["content-type"], "application/grpc-web-text+proto");
    assert_eq!(WebAnswer::read(response).await.unwrap().payloads(), [b"hi"]);
}

#[tokio::test]
async fn the_message_format_and_the_method_reach_upstream_as_grpc() {
    let (seen, mut requests) = mpsc::channel(1);
    let upstream = Scripted::start(move |mut exchange| {
        let seen = seen.clone();
        async move {
            seen.send((exchange.request.uri().path().to_owned(), exchange.request.headers().clone()))
                .await
                .unwrap();
            trailers_only(&mut exchange, &[("grpc-status", "0")]);
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let request = edge
            .request("POST", "/a.b.C/D")
            .header("content-type", "application/grpc-web+json; charset=utf-8")
            .header("x-grpc-web", "1")
            .header("x-user-agent", "grpc-web-javascript/0.1")
            .header("authorization", "Bearer abc")
            .header("traceparent", "00-1-2-01")
            .header("cookie", "secret=1")
            .header("x-forwarded-for", "203.0.113.9")
            .header("x-forwarded-proto", "https")
            .header("x-many", "1")
            .header("x-many", "2")
            .header("x-bytes-bin", "AAEC");
        edge.send(version, request.body(whole(message(b"{}"))).unwrap()).await;
        let (path, headers) = requests.recv().await.unwrap();
        assert_eq!(path, "/a.b.C/D");
        assert_eq!(headers["content-type"], "application/grpc+json");
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["authorization"], "Bearer abc");
        assert_eq!(headers["traceparent"], "00-1-2-01");
        assert_eq!(headers["x-bytes-bin"], "AAEC");
        assert_eq!(headers.get_all("x-many").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1", "what the client says is not believed");
        assert_eq!(headers["x-forwarded-proto"], "http", "only the proxy knows");
        for gone in ["cookie", "x-grpc-web", "host", "content-length", "connection", "grpc-timeout", "origin"]
        {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_all_trailers_has_them_in_its_headers_and_no_body() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let fields = [
            ("grpc-status", "5"),
            ("grpc-message", "no%20such%20room: caf%C3%A9"),
            ("grpc-status-details-bin", "CAUSAmhp"),
            ("x-why", "because"),
        ];
        trailers_only(&mut exchange, &fields);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        for content_type in ["application/grpc-web+proto", "application/grpc-web-text"] {
            let request = edge.request("POST", TALK).header("content-type", content_type);
            let body = if content_type.contains("text") { "AAAAAAA=".into() } else { message(b"") };
            let response = edge.send(version, request.body(whole(body)).unwrap()).await;
            let answer = WebAnswer::read(response).await.unwrap();
            answer.assert_trailers_only(5, "no such room: café");
            assert_eq!(answer.headers["grpc-status-details-bin"], "CAUSAmhp");
            assert_eq!(answer.headers["x-why"], "because");
            assert!(!answer.headers.contains_key("bidiway-origin"), "the service said it");
        }
    }
}

#[tokio::test]
async fn a_failure_after_messages_comes_behind_them() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, [message(b"1"), message(b"2")].concat().into()).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "10".parse().unwrap());
        trailers.insert("grpc-message", "aborted".parse().unwrap());
        trailers.insert("x-left", "3".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let answer = call(&edge, version, message(b"")).await;
        assert_eq!(answer.payloads(), [b"1", b"2"]);
        assert_eq!(answer.status(), (10, "aborted".into()));
        assert_eq!(answer.trailers.unwrap()["x-left"], "3");
    }
}

#[tokio::test]
async fn headers_arrive_before_the_first_message() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("x-room", "7")
            .header("content-length", "7");
        let mut stream = exchange.respond.send_response(response.body(()).unwrap(), false).unwrap();
        // Goes on only when the client has read the headers and says so.
        while exchange.read().await.is_some() {}
        send(&mut stream, message(b"hi")).await;
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let (sender, body) = open();
        sender.send(message(b"hi")).await.unwrap();
        let response = within(5, edge.send(version, edge.web(TALK).body(body).unwrap())).await;
        assert_eq!(response.headers()["x-room"], "7");
        assert!(!response.headers().contains_key("content-length"), "the trailers come on top");
        drop(sender);
        let answer = within(5, WebAnswer::read(response)).await.unwrap();
        assert_eq!((answer.payloads(), answer.status().0), (vec![&b"hi"[..]], 0));
    }
}

#[tokio::test]
async fn a_conversation_in_rounds_goes_over_http2() {
    let upstream = Scripted::start(echo).await;
    let edge = edge(&upstream.url).await;
    let (sender, body) = open();
    let mut response = within(5, edge.send(Http::Two, edge.web(TALK).body(body).unwrap())).await;
    for round in 0..100_u32 {
        sender.send(message(&round.to_be_bytes())).await.unwrap();
        let frame = within(5, response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message(&round.to_be_bytes()));
    }
    drop(sender);
    assert_eq!(WebAnswer::read(response).await.unwrap().status().0, 0);
}

#[tokio::test]
async fn a_request_goes_on_while_nobody_reads_the_response() {
    // Sends more than fits anywhere before it reads, then counts the request.
    let (counted, mut count) = mpsc::channel(1);
    let upstream = Scripted::start(move |mut exchange: Exchange| {
        let counted = counted.clone();
        async move {
            let mut stream = exchange.headers();
            let sender = tokio::spawn(async move {
                for _ in 0..16 {
                    send(&mut stream, message(&vec![0; 1 << 20])).await;
                }
                end(&mut stream, 0);
            });
            counted.send(exchange.read_all().await.len()).await.unwrap();
            sender.await.unwrap();
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    let (sender, body) = open();
    let response = within(5, edge.send(Http::Two, edge.web(TALK).body(body).unwrap())).await;
    within(10, async {
        for _ in 0..64 {
            sender.send(message(&[1; 16_379])).await.unwrap();
        }
        drop(sender);
        assert_eq!(count.recv().await.unwrap(), 64 * 16_384);
    })
    .await;
    assert_eq!(within(10, WebAnswer::read(response)).await.unwrap().status().0, 0);
}

#[tokio::test]
async fn an_early_end_is_told_while_the_client_still_sends() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, message(b"enough")).await;
        end(&mut stream, 3);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let (sender, body) = open();
        sender.send(message(b"first")).await.unwrap();
        let response = edge.send(version, edge.web(TALK).body(body).unwrap()).await;
        let answer = within(5, WebAnswer::read(response)).await.unwrap();
        assert_eq!(answer.payloads(), [b"enough"]);
        assert_eq!(answer.status().0, 3);
        drop(sender);
    }
}

#[tokio::test]
async fn the_true_status_arrives_wherever_upstream_dies() {
    let stream = [message(b"one"), message(b""), message(&[3; 300])].concat();
    let len = stream.len();
    let upstream = Scripted::start(move |mut exchange: Exchange| {
        let stream = stream.clone();
        async move {
            let cut: usize = exchange.request.headers()["x-cut"].to_str().unwrap().parse().unwrap();
            let mut answer = exchange.headers();
            for piece in stream[..cut].chunks(100) {
                send(&mut answer, Bytes::copy_from_slice(piece)).await;
            }
            // Only once all is on its way: a reset may overtake data that waits.
            tokio::task::yield_now().await;
            match cut % 2 {
                0 => answer.send_reset(Reason::ENHANCE_YOUR_CALM),
                _ => end(&mut answer, 10),
            }
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for cut in 0..=len {
        let request = edge.web(TALK).header("x-cut", cut).body(whole(message(b""))).unwrap();
        let response = edge.send(BOTH[cut / 2 % 2], request).await;
        let answer = WebAnswer::read(response).await.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let whole = [8, 13, 318].iter().filter(|&&end| end <= cut).count();
        assert!(answer.messages.len() <= whole, "cut at {cut}");
        let code = if cut % 2 == 0 { 8 } else { 10 };
        assert_eq!(answer.status().0, code, "cut at {cut}");
    }
}

#[tokio::test]
async fn ok_in_the_middle_of_a_message_is_not_ok() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, message(b"cut off").slice(..9)).await;
        end(&mut stream, 0);
    })
    .await;
    let edge = edge(&upstream.url).await;
    let answer = call(&edge, Http::One, message(b"")).await;
    let (code, sentence) = answer.status();
    assert_eq!(code, 13, "{sentence}");
    assert!(sentence.contains("in the middle of a message"), "{sentence}");
    assert_eq!(answer.trailers.unwrap()["bidiway-origin"], "proxy");
}

#[tokio::test]
async fn a_body_that_broke_within_a_large_message_fails_instead_of_ending() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, message(&[1; 100_000]).slice(..50_000)).await;
        end(&mut stream, 14);
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let request = edge.web(TALK).body(whole(message(b""))).unwrap();
        let read = async {
            match edge.connect(version).await.send(request).await {
                Ok(response) => WebAnswer::read(response).await,
                Err(error) => Err(error.to_string()),
            }
        };
        within(5, read).await.unwrap_err();
    }
}

#[tokio::test]
async fn deadlines_are_checked_capped_and_kept() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let timeout = exchange.request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
        match exchange.request.headers().get("x-hang") {
            None => trailers_only(&mut exchange, &[("grpc-status", "0"), ("x-timeout", &timeout)]),
            Some(_) => std::future::pending().await,
        }
    })
    .await;
    let mut capped = settings();
    capped.routes[0].timeout = Some(std::time::Duration::from_secs(10));
    let edge = edge_with(&upstream.url, capped).await;
    let ask = async |timeout: Option<&str>, hang: bool| {
        let mut request = edge.web(TALK);
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        if hang {
            request = request.header("x-hang", "1");
        }
        let response = edge.send(Http::One, request.body(whole(message(b""))).unwrap()).await;
        within(5, WebAnswer::read(response)).await.unwrap()
    };
    let told = |answer: WebAnswer| {
        bidiway::wire::timeout::decode(answer.headers["x-timeout"].as_bytes()).unwrap().as_secs_f64()
    };
    assert!((9.0..=10.0).contains(&told(ask(None, false).await)), "the route's timeout is the default");
    assert!((9.0..=10.0).contains(&told(ask(Some("1H"), false).await)), "and the cap");
    assert!((1.0..=3.0).contains(&told(ask(Some("3S"), false).await)), "a shorter one stays");
    ask(Some("3s"), false).await.assert_trailers_only(3, "grpc-timeout \"3s\" is not valid");
    ask(Some("50m"), true).await.assert_trailers_only(4, "");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_call_upstream() {
    let (ended, mut resets) = mpsc::channel(1);
    let upstream = Scripted::start(move |mut exchange: Exchange| {
        let ended = ended.clone();
        async move {
            let silent = exchange.request.headers().contains_key("x-silent");
            let mut stream = (!silent).then(|| exchange.headers());
            if let Some(stream) = &mut stream {
                send(stream, message(b"one")).await;
            }
            let reason = match &mut stream {
                Some(stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
                None => poll_fn(|cx| exchange.respond.poll_reset(cx)).await,
            };
            ended.send(reason.unwrap()).await.unwrap();
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        // Between messages.
        let mut client = edge.connect(version).await;
        let mut response = client.send(edge.web(TALK).body(whole(message(b""))).unwrap()).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        drop((response, client));
        assert_eq!(within(2, resets.recv()).await.unwrap(), Reason::CANCEL, "{version:?}");
        // Before the headers.
        let mut client = edge.connect(version).await;
        let request = edge.web(TALK).header("x-silent", "1").body(whole(message(b""))).unwrap();
        let before = upstream.requests();
        tokio::select! {
            _ = client.send(request) => panic!("nobody answers"),
            () = async { while upstream.requests() == before { tokio::task::yield_now().await } } => {}
        }
        drop(client);
        assert_eq!(within(2, resets.recv()).await.unwrap(), Reason::CANCEL, "{version:?}");
    }
    let metrics = edge.metrics.encode();
    let cancelled = metrics.lines().filter(|line| line.contains("CANCELLED") && line.contains("client"));
    assert_eq!(cancelled.filter(|line| line.ends_with(" 4")).count(), 1, "{metrics}");
}

#[tokio::test]
async fn a_stalled_reader_stops_upstream() {
    let (sent, mut progress) = mpsc::channel(5000);
    let upstream = Scripted::start(move |mut exchange: Exchange| {
        let sent = sent.clone();
        async move {
            let mut stream = exchange.headers();
            for _ in 0..4096 {
                send(&mut stream, message(&[0; 16_379])).await;
                if sent.send(()).await.is_err() {
                    return;
                }
            }
            end(&mut stream, 0);
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let response = edge.send(version, edge.web(TALK).body(whole(message(b""))).unwrap()).await;
        // Nobody reads: progress stops far before the 64 MiB are sent.
        let idle = std::time::Duration::from_millis(500);
        let mut messages = 0;
        while let Ok(Some(())) = tokio::time::timeout(idle, progress.recv()).await {
            messages += 1;
        }
        assert!(messages < 1000, "{version:?}: {messages} messages of 16 KiB went into buffers");
        let answer = within(30, WebAnswer::read(response)).await.unwrap();
        assert_eq!((answer.messages.len(), answer.status().0), (4096, 0));
        while progress.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn a_deadline_is_kept_while_the_client_does_not_read() {
    // A service that floods and keeps no deadline itself: only the proxy's reset ends it.
    let (ended, mut resets) = mpsc::channel(4);
    let upstream = Scripted::start(move |mut exchange: Exchange| {
        let ended = ended.clone();
        async move {
            let mut stream = exchange.headers();
            let mut messages = Bytes::new();
            loop {
                if messages.is_empty() {
                    messages = message(&[0; 16_379]);
                }
                stream.reserve_capacity(messages.len());
                let Some(Ok(may)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
                stream.send_data(messages.split_to(may.min(messages.len())), false).unwrap();
            }
            let reason = poll_fn(|cx| stream.poll_reset(cx)).await;
            let _ = ended.send(reason.ok()).await;
        }
    })
    .await;
    let edge = edge(&upstream.url).await;
    for version in BOTH {
        let request = edge.web(TALK).header("grpc-timeout", "300m").body(whole(message(b""))).unwrap();
        let response = edge.send(version, request).await;
        let reason = within(5, resets.recv()).await.unwrap();
        assert_eq!(reason, Some(Reason::CANCEL), "{version:?}");
        let answer = within(30, WebAnswer::read(response)).await;
        assert!(answer.is_err() || answer.unwrap().status().0 == 4, "{version:?}");
    }
}

#[tokio::test]
async fn calls_that_outlive_the_drain_end_with_unavailable_at_the_cut() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        send(&mut stream, message(b"one")).await;
        let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    for version in BOTH {
        let mut edge = edge(&upstream.url).await;
        let mut response = edge.send(version, edge.web(TALK).body(whole(message(b""))).unwrap()).await;
        response.body_mut().frame().await.unwrap().unwrap();
        edge.drain();
        tokio::task::yield_now().await;
        edge.cut.cancel();
        let answer = within(5, WebAnswer::read(response)).await.unwrap();
        let (code, sentence) = answer.status();
        assert_eq!(code, 14, "{sentence}");
        assert!(sentence.contains("draining"), "{sentence}");
        assert_eq!(answer.trailers.unwrap()["bidiway-origin"], "proxy");
    }
}

/// A client that reads only when it has sent everything, as browsers do over HTTP/1.
#[tokio::test]
async fn an_http1_client_may_finish_an_upload_that_is_already_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const SIZE: usize = 8 << 20;
    // The second answers with headers, and then with its status, before it has read anything.
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let mut stream = exchange.headers();
        end(&mut stream, 8);
    })
    .await;
    for max_message in [1000, 1 << 30] {
        let mut settings = settings();
        settings.routes[0].max_message = max_message;
        let edge = edge_with(&upstream.url, settings).await;
        let mut client = tokio::net::TcpStream::connect(edge.address).await.unwrap();
        let head = format!(
            "POST {TALK} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/grpc-web\r\ncontent-length: {}\r\n\r\n",
            edge.address,
            SIZE + 5
        );
        within(10, async {
            client.write_all(head.as_bytes()).await.unwrap();
            for piece in message(&vec![0; SIZE]).chunks(100_000) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = [0; 4096];
            let mut text = String::new();
            while !text.contains("grpc-status: 8") {
                let read = client.read(&mut answer).await.unwrap();
                assert_ne!(read, 0, "{text}");
                text.push_str(&String::from_utf8_lossy(&answer[..read]));
            }
        })
        .await;
    }
}
