//! Health and reflection of what is fronted, for clients of every dialect.

use std::process::Command;

use bidiway::{
    demo::{DESCRIPTORS, Services},
    downstream::{self, OwnServices, RouteSettings, ServicePattern},
};
use prost::Message as _;
use serde_json::json;
use tokio_stream::StreamExt;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::{
    v1::{
        ExtensionRequest, ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest as Question,
        server_reflection_response::MessageResponse as Answer,
    },
    v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient,
};

use crate::support::{
    carrier::CARRIERS,
    edge::{Edge, Http, WebAnswer, edge_with, settings, whole},
    grpc_websocket,
    json::{self, demo_with},
    reflection::{compile, files},
    socket::Socket,
    upstream::{Exchange, Scripted, echo, message},
    within,
};

const BOTH: OwnServices = OwnServices { health: true, reflection: true };

fn offering(routes: &[&str]) -> downstream::Settings {
    let route = |service: &&str| RouteSettings::new(ServicePattern::Service((*service).to_owned()), "chat");
    downstream::Settings { own_services: BOTH, routes: routes.iter().map(route).collect(), ..settings() }
}

fn everything() -> downstream::Settings {
    downstream::Settings { own_services: BOTH, ..settings() }
}

async fn channel(edge: &Edge) -> Channel {
    Channel::from_shared(format!("http://{}", edge.address)).unwrap().connect().await.unwrap()
}

async fn check(edge: &Edge, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = within(10, async { HealthClient::new(channel(edge).await).check(request).await }).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

async fn watch(edge: &Edge, service: &str) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel(edge).await).watch(request).await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    within(15, watch.message()).await.unwrap().unwrap().status()
}

#[tokio::test]
async fn a_service_is_healthy_when_its_upstream_says_so_and_unknown_when_no_route_serves_it() {
    let (_services, edge) = demo_with(offering(&["demo.v1.Lab", "demo.v1.Absent"])).await;
    assert_eq!(check(&edge, "").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&edge, "grpc.health.v1.Health").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&edge, "demo.v1.Lab").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&edge, "demo.v1.Greeter").await, Err(Code::NotFound));
    assert_eq!(next(&mut watch(&edge, "demo.v1.Greeter").await).await, ServingStatus::ServiceUnknown);
}

#[tokio::test]
async fn an_upstream_without_health_serves_as_long_as_it_answers_and_a_watch_sees_it_go() {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let upstream = Scripted::start(move |mut exchange: Exchange| {
        let stopped = stopped.clone();
        async move {
            if *stopped.borrow() {
                return exchange.respond.send_reset(h2::Reason::INTERNAL_ERROR);
            }
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = response.header("grpc-status", "12").body(()).unwrap();
            exchange.respond.send_response(response, true).unwrap();
        }
    })
    .await;
    let edge = edge_with(&upstream.url, everything()).await;
    assert_eq!(check(&edge, "chat.v1.Chat").await, Ok(ServingStatus::Serving));
    let mut watch = watch(&edge, "chat.v1.Chat").await;
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    stop.send(true).unwrap();
    assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
    assert_eq!(check(&edge, "chat.v1.Chat").await, Ok(ServingStatus::NotServing));
    stop.send(false).unwrap();
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
}

#[tokio::test]
async fn what_an_upstream_says_of_a_service_is_passed_and_unreachable_ones_do_not_serve() {
    let (reporter, health) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
    reporter.set_service_status("a.Sick", tonic_health::ServingStatus::NotServing).await;
    let edge = edge_with(&format!("http://{address}"), everything()).await;
    assert_eq!(check(&edge, "a.Sick").await, Ok(ServingStatus::NotServing));
    assert_eq!(check(&edge, "a.Unnamed").await, Ok(ServingStatus::Serving), "as the whole does");
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    assert_eq!(check(&edge, "b.Unnamed").await, Ok(ServingStatus::NotServing));

    let nobody = edge_with("http://127.0.0.1:1", everything()).await;
    assert_eq!(check(&nobody, "a.Any").await, Ok(ServingStatus::NotServing));
    assert_eq!(check(&nobody, "").await, Ok(ServingStatus::Serving), "the proxy itself does");
}

