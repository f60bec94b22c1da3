//! The gRPC services.

use std::path::PathBuf;

use super::{Balancing, Ejecting, Retrying, UpstreamDns, UpstreamHealth};
use crate::config::{
    Duration, Size,
    choice::{Keepalive, SchemaSource},
    node::Node,
    problem::Problems,
    read::{At, AtLeastOne, Read, Section, section},
};

section! { "an upstream"
    /// A gRPC service, at one or several endpoints that serve the same.
    #[derive(Default)]
    struct Upstream {
        /// `http://HOST:PORT` (HTTP/2 cleartext), `https://HOST:PORT`, `unix:/PATH`; or `dns+http://NAME:PORT` and
        /// `dns+https://NAME:PORT`, which stand for all addresses of the name. At least one.
        endpoints: At<AtLeastOne<At<String>>>,
        /// Which endpoint a call goes to: `least_loaded` (of two drawn at random the one with fewer calls),
        /// `round_robin`, or a mapping with `hash`. Default: least_loaded.
        balance: Option<At<Balancing>>,
        /// How the names of dns+ endpoints are resolved.
        dns: Option<At<UpstreamDns>>,
        /// Health checks by `grpc.health.v1`. Default: none.
        health: Option<At<UpstreamHealth>>,
        /// When an endpoint that fails gets no calls for a while, or "off".
        ejection: Option<At<Ejecting>>,
        /// The time over which an endpoint that was ejected or unhealthy comes back to its full share. Default: 10s.
        ramp: Option<Duration>,
        /// TLS for https endpoints.
        tls: Option<At<UpstreamTls>>,
        /// How long connecting may take, with TLS. Default: 5s.
        connect_timeout: Option<At<Duration>>,
        /// Most connections for each endpoint and worker; more are opened as the service's stream limit is reached.
        /// Default: 8.
        max_connections: Option<u32>,
        /// The HTTP/2 window of a call: the most bytes of its responses that the proxy holds. Default: 256KiB.
        window: Option<At<Size>>,
        /// The largest headers or trailers taken from the service. Default: 64KiB.
        max_headers: Option<At<Size>>,
        /// How often open calls' connections are pinged, or "off". Default: 310s, as gRPC servers refuse more than
        /// one ping in five minutes unless told otherwise.
        keepalive: Option<At<Keepalive>>,
        /// How long to wait for the answer to a ping. Default: 20s.
        keepalive_timeout: Option<At<Duration>>,
        /// When calls that no service has looked at are sent again, or "off".
        retries: Option<Retrying>,
        /// Most calls at a time, of all workers together; beyond it calls fail with UNAVAILABLE. Default: no limit.
        max_calls: Option<u32>,
        /// Most calls that wait for a connection, of all workers together; beyond it calls fail with UNAVAILABLE.
        /// Default: 10,000 for each endpoint and worker.
        max_pending: Option<u32>,
        /// How long a call may last, 10 % more or less; then it ends with UNAVAILABLE. Default: no limit.
        max_stream_age: Option<At<Duration>>,
        /// Where the types of the service's messages come from, which JSON needs: "reflection" (the service's own), a
        /// file, or "off". Binary calls never need it. Default: reflection, when the first call speaks JSON.
        schema: Option<At<SchemaSource>>,
    }
}

section! { "an upstream's schema"
    /// Where the types of a service's messages come from: one of `reflection`, `descriptor_set` and `protos`.
    struct SchemaFiles {
        /// The service's own reflection.
        reflection: Option<At<SchemaReflection>>,
        /// A descriptor set, as `protoc --include_imports --descriptor_set_out=FILE` and `buf build -o FILE` write it.
        descriptor_set: Option<At<PathBuf>>,
        /// .proto files with the services. At least one.
        protos: Option<At<AtLeastOne<At<PathBuf>>>>,
        /// Directories where `protos` and their imports are looked for. Default: the directories of `protos`.
        includes: Option<At<Vec<At<PathBuf>>>>,
    }
}

section! { "an upstream's reflection"
    /// How a service's reflection is used.
    struct SchemaReflection {
        /// A descriptor set or .proto file that stands in while reflection does not work.
        fallback: Option<At<PathBuf>>,
        /// How often what is known is asked for again. Default: 5m.
        refresh: Option<At<Duration>>,
        /// How long one load may take. Default: 10s.
        timeout: Option<At<Duration>>,
    }
}

section! { "an upstream's tls"
    /// TLS towards a service.
    struct UpstreamTls {
        /// CA certificates (PEM file) to trust instead of the operating system's.
        ca: Option<At<PathBuf>>,
        /// The name to verify and to send as SNI, instead of the endpoint's host.
        server_name: Option<At<String>>,
        /// The certificate chain (PEM file) to show to the service. Needs `key`.
        certificate: Option<At<PathBuf>>,
        /// The private key of `certificate`.
        key: Option<At<PathBuf>>,
    }
}
