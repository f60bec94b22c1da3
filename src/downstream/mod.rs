//! The way to the browsers: what a request is, whether it may pass, and one file per dialect.

mod address_table;
mod admission;
mod answer;
mod assets;
pub mod carrier;
mod conn_io;
mod cors;
mod drain;
mod edge;
mod exchange;
mod guard;
mod linger;
mod message_gate;
mod message_meter;
mod origin;
mod pages;
mod rejection;
mod request_kind;
mod request_pump;
mod response_body;
mod route;
mod schema_pages;
mod settings;
mod shared_record;

pub use address_table::{AddressPermit, AddressTable};
pub(crate) use admission::{Opening, admit};
pub use conn_io::{ConnIo, OpenConnection};
pub(crate) use cors::Cors;
pub use drain::Drain;
pub use edge::{ConnInfo, Edge};
pub use origin::{InvalidOrigin, Origins};
pub(crate) use rejection::Rejection;
pub(crate) use request_kind::RequestKind;
pub use route::{Route, RouteSettings, Routes, ServicePattern};
pub use schema_pages::schema_router;
pub use settings::{Limits, SessionSettings, Settings};
