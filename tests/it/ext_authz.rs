//! A service that is asked about calls: Envoy's `envoy.service.auth.v3.Authorization`, served by tonic.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use bidiway::{
    downstream::identity::{
        ExtAuthzSettings, Mode, Rule,
        ext_authz_v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
            OkHttpResponse, RpcStatus,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
            header_value_option::HeaderAppendAction,
        },
    },
    wire::Code,
};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    identity::{bearer, metric, session_of, web},
    support::{
        calls,
        edge::{Edge, Http, WebAnswer, start, whole},
        identity::{TALK, body, downstream, identity, mirror, provider, required, seen},
        json,
        socket::Socket,
        tokens::{Issuer, claims},
        upstream::Scripted,
        within,
    },
};

const HELLO: &str = "/demo.v1.Greeter/Hello";

/// The service: it decides by the metadata `x-do`, and remembers what it was asked.
#[derive(Clone)]
struct Judge {
    asked: Arc<Mutex<Vec<CheckRequest>>>,
    /// Questions that it has been asked, and those that were given up, about `wait`.
    waits: watch::Sender<(usize, usize)>,
}

struct GivenUp(watch::Sender<(usize, usize)>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.send_modify(|waits| waits.1 += 1);
    }
}

fn set(key: &str, value: &str) -> HeaderValueOption {
    let header = Some(HeaderValue { key: key.into(), value: value.into(), ..Default::default() });
    HeaderValueOption { header, ..Default::default() }
}

fn denied(code: i32, message: &str, response: Option<DeniedHttpResponse>) -> CheckResponse {
    let status = Some(RpcStatus { code, message: message.into() });
    CheckResponse { status, http_response: response.map(HttpResponse::DeniedResponse) }
}

#[tonic::async_trait]
impl Authorization for Judge {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let http = request.attributes.clone().unwrap().request.unwrap().http.unwrap();
        self.asked.lock().unwrap().push(request);
        let answer = match http.headers.get("x-do").map_or("allow", String::as_str) {
            "change" => {
                let append = |mut option: HeaderValueOption| {
                    option.append = Some(true);
                    option
                };
                let with = |mut option: HeaderValueOption, action: HeaderAppendAction| {
                    option.append_action = action.into();
                    option
                };
                let headers = vec![
                    set("x-user", "judged"),
                    append(set("x-tag", "added")),
                    with(set("x-tag", "absent?"), HeaderAppendAction::AddIfAbsent),
                    with(set("x-new", "1"), HeaderAppendAction::OverwriteIfExists),
                    with(set("x-late", "2"), HeaderAppendAction::AddIfAbsent),
                    set("grpc-timeout", "1n"),
                    set(":path", "/evil.Service/Method"),
                    set("content-type", "text/html"),
                    set("bad name", "x"),
                ];
                let headers_to_remove = vec!["X-Secret".into(), "te".into(), ":authority".into()];
                let changes = OkHttpResponse { headers, headers_to_remove };
                CheckResponse {
                    status: Some(RpcStatus::default()),
                    http_response: Some(HttpResponse::OkResponse(changes)),
                }
            }
            "deny" => denied(7, "not you", None),
            "login" => denied(
                7,
                "ignored",
                Some(DeniedHttpResponse {
                    status: Some(HttpStatus { code: 401 }),
                    headers: vec![set("x-reason", "expired"), set("grpc-status", "0")],
                    body: "log in first".into(),
                }),
            ),
            "nonsense" => denied(-5, "", None),
            "fail" => return Err(Status::internal("broken")),
            "wait" => {
                self.waits.send_modify(|waits| waits.0 += 1);
                let _given_up = GivenUp(self.waits.clone());
                pending().await
            }
            _ => CheckResponse::default(),
        };
        Ok(Response::new(answer))
    }
}

