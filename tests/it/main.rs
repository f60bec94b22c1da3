//! Integration tests, one binary: each theme is a file, what they share is in `support`.

mod grpc_web;
mod guard;
mod native;
mod oracle;
mod support;
mod upstream_faults;