#[tokio::test]
async fn a_watch_is_told_of_the_drain_and_does_not_hold_it_up() {
    let upstream = Scripted::start(echo).await;
    let mut edge = edge_with(&upstream.url, everything()).await;
    let mut watch = watch(&edge, "").await;
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    edge.drain();
    assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
    let end = within(10, watch.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    within(10, edge.stopped()).await;
}

#[tokio::test]
async fn every_dialect_reaches_the_proxys_own_services() {
    const CHECK: &str = "/grpc.health.v1.Health/Check";
    let (_services, edge) = demo_with(everything()).await;
    let serving = HealthCheckResponse { status: ServingStatus::Serving.into() }.encode_to_vec();
    let mut socket = Socket::connect(edge.address).await;
    assert_eq!(within(10, socket.unary(CHECK, "")).await.messages, [&serving[..]]);
    for version in [Http::One, Http::Two] {
        let answer = edge.send(version, edge.web(CHECK).body(whole(message(b""))).unwrap()).await;
        assert_eq!(WebAnswer::read(answer).await.unwrap().payloads(), [&serving[..]]);
    }
    let call = grpc_websocket::Call::unary(CARRIERS[0], &edge, CHECK, b"").await;
    assert_eq!(call.reader.payloads(), [&serving[..]]);
    let answer =
        json::call(&edge, Http::One, json::request(&edge, CHECK, r#"{"service":"demo.v1.Lab"}"#)).await;
    assert_eq!(answer.json(), json!({"status": "SERVING"}));
    let text = edge.metrics.encode();
    let counted =
        r#"calls_total{route="grpc.health.v1.Health",dialect="session",code="OK",origin="upstream"} 1"#;
    assert!(text.contains(counted), "{text}");
}

#[tokio::test]
async fn without_the_keys_the_services_are_the_upstreams() {
    let upstream = Scripted::start(echo).await;
    let edge = edge_with(&upstream.url, settings()).await;
    let mut socket = Socket::connect(edge.address).await;
    let answer = socket.unary("/grpc.health.v1.Health/Check", "mine").await;
    assert_eq!(answer.messages, [b"mine"]);
}

/// One question to v1 and to v1alpha, which must answer the same.
async fn ask(edge: &Edge, question: Question) -> Answer {
    let request = ServerReflectionRequest { host: "h".into(), message_request: Some(question) };
    let mut v1 = ServerReflectionClient::new(channel(edge).await);
    let asked = tokio_stream::iter([request.clone()]);
    let answer = within(10, v1.server_reflection_info(asked)).await.unwrap();
    let answer = answer.into_inner().next().await.unwrap().unwrap();
    assert_eq!((&answer.valid_host[..], answer.original_request), ("h", Some(request.clone())));

    let mut alpha = AlphaClient::new(channel(edge).await);
    let asked =
        tonic_reflection::pb::v1alpha::ServerReflectionRequest::decode(&*request.encode_to_vec()).unwrap();
    let same = within(10, alpha.server_reflection_info(tokio_stream::iter([asked]))).await.unwrap();
    let same = same.into_inner().next().await.unwrap().unwrap().message_response.unwrap();
    let answer = answer.message_response.unwrap();
    assert_eq!(format!("{same:?}"), format!("{answer:?}"));
    answer
}

fn names(answer: &Answer) -> Vec<&str> {
    let Answer::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    list.service.iter().map(|service| service.name.as_str()).collect()
}

/// The names of an answer's files.
fn file_names(answer: &Answer) -> Vec<String> {
    let Answer::FileDescriptorResponse(found) = answer else { panic!("{answer:?}") };
    let name =
        |file: &Vec<u8>| prost_types::FileDescriptorProto::decode(&file[..]).unwrap().name().to_owned();
    found.file_descriptor_proto.iter().map(name).collect()
}

fn error(answer: &Answer) -> i32 {
    let Answer::ErrorResponse(error) = answer else { panic!("{answer:?}") };
    error.error_code
}

#[tokio::test]
async fn reflection_lists_what_routes_serve_and_gives_files_byte_for_byte() {
    let (_services, edge) = demo_with(offering(&["demo.v1.Lab"])).await;
    let list = ask(&edge, Question::ListServices(String::new())).await;
    let own = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    assert_eq!(names(&list), [&["demo.v1.Lab"], &own[..]].concat());

    let original = files(DESCRIPTORS).into_iter().find(|file| {
        prost_types::FileDescriptorProto::decode(&file[..]).unwrap().name() == "demo/v1/demo.proto"
    });
    let original = original.unwrap();
    for symbol in ["demo.v1.Lab", "demo.v1.Lab.Bidi", "demo.v1.Payload"] {
        let answer = ask(&edge, Question::FileContainingSymbol(symbol.into())).await;
        let Answer::FileDescriptorResponse(found) = &answer else { panic!("{answer:?}") };
        assert_eq!(found.file_descriptor_proto[0], original, "{symbol}");
    }
    let by_name = ask(&edge, Question::FileByFilename("demo/v1/demo.proto".into())).await;
    assert_eq!(file_names(&by_name)[0], "demo/v1/demo.proto");
    let own = ask(&edge, Question::FileContainingSymbol("grpc.health.v1.Health".into())).await;
    assert!(file_names(&own)[0].contains("health"), "{own:?}");
    for absent in ["demo.v1.Nothing", "demo.v1.Lab.Nothing", ""] {
        assert_eq!(error(&ask(&edge, Question::FileContainingSymbol(absent.into())).await), 5, "{absent}");
    }
    assert_eq!(error(&ask(&edge, Question::FileByFilename("other.proto".into())).await), 5);
}

#[tokio::test]
async fn reflection_knows_extensions_and_sends_an_import_once() {
    let descriptors = compile(
        "own_services",
        &[
            ("base.proto", "syntax = \"proto2\"; package x; message Base { extensions 100 to 199; }"),
            (
                "svc.proto",
                "syntax = \"proto2\"; package x; import \"base.proto\"; extend Base { optional string note = 120; }
                 service S { rpc A(Base) returns (Base); } service T { rpc B(Base) returns (Base); }",
            ),
        ],
    );
    let schema = bidiway::schema::Settings::new(bidiway::schema::Source::Files(descriptors.into()));
    let upstream = crate::support::calls::settings(&["http://127.0.0.1:1"]);
    let edge = crate::support::edge::edge_knowing(schema, upstream, everything()).await;
    let numbers = ask(&edge, Question::AllExtensionNumbersOfType("x.Base".into())).await;
    let Answer::AllExtensionNumbersResponse(numbers) = &numbers else { panic!("{numbers:?}") };
    assert_eq!((&*numbers.base_type_name, &*numbers.extension_number), ("x.Base", &[120][..]));
    let extension = |extension_number| {
        Question::FileContainingExtension(ExtensionRequest {
            containing_type: "x.Base".into(),
            extension_number,
        })
    };
    assert_eq!(file_names(&ask(&edge, extension(120)).await), ["svc.proto", "base.proto"]);
    assert_eq!(error(&ask(&edge, extension(-120)).await), 5);

    let symbol = |symbol: &str| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(Question::FileContainingSymbol(symbol.into())),
    };
    let mut client = ServerReflectionClient::new(channel(&edge).await);
    let asked = tokio_stream::iter([symbol("x.S"), symbol("x.T")]);
    let answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let answers: Vec<_> =
        answers.map(|answer| file_names(&answer.unwrap().message_response.unwrap())).collect().await;
    assert_eq!(answers, [vec!["svc.proto", "base.proto"], vec!["svc.proto"]]);
}

#[tokio::test]
async fn reflection_says_when_an_upstream_is_not_there() {
    let edge = edge_with("http://127.0.0.1:1", everything()).await;
    assert_eq!(error(&ask(&edge, Question::ListServices(String::new())).await), 14);
    assert_eq!(error(&ask(&edge, Question::FileContainingSymbol("a.B".into())).await), 14);
}

#[tokio::test]
async fn a_client_of_reflection_sees_through_the_proxy_what_it_sees_without() {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let direct = format!("http://{}", services.address());
    let edge = edge_with(&direct, everything()).await;
    let describe = |url: String, symbol: &'static str| {
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_bidiway"));
            let output = command.args(["describe", "--upstream", &url, symbol]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
    };
    for symbol in ["demo.v1.Lab/Bidi", "demo.v1.Payload"] {
        let through = describe(format!("http://{}", edge.address), symbol).await.unwrap();
        assert_eq!(through, describe(direct.clone(), symbol).await.unwrap());
        assert!(through.contains("Payload"), "{through}");
    }
}