impl Judge {
    async fn start() -> (Self, String) {
        let judge = Self { asked: Arc::default(), waits: watch::Sender::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = AuthorizationServer::new(judge.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        (judge, url)
    }
}

/// A Bidiway that asks the judge, in front of a mirror.
async fn judged(settings: ExtAuthzSettings, issuer: Option<&Issuer>) -> (Judge, Edge, Scripted) {
    let (judge, url) = Judge::start().await;
    let upstream = Scripted::start(mirror).await;
    let ext_authz = Some(Arc::new(settings));
    let (identity, rule) = match issuer {
        Some(issuer) => (identity(provider(issuer)), Rule { ext_authz, ..required() }),
        None => {
            let mode = Mode::Required;
            let rule = Rule { mode, providers: vec![], api_keys: false, require: HashMap::new(), ext_authz };
            (bidiway::downstream::identity::Settings::new(), rule)
        }
    };
    let judges = bidiway::upstream::Settings { name: "judge".into(), ..calls::settings(&[&url]) };
    let upstreams = vec![calls::settings(&[&upstream.url]), judges];
    let edge = start(1, json::schema(), upstreams, downstream(identity, rule)).await;
    (judge, edge, upstream)
}

fn ask() -> ExtAuthzSettings {
    ExtAuthzSettings { timeout: Duration::from_secs(10), ..ExtAuthzSettings::new("judge") }
}

/// A call that has so much metadata: its trailing metadata is that of its headers in a refusal.
async fn call(edge: &Edge, headers: &[(&str, &str)]) -> WebAnswer {
    web(edge, Http::Two, headers).await
}

#[tokio::test]
async fn what_is_allowed_goes_on_with_the_metadata_that_the_answer_says() {
    let (judge, edge, _upstream) = judged(ask(), None).await;
    within(20, async {
        let answer = call(&edge, &[("x-user", "forged")]).await;
        assert_eq!((answer.status().0, seen(&answer.headers, "x-user")), (0, vec!["forged".to_owned()]));
        let sent = [("x-do", "change"), ("x-user", "forged"), ("x-tag", "own"), ("x-secret", "1")];
        let answer = call(&edge, &sent).await;
        assert_eq!(answer.status().0, 0);
        let seen = |name| seen(&answer.headers, name);
        assert_eq!(seen("x-user"), ["judged"], "what says nothing of appending replaces");
        assert_eq!(seen("x-tag"), ["own", "added"]);
        assert_eq!(seen("x-late"), ["2"]);
        for none in ["x-new", "x-secret", "grpc-timeout"] {
            assert!(seen(none).is_empty(), "{none}");
        }
        assert_eq!(
            (seen("te"), seen("content-type")),
            (vec!["trailers".into()], vec!["application/grpc+proto".into()])
        );
    })
    .await;
    let asked = judge.asked.lock().unwrap().last().unwrap().attributes.clone().unwrap();
    let (source, http) = (asked.source.unwrap(), asked.request.unwrap().http.unwrap());
    assert_eq!(source.address.unwrap().socket_address.unwrap().address, "127.0.0.1");
    assert_eq!((http.method.as_str(), http.path.as_str(), http.scheme.as_str()), ("POST", TALK, "http"));
    assert_eq!((http.headers["x-user"].as_str(), http.headers["x-tag"].as_str()), ("forged", "own"));
    assert!(metric(&edge, "bidiway_auth_total{provider=\"ext_authz\",result=\"ok\"} 2"));
}

#[tokio::test]
async fn what_is_denied_ends_with_the_status_of_the_answer_in_every_dialect() {
    let (_judge, edge, upstream) = judged(ask(), None).await;
    within(20, async {
        for (what, code, text) in [
            ("deny", 7, "not you"),
            ("login", 16, "log in first"),
            ("nonsense", 7, "the authorization service denied the call"),
        ] {
            let answer = call(&edge, &[("x-do", what)]).await;
            assert_eq!(answer.status(), (code, text.to_owned()), "{answer:?}");
            assert_eq!(answer.headers["bidiway-origin"], "proxy");
            let reason = answer.headers.get("x-reason").map(|value| value.to_str().unwrap());
            assert_eq!(reason, (what == "login").then_some("expired"));

            let request = json::request_with(&edge, HELLO, r#"{"name":"x"}"#, &[("x-do", what)]);
            let answer = json::call(&edge, Http::One, request).await;
            answer.assert_refused(if code == 7 { 403 } else { 401 }, code, text);

            let mut socket = session_with(&edge, what).await;
            let answer = socket.unary(TALK, "x").await;
            assert_eq!((answer.code(), answer.trailers.message.as_str()), (Code(code), text));
        }
    })
    .await;
    assert_eq!(upstream.requests(), 0, "the service was never asked");
    assert!(metric(&edge, "bidiway_auth_total{provider=\"ext_authz\",result=\"denied\"} 9"));
}

async fn session_with(edge: &Edge, what: &str) -> Socket {
    let mut socket = session_of(edge, None).await;
    socket.session.refresh(vec![crate::session_calls::entry("x-do", what)]);
    socket.flush().await;
    socket
}

#[tokio::test]
async fn without_an_answer_calls_are_refused_unless_the_configuration_lets_them_pass() {
    for allow_on_failure in [false, true] {
        let settings = ExtAuthzSettings { allow_on_failure, timeout: Duration::from_millis(100), ..ask() };
        let (_judge, edge, upstream) = judged(settings, None).await;
        within(20, async {
            for (what, text) in [
                ("fail", "the authorization service cannot be asked"),
                ("wait", "the authorization service did not answer within 100ms"),
            ] {
                let answer = call(&edge, &[("x-do", what)]).await;
                let expected = if allow_on_failure { (0, String::new()) } else { (14, text.to_owned()) };
                assert_eq!(answer.status(), expected);
            }
        })
        .await;
        assert_eq!(upstream.requests(), if allow_on_failure { 2 } else { 0 });
        for result in ["failed", "timeout"] {
            assert!(metric(
                &edge,
                &format!("bidiway_auth_total{{provider=\"ext_authz\",result=\"{result}\"}} 1")
            ));
        }
    }
}

#[tokio::test]
async fn a_call_that_waits_for_its_permission_can_be_cancelled_and_has_its_deadline() {
    let (judge, edge, upstream) = judged(ask(), None).await;
    let mut waits = judge.waits.subscribe();
    within(20, async {
        let mut socket = session_with(&edge, "wait").await;
        let stream = socket.open(TALK).await;
        socket.send(stream, "kept until it is permitted").await;
        waits.wait_for(|waits| *waits == (1, 0)).await.unwrap();
        socket.cancel(stream).await;
        waits.wait_for(|waits| *waits == (1, 1)).await.unwrap();
        let answer = call(&edge, &[("x-do", "wait"), ("grpc-timeout", "300m")]).await;
        assert_eq!(answer.status().0, 4);
        waits.wait_for(|waits| *waits == (2, 2)).await.unwrap();
    })
    .await;
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_token_is_looked_at_first_and_the_service_is_told_whose_it_is() {
    let issuer = Issuer::new("a");
    let headers = Some(vec![http::HeaderName::from_static("x-user"), http::HeaderName::from_static("x-do")]);
    let (judge, edge, _upstream) = judged(ExtAuthzSettings { headers, ..ask() }, Some(&issuer)).await;
    let token = bearer(&issuer.token(&claims("ada", 60.0)));
    within(20, async {
        call(&edge, &[]).await.assert_trailers_only(16, "missing");
        assert!(judge.asked.lock().unwrap().is_empty());
        assert_eq!(call(&edge, &[("authorization", &token)]).await.status().0, 0);
        let request = edge.web(TALK).header("authorization", &token).header("x-do", "deny");
        let response = edge.send(Http::One, request.body(whole(body())).unwrap()).await;
        assert_eq!(WebAnswer::read(response).await.unwrap().status().0, 7);
    })
    .await;
    let asked = judge.asked.lock().unwrap()[0].attributes.clone().unwrap();
    assert_eq!(asked.source.unwrap().principal, "jwt:https://id.example.com/ ada");
    let headers = asked.request.unwrap().http.unwrap().headers;
    assert_eq!(headers, HashMap::from([("x-user".to_owned(), "ada".to_owned())]), "and no more than that");
}

#[tokio::test]
async fn the_service_decides_about_all_that_goes_upstream_and_knows_the_host() {
    let (judge, edge, upstream) = judged(ask(), None).await;
    within(20, async {
        let strange = http::HeaderValue::from_bytes(b"admin\xe9").unwrap();
        let request = edge.web(TALK).header("x-role", strange).body(whole(body())).unwrap();
        let answer = WebAnswer::read(edge.send(Http::One, request).await).await.unwrap();
        answer.assert_trailers_only(3, "a value of the metadata x-role is not printable ASCII");
        assert_eq!((judge.asked.lock().unwrap().len(), upstream.requests()), (0, 0));
        assert_eq!(call(&edge, &[]).await.status().0, 0);
        let asked = judge.asked.lock().unwrap()[0].attributes.clone().unwrap().request.unwrap().http.unwrap();
        assert_eq!(asked.host, "127.0.0.1");
    })
    .await;
}
