//! The way to the browsers: what a request is, whether it may pass, and one file per dialect.

mod address_table;
mod admission;
mod answer;
mod assets;
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
pub mod identity;
mod json;
mod linger;
mod message_gate;
mod message_log;
mod message_meter;
mod origin;
mod own_services;
mod pages;
mod prefix;
mod principal;
mod rejection;
mod request_kind;
mod request_pump;
mod response_body;
mod route;
mod schema_pages;
mod settings;
mod shared_record;
mod upgrade_headers;

pub use address_table::{AddressPermit, AddressTable};
pub(crate) use admission::{Admitted, Opening, account, admit};
pub use client_certificate::{ClientCertificate, ClientIdentity, FORWARDED_CLIENT_CERT};
pub use conn_io::{ConnIo, OpenConnection};
pub(crate) use cors::Cors;
pub use drain::Drain;
pub use edge::{ConnInfo, Edge, Plan};
pub use message_log::MessageLog;
pub use origin::{InvalidOrigin, Origins};
pub use own_services::OwnServices;
pub(crate) use principal::Principal;
pub(crate) use rejection::Rejection;
pub(crate) use request_kind::RequestKind;
pub use route::{
    Asked, Conflict, HostPattern, MetadataCondition, Route, RouteSettings, Routes, ServicePattern,
    Specificity, ValuePattern, conflicts, normal,
};
pub use schema_pages::schema_router;
pub use settings::{Limits, SessionSettings, Settings};
