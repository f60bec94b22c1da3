//! What the file may say: its keys, with the sentences that editors show. Defaults are applied in `build`.

use std::{borrow::Cow, net::SocketAddr, path::PathBuf};

use schemars::{
    JsonSchema, Schema, SchemaGenerator, json_schema,
    transform::{RecursiveTransform, Transform},
};

use super::{
    Duration, Size,
    choice::{
        CLIENT_AUTH, DEFAULTS, Defaults, Drain, FIELD_NAMES, FORMAT, Keepalive, MIN_VERSION, SchemaSource,
        Share, UNKNOWN_FIELDS, UnknownFields,
    },
    node::Node,
    problem::Problems,
    read::{At, AtLeastOne, Named, Read, Section, section},
};
use crate::{
    schema::FieldNames,
    server::tls::{ClientAuth, MinVersion},
    telemetry::log::Format,
};

section! { "the file"
    /// The configuration of Bidiway, an edge proxy that gives browsers the whole of gRPC.
    struct File {
        /// The public ports. At least one.
        listeners: AtLeastOne<Listener>,
        /// The operators' port: /healthz, /readyz, /metrics and /schema. Left out: none.
        admin: Option<Admin>,
        /// The origins whose pages may call, besides pages of the proxy's own origin: `https://app.example.com`,
        /// `https://*.example.com` for subdomains, or `*` for any. One list for CORS and WebSockets. Default: none.
        origins: Option<Vec<At<String>>>,
        /// Headers of the request that opens a WebSocket which reach services as metadata of its calls, and `cookie`
        /// of any request. `cookie` and `authorization` demand that `origins` has no `*`. Default: none.
        upgrade_headers: Option<Vec<At<String>>>,
        /// The gRPC services, by a name of your choice. At least one.
        upstreams: At<Named<Upstream>>,
        /// Which upstream serves what; the most specific route wins. Default: everything to the only upstream.
        routes: Option<AtLeastOne<Route>>,
        /// What clients may use.
        limits: Option<Limits>,
        /// The session protocol.
        session: Option<Session>,
        /// A name for this instance that no other behind the same address has. Default: made anew at each start.
        instance: Option<String>,
        /// Worker threads, each with its own connections. Default: one for each core.
        workers: Option<At<u32>>,
        /// How the proxy stops: a mapping, or a duration, which is its `timeout`.
        drain: Option<At<Drain>>,
        /// The log, on standard error.
        log: Option<Log>,
        /// Whether the public ports serve the schemas of what routes serve, under /bidiway/schema: for tools and for
        /// pages without generated code. Default: false.
        schema_endpoint: Option<bool>,
    }
}

section! { "drain"
    /// How the proxy stops. All times begin with the signal to stop.
    struct DrainTimes {
        /// How long everything is served as before, while /readyz says that the proxy is not ready, and balancers
        /// learn to send nothing more. Default: 5s with an admin port, otherwise 0s; at most a quarter of the timeout.
        grace: Option<Duration>,
        /// The time after the grace over which sessions are told to go elsewhere, so that not all arrive there at
        /// once. Default: 5s, at most a quarter of the timeout.
        spread: Option<Duration>,
        /// How long open calls may go on. Default: 25s.
        timeout: Option<Duration>,
    }
}

section! { "a listener"
    /// One public port, for every dialect.
    struct Listener {
        /// IP and port: `127.0.0.1:8080` (this machine only), `0.0.0.0:8080` or `[::]:8080` (everybody).
        address: At<SocketAddr>,
        /// TLS. Left out: cleartext HTTP/1.1 and HTTP/2.
        tls: Option<At<ListenerTls>>,
    }
}

section! { "a listener's tls"
    /// TLS of a public port, with ALPN h2 and http/1.1.
    struct ListenerTls {
        /// Certificates, chosen by the name that the client asks for; the first is the default. At least one.
        certificates: AtLeastOne<CertificateFiles>,
        /// CA certificates (PEM file) from which clients' certificates must come. Left out: clients show none.
        client_ca: Option<At<PathBuf>>,
        /// Whether a client must show a certificate. Default: required.
        client_auth: Option<At<ClientAuth>>,
        /// The oldest TLS version that is spoken. Default: "1.2".
        min_version: Option<MinVersion>,
    }
}

