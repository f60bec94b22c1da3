//! `bidiway demo`: gRPC services of our own, the proxy in front of them, and a page to play with.
//!
//! The services are ordinary tonic services on a loopback port; nothing here uses more than a user of the library
//! could. `proto/demo/v1/demo.proto` says what they do.

mod certificate;
mod chat;
mod greeter;
mod instance;
mod lab;
mod page;
mod request;
mod room;
mod services;
mod tally;

pub use instance::{Addresses, Demo, Options, StartError};
pub use services::Services;

/// The services' messages, clients and servers, generated from `proto/demo/v1/demo.proto`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the proto file documents it"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/demo.v1.rs"));
}

/// The services' descriptors, as reflection serves them: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/demo.binpb"));
