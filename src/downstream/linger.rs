//! Hears a client out after it has been answered.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::Drain;

/// How long a client may go on after its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much it may still send.
const MOST: usize = 16 * 1024 * 1024;

/// Reads the rest of a request that is already answered, and throws it away. Over HTTP/1, a request that is not read
/// to its end costs the connection; closed while the client still sends, the client's own kernel throws the answer
/// away, and instead of the status the client sees a connection reset. HTTP/2 can stop one request by itself.
pub(crate) fn linger<B>(drain: &Drain, version: Version, body: B)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    if version < Version::HTTP_2 {
        hear_out(drain, body);
    }
}

/// The same, whatever the version, for clients that take a stop for a failure: `curl` (7.88 does) reports a stream
/// that was reset with NO_ERROR behind its answer (RFC 9113, section 8.1) as broken, and throws the answer away.
pub(crate) fn hear_out<B>(drain: &Drain, mut body: B)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    if body.is_end_stream() {
        return;
    }
    let cut = drain.cut.clone();
    let read = async move {
        let mut left = MOST;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(len) {
                Some(left) => left,
                None => return,
            };
        }
    };
    drain.tasks.spawn(async move {
        tokio::select! {
            _ = timeout(PATIENCE, read) => {}
            () = cut.cancelled() => {}
        }
    });
}

/// A request's body for somebody who may leave it unread: then it is heard out.
pub(crate) struct HeardOut<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// `None` when it is dropped.
    body: Option<B>,
    drain: Drain,
}

impl<B> HeardOut<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    pub(crate) fn new(drain: &Drain, body: B) -> Self {
        Self { body: Some(body), drain: drain.clone() }
    }
}

impl<B> Body for HeardOut<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B> Drop for HeardOut<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            hear_out(&self.drain, body);
        }
    }
}
