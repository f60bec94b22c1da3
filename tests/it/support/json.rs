//! Clients that speak JSON, and what they talk to.

use std::sync::Arc;

use bidiway::{
    demo::{DESCRIPTORS, Services},
    downstream,
    schema::{Descriptors, Settings, Source},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{
    calls,
    carrier::Carrier,
    edge::{self, Body, Edge, Http, whole},
    socket::Io,
};

/// The demo services, with their reflection, behind a Bidiway.
pub(crate) async fn demo() -> (Services, Edge) {
    demo_with(edge::settings()).await
}

pub(crate) async fn demo_with(settings: downstream::Settings) -> (Services, Edge) {
    let services = Services::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let edge = edge::edge_with(&format!("http://{}", services.address()), settings).await;
    (services, edge)
}

/// The demo services' schema, from a file.
pub(crate) fn schema() -> Settings {
    let descriptors = Descriptors::from_set(Bytes::from_static(DESCRIPTORS)).unwrap();
    Settings::new(Source::Files(Arc::new(descriptors)))
}

/// A Bidiway in front of a scripted server, which it takes for the demo services.
pub(crate) async fn pretending(url: &str) -> Edge {
    pretending_with(url, edge::settings()).await
}

pub(crate) async fn pretending_with(url: &str, settings: downstream::Settings) -> Edge {
    edge::edge_knowing(schema(), calls::settings(&[url]), settings).await
}

/// A request that is JSON.
pub(crate) fn request(edge: &Edge, path: &str, body: impl Into<Bytes>) -> Request<Body> {
    request_with(edge, path, body, &[])
}

/// The same with further headers, or another content type.
pub(crate) fn request_with(
    edge: &Edge,
    path: &str,
    body: impl Into<Bytes>,
    headers: &[(&str, &str)],
) -> Request<Body> {
    let mut request = edge.request("POST", path);
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(whole(body)).unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned();
        let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        Self { http: head.status.as_u16(), headers: head.headers, body, trailers }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asserts a status that the proxy made.
    #[track_caller]
    pub(crate) fn assert_refused(&self, http: u16, code: u32, message: &str) {
        assert_eq!((self.http, &self.json()["code"]), (http, &code.into()), "{self:?}");
        assert_eq!(self.json()["message"], message, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        assert_eq!(self.headers["grpc-status"], code.to_string(), "{self:?}");
        assert_eq!(self.headers["bidiway-origin"], "proxy", "{self:?}");
    }
}

/// Sends a request on a connection of its own, and reads the answer.
pub(crate) async fn call(edge: &Edge, version: Http, request: Request<Body>) -> Answer {
    Answer::read(edge.send(version, request).await).await
}

/// A JSON socket.
pub(crate) struct JsonSocket {
    pub(crate) ws: WebSocketStream<Box<dyn Io>>,
}

/// What comes on it, pings aside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Text(Value),
    Close(u16, String),
    Lost,
}

impl JsonSocket {
    pub(crate) async fn open(carrier: Carrier, edge: &Edge, path: &str) -> Self {
        Self::open_with(carrier, edge, path, &[]).await
    }

    pub(crate) async fn open_with(
        carrier: Carrier,
        edge: &Edge,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        Self { ws: carrier.websocket(carrier.port(edge), path, "", headers).await }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.send_raw(Message::Text(text.into())).await;
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        self.ws.send(message).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Came {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Text(text))) => return Came::Text(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Came::Close(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None))) => return Came::Close(1005, String::new()),
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(other)) => panic!("the proxy sent {other:?}"),
                Some(Err(_)) | None => return Came::Lost,
            }
        }
    }

    /// The next text.
    pub(crate) async fn text(&mut self) -> Value {
        match self.next().await {
            Came::Text(json) => json,
            other => panic!("{other:?} instead of a text"),
        }
    }

    /// All texts to the close frame, and that.
    pub(crate) async fn finish(&mut self) -> (Vec<Value>, u16, String) {
        let mut texts = Vec::new();
        loop {
            match self.next().await {
                Came::Text(json) => texts.push(json),
                Came::Close(code, reason) => return (texts, code, reason),
                Came::Lost => panic!("lost after {texts:?}"),
            }
        }
    }
}
