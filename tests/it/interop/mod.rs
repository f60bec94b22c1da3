//! Bidiway before gRPC servers that are not ours: Python's grpcio, grpc-go, etcd, each with the YAML of its example.
//!
//! They need Python with `tests/interop/requirements.txt`, Go and etcd, so they run when `BIDIWAY_INTEROP=1` says that
//! these are there (`scripts/test interop` sees to it), and then nothing may be missing. Otherwise each test says aloud
//! that it was skipped.

mod etcd;
mod grpc_go;
mod grpcio;
mod keepalive;
mod lab;
mod process;

use std::{collections::HashMap, io::Write as _, path::Path, sync::Arc};

use bidiway::{
    config::Config,
    schema::{JsonOptions, Schema},
    server::{self, Server},
    telemetry::Metrics,
    wire::Code,
};
use tokio_util::sync::CancellationToken;

use crate::support::{socket::Socket, within};

/// Whether the servers are there.
fn wanted(test: &str) -> bool {
    let wanted = std::env::var("BIDIWAY_INTEROP").is_ok_and(|value| value == "1");
    if !wanted {
        // Past the test runner's capture: a skipped test must be seen.
        let text = format!("SKIPPED {test}: set BIDIWAY_INTEROP=1, or run scripts/test interop\n");
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    wanted
}

/// A foreign server, Bidiway before it as the example's YAML says, and a session.
struct World {
    socket: Socket,
    schemas: HashMap<String, Schema>,
    _server: process::Process,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    /// `example` is a folder under `examples`. Ports are the tests' own; the rest is the file's.
    async fn before(server: process::Process, example: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example).join("bidiway.yaml");
        let mut settings = Config::load(&file).unwrap_or_else(|error| panic!("{error}")).settings;
        settings.workers = 1;
        settings.listeners[0].address.set_port(0);
        let upstream = Arc::make_mut(&mut settings.upstreams[0]);
        upstream.endpoints = vec![format!("http://{}", server.address).parse().unwrap()];
        let metrics = Metrics::new();
        let schemas = server::schemas(&settings, &server::rosters(&settings, None, &metrics), &metrics);
        let proxy = Server::bind(settings).unwrap();
        let address = proxy.addresses()[0];
        let stop = CancellationToken::new();
        tokio::spawn(proxy.serve(stop.clone().cancelled_owned()));
        Self { socket: Socket::connect(address).await, schemas, _server: server, _stop: stop.drop_guard() }
    }

    /// A unary call in JSON, with the schema that the example's YAML gives the upstream of this name.
    async fn json(&mut self, upstream: &str, path: &str, request: &str) -> serde_json::Value {
        let options = JsonOptions::default();
        let method = within(10, self.schemas[upstream].method(path)).await.unwrap_or_else(|e| panic!("{e}"));
        let request = method.request_to_protobuf(request.as_bytes(), &options).unwrap();
        let answer = self.socket.unary(path, request).await;
        assert_eq!(answer.code(), Code::OK);
        let json = method.response_to_json(&answer.messages[0], &options).unwrap();
        serde_json::from_slice(&json).unwrap()
    }
}
