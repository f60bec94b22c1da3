//! Schemas from reflection, over the same pool that calls use.

use std::{net::SocketAddr, sync::Arc};

use bidiway::{
    demo::Services,
    schema::{Channel, JsonOptions, Reflection, Schema, Settings, Source},
    telemetry::Metrics,
    upstream::Upstream,
    wire::Code,
};
use tokio::runtime::Handle;

use crate::support::{calls, within};

/// A schema of the upstream at `url`.
fn schema_with(url: &str, settings: Settings, metrics: &Metrics) -> Schema {
    let upstream = Upstream::new(Arc::new(calls::settings(&[url])));
    let reflection = Reflection { channel: Channel::new(upstream.channel()), runtime: Handle::current() };
    Schema::new("chat", settings, reflection, metrics.schema("chat"))
}

fn schema(url: &str) -> Schema {
    schema_with(url, Settings::new(Source::Reflection { fallback: None }), &Metrics::new())
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn a_method_is_found_by_reflection_and_speaks_json() {
    let services = Services::start(any_port()).await.unwrap();
    let schema = schema(&format!("http://{}", services.address()));
    let method = within(10, schema.method("/demo.v1.Greeter/Hello")).await.unwrap();
    assert_eq!(method.name(), "demo.v1.Greeter/Hello");
    assert!(!method.client_streaming() && !method.server_streaming());
    let options = JsonOptions::default();
    let request = method.request_to_protobuf(br#"{"name":"x"}"#, &options).unwrap();
    assert_eq!(&request[..], b"\x0a\x01x");
    assert_eq!(method.request_to_json(&request, &options).unwrap(), br#"{"name":"x"}"#);
    let error = method.request_to_protobuf(br#"{"nam":"x"}"#, &options).unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert_eq!(
        error.to_string(),
        r#"demo.v1.Greeter/Hello: demo.v1.HelloRequest has no field "nam"; did you mean "name"?"#
    );
}
