//! Bidiway: an edge proxy that gives browsers the whole of gRPC.
#![forbid(unsafe_code)]

pub mod config;
pub mod demo;
pub mod downstream;
pub mod schema;
pub mod server;
pub mod session;
pub mod telemetry;
pub mod upstream;
pub mod wire;
