//! Bidiway's gRPC-Web beside tonic-web's: the same request to the same service, the same result.

use std::{convert::Infallible, net::SocketAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    edge::{BOTH, Client, WebAnswer, edge, whole},
    upstream::message,
    within,
};

type Answer = Response<tonic::body::Body>;

/// A service that answers as its path says, after it has read the whole request.
async fn service<B>(request: Request<B>) -> Result<Answer, Infallible>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let trailers = |code: &str| {
        let entries = [
            ("grpc-status", code),
            ("grpc-message", "50%25 off"),
            ("x-trailing", "one"),
            ("x-bytes-bin", "AAEC"),
        ];
        let entries =
            entries.map(|(name, value)| (HeaderName::try_from(name).unwrap(), value.parse().unwrap()));
        HeaderMap::from_iter(entries)
    };
    let response = Response::builder().header("content-type", "application/grpc").header("x-initial", "yes");
    let mut frames: Vec<Frame<Bytes>> = match head.uri.path() {
        "/t.T/Echo" => vec![Frame::data(body)],
        "/t.T/Pieces" => body.chunks(3).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect(),
        "/t.T/Nothing" | "/t.T/FailsLate" => vec![],
        "/t.T/FailsAtOnce" => {
            let mut response = response.body(tonic::body::Body::empty()).unwrap();
            response.headers_mut().extend(trailers("9"));
            return Ok(response);
        }
        other => panic!("{other}"),
    };
    frames.push(Frame::trailers(trailers(if head.uri.path() == "/t.T/FailsLate" { "10" } else { "0" })));
    let frames = tokio_stream::iter(frames.into_iter().map(Ok::<_, Infallible>));
    Ok(response.body(tonic::body::Body::new(StreamBody::new(frames))).unwrap())
}

/// Serves on a free port, both HTTP versions.
macro_rules! serve {
    ($service:expr) => {{
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = $service;
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                tokio::spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        address
    }};
}

/// What a client makes of an answer.
#[derive(Debug, PartialEq)]
struct Seen {
    messages: Vec<(u8, Vec<u8>)>,
    status: (u32, String),
    initial: Option<String>,
    trailing: Vec<(String, String)>,
}

async fn ask(address: SocketAddr, client: &mut Client, path: &str, type_: &str, body: Vec<u8>) -> Seen {
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://{address}{path}"))
        .header("content-type", type_)
        .header("accept", type_)
        .body(whole(body))
        .unwrap();
    let response = within(5, client.send(request)).await.unwrap();
    let answer = within(5, WebAnswer::read(response)).await.unwrap();
    let place = answer.trailers.as_ref().unwrap_or(&answer.headers);
    let text = |name: &str, map: &HeaderMap| map.get(name).map(|value| value.to_str().unwrap().to_owned());
    let trailing = ["x-trailing", "x-bytes-bin"];
    let trailing = trailing.iter().filter_map(|name| Some((name.to_string(), text(name, place)?))).collect();
    Seen {
        status: answer.status(),
        initial: text("x-initial", &answer.headers),
        trailing,
        messages: answer.messages,
    }
}

#[tokio::test]
async fn a_client_sees_the_same_through_bidiway_and_through_tonic_web() {
    let native = serve!(service_fn(service::<hyper::body::Incoming>));
    let layered = tonic_web::GrpcWebLayer::new().layer(service_fn(service::<tonic::body::Body>));
    let oracle = serve!(layered.map_request(|request: Request<hyper::body::Incoming>| request));
    let edge = edge(&format!("http://{native}")).await;
    let bodies =
        [vec![], [message(b"")].concat(), [message(b"one"), message(b""), message(&[9; 500])].concat()];
    for version in BOTH {
        let mut ours = Client::connect(edge.address, version).await;
        let mut theirs = Client::connect(oracle, version).await;
        for path in ["/t.T/Echo", "/t.T/Pieces", "/t.T/Nothing", "/t.T/FailsLate", "/t.T/FailsAtOnce"] {
            for body in &bodies {
                for type_ in ["application/grpc-web+proto", "application/grpc-web-text+proto"] {
                    let is_text = type_.contains("text");
                    let body = if is_text { STANDARD.encode(body).into_bytes() } else { body.clone() };
                    let seen = ask(edge.address, &mut ours, path, type_, body.clone()).await;
                    let expected = ask(oracle, &mut theirs, path, type_, body).await;
                    assert_eq!(seen, expected, "{version:?} {path} {type_}");
                }
            }
        }
    }
}
