//! The bodies of an HTTP carrier's requests and responses.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, timeout};

use super::Line;
use crate::wire::http_carrier::{HEARTBEAT, MAX_BODY};

/// How long a request's body may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a request's body cannot be used.
#[derive(Debug)]
pub(in crate::downstream::carrier) enum Unread {
    /// It did not come in time.
    Late,
    /// It is larger than [`MAX_BODY`]; this is how it begins.
    TooLarge(Bytes),
    /// The connection broke, or the client gave the request up.
    Broken,
}

/// A whole request body. What is read of it counts against nothing but its own limit.
pub(in crate::downstream::carrier) async fn read<B: Body<Data = Bytes> + Unpin>(
    body: &mut B,
) -> Result<Bytes, Unread> {
    let read = async {
        let mut whole = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            if whole.is_empty() && more.is_empty() {
                whole = data; // most bodies come in one piece
            } else {
                more.extend_from_slice(&std::mem::take(&mut whole));
                more.extend_from_slice(&data);
            }
            if whole.len() + more.len() > MAX_BODY {
                return Err(Unread::TooLarge(if more.is_empty() { whole } else { more.freeze() }));
            }
        }
        Ok(if more.is_empty() { whole } else { more.freeze() })
    };
    timeout(PATIENCE, read).await.unwrap_or(Err(Unread::Late))
}

/// The response that streams: what the session sends, and a heartbeat where it sends nothing.
#[derive(Debug)]
pub(super) struct DownBody {
    line: Arc<Line>,
    /// The longest silence.
    heartbeat: Duration,
    last: Instant,
    /// At the earliest time that a heartbeat can be due; it then looks again, so that packets cost no timer operation.
    timer: Pin<Box<Sleep>>,
}

impl DownBody {
    pub(super) fn new(line: Arc<Line>, heartbeat: Duration) -> Self {
        let now = Instant::now();
        Self { line, heartbeat, last: now, timer: Box::pin(tokio::time::sleep_until(now + heartbeat)) }
    }
}

impl Body for DownBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = self.get_mut();
        if let Poll::Ready(bytes) = body.line.poll_body(cx.waker()) {
            body.last = Instant::now();
            return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
        }
        loop {
            ready!(body.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= body.last + body.heartbeat {
                body.last = now;
                body.timer.as_mut().reset(now + body.heartbeat);
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(HEARTBEAT)))));
            }
            body.timer.as_mut().reset(body.last + body.heartbeat);
        }
    }
}

impl Drop for DownBody {
    fn drop(&mut self) {
        self.line.body_dropped();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::StreamBody;

    use super::*;

    type Frames = VecDeque<Result<Frame<Bytes>, &'static str>>;

    /// A body of these frames, which then stays open or ends.
    fn frames(
        frames: impl Into<Frames>,
        stays: bool,
    ) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
        let mut frames = frames.into();
        StreamBody::new(futures_util::stream::poll_fn(move |_| match frames.pop_front() {
            None if stays => Poll::Pending,
            frame => Poll::Ready(frame),
        }))
    }

    fn data(bytes: &[u8]) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::copy_from_slice(bytes)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_whole_from_however_many_pieces() {
        for pieces in [&[][..], &[b"one".as_slice()], &[b"one", b"two", b"", b"three"]] {
            let all: Frames = pieces.iter().map(|piece| data(piece)).collect();
            assert_eq!(read(&mut frames(all, false)).await.unwrap(), pieces.concat());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_in_ten_seconds_is_late_however_much_of_it_has_come() {
        let began = Instant::now();
        let read = read(&mut frames([data(b"one"), data(b"two")], true)).await;
        assert!(matches!(read, Err(Unread::Late)), "{read:?}");
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_up_to_its_limit_and_no_further() {
        let most = vec![7; MAX_BODY];
        assert_eq!(read(&mut frames([data(&most)], false)).await.unwrap(), most);
        let read = read(&mut frames([data(&most), data(b"!")], true)).await;
        assert!(matches!(&read, Err(Unread::TooLarge(begin)) if begin[0] == 7), "{read:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_breaks_off_is_none() {
        let read = read(&mut frames([data(b"one"), Err("reset")], false)).await;
        assert!(matches!(read, Err(Unread::Broken)), "{read:?}");
    }
}
