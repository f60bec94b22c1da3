//! An upstream as a tower service, for gRPC clients that are made of generated code: reflection, health.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use tonic::{Status, codegen::StdError};
use tower::Service;

use super::{CallReceiver, CallSender, Chunk, Received, Upstream};
use crate::wire::Outcome;

/// A service of gRPC requests in HTTP's form: `tonic`'s clients run over it. For what is rare and small: a response is
/// released as it is received, so what a slow reader leaves unread is bounded only by the reader's own limits.
#[derive(Clone, Debug)]
pub struct Channel {
    upstream: Upstream,
}

impl Upstream {
    /// The upstream for a client of generated code.
    pub fn channel(&self) -> Channel {
        Channel { upstream: self.clone() }
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<tonic::body::Body>;
    type Error = Status;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Answer {
        let (head, body) = request.into_parts();
        let Some(path) = head.uri.path_and_query().cloned() else { return Answer(Err(NoPath)) };
        let mut metadata = head.headers;
        let content_type = metadata.remove(CONTENT_TYPE).unwrap_or(GRPC);
        crate::wire::metadata::filter_request(&mut metadata);
        let call = self.upstream.call(super::Request {
            path,
            content_type,
            metadata,
            deadline: None,
            tap: None,
            terms: None,
            trip: None,
            response_rules: None,
            pace: None,
        });
        let (sender, receiver) = call.split();
        let pump = Pump { body, sender, pending: Bytes::new(), ended: false };
        Answer(Ok(Exchange { pump: Some(pump), receiver: Some(receiver), outcome: None }))
    }
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The request's URI has no path.
#[derive(Clone, Copy, Debug)]
struct NoPath;

impl From<NoPath> for Status {
    fn from(_: NoPath) -> Self {
        Self::internal("the request's URI has no path")
    }
}

/// The response to come.
#[derive(Debug)]
pub struct Answer(Result<Exchange, NoPath>);

impl Future for Answer {
    type Output = Result<Response<tonic::body::Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let exchange = self.0.as_mut().map_err(|error| *error)?;
        exchange.poll_pump(cx);
        let headers = ready!(exchange.poll_headers(cx));
        let body = std::mem::replace(&mut self.0, Err(NoPath))?;
        let mut response = Response::new(tonic::body::Body::new(body));
        *response.headers_mut() = headers;
        response.headers_mut().entry(CONTENT_TYPE).or_insert(GRPC);
        Poll::Ready(Ok(response))
    }
}

/// One call: what is still to be sent, and what comes.
#[derive(Debug)]
struct Exchange {
    pump: Option<Pump>,
    /// `None` behind the call's end.
    receiver: Option<CallReceiver>,
    /// An end that is still to be told.
    outcome: Option<Box<Outcome>>,
}

/// The request's body on its way.
#[derive(Debug)]
struct Pump {
    body: tonic::body::Body,
    sender: CallSender,
    pending: Bytes,
    ended: bool,
}

impl Exchange {
    /// Sends what there is to send. A body that fails drops the sender, which cancels the call.
    fn poll_pump(&mut self, cx: &mut Context<'_>) {
        if self.pump.as_mut().is_some_and(|pump| pump.poll(cx).is_ready()) {
            self.pump = None;
        }
    }

    /// The headers; empty ones when the call ends without.
    fn poll_headers(&mut self, cx: &mut Context<'_>) -> Poll<HeaderMap> {
        let Some(receiver) = &mut self.receiver else { return Poll::Ready(HeaderMap::new()) };
        match ready!(receiver.poll_receive(cx)) {
            Received::Headers(headers) => Poll::Ready(headers),
            Received::End(outcome) => {
                self.outcome = Some(outcome);
                self.receiver = None;
                Poll::Ready(HeaderMap::new())
            }
            Received::Data(_) => unreachable!("headers come before data"),
        }
    }
}

impl Pump {
    /// Ready when nothing more is to be sent.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while !self.pending.is_empty() {
                let room = ready!(self.sender.poll_capacity(cx, self.pending.len()));
                if room == 0 {
                    return Poll::Ready(());
                }
                let bytes = self.pending.split_to(room.min(self.pending.len()));
                self.sender.send(Chunk::plain(bytes), false);
            }
            if self.ended {
                self.sender.finish();
                return Poll::Ready(());
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => self.pending = data.copy_to_bytes(data.remaining()),
                    // A request has no trailers in gRPC.
                    Err(_) => self.ended = true,
                },
                Some(Err(_)) => return Poll::Ready(()),
                None => self.ended = true,
            }
        }
    }
}

impl Body for Exchange {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        this.poll_pump(cx);
        if let Some(outcome) = this.outcome.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(outcome.into_trailers()))));
        }
        let Some(receiver) = &mut this.receiver else { return Poll::Ready(None) };
        match ready!(receiver.poll_receive(cx)) {
            Received::Data(bytes) => {
                receiver.release(bytes.len());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Received::End(outcome) => {
                this.receiver = None;
                Poll::Ready(Some(Ok(Frame::trailers(outcome.into_trailers()))))
            }
            Received::Headers(_) => unreachable!("headers come once, before the body"),
        }
    }
}
