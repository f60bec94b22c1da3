//! The service behind every proxy: gRPC over HTTP/2 cleartext, on one thread, as light as the h2 crate lets it be.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

/// Large enough that the service is never what a message of a mebibyte waits for.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// Far above what can be in flight, and so is the budget of small DATA frames that h2 derives from it.
pub const CONNECTION_WINDOW: u32 = 1 << 30;

pub async fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("{}", listener.local_addr()?);
    tokio::select! {
        () = crate::parent_gone() => Ok(()),
        failed = accept(listener) => failed,
    }
}

async fn accept(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (io, _) = listener.accept().await?;
        io.set_nodelay(true)?;
        // A client that goes in the middle of something is not the service's business.
        tokio::spawn(connection(io));
    }
}

async fn connection(io: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(u32::MAX)
        .max_send_buffer_size(STREAM_WINDOW as usize)
        .handshake(io)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(call_of(request, respond));
    }
    Ok(())
}

/// `/bench.Echo/Unary` answers once the request is complete, every other method chunk by chunk as it comes.
async fn call_of(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let unary = request.uri().path().ends_with("/Unary");
    let body = request.into_body();
    if unary { unary_of(body, respond).await } else { stream_of(body, respond).await }
}

async fn unary_of(mut body: RecvStream, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut chunks = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        chunks.push(chunk);
    }
    let mut send = respond.send_response(head(), false)?;
    for chunk in chunks.into_iter().filter(|chunk| !chunk.is_empty()) {
        send.send_data(chunk, false)?;
    }
    send.send_trailers(ok())
}

async fn stream_of(mut body: RecvStream, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut send = respond.send_response(head(), false)?;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        // What waits here for window is bounded by what the client keeps in flight.
        if !chunk.is_empty() {
            send.send_data(chunk, false)?;
        }
    }
    send.send_trailers(ok())
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
