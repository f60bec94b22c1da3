//! The line of each call, as an operator reads it.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use bidiway::{session::Settings, wire::Code};
use http::Request;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

use crate::{
    session_calls::entry,
    support::{
        carrier::tcp,
        edge::{Client, Http, WebAnswer, whole},
        socket::{self, Socket},
        upstream::{Exchange, Scripted, echo, end, message},
        within,
    },
};

struct Logging {
    _child: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    address: SocketAddr,
}

impl Logging {
    async fn start(name: &str, upstream: &str, more: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("access-log-{name}.yaml"));
        let config = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nupstreams: {{ a: {{ endpoints: [\"{upstream}\"] }} }}\n{more}\n"
        );
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_bidiway"))
            .args(["serve", "--config", path.to_str().unwrap()])
            .env_remove("BIDIWAY_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = within(20, stdout.next_line()).await.unwrap().unwrap();
        let address = line.strip_prefix("listening on http://").unwrap().parse().unwrap();
        Self { _child: child, _stdout: stdout, stderr, address }
    }

    /// A gRPC-Web call; its code.
    async fn call(&self, path_and_query: &str, headers: &[(&str, &str)]) -> u32 {
        let mut request = Request::post(format!("http://{}{path_and_query}", self.address))
            .header("content-type", "application/grpc-web+proto");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut client = Client::connect(self.address, Http::One).await;
        let answer = client.send(request.body(whole(message(b"hello"))).unwrap()).await.unwrap();
        WebAnswer::read(answer).await.unwrap().status().0
    }

    /// The next line of a call, and it as it stands.
    async fn line(&mut self) -> (Value, String) {
        loop {
            let text = within(20, self.stderr.next_line()).await.unwrap().unwrap();
            let line: Value = serde_json::from_str(&text).unwrap();
            if line["target"] == "call" {
                return (line, text);
            }
        }
    }
}

#[tokio::test]
async fn a_line_has_the_trace_and_neither_metadata_nor_the_query_string() {
    let upstream = Scripted::start(echo).await;
    let tracing = "log: { format: json }\ntracing: { otlp: { endpoint: \"http://127.0.0.1:1\" }, sample: 0 }";
    let mut proxy = Logging::start("redaction", &upstream.url, tracing).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let secrets = [
        ("authorization", "Bearer s3cret"),
        ("cookie", "sid=s3cret"),
        ("x-token", "s3cret"),
        ("traceparent", trace),
    ];
    assert_eq!(proxy.call("/chat.v1.Chat/Talk?access_token=s3cret", &secrets).await, 0);
    let (line, text) = proxy.line().await;
    assert_eq!((&line["method"], &line["code"]), (&"/chat.v1.Chat/Talk".into(), &"OK".into()));
    assert_eq!((&line["dialect"], &line["bytes_up"]), (&"grpc-web".into(), &5.into()));
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_line_says_who_called_and_where_the_call_went() {
    let upstream = Scripted::start(echo).await;
    let more = "log: { format: json }
trusted_proxies: [127.0.0.1]
identity:
  api_keys: { keys: [{ name: ci, sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b }] }
";
    let mut proxy = Logging::start("caller", &upstream.url, more).await;
    let headers = [
        ("x-api-key", "secret"),
        ("user-agent", "Browser/1.0"),
        ("x-request-id", "r-17"),
        ("x-forwarded-for", "192.0.2.7"),
    ];
    assert_eq!(proxy.call("/chat.v1.Chat/Talk", &headers).await, 0);
    let (line, text) = proxy.line().await;
    assert!(line["peer"].as_str().unwrap().starts_with("192.0.2.7:"), "{text}");
    for (field, value) in [
        ("principal", "api_key:ci"),
        ("user_agent", "Browser/1.0"),
        ("request_id", "r-17"),
        ("upstream", "a"),
        ("endpoint", &upstream.url),
    ] {
        assert_eq!(line[field], value, "{field} in {text}");
    }
    assert_eq!(line["attempts"], 1);
    assert!(!text.contains("secret"), "{text}");
    // What goes nowhere has no endpoint, and who is not known no name.
    assert_eq!(proxy.call("/chat.v1.Chat/Talk", &headers[1..]).await, 16);
    let (line, text) = proxy.line().await;
    for field in ["principal", "upstream", "endpoint", "attempts"] {
        assert!(line.get(field).is_none(), "{field} in {text}");
    }
    assert_eq!(line["user_agent"], "Browser/1.0");
    // Within a session: what the request said that opened its socket.
    let mut request = socket::request(proxy.address);
    request.headers_mut().insert("user-agent", "Browser/2.0".parse().unwrap());
    let io = tcp(proxy.address).await;
    let settings = Settings { metadata: vec![entry("x-api-key", "secret")], ..Settings::default() };
    let mut session = Socket::over(Box::new(io), request, settings).await.unwrap();
    assert_eq!(session.unary("/chat.v1.Chat/Talk", "x").await.code(), Code::OK);
    let (line, text) = proxy.line().await;
    let found = (&line["dialect"], &line["user_agent"], &line["principal"]);
    assert_eq!(found, (&"session".into(), &"Browser/2.0".into(), &"api_key:ci".into()), "{text}");
}

#[tokio::test]
async fn calls_that_ended_well_are_thinned_out_and_others_are_not() {
    let upstream = Scripted::start(async |mut exchange: Exchange| {
        let code = if exchange.request.uri().path().ends_with("Fail") { 9 } else { 0 };
        exchange.read_all().await;
        end(&mut exchange.headers(), code);
    })
    .await;
    let log = "workers: 1\nlog: { format: json, sample_ok: 0.25 }";
    let mut proxy = Logging::start("sample", &upstream.url, log).await;
    for _ in 0..8 {
        assert_eq!(proxy.call("/chat.v1.Chat/Talk", &[]).await, 0);
        assert_eq!(proxy.call("/chat.v1.Chat/Fail", &[]).await, 9);
    }
    let mut codes = Vec::new();
    for _ in 0..10 {
        codes.push(proxy.line().await.0["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(codes.iter().filter(|code| *code == "OK").count(), 2, "{codes:?}");
}
