//! Programs that are not ours.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::OnceCell,
};

/// A server of somebody else; killed when dropped.
pub(super) struct Process {
    pub(super) address: SocketAddr,
    pub(super) _child: Child,
}

impl Process {
    /// Starts a server that prints `listening on ADDRESS`.
    pub(super) async fn start(mut command: Command) -> Self {
        let what = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("{what} ended at once"));
        let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{what} says {line:?}"));
        Self { address: address.parse().unwrap(), _child: child }
    }
}

/// A path in the repository.
pub(super) fn path(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Builds the Go server, once for all tests.
pub(super) async fn go_server() -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let binary = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("grpc-go-lab");
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(&binary).arg(".").current_dir(path("examples/grpc-go"));
        let status = go.status().await.unwrap_or_else(|error| panic!("go: {error}"));
        assert!(status.success(), "go build failed: {status}");
        binary
    };
    BUILT.get_or_init(build).await.clone()
}
