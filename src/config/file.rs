//! What the file may say: its keys, with the sentences that editors show. Defaults are applied in `build`.

mod calls;
mod endpoints;
mod identity;
mod limits;
mod listeners;
mod overload;
mod own_services;
mod peers;
mod routes;
mod tracing;
mod upstreams;
mod values;

pub(super) use calls::{Percent, Retrying};
pub(super) use endpoints::{
    Balancing, Ejecting, UpstreamDns, UpstreamEjection, UpstreamHash, UpstreamHealth,
};
pub(super) use identity::{ApiKeys, ExtAuthz, Identity, Jwks, Jwt, RouteAuth};
pub(super) use limits::{CallLimits, DrainTimes, Limits, Session};
pub(super) use listeners::{Admin, ClientIdentity, Listener, ListenerAcme, ListenerTls};
pub(super) use overload::Overload;
pub(super) use own_services::Serve;
pub(super) use peers::{PeerTls, Peers};
pub(super) use routes::{Json, LogMessages, MetadataRules, Route};
pub(super) use tracing::{Otlp, Tracing};
pub(super) use upstreams::{SchemaFiles, SchemaReflection, Upstream, UpstreamTls};

use schemars::{
    Schema,
    transform::{RecursiveTransform, Transform},
};

use super::{
    choice::{Drain, Keepalive, Share},
    node::Node,
    problem::Problems,
    read::{At, AtLeastOne, Named, Read, Section, section},
};
use crate::{downstream::ClientHeader, telemetry::log::Format};

section! { "the file"
    /// The configuration of Bidiway, an edge proxy that gives browsers the whole of gRPC.
    #[derive(Default)]
    struct File {
        /// The public ports. At least one.
        listeners: AtLeastOne<Listener>,
        /// The operators' port: /healthz, /readyz, /metrics and /schema. Left out: none.
        admin: Option<Admin>,
        /// The origins whose pages may call, besides pages of the proxy's own origin: `https://app.example.com`,
        /// `https://*.example.com` for subdomains, or `*` for any. One list for CORS and WebSockets. Default: none.
        origins: Option<Vec<At<String>>>,
        /// The names that requests may be for, with or without a port: `edge.example.com`, `*.example.com`. Others get
        /// HTTP 421. Default: any.
        hosts: Option<Vec<At<String>>>,
        /// Proxies before this one, as networks (`10.0.0.0/8`) or addresses: from them `x-forwarded-for` and
        /// `x-forwarded-proto` are believed, and PROXY headers. Default: none.
        trusted_proxies: Option<Vec<At<String>>>,
        /// Where these proxies say who the client is: "x-forwarded-for" (and -proto), or "forwarded" (RFC 7239). The
        /// other is not believed. Default: x-forwarded-for.
        client_header: Option<At<ClientHeader>>,
        /// Headers of the request that opens a WebSocket which reach services as metadata of its calls, and `cookie`
        /// of any request. `cookie` and `authorization` demand that `origins` has no `*`. Default: none.
        upgrade_headers: Option<Vec<At<String>>>,
        /// Under which names services are told who a client is by the certificate that it has shown (`client_ca` of a
        /// listener). What clients themselves say under these names is dropped. Default: services are not told.
        client_identity: Option<At<ClientIdentity>>,
        /// The gRPC services, by a name of your choice. At least one.
        upstreams: At<Named<Upstream>>,
        /// Which upstream serves what; the most specific route wins. Default: everything to the only upstream.
        routes: Option<AtLeastOne<At<Route>>>,
        /// Who calls. Default: nobody is asked.
        identity: Option<At<Identity>>,
        /// What the paths of requests may begin with, where a proxy in front leaves it there: `/api`. Default: nothing.
        prefix: Option<At<String>>,
        /// What clients may use.
        limits: Option<Limits>,
        /// When new work is refused, so that what runs can go on.
        overload: Option<Overload>,
        /// The session protocol.
        session: Option<Session>,
        /// A name for this instance that no other behind the same address has. Default: made anew at each start.
        instance: Option<String>,
        /// Worker threads, each with its own connections. Default: one for each core.
        workers: Option<At<u32>>,
        /// How the proxy stops: a mapping, or a duration, which is its `timeout`.
        drain: Option<At<Drain>>,
        /// How often this file and all that it names are looked at for changes, which then hold without a restart; or
        /// `off`: only when SIGHUP comes. Default: 1s.
        reload: Option<At<Keepalive>>,
        /// The log, on standard error.
        log: Option<Log>,
        /// Traces of calls, for OpenTelemetry. Left out: none.
        tracing: Option<Tracing>,
        /// gRPC services of the proxy's own on the public ports: health and reflection. Left out: none.
        serve: Option<Serve>,
        /// Whether the public ports serve the schemas of what routes serve, under /bidiway/schema: for tools and for
        /// pages without generated code. Default: false.
        schema_endpoint: Option<bool>,
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
        /// The part of the calls that ended with OK that have a line, from 0 to 1; all others have one. Default: 1.
        sample_ok: Option<Share>,
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
