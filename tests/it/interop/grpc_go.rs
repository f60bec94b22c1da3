//! grpc-go.

use tokio::process::Command;

use super::{
    World,
    process::{Process, go_server},
};

async fn world() -> World {
    let mut command = Command::new(go_server().await);
    command.args(["-address", "127.0.0.1:0"]);
    World::before(Process::start(command).await, "grpc-go").await
}

super::lab::tests!(world);
