//! The way to the browsers: what a request is, whether it may pass, and one file per dialect.

mod address_table;
mod admission;
pub mod carrier;
mod conn_io;
mod drain;
mod edge;
mod origin;
mod route;
mod settings;

pub use address_table::{AddressPermit, AddressTable};
pub(crate) use admission::{Admitted, Opening, admit};
pub use conn_io::{ConnIo, OpenConnection};
pub use drain::Drain;
pub use edge::{ConnInfo, Edge};
pub use origin::{InvalidOrigin, Origins};
pub use route::{Route, RouteSettings, Routes, ServicePattern};
pub use settings::{Limits, SessionSettings, Settings};
