//! The binary as a process: exit status, signals, and a life without file descriptors.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bidiway::demo::{
    Services,
    v1::{self, lab_client::LabClient},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
};

use crate::support::{http::get, reload::Folder, within};

const BINARY: &str = env!("CARGO_BIN_EXE_bidiway");

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .env("BIDIWAY_LOG", "off")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The address behind this word in the next line.
    async fn address(&mut self, before: &str) -> SocketAddr {
        let line = within(20, self.lines.next_line()).await.unwrap().unwrap();
        line.strip_prefix(before).unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
    }

    async fn end(mut self) -> ExitStatus {
        within(20, self.child.wait()).await.unwrap()
    }
}

const SERVE: [&str; 7] =
    ["serve", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

/// Exit status, standard output and standard error.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = within(20, Command::new(BINARY).args(args).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_process_without_file_descriptors_lives_on_and_accepts_again() {
    let folder = Folder::new();
    // This is about the wall itself. By default the process turns round before it: see the next test.
    let config = format!("{}overload: {{ files: 1 }}\n", reloadable("\"off\"", "http://127.0.0.1:1"));
    folder.write("bidiway.yaml", &config);
    let script =
        format!("ulimit -n 64; exec {BINARY} serve --config {}", folder.path("bidiway.yaml").display());
    let mut process = Process::start(Command::new("sh").args(["-c", &script]));
    let address = process.address("listening on http://").await;
    let admin = process.address("admin on http://").await;
    // More than the process can accept; the kernel takes them all.
    let mut sockets = Vec::new();
    for _ in 0..80 {
        sockets.push(TcpStream::connect(address).await.unwrap());
    }
    // Give it time to run into the wall: it is there when a further connection is not served. Before that, one worker
    // may still serve while the other has not accepted what waits for it.
    let served =
        async || tokio::time::timeout(Duration::from_secs(1), get(address, "/nothing")).await.is_ok();
    within(20, async {
        while served().await {
            // Takes what is left, for good.
            sockets.push(TcpStream::connect(address).await.unwrap());
        }
    })
    .await;
    drop(sockets);
    within(20, get(address, "/nothing")).await.unwrap();
    let (_, metrics) = within(20, get(admin, "/metrics")).await.unwrap();
    let errors = "bidiway_accept_errors_total{kind=\"too_many_files\"} ";
    assert!(metrics.contains(errors), "{metrics}");
    process.signal("TERM").await;
    assert_eq!(process.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_process_that_runs_out_of_file_descriptors_goes_on_with_what_it_has_and_takes_more_when_it_can() {
    let script = format!("ulimit -n 64; exec {BINARY} {}", SERVE.join(" "));
    let mut process = Process::start(Command::new("sh").args(["-c", &script]));
    let address = process.address("listening on http://").await;
    let admin = process.address("admin on http://").await;
    let mut early = TcpStream::connect(address).await.unwrap();
    assert!(again(&mut early, "/nothing").await.starts_with("HTTP/1.1 404 "));
    let mut watcher = TcpStream::connect(admin).await.unwrap();
    assert!(!again(&mut watcher, "/metrics").await.contains("bidiway_overload{resource=\"files\"}"));

    let mut sockets = Vec::new();
    for _ in 0..80 {
        sockets.push(TcpStream::connect(address).await.unwrap());
    }
    let is = async |watcher: &mut TcpStream, line: &str| {
        within(20, async { while !again(watcher, "/metrics").await.contains(line) {} }).await;
    };
    is(&mut watcher, "\nbidiway_overload{resource=\"files\"} 1\n").await;
    // Whoever comes now waits or is turned away; whoever was there is served.
    let late = tokio::time::timeout(Duration::from_secs(1), get(address, "/nothing")).await;
    assert!(!matches!(late, Ok(Ok(_))), "{late:?}");
    assert!(again(&mut early, "/nothing").await.starts_with("HTTP/1.1 404 "));

    drop(sockets);
    is(&mut watcher, "\nbidiway_overload{resource=\"files\"} 0\n").await;
    assert_eq!(within(20, get(address, "/nothing")).await.unwrap().0, 404);
    process.signal("TERM").await;
    assert_eq!(process.end().await.code(), Some(0));
}

/// One more answer on a connection that is kept, with its head.
async fn again(connection: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(10, async {
        loop {
            assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0, "closed after {answer:?}");
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.expect("a length").parse::<usize>().unwrap() {
                return text.into_owned();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_signal_stops_the_process_gracefully() {
    for name in ["TERM", "INT"] {
        let mut process = Process::start(Command::new(BINARY).args(SERVE));
        process.address("listening on http://").await;
        process.signal(name).await;
        assert_eq!(process.end().await.code(), Some(0), "SIG{name}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let upstream = format!("http://{}", services.address());
    let mut args = SERVE;
    args[2] = &upstream;
    let mut process = Process::start(Command::new(BINARY).args(args));
    let address = process.address("listening on http://").await;
    let admin = process.address("admin on http://").await;
    let mut lab = LabClient::connect(format!("http://{address}")).await.unwrap();
    let mut answers = lab.wait_stream(v1::Empty {}).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();

    process.signal("TERM").await;
    within(10, async { while get(admin, "/readyz").await.unwrap().0 != 503 {} }).await;
    process.signal("TERM").await;
    // Long before the drain's 30 s.
    let status = within(10, answers.message()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert_eq!(within(10, process.end()).await.code(), Some(0));
}

#[tokio::test]
async fn a_bad_configuration_is_refused_before_any_port_is_bound() {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    // Were the port bound first, the answer would be that it is taken.
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad.yaml");
    let text = format!(
        "listeners: [{{ address: \"{address}\" }}]\nupstreams: {{ a: {{ endpoints: [\"ftp://x\"] }} }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let (code, out, err) = run(&["serve", "--config", file.to_str().unwrap()]).await;
    assert_eq!((code, out.as_str()), (Some(64), ""));
    assert!(err.contains("bad.yaml:2:") && err.contains("\"ftp://x\" is not an endpoint"), "{err}");
    assert!(err.contains("1 problem; see docs/configuration.md"), "{err}");
}

#[tokio::test]
async fn exit_statuses_are_as_documented() {
    assert_eq!(run(&["check", "examples/minimal.yaml"]).await.0, Some(0));
    assert_eq!(run(&["--version"]).await.0, Some(0));
    let (code, out, _) = run(&["serve", "--help"]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("bidiway serve --upstream http://localhost:50051"), "{out}");
    assert_eq!(run(&["serve"]).await.0, Some(64));
    assert_eq!(run(&["serve", "--upstream", "localhost:1"]).await.0, Some(64));
    let (code, _, err) = run(&["serve", "--upstream", "http://x:1", "--listen", "8080"]).await;
    assert_eq!(code, Some(64));
    assert!(err.contains("did you mean 127.0.0.1:8080"), "{err}");
    assert_eq!(run(&["check", "nowhere.yaml"]).await.0, Some(64));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, err) = run(&["serve", "--upstream", "http://x:1", "--listen", &address]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("cannot listen on") && err.contains("choose another port"), "{err}");
}

#[tokio::test]
async fn the_schema_command_prints_json() {
    let (code, out, _) = run(&["schema"]).await;
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(schema["title"], "Bidiway's configuration");
}

#[tokio::test]
async fn logs_go_to_standard_error_as_json_if_asked() {
    let mut command = Command::new(BINARY);
    let mut process = Process::start(command.args(SERVE).args(["--log", "info", "--log-format", "json"]));
    process.address("listening on http://").await;
    process.signal("TERM").await;
    let mut text = String::new();
    let mut log = process.child.stderr.take().unwrap();
    within(20, log.read_to_string(&mut text)).await.unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["level"], "INFO");
    assert!(text.contains("draining"), "{text}");
}

#[tokio::test]
async fn describe_shows_a_running_server_a_file_and_a_configuration() {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", services.address());
    let (code, out, _) = run(&["describe", "--upstream", &url]).await;
    assert_eq!(code, Some(0));
    let line = "  rpc Hello(demo.v1.HelloRequest) returns (demo.v1.HelloReply); // unary\n";
    assert!(out.contains("service demo.v1.Greeter {\n") && out.contains(line), "{out}");
    let (_, out, _) = run(&["describe", "--upstream", &url, "demo.v1.ChatMessage.Kind"]).await;
    assert_eq!(
        out,
        "enum demo.v1.ChatMessage.Kind {\n  TEXT = 0;\n  JOINED = 1;\n  LEFT = 2;\n  NOTICE = 3;\n}\n"
    );
    let (_, out, _) = run(&["describe", "--upstream", &url, "/demo.v1.Greeter/Hello"]).await;
    assert!(out.ends_with("message demo.v1.HelloReply {\n  string text = 1;\n}\n"), "{out}");

    let (code, _, err) = run(&["describe", "--upstream", &url, "demo.v1.HeloRequest"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(
        err.trim(),
        "error: upstream \"upstream\" has nothing named \"demo.v1.HeloRequest\"; did you mean \"demo.v1.HelloRequest\"?"
    );

    let (_, out, _) = run(&["describe", "--file", "tests/schema/legacy.proto", "legacy.Old"]).await;
    assert!(out.contains("  optional int32 number = 2 [default = 7];\n"), "{out}");
    let (code, out, _) =
        run(&["describe", "--config", "examples/etcd/bidiway.yaml", "etcdserverpb.Watch"]).await;
    assert_eq!(code, Some(0));
    assert!(
        out.contains("(stream etcdserverpb.WatchRequest) returns (stream etcdserverpb.WatchResponse)"),
        "{out}"
    );
}

#[tokio::test]
async fn describe_says_what_it_needs() {
    for (arguments, code, text) in [
        (&["describe"][..], 64, "say what to describe: --upstream URL, --config FILE or --file FILE"),
        (
            &["describe", "--file", "nowhere.binpb"],
            64,
            "cannot read nowhere.binpb: No such file or directory",
        ),
        (&["describe", "--upstream", "ftp://x"], 64, "is not an endpoint"),
        (&["describe", "--upstream", "http://127.0.0.1:1"], 1, "Connection refused"),
        (
            &["describe", "--config", "examples/etcd/bidiway.yaml", "--name", "x"],
            64,
            "there is no upstream \"x\" with a schema; there are: etcd",
        ),
    ] {
        let (found, _, err) = run(arguments).await;
        assert_eq!(found, Some(code), "{arguments:?}: {err}");
        assert!(err.contains(text), "{arguments:?}: {err}");
    }
}

/// A configuration in a folder of its own, which a process is started with.
async fn configured(folder: &Folder, reload: &str, upstream: &str) -> (Process, SocketAddr, SocketAddr) {
    folder.write("bidiway.yaml", &reloadable(reload, upstream));
    let file = folder.path("bidiway.yaml");
    let mut process = Process::start(Command::new(BINARY).args(["serve", "--config"]).arg(file));
    let address = process.address("listening on http://").await;
    let admin = process.address("admin on http://").await;
    (process, address, admin)
}

fn reloadable(reload: &str, upstream: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nreload: {reload}\n\
         upstreams: {{ a: {{ endpoints: [\"{upstream}\"] }} }}\n"
    )
}

/// Waits until this line is among the metrics.
async fn told(admin: SocketAddr, line: &str) {
    let seen = async {
        loop {
            let (_, metrics) = get(admin, "/metrics").await.unwrap();
            if metrics.lines().any(|found| found == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(30, seen).await;
}

#[tokio::test]
async fn a_signal_or_a_changed_file_brings_another_configuration_and_a_broken_one_kills_nobody() {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (nobody, services) = ("http://127.0.0.1:1".to_owned(), format!("http://{}", services.address()));
    for (reload, by_signal) in [("\"off\"", true), ("100ms", false)] {
        let folder = Folder::new();
        let (process, address, admin) = configured(&folder, reload, &nobody).await;
        let mut lab = LabClient::connect(format!("http://{address}")).await.unwrap();
        let refused = lab.stats(v1::StatsRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);

        folder.write("bidiway.yaml", "listeners: [");
        if by_signal {
            process.signal("HUP").await;
        }
        told(admin, "bidiway_config_reloads_total{result=\"failed\"} 1").await;
        folder.write("bidiway.yaml", &reloadable(reload, &services));
        if by_signal {
            process.signal("HUP").await;
        }
        told(admin, "bidiway_config_generation 2").await;
        lab.stats(v1::StatsRequest::default()).await.unwrap();
        process.signal("TERM").await;
        assert_eq!(process.end().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_broken_configuration_is_told_in_the_log_once_with_its_place_and_what_holds_is_told_too() {
    let folder = Folder::new();
    folder.write("bidiway.yaml", &reloadable("100ms", "http://127.0.0.1:1"));
    let file = folder.path("bidiway.yaml");
    let command = ["serve", "--log", "info", "--log-format", "json", "--config", file.to_str().unwrap()];
    let mut process = Process::start(Command::new(BINARY).args(command));
    process.address("listening on http://").await;
    let admin = process.address("admin on http://").await;
    let mut log = BufReader::new(process.child.stderr.take().unwrap()).lines();
    let mut next = async |level: &str| -> serde_json::Value {
        loop {
            let line = within(20, log.next_line()).await.unwrap().unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["level"] == level && line.to_string().contains("configuration") {
                return line;
            }
        }
    };
    folder.write("bidiway.yaml", &reloadable("100ms", "http://127.0.0.1:1").replace("endpoints", "endpoint"));
    let line = next("ERROR").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("bidiway.yaml:4:") && error.contains("did you mean `endpoints`?"), "{error}");
    assert!(line["message"].as_str().unwrap().contains("the last good one stays"), "{line}");
    told(admin, "bidiway_config_reloads_total{result=\"failed\"} 1").await;
    folder.write("bidiway.yaml", &reloadable("100ms", "http://127.0.0.1:2"));
    // The next line about it is the good news.
    next("INFO").await;
    told(admin, "bidiway_config_generation 2").await;
}

#[tokio::test]
async fn a_process_without_a_file_lives_through_sighup() {
    let mut process = Process::start(Command::new(BINARY).args(SERVE));
    process.address("listening on http://").await;
    let admin = process.address("admin on http://").await;
    process.signal("HUP").await;
    assert_eq!(within(10, get(admin, "/healthz")).await.unwrap().0, 200);
    process.signal("TERM").await;
    assert_eq!(process.end().await.code(), Some(0));
}

const ROUTES: &str = "\
listeners: [{ address: 127.0.0.1:8080 }]
upstreams:
  chat: { endpoints: [\"http://127.0.0.1:1\"] }
  next: { endpoints: [\"http://127.0.0.1:2\"] }
prefix: /api
routes:
  - { service: \"*\", upstream: chat }
  - { service: chat.v1.Chat, upstream: chat, timeout: 30s, dialects: [session, grpc-web] }
  - { service: chat.v1.Chat, upstreams: { chat: 19, next: 1 }, metadata: { x-canary: \"*\" }, name: canary }
  - service: chat.v1.*
    hosts: [\"*.example.com\"]
    upstream: next
    max_message: 1MiB
    request_metadata: { remove: [x-a], set: { x-b: b } }
";

#[tokio::test]
async fn check_shows_which_route_a_call_takes_and_why() {
    let file = std::env::temp_dir().join(format!("bidiway-routes-{}.yaml", std::process::id()));
    std::fs::write(&file, ROUTES).unwrap();
    let name = file.display().to_string();
    let ask = async |arguments: &[&str]| run(&[&["check", &name], arguments].concat()).await;

    let (code, out, _) = ask(&[]).await;
    assert_eq!((code, out), (Some(0), format!("{name} is valid: listeners 1, upstreams 2, routes 4\n")));

    let (code, out, _) = ask(&["--method", "/chat.v1.Chat/Talk", "--metadata", "x-canary=1"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(
        out,
        "\
/chat.v1.Chat/Talk with x-canary=1
takes the route in line 9 (canary), chat.v1.Chat [x-canary]
  why                 it is for any host, the service chat.v1.Chat, the metadata x-canary
  upstreams           chat 95 %, next 5 %; JSON by the schema of chat
  timeout             none
  largest message     4MiB
  dialects            all

Routes that take it too, but are less specific:
  the route in line 8, chat.v1.Chat: less specific by its metadata
  the route in line 7, *: less specific by its method

Routes for the method, but not for this call:
  the route in line 10, *.example.com chat.v1.*: for the host *.example.com
"
    );

    let (_, out, _) = ask(&["--method", "api/chat.v1.Chat/Talk", "--host", "App.Example.com:443"]).await;
    assert!(out.starts_with("/chat.v1.Chat/Talk at app.example.com\ntakes the route in line 10, "), "{out}");
    assert!(
        out.contains(
            "why                 it is for hosts *.example.com, the package chat.v1, any metadata\n"
        ),
        "{out}"
    );
    assert!(out.contains("largest message     1MiB\n"), "{out}");
    assert!(out.contains("request metadata    remove x-a, set x-b\n"), "{out}");
    assert!(out.contains("line 8, chat.v1.Chat: less specific by its host\n"), "{out}");
    assert!(out.contains("[x-canary]: with the metadata x-canary\n"), "{out}");

    let (_, out, _) = ask(&["--method", "/chat.v1.Chat/Talk"]).await;
    assert!(out.contains("timeout             30s, also for calls that bring none\n"), "{out}");
    assert!(out.contains("dialects            session, grpc-web, grpc-web-text\n"), "{out}");

    std::fs::write(&file, ROUTES.replace("service: \"*\"", "service: other.Service")).unwrap();
    let (code, out, _) = ask(&["--method", "/chat.v1.Room/Join"]).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("/chat.v1.Room/Join\nhas no route: calls end with UNIMPLEMENTED.\n"), "{out}");
    assert!(out.contains("line 10, *.example.com chat.v1.*: for the host *.example.com\n"), "{out}");

    for (arguments, text) in [
        (
            &["--method", "chat.v1.Chat"][..],
            "\"chat.v1.Chat\" is no gRPC method; write /package.Service/Method",
        ),
        (&["--method", "/a.B/C", "--host", "https://a.b"], "is not a host"),
        (&["--method", "/a.B/C", "--host", "*.a.b"], "a client asks for one name"),
        (&["--method", "/a.B/C", "--metadata", "x"], "\"x\" is no metadata; write name=value"),
        (
            &["--method", "/a.B/C", "--metadata", "cookie=a"],
            "cookie is dropped before routes look at metadata",
        ),
        (&["--method", "/a.B/C", "--metadata", "a b=c"], "\"a b\" is no name of metadata"),
        (&["--host", "a.b"], "--method"),
    ] {
        let (code, _, err) = ask(arguments).await;
        assert_eq!(code, Some(64), "{arguments:?}: {err}");
        assert!(err.contains(text), "{arguments:?}: {err}");
    }
    std::fs::remove_file(file).unwrap();
}
