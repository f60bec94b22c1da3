//! The message log, as an operator reads it: the lines of a process.

use std::{path::PathBuf, process::Stdio};

use bidiway::demo::{
    Services,
    v1::{
        ChatMessage, FailRequest, HelloRequest, chat_client::ChatClient, greeter_client::GreeterClient,
        lab_client::LabClient,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};
use tonic::{Code, Request, transport::Channel};

use crate::support::within;

/// A Bidiway of which only the message log is heard.
struct Logging {
    _child: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    url: String,
}

impl Logging {
    async fn start(name: &str, upstream: &str, log_messages: &str) -> Self {
        Self::start_with(name, upstream, log_messages, "").await
    }

    async fn start_with(name: &str, upstream: &str, log_messages: &str, more: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("message-log-{name}.yaml"));
        let config = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nupstreams: {{ demo: {{ endpoints: [\"{upstream}\"] }} }}\n\
             routes: [{{ service: \"*\", upstream: demo{log_messages} }}]\n\
             log: {{ format: json, level: \"off,message=info\" }}\n{more}"
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
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { _child: child, _stdout: stdout, stderr, url }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.url.clone()).unwrap().connect().await.unwrap()
    }

    /// The lines to the end of a call, without what differs each time.
    async fn call(&mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = within(20, self.stderr.next_line()).await.unwrap().unwrap();
            let mut line: Value = serde_json::from_str(&line).unwrap();
            let fields = line.as_object_mut().unwrap();
            for name in ["timestamp", "level", "target", "call"] {
                assert!(fields.remove(name).is_some(), "{name}");
            }
            for name in ["json", "metadata", "status"] {
                if let Some(text) = fields.get(name) {
                    let parsed: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
                    fields.insert(name.to_owned(), parsed);
                }
            }
            let ended = fields.contains_key("status");
            lines.push(line);
            if ended {
                return lines;
            }
        }
    }
}

#[tokio::test]
async fn a_binary_call_is_logged_decoded_with_its_secrets_masked() {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let upstream = format!("http://{}", services.address());
    let mut bidiway =
        Logging::start("all", &upstream, ", log_messages: { sample: 1, redact: [violations] }").await;
    let channel = bidiway.channel().await;
    let mut request = Request::new(HelloRequest { name: "ada".into() });
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    request.metadata_mut().insert("x-user", "ada".parse().unwrap());
    GreeterClient::new(channel.clone()).hello(request).await.unwrap();
    let lines = bidiway.call().await;
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!((&lines[0]["method"], &lines[0]["route"]), (&json!("/demo.v1.Greeter/Hello"), &json!("*")));
    assert_eq!(lines[0]["metadata"]["authorization"], "[redacted]");
    assert_eq!(lines[0]["metadata"]["x-user"], "ada");
    assert_eq!(lines[1], json!({"direction": "up", "number": 1, "bytes": 5, "json": {"name": "ada"}}));
    assert_eq!(
        lines[3],
        json!({"direction": "down", "number": 1, "bytes": 13, "json": {"text": "Hello, ada!"}})
    );
    assert_eq!(lines[4]["status"], json!({"code": 0, "message": ""}));

    let fail = FailRequest {
        code: 5,
        message: "no".into(),
        violations: vec![Default::default()],
        ..FailRequest::default()
    };
    let status = LabClient::new(channel).fail(fail).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let lines = bidiway.call().await;
    assert_eq!(lines[1]["json"], json!({"code": 5, "message": "no", "violations": "[redacted]"}));
    let end = lines.last().unwrap();
    assert_eq!((&end["status"]["code"], &end["metadata"]["demo-trailing"]), (&json!(5), &json!("failed")));
    assert_eq!(end["status"]["details"][0]["fieldViolations"], "[redacted]");
}

#[tokio::test]
async fn tokens_and_keys_are_masked_under_whatever_name_the_configuration_gives_them() {
    let upstream = crate::support::upstream::Scripted::start(crate::support::upstream::echo).await;
    let identity = format!(
        "identity: {{ tokens: [{{ header: x-id }}], api_keys: {{ header: x-me, forward: true, \
         keys: [{{ name: ci, sha256: {} }}] }} }}\n",
        crate::support::identity::KEY_HASH
    );
    let log = ", log_messages: { sample: 1 }";
    let mut bidiway = Logging::start_with("names", &upstream.url, log, &identity).await;
    let mut request = Request::new(tokio_stream::iter([ChatMessage::default()]));
    request.metadata_mut().insert("x-id", "a.b.c".parse().unwrap());
    request.metadata_mut().insert("x-me", crate::support::identity::KEY.parse().unwrap());
    request.metadata_mut().insert("x-mean", "7".parse().unwrap());
    let mut answers = ChatClient::new(bidiway.channel().await).talk(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let metadata = bidiway.call().await[0]["metadata"].clone();
    let shown = ["x-id", "x-me", "x-mean"].map(|name| metadata[name].as_str().unwrap().to_owned());
    assert_eq!(shown, ["[redacted]", "[redacted]", "7"]);
}

#[tokio::test]
async fn a_call_goes_on_as_ever_when_its_messages_cannot_be_decoded() {
    // No reflection here, nor anything else but an echo.
    let upstream = crate::support::upstream::Scripted::start(crate::support::upstream::echo).await;
    let mut bidiway = Logging::start("echo", &upstream.url, ", log_messages: { sample: 1 }").await;
    let mut chat = ChatClient::new(bidiway.channel().await);
    let message = ChatMessage { text: "x".into(), ..ChatMessage::default() };
    let mut answers = chat.talk(tokio_stream::iter([message.clone()])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap(), message);
    assert_eq!(answers.message().await.unwrap(), None);
    let lines = bidiway.call().await;
    assert!(lines.iter().any(|line| line["message"] == "messages cannot be decoded"), "{lines:?}");
    let up = lines.iter().find(|line| line["direction"] == "up").unwrap();
    assert_eq!((&up["bytes"], &up["problem"]), (&json!(3), &json!("no schema")));
}
