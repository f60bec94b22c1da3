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

#[tokio::test]
async fn python_s_reflection_gives_the_schema_for_json() {
    if !super::wanted("grpcio::python_s_reflection_gives_the_schema_for_json") {
        return;
    }
    let mut world = world().await;
    let request = r#"{"number":"7","text":"ä","data":"AQI="}"#;
    let answer = world.json(&upstream_name(&world), "/demo.v1.Lab/Unary", request).await;
    assert_eq!(answer, serde_json::from_str::<serde_json::Value>(request).unwrap());
    let schema = &world.schemas[&upstream_name(&world)];
    assert!(schema.services().await.unwrap().contains(&"demo.v1.Lab".to_owned()));
    let error = schema.method("/demo.v1.Lab/Nothing").await.unwrap_err();
    assert_eq!(error.code(), bidiway::wire::Code::UNIMPLEMENTED);
}

fn upstream_name(world: &World) -> String {
    world.schemas.keys().next().unwrap().clone()
}
