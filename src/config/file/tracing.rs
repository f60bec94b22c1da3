//! Traces, and where they go.

use super::UpstreamTls;
use crate::config::{
    choice::{OtlpWay, Share},
    node::Node,
    problem::Problems,
    read::{At, Named, Read, Section, section},
};

section! { "tracing"
    /// Traces: one span for each call that is sampled.
    struct Tracing {
        /// The collector.
        otlp: Otlp,
        /// The part of the calls that have spans, of those whose client has not decided it: from 0 to 1. Default: 0.1.
        sample: Option<At<Share>>,
        /// Whether clients may say, in `traceparent`, which trace a call belongs to and whether it is sampled.
        /// Default: true.
        trust_parent: Option<bool>,
        /// The name of this service in traces. Default: bidiway.
        service_name: Option<String>,
    }
}

section! { "tracing.otlp"
    /// A collector that speaks OpenTelemetry's protocol.
    struct Otlp {
        /// With gRPC `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`; its usual port is 4317. Over HTTP a URL, to
        /// which `/v1/traces` is added unless it ends so; its usual port is 4318.
        endpoint: At<String>,
        /// `grpc`, or `http` (protobuf over HTTP/1.1). Default: grpc.
        protocol: Option<OtlpWay>,
        /// TLS for an https endpoint.
        tls: Option<At<UpstreamTls>>,
        /// What the collector wants to see with each request: API keys and the like.
        headers: Option<At<Named<At<String>>>>,
    }
}
