//! What clients, and configurations that change, must not get past the checks of identity.

use std::{collections::HashMap, fmt::Write};

use bidiway::{
    downstream::{
        CallLimits, Limits,
        identity::{ProviderSettings, Rule, Settings as Identity},
    },
    session::{Event, StreamId},
    upstream,
    wire::{
        Code,
        frame::{Frame, FrameKind, encode},
        v1,
    },
};
use bytes::BytesMut;
use http::HeaderValue;
use serde_json::json;
use tokio::time::Duration;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    identity::{bearer, metric, session_of, web},
    session_calls::entry,
    support::{
        calls,
        carrier::Carrier,
        edge::{Edge, Http, edge_over, edge_with},
        identity::{
            KEY, Publisher, TALK, downstream, guarded, guarded_by, identity, mirror, provider, provider_with,
            required, seen_in,
        },
        reload::{Folder, Live},
        socket::Socket,
        tokens::{ISSUER, Issuer, by_secret, claims},
        upstream::Scripted,
        within,
    },
};

/// Long enough for a call to begin, and short enough to wait for.
const SOON: f64 = 3.0;

fn value(edge: &Edge, name: &str) -> u64 {
    let text = edge.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// A frame that says who the client is.
fn refresh(token: &str) -> Frame {
    let metadata = vec![entry("authorization", &bearer(token))];
    Frame { stream: 0, kind: FrameKind::Refresh(v1::Refresh { metadata }) }
}

#[tokio::test]
async fn many_refreshes_at_once_are_verified_once() {
    let issuer = Issuer::new("a");
    let (edge, _upstream) = guarded(&issuer).await;
    within(30, async {
        let mut socket = session_of(&edge, None).await;
        assert_eq!(socket.unary(TALK, "x").await.code(), Code::UNAUTHENTICATED);
        let mut packet = BytesMut::new();
        for n in 0..60 {
            encode(&refresh(&issuer.token(&claims(&format!("ada-{n}"), 60.0))), &mut packet);
        }
        socket.send_raw(Message::Binary(packet.freeze())).await;
        let answer = socket.unary(TALK, "x").await;
        assert_eq!(seen_in(&answer.headers.unwrap(), "x-user"), ["ada-59"]);
    })
    .await;
    assert_eq!(value(&edge, "bidiway_token_verifications_total"), 1);
}

#[tokio::test]
async fn refreshes_beyond_the_rate_of_calls_wait_to_be_verified_until_somebody_needs_them() {
    let issuer = Issuer::new("a");
    let upstream = Scripted::start(mirror).await;
    let mut settings = downstream(identity(provider(&issuer)), required());
    let per_address = CallLimits { calls_per_second: Some(1), ..CallLimits::default() };
    settings.limits = Limits { per_address, ..Limits::default() };
    let edge = edge_with(&upstream.url, settings).await;
    within(30, async {
        let mut socket = session_of(&edge, None).await;
        socket.flush().await;
        assert!(matches!(socket.next_own().await, Event::Welcomed(_)));
        for n in 0..100 {
            let mut packet = BytesMut::new();
            encode(&refresh(&issuer.token(&claims(&format!("ada-{n}"), 60.0))), &mut packet);
            encode(&Frame { stream: 0, kind: FrameKind::Ping(n) }, &mut packet);
            socket.send_raw(Message::Binary(packet.freeze())).await;
            // The pong: this packet's turn is over.
            socket.receive().await;
        }
    })
    .await;
    let verified = value(&edge, "bidiway_token_verifications_total");
    assert!((1..50).contains(&verified), "{verified}");
}

/// A Bidiway that goes by a file, in which the identity can change.
struct Changing {
    folder: Folder,
    live: Live,
    upstream: Scripted,
}

impl Changing {
    async fn start(identity: &str) -> Self {
        let folder = Folder::new();
        folder.write("one.txt", SECRETS[0]);
        folder.write("two.txt", SECRETS[1]);
        let upstream = Scripted::start(mirror).await;
        folder.write("a.yaml", &Self::text(&upstream, identity));
        let live = Live::start(folder.path("a.yaml"));
        Self { folder, live, upstream }
    }

    fn text(upstream: &Scripted, identity: &str) -> String {
        let url = &upstream.url;
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
reload: 100ms
workers: 1
upstreams: {{ chat: {{ endpoints: [\"{url}\"], schema: \"off\" }} }}
routes: [{{ service: \"*\", upstream: chat }}]
{identity}"
        )
    }

    /// What it goes by from now on.
    async fn changes(&self, identity: &str, generation: u64) {
        self.folder.write("a.yaml", &Self::text(&self.upstream, identity));
        self.live.generation(generation).await;
    }

    async fn session(&self, token: Option<&str>) -> Socket {
        let metadata = token.map(|token| entry("authorization", &bearer(token))).into_iter().collect();
        let settings = bidiway::session::Settings { metadata, ..Default::default() };
        Carrier::Http1.connect_to(self.live.addresses[0], settings).await
    }
}

const SECRETS: [&str; 2] =
    ["one and the same secret of thirty-two bytes", "another secret of more than thirty-two bytes"];

/// Providers who sign with secrets, in this order.
fn by_secrets(files: &[(&str, &str)]) -> String {
    let mut text = "identity:\n  jwt:\n".to_owned();
    for (name, file) in files {
        let rest = "audiences: [chat], leeway: 0s, claims: { sub: x-user }";
        writeln!(text, "    {name}: {{ issuer: \"{ISSUER}\", secret_file: {file}, {rest} }}").unwrap();
    }
    text
}

fn signed(secret: usize, subject: &str, seconds: f64) -> String {
    by_secret(&json!({ "alg": "HS256" }), &claims(subject, seconds), SECRETS[secret].as_bytes())
}

async fn endless(socket: &mut Socket) -> StreamId {
    let stream = socket.open(TALK).await;
    socket.send(stream, "first").await;
    assert_eq!(socket.message(stream).await, b"first");
    stream
}

async fn refreshes(socket: &mut Socket, token: &str) {
    socket.session.refresh(vec![entry("authorization", &bearer(token))]);
    socket.flush().await;
}

#[tokio::test]
async fn after_a_reload_running_calls_go_on_with_tokens_that_are_believed_now_and_with_no_others() {
    let bidiway = Changing::start(&by_secrets(&[("main", "one.txt")])).await;
    within(60, async {
        let token = signed(0, "ada", SOON);
        let mut before = bidiway.session(Some(&token)).await;
        let mut after = bidiway.session(Some(&token)).await;
        let (old, new) = (endless(&mut before).await, endless(&mut after).await);
        bidiway.changes(&by_secrets(&[("first", "two.txt"), ("other", "two.txt")]), 2).await;
        refreshes(&mut before, &signed(0, "ada", 600.0)).await;
        refreshes(&mut after, &signed(1, "ada", 600.0)).await;
        let answer = before.answer(old).await;
        assert_eq!(answer.code(), Code::UNAUTHENTICATED, "the old secret is believed no more");
        after.send(new, "second").await;
        assert_eq!(after.message(new).await, b"second");
        let answer = after.unary(TALK, "x").await;
        assert_eq!(seen_in(&answer.headers.unwrap(), "x-user"), ["ada"]);
    })
    .await;
}

#[tokio::test]
async fn a_session_from_before_there_was_identity_can_refresh_its_tokens() {
    let bidiway = Changing::start("").await;
    within(60, async {
        let mut ada = bidiway.session(None).await;
        let _ = endless(&mut ada).await;
        bidiway.changes(&by_secrets(&[("main", "one.txt")]), 2).await;
        let mut witness = bidiway.session(Some(&signed(0, "eve", SOON))).await;
        refreshes(&mut ada, &signed(0, "ada", SOON)).await;
        let (stream, watched) = (endless(&mut ada).await, endless(&mut witness).await);
        refreshes(&mut ada, &signed(0, "ada", 600.0)).await;
        assert_eq!(witness.answer(watched).await.code(), Code::UNAUTHENTICATED);
        ada.send(stream, "second").await;
        assert_eq!(ada.message(stream).await, b"second");
    })
    .await;
}

#[tokio::test]
async fn after_a_reload_nobody_fetches_the_keys_of_an_issuer_that_is_believed_no_more() {
    let issuer = Issuer::new("a");
    let publishers =
        [Publisher::start(Some(issuer.jwks())).await, Publisher::start(Some(issuer.jwks())).await];
    let by = |publisher: &Publisher| {
        format!(
            "identity: {{ jwt: {{ main: {{ issuer: \"{ISSUER}\", jwks: {{ url: \"{}\", refresh: 1s }} }} }} }}\n",
            publisher.url
        )
    };
    let fetched = async |publisher: &Publisher, more: usize| {
        let until = publisher.fetches() + more;
        while publisher.fetches() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let bidiway = Changing::start(&by(&publishers[0])).await;
    within(60, async {
        // It keeps the settings that it began with.
        let mut session = bidiway.session(None).await;
        assert_eq!(session.unary(TALK, "x").await.code(), Code::UNAUTHENTICATED);
        fetched(&publishers[0], 1).await;
        bidiway.changes(&by(&publishers[1]), 2).await;
        // Whatever was under way is over.
        fetched(&publishers[1], 1).await;
        let before = publishers[0].fetches();
        fetched(&publishers[1], 3).await;
        assert_eq!(publishers[0].fetches(), before);
        assert_eq!(session.unary(TALK, "x").await.code(), Code::UNAUTHENTICATED);
    })
    .await;
}

#[tokio::test]
async fn of_two_providers_with_one_issuer_each_gets_its_new_keys() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let publishers = [Publisher::start(Some(old.jwks())).await, Publisher::start(Some(old.jwks())).await];
    let other = ProviderSettings {
        name: "web".to_owned(),
        audiences: vec!["web".to_owned()],
        ..provider_with(publishers[1].keys())
    };
    let providers = vec![provider_with(publishers[0].keys()), other];
    let settings =
        Identity { providers, cooldown: Duration::ZERO, ..identity(provider_with(publishers[0].keys())) };
    let (edge, _upstream) = guarded_by(settings, Rule { api_keys: true, ..Rule::required(2) }).await;
    let call = async |issuer: &Issuer, audience: &str| {
        let mut claims = claims("ada", 60.0);
        claims["aud"] = audience.into();
        let token = bearer(&issuer.token(&claims));
        web(&edge, Http::Two, &[("authorization", &token)]).await.status()
    };
    within(20, async {
        assert_eq!(call(&old, "chat").await.0, 0);
        assert_eq!(call(&old, "web").await.0, 0);
        publishers.iter().for_each(|publisher| publisher.publish(Some(new.jwks())));
        assert_eq!(call(&new, "chat").await, (0, String::new()));
        assert_eq!(call(&new, "web").await, (0, String::new()));
        let (code, text) = call(&new, "other").await;
        assert_eq!((code, text.contains("another audience")), (16, true), "{text}");
    })
    .await;
}

#[tokio::test]
async fn calls_whose_tokens_cannot_be_verified_yet_take_no_places_of_others() {
    let issuer = Issuer::new("a");
    // Takes connections, and never says anything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut publisher = Publisher::start(None).await;
    publisher.url = format!("http://{}/", silent.local_addr().unwrap());
    let upstream = Scripted::start(mirror).await;
    let settings = upstream::Settings { max_calls: Some(1), ..calls::settings(&[&upstream.url]) };
    let edge = edge_over(settings, downstream(identity(provider_with(publisher.keys())), required())).await;
    within(20, async {
        let mut socket = session_of(&edge, None).await;
        for _ in 0..3 {
            let metadata = vec![entry("authorization", &bearer(&issuer.token(&claims("ada", 60.0))))];
            let open = v1::Open { method: TALK.into(), metadata, ..Default::default() };
            socket.open_with(open).await;
        }
        let key = || v1::Open {
            method: TALK.into(),
            metadata: vec![entry("x-api-key", KEY)],
            ..Default::default()
        };
        let running = socket.open_with(key()).await;
        socket.send(running, "first").await;
        assert_eq!(socket.message(running).await, b"first");
        let beyond = socket.open_with(key()).await;
        let answer = socket.answer(beyond).await;
        assert_eq!(answer.code(), Code::UNAVAILABLE);
        assert!(answer.trailers.message.contains("max_calls"), "{answer:?}");
        socket.finish(running).await;
        assert_eq!(socket.answer(running).await.code(), Code::OK);
        let answer = socket.open_with(key()).await;
        socket.finish(answer).await;
        assert_eq!(socket.answer(answer).await.code(), Code::OK);
    })
    .await;
    assert!(metric(&edge, "bidiway_upstream_calls_active{upstream=\"chat\"} 0"));
}

#[tokio::test]
async fn what_looks_like_a_bearers_token_and_is_none_reaches_no_service() {
    let issuer = Issuer::new("a");
    let (edge, upstream) = guarded(&issuer).await;
    let strange =
        [&b"Bearer\tforged"[..], b"bearer", b"BEARER\xa0forged", b"Bearer forged\xe9", b"Bearer\xe9"];
    within(20, async {
        for value in strange {
            let request = edge
                .web(TALK)
                .header("x-api-key", KEY)
                .header("authorization", HeaderValue::from_bytes(value).unwrap());
            let body = crate::support::edge::whole(crate::support::identity::body());
            let response = edge.send(Http::One, request.body(body).unwrap()).await;
            let answer = crate::support::edge::WebAnswer::read(response).await.unwrap();
            answer.assert_trailers_only(16, "the token cannot be accepted: it is malformed");
        }
        let basic = web(&edge, Http::One, &[("x-api-key", KEY), ("authorization", "Basic YTpi")]).await;
        assert_eq!(basic.status().0, 0, "another scheme is the service's own business");
    })
    .await;
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_route_that_asks_for_claims_lets_nobody_pass_without_them_whatever_its_mode() {
    let issuer = Issuer::new("a");
    let require = HashMap::from([("scope".to_owned(), vec!["read".to_owned()])]);
    let rule = Rule { mode: bidiway::downstream::identity::Mode::Optional, require, ..required() };
    let (edge, _upstream) = guarded_by(identity(provider(&issuer)), rule).await;
    let answer = within(20, web(&edge, Http::Two, &[])).await;
    answer.assert_trailers_only(16, "missing");
}
