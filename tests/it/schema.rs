//! Schemas by reflection: what is asked when, what is kept, and that binary calls never notice.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use bidiway::{
    demo::Services,
    schema::{self, Channel, Descriptors, JsonOptions, Reflection, Schema, SchemaError, Source},
    telemetry::Metrics,
    upstream::Upstream,
    wire::Code,
};
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    time::{Instant, advance},
};
use tonic::transport::server::TcpIncoming;

use crate::support::{
    calls,
    reflection::{Mood, Reflecting, compile, files},
    within,
};

const STRICT: JsonOptions =
    JsonOptions { ignore_unknown: false, defaults: false, field_names: schema::FieldNames::Camel };

fn by_reflection() -> schema::Settings {
    schema::Settings::new(Source::Reflection { fallback: None })
}

/// A schema of the upstream at `url`.
fn schema_at(url: &str, settings: schema::Settings) -> Schema {
    let upstream = Upstream::new(Arc::new(calls::settings(&[url])));
    let reflection = Reflection { channel: Channel::new(upstream.channel()), runtime: Handle::current() };
    Schema::new("chat", settings, reflection, Metrics::new().schema("chat"))
}

/// A schema of a server whose answers the test decides.
fn schema_of(server: &Arc<Reflecting>, settings: schema::Settings) -> Schema {
    counted(server, settings, &Metrics::new())
}

