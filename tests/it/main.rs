//! Integration tests, one binary: each theme is a file, what they share is in `support`.

mod config;
mod grpc_web;
mod server;
mod session;
mod support;
mod upstream_calls;
mod upstream_faults;
