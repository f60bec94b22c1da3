//! Integration tests, one binary: each theme is a file, what they share is in `support`.

mod grpc_web;
mod session;
mod session_calls;
mod session_refusals;
mod support;
mod upstream_calls;
mod upstream_faults;
