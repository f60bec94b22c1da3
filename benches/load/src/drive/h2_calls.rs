//! gRPC over HTTP/2: the h2 crate's client, one worker for each stream.

use std::{collections::VecDeque, time::Instant};

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, HeaderValue, Request, Version, header};

use super::{Plan, Worker, dial, phase};
use crate::{
    drive::phase::Phase,
    echo::{CONNECTION_WINDOW, STREAM_WINDOW},
    shape::Kind,
};

pub(super) async fn connect(plan: &Plan, index: u32) -> anyhow::Result<Vec<Stream>> {
    let io = dial(plan.target).await?;
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(100)
        .max_send_buffer_size(STREAM_WINDOW as usize)
        .handshake(io)
        .await?;
    tokio::spawn(connection);
    let mut request =
        Request::post(format!("http://{}{}", plan.target, plan.method)).version(Version::HTTP_2);
    if let Some(headers) = request.headers_mut() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let request = request.body(())?;
    let message = message(plan.shape.size);

    let mut streams = Vec::new();
    for _ in 0..plan.shape.streams {
        let mut send = send.clone().ready().await?;
        let calls = match plan.shape.kind {
            Kind::Unary => Calls::Unary { send, request: Box::new(request.clone()) },
            Kind::Echo => {
                let (response, up) = send.send_request(request.clone(), false)?;
                Calls::Echo { up, down: response.await.context("the call was not answered")?.into_body() }
            }
        };
        let mut stream =
            Stream { calls, message: message.clone(), window: plan.shape.window as usize, index };
        stream.work(&Phase::alone(1)).await.context("warming up")?;
        streams.push(stream);
    }
    Ok(streams)
}

/// A gRPC message with its prefix.
pub(super) fn message(size: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(size + 5);
    message.put_u8(0);
    message.put_u32(size as u32);
    message.put_bytes(b'x', size);
    message.freeze()
}

/// One stream of a connection, or one place for a call on it.
pub(super) struct Stream {
    calls: Calls,
    message: Bytes,
    window: usize,
    index: u32,
}

enum Calls {
    Echo { up: SendStream<Bytes>, down: RecvStream },
    Unary { send: SendRequest<Bytes>, request: Box<Request<()>> },
}

impl Worker for Stream {
    async fn work(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let size = self.message.len();
        match &mut self.calls {
            Calls::Echo { up, down } => {
                let mut sent = VecDeque::with_capacity(self.window);
                let (mut turn, mut have) = (0, 0);
                loop {
                    while sent.len() < self.window && phase.take() {
                        sent.push_back(phase::wait(phase.slot(self.index, turn)).await);
                        turn += 1;
                        up.send_data(self.message.clone(), false)?;
                    }
                    if sent.is_empty() {
                        return Ok(());
                    }
                    let chunk = down.data().await.context("the service ended an open call")??;
                    down.flow_control().release_capacity(chunk.len())?;
                    have += chunk.len();
                    while have >= size {
                        have -= size;
                        let begun = sent.pop_front().context("more echoes than messages")?;
                        phase.record(begun.elapsed());
                    }
                }
            }
            Calls::Unary { send, request } => {
                let mut turn = 0;
                while phase.take() {
                    let begun = phase::wait(phase.slot(self.index, turn)).await;
                    turn += 1;
                    unary(send, Request::clone(request), self.message.clone(), size).await?;
                    phase.record(Instant::now() - begun);
                }
                Ok(())
            }
        }
    }
}

async fn unary(
    send: &mut SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
    size: usize,
) -> anyhow::Result<()> {
    std::future::poll_fn(|cx| send.poll_ready(cx)).await?;
    let (response, mut up) = send.send_request(request, false)?;
    up.send_data(message, true)?;
    let response = response.await?;
    let (head, mut down) = response.into_parts();
    let mut have = 0;
    while let Some(chunk) = down.data().await {
        let chunk = chunk?;
        down.flow_control().release_capacity(chunk.len())?;
        have += chunk.len();
    }
    let trailers = down.trailers().await?;
    if !is_ok(trailers.as_ref().unwrap_or(&head.headers)) {
        bail!("a call failed: {:?} {:?}", head, trailers);
    }
    ensure!(have == size, "a call answered {have} bytes instead of {size}");
    Ok(())
}

fn is_ok(trailers: &HeaderMap) -> bool {
    trailers.get("grpc-status").is_some_and(|status| status == "0")
}
