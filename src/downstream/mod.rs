//! The way to the browsers: what a request is, whether it may pass, and one file per dialect.

mod address_table;
mod admission;
mod answer;
mod assets;
mod call_gate;
mod cancel_brake;
pub mod carrier;
mod client_certificate;
mod conn_io;
mod cookies;
mod cors;
mod drain;
mod edge;
mod exchange;
mod grpc_websockets;
mod guard;
mod hosts;
mod json;
mod linger;
mod message_gate;
mod message_log;
mod message_meter;
mod origin;
mod overload;
mod pages;
mod prefix;
mod principal;
pub mod proxy_protocol;
mod rate_table;
mod rejection;
mod request_kind;
mod request_pump;
mod response_body;
mod route;
mod route_limits;
mod schema_pages;
mod settings;
mod shared_record;
mod trusted_proxies;
mod upgrade_headers;

pub use address_table::{AddressPermit, AddressTable, Held, Subject};
pub(crate) use admission::{Admitted, Opening, account, admit};
pub use call_gate::CallLimits;
pub use client_certificate::{ClientCertificate, ClientIdentity, FORWARDED_CLIENT_CERT};
pub use conn_io::{ConnIo, OpenConnection};
pub(crate) use cors::Cors;
pub use drain::Drain;
pub use edge::{ConnInfo, Edge, Plan};
pub use hosts::Hosts;
pub use message_log::MessageLog;
pub use origin::{InvalidOrigin, Origins};
pub(crate) use overload::LagMeter;
pub use overload::{Overload, OverloadSettings, Resource, Strain};
pub(crate) use principal::Principal;
pub use rate_table::{Rate, RateTable};
pub(crate) use rejection::Rejection;
pub(crate) use request_kind::RequestKind;
pub use route::{
    Asked, Conflict, HostPattern, MetadataCondition, Route, RouteSettings, Routes, ServicePattern,
    Specificity, ValuePattern, conflicts, normal,
};
pub use route_limits::RouteLimits;
pub use schema_pages::schema_router;
pub use settings::{Limits, SessionSettings, Settings};
pub use trusted_proxies::{InvalidNetwork, Network, TrustedProxies};