fn counted(server: &Arc<Reflecting>, settings: schema::Settings, metrics: &Metrics) -> Schema {
    let reflection = Reflection { channel: server.channel(), runtime: Handle::current() };
    Schema::new("chat", settings, reflection, metrics.schema("chat"))
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

const V1: &str = r#"
    syntax = "proto3";
    package shop;
    service Shop { rpc Buy(Order) returns (Order); }
    message Order { string item = 1; }
"#;

/// The same after a deployment: a field, a method and a service more.
const V2: &str = r#"
    syntax = "proto3";
    package shop;
    service Shop { rpc Buy(Order) returns (Order); rpc Sell(Order) returns (Order); }
    service Bank { rpc Pay(Order) returns (Order); }
    message Order { string item = 1; int32 count = 2; }
"#;

fn shop(test: &str, text: &str) -> Descriptors {
    compile(test, &[("shop.proto", text)])
}

async fn takes(schema: &Schema, json: &str) -> bool {
    let method = schema.method("/shop.Shop/Buy").await.unwrap();
    method.request_to_protobuf(json.as_bytes(), &STRICT).is_ok()
}

#[tokio::test]
async fn a_method_is_found_by_reflection_and_speaks_json() {
    let services = Services::start(any_port()).await.unwrap();
    let schema = schema_at(&format!("http://{}", services.address()), by_reflection());
    let method = within(10, schema.method("/demo.v1.Greeter/Hello")).await.unwrap();
    assert_eq!(method.name(), "demo.v1.Greeter/Hello");
    assert!(!method.client_streaming() && !method.server_streaming());
    let request = method.request_to_protobuf(br#"{"name":"x"}"#, &STRICT).unwrap();
    assert_eq!(&request[..], b"\x0a\x01x");
    assert_eq!(method.request_to_json(&request, &STRICT).unwrap(), br#"{"name":"x"}"#);
    let error = method.request_to_protobuf(br#"{"nam":"x"}"#, &STRICT).unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert_eq!(
        error.to_string(),
        r#"demo.v1.Greeter/Hello: demo.v1.HelloRequest has no field "nam"; did you mean "name"?"#
    );
    let talk = schema.method("/demo.v1.Chat/Talk").await.unwrap();
    assert!(talk.client_streaming() && talk.server_streaming());
}

#[tokio::test(start_paused = true)]
async fn concurrent_first_calls_are_one_load_and_later_ones_ask_nothing() {
    let server = Reflecting::new(&shop("one-load", V1));
    let schema = schema_of(&server, by_reflection());
    assert_eq!(server.asked(), 0, "nothing is asked before somebody wants to know");
    let calls = (0..20).map(|_| {
        let schema = schema.clone();
        tokio::spawn(async move { schema.method("/shop.Shop/Buy").await.map(|_| ()) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    // The list, and the service's file.
    assert_eq!(server.asked(), 2);
    schema.method("/shop.Shop/Buy").await.unwrap();
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_the_load_to_the_others() {
    let server = Reflecting::new(&shop("gives-up", V1));
    let schema = schema_of(&server, by_reflection());
    let first = {
        let schema = schema.clone();
        tokio::spawn(async move { schema.method("/shop.Shop/Buy").await.map(|_| ()) })
    };
    tokio::task::yield_now().await;
    first.abort();
    schema.method("/shop.Shop/Buy").await.unwrap();
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_redeployed_service_s_new_field_is_known_after_the_interval() {
    let server = Reflecting::new(&shop("redeployed-1", V1));
    let metrics = Metrics::new();
    let schema = counted(&server, by_reflection(), &metrics);
    let before = schema.method("/shop.Shop/Buy").await.unwrap();
    assert!(!takes(&schema, r#"{"count":1}"#).await);

    server.deploy(&shop("redeployed-2", V2));
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert!(!takes(&schema, r#"{"count":1}"#).await, "not yet asked again");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(takes(&schema, r#"{"count":1}"#).await);
    // A call that runs keeps what it began with.
    assert!(before.request_to_protobuf(br#"{"count":1}"#, &STRICT).is_err());

    tokio::time::sleep(Duration::from_secs(300)).await;
    let text = metrics.encode();
    for (result, count) in [("loaded", 1), ("changed", 1), ("unchanged", 1)] {
        let line = format!("bidiway_schema_loads_total{{upstream=\"chat\",result=\"{result}\"}} {count}\n");
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("bidiway_schema_loaded_timestamp_seconds{upstream=\"chat\"} 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_new_method_and_a_new_service_are_asked_for_at_once_but_not_at_every_call() {
    let server = Reflecting::new(&shop("new-method-1", V1));
    let schema = schema_of(&server, by_reflection());
    schema.method("/shop.Shop/Buy").await.unwrap();
    let error = schema.method("/shop.Shop/Sell").await.unwrap_err();
    assert_eq!(error.code(), Code::UNIMPLEMENTED);
    assert_eq!(error.to_string(), "upstream \"chat\" has no method \"/shop.Shop/Sell\"");
    let error = schema.method("/shop.Bank/Pay").await.unwrap_err();
    assert_eq!(error.to_string(), "upstream \"chat\" has no service \"shop.Bank\"");

    server.deploy(&shop("new-method-2", V2));
    advance(Duration::from_secs(6)).await;
    schema.method("/shop.Shop/Sell").await.unwrap();
    schema.method("/shop.Bank/Pay").await.unwrap();

    // Names that somebody makes up cost the upstream next to nothing.
    let before = server.asked();
    for number in 0..1000 {
        assert!(schema.method(&format!("/made.Up{number}/Method")).await.is_err());
        assert!(schema.method(&format!("/shop.Shop/Method{number}")).await.is_err());
        assert!(schema.method_with_type("/shop.Shop/Buy", &format!("made.Up{number}")).await.is_err());
    }
    assert!(server.asked() - before <= 4, "{} questions", server.asked() - before);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_keeps_the_last_good() {
    let server = Reflecting::new(&shop("last-good", V1));
    let metrics = Metrics::new();
    let schema = counted(&server, by_reflection(), &metrics);
    schema.method("/shop.Shop/Buy").await.unwrap();
    for mood in [Mood::Down, Mood::None, Mood::Hang, Mood::Garbage] {
        server.be(mood);
        tokio::time::sleep(Duration::from_secs(320)).await;
        assert!(takes(&schema, r#"{"item":"x"}"#).await, "{mood:?}");
    }
    let failed = "bidiway_schema_loads_total{upstream=\"chat\",result=\"failed\"} 4\n";
    assert!(metrics.encode().contains(failed), "{}", metrics.encode());
    server.be(Mood::Good);
    server.deploy(&shop("last-good-2", V2));
    tokio::time::sleep(Duration::from_secs(320)).await;
    assert!(takes(&schema, r#"{"count":1}"#).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_reflection_is_said_and_not_asked_again_for_a_while() {
    let server = Reflecting::new(&shop("wrong", V1));
    for (mood, code, text) in [
        (
            Mood::None,
            Code::UNIMPLEMENTED,
            "upstream \"chat\" does not offer server reflection, which JSON needs; add it to the service, or give the \
             upstream's schema as a descriptor set or as .proto files",
        ),
        (Mood::Down, Code::UNAVAILABLE, "reflection of upstream \"chat\" failed: Unavailable: it is down"),
        (Mood::Hang, Code::UNAVAILABLE, "reflection of upstream \"chat\" failed: no answer within 10s"),
        (
            Mood::Garbage,
            Code::UNAVAILABLE,
            "reflection of upstream \"chat\" failed: the upstream answered another question than it was asked",
        ),
    ] {
        server.be(mood);
        let schema = schema_of(&server, by_reflection());
        let begun = Instant::now();
        let error = schema.method("/shop.Shop/Buy").await.unwrap_err();
        assert_eq!((error.code(), &*error.to_string()), (code, text));
        // The second call does not wait again.
        let streams = server.streams.load(Ordering::Relaxed);
        let first = begun.elapsed();
        assert_eq!(schema.method("/shop.Shop/Buy").await.unwrap_err().to_string(), text);
        assert_eq!(begun.elapsed(), first);
        assert_eq!(server.streams.load(Ordering::Relaxed), streams);
        // Later one does, and may find that all is well.
        server.be(Mood::Good);
        advance(Duration::from_secs(6)).await;
        schema.method("/shop.Shop/Buy").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn v1alpha_is_spoken_where_there_is_no_v1() {
    let server = Reflecting::new(&shop("alpha", V1));
    server.be(Mood::Alpha);
    let schema = schema_of(&server, by_reflection());
    assert!(takes(&schema, r#"{"item":"x"}"#).await);
    assert_eq!(schema.services().await.unwrap(), ["shop.Shop"]);
    // Upgraded to v1 only.
    server.be(Mood::Good);
    advance(Duration::from_secs(301)).await;
    assert!(takes(&schema, r#"{"item":"x"}"#).await);
}

#[tokio::test(start_paused = true)]
async fn a_file_stands_in_while_reflection_does_not_work() {
    let server = Reflecting::new(&shop("fallback-2", V2));
    server.be(Mood::None);
    let fallback = Some(Arc::new(shop("fallback-1", V1)));
    let schema = schema_of(&server, schema::Settings::new(Source::Reflection { fallback }));
    assert!(takes(&schema, r#"{"item":"x"}"#).await);
    assert!(!takes(&schema, r#"{"count":1}"#).await);
    assert_eq!(schema.services().await.unwrap(), ["shop.Shop"]);
    server.be(Mood::Good);
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert!(takes(&schema, r#"{"count":1}"#).await, "reflection works now, and knows more");
    assert_eq!(schema.services().await.unwrap(), ["shop.Bank", "shop.Shop"]);
}

#[tokio::test(start_paused = true)]
async fn a_schema_of_files_needs_no_upstream() {
    let server = Reflecting::new(&shop("files", V1));
    server.be(Mood::Hang);
    let schema = schema_of(&server, schema::Settings::new(Source::Files(Arc::new(shop("files", V1)))));
    assert!(takes(&schema, r#"{"item":"x"}"#).await);
    assert!(matches!(schema.method("/shop.Bank/Pay").await, Err(SchemaError::UnknownService { .. })));
    assert_eq!(server.streams.load(Ordering::Relaxed), 0);
}

const BASE: (&str, &str) = (
    "base.proto",
    r#"
    syntax = "proto2";
    package base;
    import "google/protobuf/descriptor.proto";
    message Thing { optional string name = 1; extensions 100 to 200; }
    extend google.protobuf.FieldOptions { optional string hint = 50001; }
"#,
);
const MIDDLE: (&str, &str) = (
    "middle.proto",
    r#"
    syntax = "proto2";
    package middle;
    import public "base.proto";
    message Box { optional base.Thing thing = 1 [(base.hint) = "inside"]; }
"#,
);
const TOP: (&str, &str) = (
    "top.proto",
    r#"
    syntax = "proto3";
    package top;
    import "google/protobuf/any.proto";
    import "google/protobuf/timestamp.proto";
    import "middle.proto";
    service Top { rpc Put(Request) returns (Request); }
    message Request { middle.Box box = 1; google.protobuf.Timestamp time = 2; google.protobuf.Any any = 3; }
"#,
);
/// Nobody imports these.
const EXTRAS: (&str, &str) = (
    "extras.proto",
    r#"
    syntax = "proto2";
    package extras;
    import "base.proto";
    extend base.Thing { optional int32 size = 100; }
    message Surprise { optional string text = 1; }
"#,
);

#[tokio::test(start_paused = true)]
async fn imports_extensions_and_types_of_any_are_fetched_where_they_are() {
    let all = compile("imports", &[BASE, MIDDLE, TOP, EXTRAS]);
    let server = Reflecting::new(&all);
    let schema = schema_of(&server, by_reflection());
    let method = schema.method("/top.Top/Put").await.unwrap();
    let json = br#"{"box":{"thing":{"name":"x","[extras.size]":3}},"time":"2026-01-02T03:04:05Z"}"#;
    let bytes = method.request_to_protobuf(json, &STRICT).unwrap();
    assert_eq!(method.request_to_json(&bytes, &STRICT).unwrap(), json);

    let json = br#"{"any":{"@type":"t/extras.Surprise","text":"!"}}"#;
    let method = schema.method("/top.Top/Put").await.unwrap();
    // Its file is here already, because it extends a message; the next type's file is not.
    method.request_to_protobuf(json, &STRICT).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_type_that_only_an_any_names_is_learnt_and_kept() {
    let other = ("other.proto", "syntax = \"proto3\"; package other; message Note { string text = 1; }");
    let server = Reflecting::new(&compile("learnt", &[BASE, MIDDLE, TOP, other]));
    let schema = schema_of(&server, by_reflection());
    let json = br#"{"any":{"@type":"t/other.Note","text":"!"}}"#;
    let method = schema.method("/top.Top/Put").await.unwrap();
    let error = method.request_to_protobuf(json, &STRICT).unwrap_err();
    let method = schema.method_with_type("/top.Top/Put", error.missing_type().unwrap()).await.unwrap();
    method.request_to_protobuf(json, &STRICT).unwrap();
    // From now on for everybody, also after a refresh.
    tokio::time::sleep(Duration::from_secs(301)).await;
    let method = schema.method("/top.Top/Put").await.unwrap();
    method.request_to_protobuf(json, &STRICT).unwrap();
    let error = schema.method_with_type("/top.Top/Put", "other.Nothing").await.unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert_eq!(error.to_string(), "upstream \"chat\" has no message type \"other.Nothing\"");
}

#[tokio::test(start_paused = true)]
async fn descriptors_are_given_on_byte_for_byte_with_their_custom_options() {
    let all = compile("bytes", &[BASE, MIDDLE, TOP]);
    let server = Reflecting::new(&all);
    // An option of an extension that nobody has here: field 70000, in a file's options (field 8).
    let mut served = files(&all.encode());
    let mut top = served.pop().unwrap().to_vec();
    top.extend_from_slice(&[0x42, 6, 0x82, 0x97, 0x22, 2, b'h', b'i']);
    served.push(Bytes::from(top.clone()));
    server.serve(served);
    let schema = schema_of(&server, by_reflection());
    let set = schema.descriptor_set(Some("top.Top")).await.unwrap();
    let found = set.windows(top.len()).any(|window| window == top);
    assert!(found, "the file is there as the server gave it");
    // Dependencies come first, and everything that is imported is there.
    let set = prost_types::FileDescriptorSet::decode(&*set).unwrap();
    let names: Vec<_> = set.file.iter().map(prost_types::FileDescriptorProto::name).collect();
    for (at, file) in set.file.iter().enumerate() {
        for dependency in &file.dependency {
            assert!(
                names[..at].contains(&dependency.as_str()),
                "{dependency} before {} in {names:?}",
                names[at]
            );
        }
    }
    assert_eq!(names.last(), Some(&"top.proto"));
    assert_eq!(
        schema.descriptor_set(None).await.unwrap(),
        schema.descriptor_set(Some("top.Top")).await.unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn an_import_that_nobody_has_is_no_matter_unless_it_is_used() {
    let all = compile("absent", &[BASE, MIDDLE, TOP]);
    let server = Reflecting::new(&all);
    let without = |name: &str| {
        let files = files(&all.encode()).into_iter();
        files
            .filter(|file| prost_types::FileDescriptorProto::decode(file.clone()).unwrap().name() != name)
            .collect()
    };
    // The well-known types are known anyway.
    server.serve(without("google/protobuf/timestamp.proto"));
    let schema = schema_of(&server, by_reflection());
    schema.method("/top.Top/Put").await.unwrap();

    server.serve(without("base.proto"));
    let schema = schema_of(&server, by_reflection());
    let error = schema.method("/top.Top/Put").await.unwrap_err();
    assert_eq!(error.code(), Code::INTERNAL);
    let text = error.to_string();
    assert!(text.contains("base.Thing") && text.ends_with("these imports are missing: base.proto"), "{text}");

    let unused = "syntax = \"proto3\"; package shop; import \"options.proto\"; \
                  service Shop { rpc Buy(Order) returns (Order); } message Order { string item = 1; }";
    let options = ("options.proto", "syntax = \"proto3\"; package options;");
    let all = compile("absent-2", &[options, ("shop.proto", unused)]);
    let server = Reflecting::new(&all);
    let set = files(&all.encode());
    server.serve(set.into_iter().filter(|file| !file.ends_with(b"options\x62\x06proto3")).collect());
    let schema = schema_of(&server, by_reflection());
    assert!(takes(&schema, r#"{"item":"x"}"#).await);
}

#[tokio::test(start_paused = true)]
async fn descriptors_past_4_mib_are_taken_and_past_the_bound_refused() {
    use std::fmt::Write as _;
    let mut text = String::from(V1);
    for number in 0..60_000 {
        let _ = writeln!(
            text,
            "message AVeryLongNameForAMessageThatIsThereToTakeUpRoomInTheDescriptor{number} {{}}"
        );
    }
    let large = shop("large", &text);
    assert!(large.encode().len() > 4 << 20, "{}", large.encode().len());
    let server = Reflecting::new(&large);
    let schema = schema_of(&server, by_reflection());
    assert!(takes(&schema, r#"{"item":"x"}"#).await);

    let schema = schema_of(&server, schema::Settings { max_bytes: 4 << 20, ..by_reflection() });
    let error = schema.method("/shop.Shop/Buy").await.unwrap_err();
    assert_eq!(error.code(), Code::UNAVAILABLE, "{error}");
}

/// A service's server with reflection at a port, until it is dropped.
struct Deployment {
    task: tokio::task::JoinHandle<()>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Deployment {
    async fn start(listener: TcpListener, descriptors: &Descriptors) -> Self {
        let set = prost_types::FileDescriptorSet::decode(&*descriptors.encode()).unwrap();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(set)
            .build_v1()
            .unwrap();
        let server = tonic::transport::Server::builder().add_service(reflection);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = server.serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
            let _ = stopped.await;
        });
        Self { task: tokio::spawn(async move { serving.await.unwrap() }), stop }
    }

    /// Ends it and its connections.
    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_real_server_redeployed_on_its_port_is_learnt_anew_without_a_restart() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Deployment::start(listener, &shop("real-1", V1)).await;
    let settings = schema::Settings { refresh: Duration::from_millis(20), ..by_reflection() };
    let schema = schema_at(&format!("http://{address}"), settings);
    assert!(!takes(&schema, r#"{"count":1}"#).await);
    server.stop().await;
    let _server = Deployment::start(TcpListener::bind(address).await.unwrap(), &shop("real-2", V2)).await;
    within(10, async {
        while !takes(&schema, r#"{"count":1}"#).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
