//! Python's grpcio.

use tokio::process::Command;

use super::{
    World,
    process::{Process, path},
};

/// `PYTHON` names an interpreter that has `tests/interop/requirements.txt`.
async fn world() -> World {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg(path("examples/python-grpcio/server.py")).args(["--address", "127.0.0.1:0"]);
    World::before(Process::start(command).await, "python-grpcio").await
}

super::lab::tests!(world);
