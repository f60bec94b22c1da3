//! Who may call, in every dialect: tokens, API keys, and what services learn of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bidiway::{
    downstream::{
        Origins, ServicePattern,
        identity::{Mode, Rule, Settings, TokenSource},
    },
    session, upstream,
    wire::Code,
};
use http::HeaderName;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use serde_json::json;

use crate::{
    session_calls::entry,
    support::{
        carrier::Carrier,
        edge::{BOTH, Client, Edge, Http, WebAnswer, edge_with, whole},
        grpc_websocket::Call,
        identity::{
            KEY, Publisher, TALK, body, downstream, guarded, guarded_by, identity, mirror, provider,
            provider_with, required, seen, seen_in, with_routes,
        },
        json::{self, Answer, JsonSocket, pretending_with},
        reload::{Folder, Live},
        socket::Socket,
        tokens::{ISSUER, Issuer, by_secret, claims, claims_with, unsigned},
        upstream::Scripted,
        within,
    },
};

const HELLO: &str = "/demo.v1.Greeter/Hello";

/// One gRPC-Web call with these headers.
pub(crate) async fn web(edge: &Edge, version: Http, headers: &[(&str, &str)]) -> WebAnswer {
    let mut request = edge.web(TALK);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = edge.send(version, request.body(whole(body())).unwrap()).await;
    within(10, WebAnswer::read(response)).await.unwrap()
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A session whose calls have this token.
pub(crate) async fn session_of(edge: &Edge, token: Option<&str>) -> Socket {
    let metadata = token.map(|token| entry("authorization", &bearer(token))).into_iter().collect();
    let settings = session::Settings { metadata, ..session::Settings::default() };
    Carrier::Http1.connect_to(edge.address, settings).await
}

pub(crate) fn metric(edge: &Edge, line: &str) -> bool {
    edge.metrics.encode().lines().any(|found| found == line)
}

#[tokio::test]
async fn in_every_dialect_nobody_passes_without_a_token_and_services_learn_who_has_one() {
    let issuer = Issuer::new("a");
    let upstream = Scripted::start(mirror).await;
    let edge = pretending_with(&upstream.url, downstream(identity(provider(&issuer)), required())).await;
    let token = issuer.token(&claims("ada", 60.0));
    let (missing, late) =
        ("a token or an API key is missing", "the token cannot be accepted: it has expired");
    let expired = issuer.token(&claims("ada", -60.0));
    within(20, async {
        for version in BOTH {
            web(&edge, version, &[]).await.assert_trailers_only(16, missing);
            web(&edge, version, &[("authorization", &bearer(&expired))]).await.assert_trailers_only(16, late);
            let answer = web(&edge, version, &[("authorization", &bearer(&token))]).await;
            assert_eq!((answer.status().0, seen(&answer.headers, "x-user")), (0, vec!["ada".to_owned()]));

            let call = |headers: Vec<(&'static str, String)>| {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let request = json::request_with(&edge, HELLO, r#"{"name":"x"}"#, &headers);
                json::call(&edge, version, request)
            };
            call(vec![]).await.assert_refused(401, 16, missing);
            call(vec![("authorization", bearer(&expired))]).await.assert_refused(401, 16, late);
            let answer: Answer = call(vec![("authorization", bearer(&token))]).await;
            assert_eq!((answer.http, seen(&answer.headers, "x-user")), (200, vec!["ada".to_owned()]));
        }

        let mut socket = session_of(&edge, None).await;
        let answer = socket.unary(TALK, "x").await;
        assert_eq!((answer.code(), answer.trailers.message.as_str()), (Code::UNAUTHENTICATED, missing));
        assert!(answer.by_proxy());
        let mut socket = session_of(&edge, Some(&expired)).await;
        assert_eq!(socket.unary(TALK, "x").await.trailers.message, late);
        let mut socket = session_of(&edge, Some(&token)).await;
        let answer = socket.unary(TALK, "x").await;
        assert_eq!(answer.code(), Code::OK);
        assert_eq!(seen_in(&answer.headers.unwrap(), "x-user"), ["ada"]);

        let mut socket = JsonSocket::open(Carrier::Http1, &edge, HELLO).await;
        socket.send(r#"{"name":"x"}"#).await;
        let (texts, close, reason) = socket.finish().await;
        assert_eq!((texts.len(), close, reason.as_str()), (0, 4016, missing));
    })
    .await;
    assert!(metric(&edge, "bidiway_auth_total{provider=\"main\",result=\"ok\"} 5"));
    assert!(metric(&edge, "bidiway_auth_total{provider=\"main\",result=\"expired\"} 5"));
    assert!(metric(&edge, "bidiway_auth_total{provider=\"(none)\",result=\"missing\"} 6"));
    let calls = upstream.requests();
    assert_eq!(calls, 5, "what was refused never reached the service");
}

#[tokio::test]
async fn claims_become_metadata_that_a_client_cannot_forge() {
    let issuer = Issuer::new("a");
    let (edge, _upstream) = guarded(&issuer).await;
    let roles = json!({ "realm": { "roles": ["dev", "ops"] } });
    let forged = [("x-user", "root"), ("x-user", "admin"), ("x-roles", "root"), ("x-client", "ci")];
    within(20, async {
        let token = bearer(&issuer.token(&claims_with("Zoë", 60.0, &roles)));
        let with = [&forged[..], &[("authorization", &token)]].concat();
        let answer = web(&edge, Http::Two, &with).await;
        let seen_as = |name| seen(&answer.headers, name);
        assert_eq!(seen_as("x-user"), ["Zo%C3%AB"]);
        assert_eq!(seen_as("x-roles"), ["dev", "ops"]);
        assert_eq!(seen_as("authorization"), [token]);
        assert!(seen_as("x-client").is_empty(), "an API key's name, which nobody showed");
        // A claim that a token does not have is no hole either.
        let token = bearer(&issuer.token(&claims("ada", 60.0)));
        let with = [&forged[..], &[("authorization", &token)]].concat();
        assert!(seen(&web(&edge, Http::One, &with).await.headers, "x-roles").is_empty());
    })
    .await;
}

#[tokio::test]
async fn where_nobody_is_asked_claims_cannot_be_forged_either() {
    let issuer = Issuer::new("a");
    let rule = |mode| Rule { mode, ..required() };
    let method = |name: &str| ServicePattern::Method("chat.v1.Chat".into(), name.into());
    let routes = vec![
        (ServicePattern::Any, rule(Mode::Off)),
        (method("Talk"), rule(Mode::Optional)),
        (method("Secret"), rule(Mode::Required)),
    ];
    let upstream = Scripted::start(mirror).await;
    let edge = edge_with(&upstream.url, with_routes(identity(provider(&issuer)), routes)).await;
    let call = async |path: &str, token: &str| {
        let mut request = edge.web(path).header("x-user", "root");
        if !token.is_empty() {
            request = request.header("authorization", bearer(token));
        }
        let response = edge.send(Http::Two, request.body(whole(body())).unwrap()).await;
        let answer = WebAnswer::read(response).await.unwrap();
        (answer.status().0, seen(&answer.headers, "x-user"))
    };
    let (good, bad) = (issuer.token(&claims("ada", 60.0)), issuer.token(&claims("ada", -60.0)));
    let ada = || vec!["ada".to_owned()];
    within(20, async {
        assert_eq!(call("/chat.v1.Chat/Other", "").await, (0, vec![]));
        assert_eq!(call("/chat.v1.Chat/Other", &bad).await, (0, vec![]));
        assert_eq!(call(TALK, "").await, (0, vec![]));
        assert_eq!(call(TALK, &bad).await, (16, vec![]));
        assert_eq!(call(TALK, &good).await, (0, ada()));
        assert_eq!(call("/chat.v1.Chat/Secret", "").await, (16, vec![]));
        assert_eq!(call("/chat.v1.Chat/Secret", &good).await, (0, ada()));
    })
    .await;
}

#[tokio::test]
async fn a_route_asks_for_claims_and_says_which_one_is_lacking() {
    let issuer = Issuer::new("a");
    let require = HashMap::from([("scope".to_owned(), vec!["read".to_owned(), "write".to_owned()])]);
    let (edge, _upstream) = guarded_by(identity(provider(&issuer)), Rule { require, ..required() }).await;
    let with = |scope: &str| bearer(&issuer.token(&claims_with("ada", 60.0, &json!({ "scope": scope }))));
    within(20, async {
        let answer = web(&edge, Http::Two, &[("authorization", &with("write read"))]).await;
        assert_eq!(answer.status().0, 0);
        let answer = web(&edge, Http::Two, &[("authorization", &with("read"))]).await;
        answer.assert_trailers_only(7, "in its claim \"scope\"");
        web(&edge, Http::Two, &[("x-api-key", KEY)]).await.assert_trailers_only(7, "an API key has none");
        web(&edge, Http::Two, &[]).await.assert_trailers_only(16, "missing");
        let mut socket = session_of(&edge, with("read").strip_prefix("Bearer ")).await;
        assert_eq!(socket.unary(TALK, "x").await.code(), Code::PERMISSION_DENIED);
    })
    .await;
    assert!(metric(&edge, "bidiway_auth_total{provider=\"main\",result=\"claims\"} 2"));
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_said_and_nothing_of_it_repeated() {
    let issuer = Issuer::new("a");
    let (edge, upstream) = guarded(&issuer).await;
    let huge = "x".repeat(9000);
    let as_secret = json!({ "alg": "HS256", "kid": issuer.kid("RS256") });
    let cases = [
        (unsigned(&claims("ada", 60.0)), "an algorithm that is not accepted"),
        (
            by_secret(&as_secret, &claims("ada", 60.0), &issuer.public_der()),
            "an algorithm that is not accepted",
        ),
        (Issuer::new("a").token(&claims("ada", 60.0)), "its signature is wrong"),
        (Issuer::new("b").token(&claims("ada", 60.0)), "a key that its issuer does not publish"),
        (issuer.token(&claims_with("ada", 60.0, &json!({ "aud": "x" }))), "another audience"),
        (issuer.token(&claims_with("ada", 60.0, &json!({ "iss": "x" }))), "its issuer is not accepted"),
        (issuer.token(&claims_with("ada", 600.0, &json!({ "nbf": 4e9 }))), "not valid yet"),
        (issuer.token(&claims("ada", -60.0)), "it has expired"),
        (huge, "it has 9000 bytes; at most 8192"),
        ("not-a-token".into(), "three parts"),
    ];
    within(20, async {
        for (token, part) in cases {
            let answer = web(&edge, Http::Two, &[("authorization", &bearer(&token))]).await;
            answer.assert_trailers_only(16, part);
            assert!(!answer.status().1.contains(&token));
            let mut socket = session_of(&edge, Some(&token)).await;
            let answer = socket.unary(TALK, "x").await;
            assert_eq!(answer.code(), Code::UNAUTHENTICATED, "{answer:?}");
            assert!(answer.trailers.message.contains(part), "{answer:?}");
            let request = edge.request("POST", TALK).header("content-type", "application/grpc");
            let request = request.header("te", "trailers").header("authorization", bearer(&token));
            let native = edge.send(Http::Two, request.body(whole(body())).unwrap()).await;
            assert_eq!(native.headers()["grpc-status"], "16");
            let lines = format!("authorization: {}\r\n", bearer(&token));
            let mut call = Call::open(Carrier::Http1, &edge, TALK, &lines).await;
            call.finish().await.0.assert_refused(16, part);
        }
    })
    .await;
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn an_api_key_is_as_good_and_its_name_takes_its_place() {
    let issuer = Issuer::new("a");
    let (edge, _upstream) = guarded(&issuer).await;
    within(20, async {
        let answer = web(&edge, Http::Two, &[("x-api-key", KEY), ("x-client", "root")]).await;
        assert_eq!(answer.status().0, 0);
        assert_eq!(seen(&answer.headers, "x-client"), ["ci"]);
        assert!(seen(&answer.headers, "x-api-key").is_empty(), "services need no key");
        let wrong = web(&edge, Http::Two, &[("x-api-key", "Secret")]).await;
        wrong.assert_trailers_only(16, "the API key in x-api-key is not known");
        // What is shown has to be good, whatever else is.
        let token = bearer(&issuer.token(&claims("ada", 60.0)));
        let both = web(&edge, Http::Two, &[("x-api-key", "Secret"), ("authorization", &token)]).await;
        both.assert_trailers_only(16, "API key");
        let settings = session::Settings { metadata: vec![entry("x-api-key", KEY)], ..Default::default() };
        let mut socket = Carrier::Http1.connect_to(edge.address, settings).await;
        let answer = socket.unary(TALK, "x").await;
        assert_eq!(seen_in(&answer.headers.unwrap(), "x-client"), ["ci"]);
    })
    .await;
    assert!(metric(&edge, "bidiway_auth_total{provider=\"api_keys\",result=\"ok\"} 2"));
    assert!(metric(&edge, "bidiway_auth_total{provider=\"api_keys\",result=\"unknown_key\"} 2"));
}

#[tokio::test]
async fn a_browser_shows_its_token_in_a_cookie_or_among_the_subprotocols() {
    let issuer = Issuer::new("a");
    let sources = vec![
        TokenSource::Authorization,
        TokenSource::Cookie("session".into()),
        TokenSource::Subprotocol("bearer.".into()),
    ];
    let upstream = Scripted::start(mirror).await;
    let mut settings = downstream(Settings { sources, ..identity(provider(&issuer)) }, required());
    settings.origins = Origins::parse(&["https://app.example"]).unwrap();
    let edge = edge_with(&upstream.url, settings).await;
    let token = issuer.token(&claims("ada", 60.0));
    let (cookie, subprotocol) = (format!("a=b; session={token}"), format!("bearer.{token}"));
    within(20, async {
        let answer = web(&edge, Http::One, &[("cookie", &cookie), ("origin", "https://app.example")]).await;
        assert_eq!((answer.status().0, seen(&answer.headers, "x-user")), (0, vec!["ada".to_owned()]));
        assert_eq!(seen(&answer.headers, "authorization"), [bearer(&token)]);
        assert!(seen(&answer.headers, "cookie").is_empty());
        let foreign = web(&edge, Http::One, &[("cookie", &cookie), ("origin", "https://evil.example")]).await;
        assert_eq!(foreign.status().0, 7, "another page cannot use its visitor's cookie");
        for carrier in [Carrier::Http1, Carrier::Http2] {
            for header in [("cookie", cookie.as_str()), ("sec-websocket-protocol", &subprotocol)] {
                // This asserts that the answer names bidiway.v1 and nothing else.
                let ws = carrier.websocket(edge.address, "/bidiway/session", "bidiway.v1", &[header]).await;
                let mut socket = Socket::new(ws, session::Settings::default());
                let answer = socket.unary(TALK, "x").await;
                assert_eq!(answer.code(), Code::OK, "{:?}", answer.trailers);
                assert_eq!(seen_in(&answer.headers.unwrap(), "x-user"), ["ada"]);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_key_of_an_issuer_is_fetched_when_the_first_token_has_it() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let publisher = Publisher::start(Some(old.jwks())).await;
    let mut settings = identity(provider_with(publisher.keys()));
    settings.cooldown = Duration::ZERO;
    let (edge, _upstream) = guarded_by(settings, required()).await;
    let call = async |issuer: &Issuer| {
        let token = bearer(&issuer.token(&claims("ada", 60.0)));
        let answer = web(&edge, Http::Two, &[("authorization", &token)]).await;
        (answer.status().0, seen(&answer.headers, "x-user").len())
    };
    within(20, async {
        // The first calls come before the keys are here, and wait for them.
        assert_eq!(call(&old).await, (0, 1));
        assert_eq!(publisher.fetches(), 1);
        publisher.publish(Some(new.jwks()));
        assert_eq!(call(&old).await, (0, 1), "known, and nobody asks");
        assert_eq!(call(&new).await, (0, 1));
        assert_eq!(publisher.fetches(), 2);
        // What the issuer has withdrawn is not believed any more, though it was verified once.
        assert_eq!(call(&old).await, (16, 0));
    })
    .await;
    assert!(metric(&edge, "bidiway_jwks_keys{provider=\"main\"} 4"));
    assert!(metric(&edge, "bidiway_jwks_fetches_total{provider=\"main\",result=\"changed\"} 2"));
}

#[tokio::test]
async fn made_up_keys_do_not_make_the_proxy_hammer_the_issuer() {
    let issuer = Issuer::new("a");
    let publisher = Publisher::start(Some(issuer.jwks())).await;
    let (edge, _upstream) = guarded_by(identity(provider_with(publisher.keys())), required()).await;
    let good = bearer(&issuer.token(&claims("ada", 60.0)));
    let made_up = bearer(&Issuer::new("b").token(&claims("ada", 60.0)));
    within(20, async {
        assert_eq!(web(&edge, Http::Two, &[("authorization", &good)]).await.status().0, 0);
        for _ in 0..50 {
            let answer = web(&edge, Http::Two, &[("authorization", &made_up)]).await;
            answer.assert_trailers_only(16, "a key that its issuer does not publish");
        }
    })
    .await;
    assert_eq!(publisher.fetches(), 1, "the last fetch was a moment ago");
}

#[tokio::test]
async fn an_issuer_that_is_out_of_reach_locks_nobody_out_whose_key_is_known() {
    let (issuer, other) = (Issuer::new("a"), Issuer::new("b"));
    let publisher = Publisher::start(None).await;
    let mut settings = identity(provider_with(publisher.keys()));
    settings.cooldown = Duration::ZERO;
    let (edge, _upstream) = guarded_by(settings, required()).await;
    let call = async |issuer: &Issuer| {
        let token = bearer(&issuer.token(&claims("ada", 60.0)));
        web(&edge, Http::Two, &[("authorization", &token)]).await.status()
    };
    within(20, async {
        let (code, text) = call(&issuer).await;
        assert_eq!((code, text.contains("could not be fetched")), (14, true), "{text}");
        publisher.publish(Some(issuer.jwks()));
        assert_eq!(call(&issuer).await.0, 0);
        for broken in [None, Some("{}".to_owned()), Some("x".repeat(300 * 1024))] {
            publisher.publish(broken);
            let before = publisher.fetches();
            assert_eq!(call(&other).await.0, 16);
            assert!(publisher.fetches() > before);
            assert_eq!(call(&issuer).await.0, 0, "the last good keys stay");
        }
    })
    .await;
    let text = edge.metrics.encode();
    let failed = text.lines().find(|line| line.contains("jwks_fetches_total") && line.contains("failed"));
    let failed: u32 = failed.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(failed >= 4, "{failed}");
}

#[tokio::test]
async fn a_redirect_of_an_issuer_is_not_followed() {
    let issuer = Issuer::new("a");
    let mut publisher = Publisher::start(Some(issuer.jwks())).await;
    publisher.url = publisher.url.replace("/keys", "/moved");
    let (edge, _upstream) = guarded_by(identity(provider_with(publisher.keys())), required()).await;
    let token = bearer(&issuer.token(&claims("ada", 60.0)));
    let answer = within(10, web(&edge, Http::Two, &[("authorization", &token)])).await;
    assert_eq!((answer.status().0, publisher.fetches()), (14, 0));
}

#[tokio::test]
async fn a_routes_rules_have_the_last_word_on_metadata() {
    let issuer = Issuer::new("a");
    // One waits for its keys, and one does not.
    let publisher = Publisher::start(Some(issuer.jwks())).await;
    for keys in [publisher.keys(), provider(&issuer).keys] {
        let upstream = Scripted::start(mirror).await;
        let mut settings = downstream(identity(provider_with(keys)), required());
        let rules = &mut settings.routes[0].request_metadata;
        rules.remove.push(http::header::AUTHORIZATION);
        rules.rename.push((HeaderName::from_static("x-user"), HeaderName::from_static("x-subject")));
        let edge = edge_with(&upstream.url, settings).await;
        let token = bearer(&issuer.token(&claims("ada", 60.0)));
        let answer = within(10, web(&edge, Http::Two, &[("authorization", &token)])).await;
        assert_eq!((answer.status().0, seen(&answer.headers, "x-subject")), (0, vec!["ada".to_owned()]));
        for gone in ["authorization", "x-user"] {
            assert!(seen(&answer.headers, gone).is_empty(), "{gone}");
        }
    }
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_issuers() {
    let issuer = Issuer::new("a");
    let publisher = Publisher::start(Some(issuer.jwks())).await;
    let settings = |cache| Settings { cache, ..identity(provider_with(publisher.keys())) };
    let old = Arc::new(downstream(settings(100), required()));
    let upstream = Scripted::start(mirror).await;
    let first = edge_with(&upstream.url, bidiway::downstream::Settings::clone(&old)).await;
    let token = bearer(&issuer.token(&claims("ada", 60.0)));
    assert_eq!(within(10, web(&first, Http::Two, &[("authorization", &token)])).await.status().0, 0);
    publisher.publish(None);

    let mut same = Arc::new(downstream(settings(100), required()));
    same.keep_identity(&old);
    assert!(Arc::ptr_eq(same.identity.as_ref().unwrap(), old.identity.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&same.routes[0].auth.as_ref().unwrap().authority, old.identity.as_ref().unwrap()));

    let mut other = Arc::new(downstream(settings(200), required()));
    other.keep_identity(&old);
    assert!(!Arc::ptr_eq(other.identity.as_ref().unwrap(), old.identity.as_ref().unwrap()));
    let second = edge_with(&upstream.url, bidiway::downstream::Settings::clone(&other)).await;
    let answer = within(10, web(&second, Http::Two, &[("authorization", &token)])).await;
    assert_eq!(answer.status().0, 0, "the issuer is out of reach, but was known");
}

/// A server's TLS for `localhost`, by an authority that only `ca.pem` in the folder makes known.
fn private_tls(folder: &Folder) -> ServerConfig {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    folder.write("ca.pem", &authority.pem());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let chain = vec![params.signed_by(&key, &authority).unwrap().der().clone()];
    let builder = ServerConfig::builder_with_provider(upstream::provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    builder.with_single_cert(chain, key.serialize_der().try_into().unwrap()).unwrap()
}

#[tokio::test]
async fn keys_are_fetched_over_https_from_whom_the_given_authority_vouches_for() {
    let issuer = Issuer::new("a");
    let folder = Folder::new();
    let publisher = Publisher::start_tls(Some(issuer.jwks()), private_tls(&folder)).await;
    // Another authority, whose certificates the issuer does not have.
    folder.certificate("other", "localhost");
    let upstream = Scripted::start(mirror).await;
    let config = |ca: &str| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
reload: 100ms
workers: 2
upstreams: {{ chat: {{ endpoints: [\"{}\"], schema: \"off\" }} }}
identity:
  jwt:
    main:
      issuer: {ISSUER}
      audiences: [chat]
      jwks: {{ url: \"{}\", ca: {ca}, refresh: 1h }}
      claims: {{ sub: x-user }}
",
            upstream.url, publisher.url
        )
    };
    folder.write("a.yaml", &config("other.pem"));
    let live = Live::start(folder.path("a.yaml"));
    let call = async |token: &str| {
        let mut client = Client::connect(live.addresses[0], Http::Two).await;
        let request = http::Request::post(format!("http://{}{TALK}", live.addresses[0]))
            .header("content-type", "application/grpc-web+proto")
            .header("authorization", bearer(token))
            .body(whole(body()));
        WebAnswer::read(client.send(request.unwrap()).await.unwrap()).await.unwrap()
    };
    let failed = "bidiway_jwks_fetches_total{provider=\"main\",result=\"failed\"}";
    let good = issuer.token(&claims("ada", 300.0));
    within(60, async {
        let answer = call(&good).await;
        assert_eq!(answer.status().0, 14, "nobody vouches for the issuer: {:?}", answer.status());
        assert!(live.metric(failed) >= 1);
        assert_eq!(publisher.fetches(), 0);

        folder.write("a.yaml", &config("ca.pem"));
        live.generation(2).await;
        let answer = call(&good).await;
        assert_eq!((answer.status().0, seen(&answer.headers, "x-user")), (0, vec!["ada".to_owned()]));
        assert!(publisher.fetches() >= 1);

        // The issuer fails: who is known is known.
        publisher.publish(None);
        let before = live.metric(failed);
        folder.write("a.yaml", &config("ca.pem").replace("refresh: 1h", "refresh: 1s"));
        live.generation(3).await;
        while live.metric(failed) < before + 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(call(&good).await.status().0, 0);
        let wrong = issuer.token(&claims_with("ada", 300.0, &json!({ "aud": "x" })));
        call(&wrong).await.assert_trailers_only(16, "another audience");
    })
    .await;
}