section! { "a certificate"
    /// A certificate and its private key, in PEM files. Relative paths start at the configuration's directory.
    struct CertificateFiles {
        /// The certificate chain, the server's own certificate first.
        chain: At<PathBuf>,
        /// The private key: RSA, ECDSA or Ed25519.
        key: At<PathBuf>,
    }
}

section! { "admin"
    /// The operators' port.
    struct Admin {
        /// IP and port. It has no access control: keep it off the public network.
        address: At<SocketAddr>,
    }
}

section! { "an upstream"
    /// A gRPC service, at one or several endpoints that serve the same.
    struct Upstream {
        /// `http://HOST:PORT` (HTTP/2 cleartext), `https://HOST:PORT` or `unix:/PATH`. At least one.
        endpoints: At<AtLeastOne<At<String>>>,
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

section! { "a route"
    /// Which upstream serves a service or method.
    struct Route {
        /// `chat.v1.Chat` (a service), `chat.v1.Chat/Talk` (a method), `chat.v1.*` (a package) or `*` (everything).
        service: At<String>,
        /// The name of an upstream.
        upstream: At<String>,
        /// The longest a call may take, and the deadline of calls that have none. Default: no limit.
        timeout: Option<At<Duration>>,
        /// The largest message, either way. Default: limits.max_message.
        max_message: Option<At<Size>>,
        /// How JSON is read and written, where a client speaks JSON.
        json: Option<Json>,
        /// Logs messages, decoded, whatever the dialect of the call. Left out: none.
        log_messages: Option<LogMessages>,
    }
}

section! { "a route's json"
    /// How JSON is read and written.
    struct Json {
        /// What becomes of fields and enum values that the schema does not have: "reject" or "ignore". Default: reject.
        unknown_fields: Option<UnknownFields>,
        /// Whether fields with their default value are written: "omit" or "write". Default: omit.
        defaults: Option<Defaults>,
        /// The names that are written: "camel" (fieldName) or "original" (field_name). Both are read. Default: camel.
        field_names: Option<FieldNames>,
    }
}

section! { "a route's log_messages"
    /// Which messages are logged, and how: for debugging. Services' data ends up in the log.
    struct LogMessages {
        /// The part of the route's calls whose messages are logged: 1 for all, 0.01 for one in a hundred.
        sample: At<Share>,
        /// What is masked besides passwords, secrets, tokens and the like: fields and metadata with one of these words
        /// in their names.
        redact: Option<Vec<At<String>>>,
        /// The most of a message that is logged. Default: 4KiB.
        max_bytes: Option<At<Size>>,
    }
}

section! { "limits"
    /// What clients may use.
    struct Limits {
        /// Open TCP connections of the process; more wait in the kernel. Default: 50000.
        max_connections: Option<u32>,
        /// The largest message, either way. Default: 4MiB.
        max_message: Option<At<Size>>,
        /// The largest metadata of a call. Default: 16KiB.
        max_metadata: Option<At<Size>>,
        /// Open WebSockets for each client address. Default: 100.
        sockets_per_address: Option<u32>,
        /// Sessions that wait for their clients to come back. Default: 50000.
        parked_sessions: Option<u32>,
        /// Those of each client address. Default: 100.
        parked_per_address: Option<u32>,
        /// What they keep for their clients, together. Default: 256MiB.
        parked_bytes: Option<At<Size>>,
        /// How long a TLS handshake may take. Default: 10s.
        handshake_timeout: Option<At<Duration>>,
        /// How long a client may take to send a request's headers; also how long an idle HTTP/1.1 connection is kept.
        /// Default: 10s.
        header_timeout: Option<At<Duration>>,
        /// Open HTTP/2 streams for each connection. Default: 250.
        http2_streams: Option<u32>,
    }
}

section! { "session"
    /// The session protocol.
    struct Session {
        /// Bytes that a client may send on a stream before the service has taken them. 64KiB to 16MiB. Default:
        /// 256KiB.
        credit: Option<At<Size>>,
        /// Open streams for each session. Default: 256.
        streams: Option<u32>,
        /// How often the proxy pings; a client that is silent for twice as long is gone. Default: 20s.
        ping: Option<At<Duration>>,
        /// How long a client may take to say Hello. Default: 10s.
        hello_timeout: Option<At<Duration>>,
        /// How long a session without a carrier waits for its client to come back; 0s: not at all. Default: 30s.
        resume: Option<Duration>,
        /// Bytes that a session keeps until its client has acknowledged them. 128KiB to 64MiB. Default: 1MiB.
        resume_buffer: Option<At<Size>>,
        /// Whether clients may come by HTTP where WebSockets do not get through. Default: true.
        fallback: Option<bool>,
        /// The longest silence of such a client's response, and the longest wait of its polls. Default: 15s.
        heartbeat: Option<At<Duration>>,
        /// The other instances behind the same address, to which clients are brought whose sessions they have.
        /// Default: none; a client that comes back to another instance begins a new session.
        peers: Option<At<Peers>>,
    }
}

section! { "session.peers"
    /// The link between instances.
    struct Peers {
        /// IP and port where this instance hears the others. Never a public port.
        listen: At<SocketAddr>,
        /// `HOST:PORT` where instances are heard; this one may be among them. A name stands for all of its addresses,
        /// as that of a headless service does. At least one.
        addresses: AtLeastOne<At<String>>,
        /// The certificate by which instances know each other.
        tls: At<PeerTls>,
    }
}

section! { "session.peers.tls"
    /// The certificate by which instances know each other. Cleartext is not spoken between them.
    struct PeerTls {
        /// The CA (PEM file) from which their certificates come, and no others: whoever has one can speak for any client.
        ca: At<PathBuf>,
        /// This instance's certificate chain (PEM file).
        certificate: At<PathBuf>,
        /// Its private key.
        key: At<PathBuf>,
        /// The name that each instance's certificate has. Default: the host in `addresses`.
        server_name: Option<At<String>>,
    }
}

section! { "log"
    /// The log, on standard error.
    struct Log {
        /// How lines look. Default: text.
        format: Option<Format>,
        /// error, warn, info, debug, trace or off; or directives such as `info,call=off`. Default: info, which has
        /// one line for each call.
        level: Option<At<String>>,
    }
}

/// The file's JSON Schema, for editors.
pub(super) fn schema() -> Schema {
    let mut schema = schemars::schema_for!(File);
    schema.insert("title".into(), "Bidiway's configuration".into());
    RecursiveTransform(drop_null).transform(&mut schema);
    schema
}

/// schemars writes an `Option` as "or null"; here a key without a value is an error.
fn drop_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(serde_json::Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(serde_json::Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(serde_json::Value::Array(kinds)) = object.get_mut("anyOf") {
        kinds.retain(|kind| kind.get("type").is_none_or(|name| name != "null"));
        if let [serde_json::Value::Object(only)] = &kinds[..] {
            let only = only.clone();
            object.remove("anyOf");
            object.extend(only);
        }
    }
}

/// Schemas of the values that are not mappings.
macro_rules! value_schema {
    ($type:ty, $name:literal, $schema:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

value_schema!(
    Duration,
    "Duration",
    json_schema!({ "type": "string", "pattern": r"^([0-9]+(ms|s|m|h))+$", "examples": ["30s", "1m30s", "500ms"] })
);
value_schema!(
    Size,
    "Size",
    json_schema!({
        "type": "string", "pattern": r"^[0-9]+(B|KiB|MiB|GiB|kB|KB|MB)$", "examples": ["4MiB", "256KiB"]
    })
);
value_schema!(
    Keepalive,
    "Keepalive",
    json_schema!({ "type": "string", "pattern": r"^(off|([0-9]+(ms|s|m|h))+)$", "examples": ["310s", "off"] })
);
value_schema!(UnknownFields, "UnknownFields", json_schema!({ "enum": UNKNOWN_FIELDS.map(|(word, _)| word) }));
value_schema!(Defaults, "Defaults", json_schema!({ "enum": DEFAULTS.map(|(word, _)| word) }));
value_schema!(FieldNames, "FieldNames", json_schema!({ "enum": FIELD_NAMES.map(|(word, _)| word) }));
value_schema!(ClientAuth, "ClientAuth", json_schema!({ "enum": CLIENT_AUTH.map(|(word, _)| word) }));
value_schema!(MinVersion, "MinVersion", json_schema!({ "enum": MIN_VERSION.map(|(word, _)| word) }));
value_schema!(Format, "Format", json_schema!({ "enum": FORMAT.map(|(word, _)| word) }));

/// Places are no business of editors.
impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for AtLeastOne<T> {
    fn schema_name() -> Cow<'static, str> {
        Vec::<T>::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "minItems": 1, "items": generator.subschema_for::<T>() })
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}
