//! Tokens whose time passes while calls run, and whom a session belongs to.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bidiway::{
    downstream::{
        Origins,
        identity::{Settings as Identity, TokenSource},
    },
    session::{self, Event, StreamId},
    wire::{Code, v1},
};
use h2::Reason;
use http_body_util::BodyExt;

use crate::{
    identity::{bearer, metric, session_of, web},
    session_calls::entry,
    session_resume::{resumable, websocket_with},
    support::{
        carrier::Carrier,
        edge::{Edge, Http, WebAnswer, edge_with, open},
        identity::{KEY, TALK, downstream, guarded, identity, later, mirror, provider, required, seen_in},
        json::pretending_with,
        socket::{Lost, Socket, text},
        tokens::{Issuer, claims},
        upstream::{Scripted, Waiting, message},
        within,
    },
};

/// A token's time in seconds: nothing that begins with it is late, however busy the machine is, and all that has to do
/// with other times stands still for longer.
const SOON: f64 = 8.0;

const ENDED: &str = "the token expired while the call was running";

/// A call that goes on until somebody ends it.
async fn endless(socket: &mut Socket) -> StreamId {
    let stream = socket.open(TALK).await;
    socket.send(stream, "first").await;
    assert_eq!(socket.message(stream).await, b"first");
    stream
}

async fn refresh(socket: &mut Socket, token: &str) {
    socket.session.refresh(vec![entry("authorization", &bearer(token))]);
    socket.flush().await;
}

