//! Integration tests, one binary: each theme is a file, what they share is in `support`.

mod config;
mod grpc_web;
mod process;
mod server;
mod server_tls;
mod session;
mod support;
mod upstream_calls;
mod upstream_faults;
