//! Integration tests, one binary: each theme is a file, what they share is in `support`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config;
mod grpc_web;
mod grpc_web_refusals;
mod grpc_websockets;
mod grpc_websockets_multiplex;
mod grpc_websockets_refusals;
mod guard;
mod interop;
mod json_http;
mod json_mistakes;
mod json_sockets;
mod message_log;
mod native;
mod oracle;
mod process;
mod schema;
mod schema_edge;
mod server;
mod server_tls;
mod session;
mod session_backpressure;
mod session_calls;
mod session_carriers;
mod session_http;
mod session_http2;
mod session_http_faults;
mod session_http_refusals;
mod session_json;
mod session_middlebox;
mod session_peers;
mod session_peers_drain;
mod session_refusals;
mod session_resume;
mod session_resume_refusals;
mod session_upstream_faults;
mod support;
mod upstream_balance;
mod upstream_calls;
mod upstream_faults;
mod upstream_pool;
mod upstream_requests;
mod upstream_tls;