fn assert_expired(trailers: &v1::Trailers) {
    assert_eq!(Code(trailers.code), Code::UNAUTHENTICATED, "{trailers:?}");
    assert!(trailers.message.starts_with(ENDED), "{trailers:?}");
    assert_eq!(text(&trailers.metadata, "bidiway-origin").as_deref(), Some("proxy"));
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_the_service_learns_it() {
    let issuer = Issuer::new("a");
    let mut upstream = Waiting::start(true).await;
    let settings = downstream(identity(provider(&issuer)), required());
    let edge = edge_with(&upstream.server.url, settings).await;
    within(60, async {
        let mut socket = session_of(&edge, Some(&issuer.token(&claims("ada", SOON)))).await;
        let stream = socket.open(TALK).await;
        upstream.begun(1).await;
        later(SOON).await;
        assert_expired(&socket.answer(stream).await.trailers);
        assert_eq!(upstream.over.recv().await.unwrap().unwrap(), Reason::CANCEL);
        // New calls are told so as well, and the session goes on for those with a better token.
        let answer = socket.unary(TALK, "x").await;
        assert_eq!(answer.trailers.message, "the token cannot be accepted: it has expired");
        assert!(socket.closed.is_none());
    })
    .await;
    assert!(metric(&edge, "bidiway_auth_total{provider=\"main\",result=\"expired_in_call\"} 1"));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_told_all_the_same() {
    let issuer = Issuer::new("a");
    let (edge, _upstream) = guarded(&issuer).await;
    within(60, async {
        let mut socket = session_of(&edge, Some(&issuer.token(&claims("ada", SOON)))).await;
        socket.consumes = false;
        let stream = socket.open(TALK).await;
        // More than the credit for the answers: the stream stands still.
        for _ in 0..12 {
            socket.send(stream, vec![7; 16_000]).await;
        }
        later(SOON).await;
        assert_expired(&socket.answer(stream).await.trailers);
    })
    .await;
}

#[tokio::test]
async fn a_stream_goes_on_with_a_newer_token_of_the_same_subject() {
    let issuer = Issuer::new("a");
    let (edge, _upstream) = guarded(&issuer).await;
    within(60, async {
        let first = issuer.token(&claims("ada", SOON));
        let (mut ada, mut eve) =
            (session_of(&edge, Some(&first)).await, session_of(&edge, Some(&first)).await);
        let (stream, other) = (endless(&mut ada).await, endless(&mut eve).await);
        refresh(&mut ada, &issuer.token(&claims("ada", 2.0 * SOON))).await;
        refresh(&mut eve, &issuer.token(&claims("eve", 60.0))).await;
        // An answer to what is said behind it shows that Refresh has come.
        for (socket, stream) in [(&mut ada, stream), (&mut eve, other)] {
            socket.send(stream, "behind").await;
            assert_eq!(socket.message(stream).await, b"behind");
        }
        later(SOON).await;
        assert_expired(&eve.answer(other).await.trailers);
        ada.send(stream, "second").await;
        assert_eq!(ada.message(stream).await, b"second", "prolonged, and not by much");
        later(SOON).await;
        assert_expired(&ada.answer(stream).await.trailers);
    })
    .await;
}

#[tokio::test]
async fn where_there_is_no_refresh_a_call_ends_with_its_token_in_every_dialect() {
    let issuer = Issuer::new("a");
    let upstream = Scripted::start(mirror).await;
    let edge = pretending_with(&upstream.url, downstream(identity(provider(&issuer)), required())).await;
    within(60, async {
        let token = bearer(&issuer.token(&claims("ada", SOON)));
        let mut senders = Vec::new();
        let mut begin = async |content_type: &str, path: &str, version| {
            let (sender, body) = open();
            let request = edge.request("POST", path).header("content-type", content_type);
            let request = request.header("authorization", &token).header("te", "trailers");
            let response = edge.send(version, request.body(body).unwrap()).await;
            let first = message(b"first");
            match content_type {
                "application/grpc-web-text" => sender.send(STANDARD.encode(first).into()).await.unwrap(),
                "application/x-ndjson" => {}
                _ => sender.send(first).await.unwrap(),
            }
            senders.push(sender);
            response
        };
        let web = begin("application/grpc-web+proto", TALK, Http::Two).await;
        let text = begin("application/grpc-web-text", TALK, Http::One).await;
        let mut native = begin("application/grpc", TALK, Http::Two).await.into_body();
        let json = begin("application/x-ndjson", "/demo.v1.Lab/Bidi", Http::Two).await;
        assert_eq!(native.frame().await.unwrap().unwrap().into_data().unwrap(), message(b"first"));
        let came = |dialect| {
            let line =
                format!("bidiway_messages_total{{route=\"*\",dialect=\"{dialect}\",direction=\"down\"}} 1");
            metric(&edge, &line)
        };
        while !came("grpc-web") || !came("grpc-web-text") {
            tokio::task::yield_now().await;
        }
        later(SOON).await;
        for answer in [web, text] {
            let answer = WebAnswer::read(answer).await.unwrap();
            let (code, text) = answer.status();
            assert_eq!((code, text.as_str(), answer.payloads()), (16, ENDED, vec![&b"first"[..]]));
        }
        let trailers = native.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "16");
        let json = crate::support::json::Answer::read(json).await;
        assert!(json.body.contains(ENDED), "{json:?}");
    })
    .await;
    assert!(metric(&edge, "bidiway_auth_total{provider=\"main\",result=\"expired_in_call\"} 4"));
}

#[tokio::test]
async fn a_deadline_that_comes_first_is_the_deadline() {
    let issuer = Issuer::new("a");
    let upstream = Waiting::start(true).await;
    let edge = edge_with(&upstream.server.url, downstream(identity(provider(&issuer)), required())).await;
    within(60, async {
        let token = bearer(&issuer.token(&claims("ada", 30.0)));
        let answer = web(&edge, Http::Two, &[("authorization", &token), ("grpc-timeout", "200m")]).await;
        assert_eq!(answer.status().0, 4);
    })
    .await;
}

/// A session with this default metadata that can be resumed, and what is lost of it.
async fn lost(edge: &Edge, metadata: Vec<v1::Metadata>, headers: &[(&str, &str)]) -> Lost {
    let settings = session::Settings { metadata, ..resumable() };
    let mut socket = Socket::new(websocket_with(Carrier::Http1, edge, headers).await, settings);
    endless(&mut socket).await;
    assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
    socket.cut()
}

/// What becomes of it when it comes back with other default metadata.
async fn back(edge: &Edge, mut lost: Lost, metadata: Vec<v1::Metadata>, headers: &[(&str, &str)]) -> Event {
    lost.session.refresh(metadata);
    let mut socket = lost.resume(websocket_with(Carrier::Http1, edge, headers).await).await;
    socket.next_own().await
}

fn resumes(event: &Event) -> bool {
    match event {
        Event::Resumed { .. } => true,
        Event::Welcomed(welcome) => {
            assert_eq!(welcome.resume_failure(), v1::ResumeFailure::WrongPrincipal);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_goes_on_for_whom_it_belongs_to_with_whatever_token_of_his() {
    let issuer = Issuer::new("a");
    let (edge, _upstream) = guarded(&issuer).await;
    let token = |subject: &str, seconds: f64| {
        vec![entry("authorization", &bearer(&issuer.token(&claims(subject, seconds))))]
    };
    let key = || vec![entry("x-api-key", KEY)];
    within(60, async {
        for (own, other, goes_on) in [
            (token("ada", 60.0), token("ada", 90.0), true),
            (token("ada", 60.0), token("eve", 60.0), false),
            (token("ada", 60.0), token("ada", -60.0), false),
            (token("ada", 60.0), vec![], false),
            (token("ada", 60.0), key(), false),
            (key(), key(), true),
            (key(), token("ada", 60.0), false),
        ] {
            let lost = lost(&edge, own.clone(), &[]).await;
            let event = back(&edge, lost, other.clone(), &[]).await;
            assert_eq!(resumes(&event), goes_on, "{own:?} then {other:?}: {event:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_belongs_to_who_showed_a_cookie_as_well() {
    let issuer = Issuer::new("a");
    let upstream = Scripted::start(mirror).await;
    let sources = vec![TokenSource::Cookie("session".into())];
    let mut settings = downstream(Identity { sources, ..identity(provider(&issuer)) }, required());
    settings.origins = Origins::parse(&["https://app.example"]).unwrap();
    let edge = edge_with(&upstream.url, settings).await;
    let cookie = |subject: &str, seconds: f64| format!("session={}", issuer.token(&claims(subject, seconds)));
    within(60, async {
        for (other, goes_on) in [(cookie("ada", 90.0), true), (cookie("eve", 90.0), false)] {
            let lost = lost(&edge, vec![], &[("cookie", &cookie("ada", 60.0))]).await;
            assert_eq!(resumes(&back(&edge, lost, vec![], &[("cookie", &other)]).await), goes_on);
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_carrier_with_a_newer_token_lets_running_calls_go_on() {
    let issuer = Issuer::new("a");
    let (edge, _upstream) = guarded(&issuer).await;
    let token = |seconds| vec![entry("authorization", &bearer(&issuer.token(&claims("ada", seconds))))];
    within(60, async {
        let witness = Arc::new(issuer.token(&claims("eve", SOON)));
        let mut witness = session_of(&edge, Some(&witness)).await;
        let watched = endless(&mut witness).await;
        let settings = session::Settings { metadata: token(SOON), ..resumable() };
        let mut socket = Socket::new(websocket_with(Carrier::Http1, &edge, &[]).await, settings);
        let stream = endless(&mut socket).await;
        assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
        let mut lost = socket.cut();
        lost.session.refresh(token(60.0));
        let mut socket = lost.resume(websocket_with(Carrier::Http1, &edge, &[]).await).await;
        assert!(matches!(socket.next_own().await, Event::Resumed { .. }));
        later(SOON).await;
        assert_expired(&witness.answer(watched).await.trailers);
        socket.send(stream, "second").await;
        assert_eq!(socket.message(stream).await, b"second");
        // A call that begins now has the newer token.
        let answer = socket.unary(TALK, "x").await;
        assert_eq!(seen_in(&answer.headers.unwrap(), "x-user"), ["ada"]);
    })
    .await;
}
