//! What the two halves of a call and the pool share: the call's way to an open stream, and the stream's sending side.

use std::{
    fmt,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use tokio::time::Instant;

use super::{Chunk, Request, Settings, connection::Link, lock, pool::Slot, trickle::Trickle};
use crate::{
    telemetry::{Counted, NoRetry, UpstreamMetrics},
    wire::{Code, Outcome, timeout},
};

/// What a call may send right after its HEADERS, before the connection's task has run and flow control has answered:
/// a small request leaves in one write with its HEADERS. It is also all that is kept for another attempt.
pub(super) const EAGER: usize = 16 * 1024;

/// A call without an answer that is given up before this age may not have been noticed by the server yet: its reset is
/// an early one.
const EARLY: Duration = Duration::from_secs(1);

/// A call's shared state. The mutex is uncontended: both halves and the connections live on one thread.
pub(super) struct Lane {
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// What it takes to send the request (again); gone when the response begins or too much was sent.
    replay: Option<Box<Replay>>,
    sender: Option<Waker>,
    receiver: Option<Waker>,
    /// Its place among the upstream's calls, once it may go there.
    place: Option<Counted>,
}

enum Phase {
    /// In the pool's hands. `finished`: the request has ended already. `pending`: it waits for a connection.
    Waiting { finished: bool, pending: Option<Counted> },
    /// The stream is open; `response` waits for the receiver. `begun`: gone when the server has answered.
    Open {
        send: SendStream<Chunk>,
        response: Option<(ResponseFuture, Slot)>,
        eager: usize,
        finished: bool,
        begun: Option<Begun>,
        trickle: Trickle,
    },
    /// Over without a stream; the outcome waits for the receiver.
    Failed(Box<Outcome>),
    /// Over.
    Over,
}

/// Where and when a stream was opened.
struct Begun {
    link: Arc<Link>,
    at: Instant,
    /// [`Link::writes`] at that time.
    writes: u64,
}

struct Replay {
    request: Request,
    chunks: Vec<Chunk>,
    attempts: usize,
}

/// How a call came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server ended it well, so it has read what it wanted.
    Well,
    /// The server ended it with an error, perhaps without reading the request.
    Badly,
    /// It was given up here.
    Cancelled,
}

/// What became of an attempt to open a stream.
pub(super) enum Opened {
    /// It is open, or nobody wants it any more.
    Done,
    /// The connection takes no more streams; another may.
    NoConnection,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &lock(&self.state).phase {
            Phase::Waiting { .. } => "waiting",
            Phase::Open { .. } => "open",
            Phase::Failed(_) => "failed",
            Phase::Over => "over",
        };
        f.debug_struct("Lane").field("phase", &phase).finish_non_exhaustive()
    }
}

impl Lane {
    pub(super) fn new(request: Request) -> Arc<Self> {
        let replay = Box::new(Replay { request, chunks: Vec::new(), attempts: 0 });
        Self::with(Phase::Waiting { finished: false, pending: None }, Some(replay))
    }

    pub(super) fn failed(outcome: Outcome) -> Arc<Self> {
        Self::with(Phase::Failed(Box::new(outcome)), None)
    }

    fn with(phase: Phase, replay: Option<Box<Replay>>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { phase, replay, sender: None, receiver: None, place: None }),
        })
    }

    // For the pool.

    pub(super) fn is_waiting(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Waiting { .. })
    }

    /// Reads the request's metadata: there are none any more once the request is gone.
    pub(super) fn with_metadata<T>(&self, read: impl FnOnce(Option<&HeaderMap>) -> T) -> T {
        read(lock(&self.state).replay.as_ref().map(|replay| &replay.request.metadata))
    }

    /// It may go upstream, and is one of its calls from now to its end.
    pub(super) fn enter(&self, place: Counted) {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Waiting { .. }) {
            state.place = Some(place);
        }
    }

    /// What goes upstream, when it was not known at the beginning.
    pub(super) fn set_metadata(&self, metadata: HeaderMap) {
        if let Some(replay) = &mut lock(&self.state).replay {
            replay.request.metadata = metadata;
        }
    }

    /// Counts an endpoint that could not be reached; returns how many were.
    pub(super) fn count_attempt(&self) -> usize {
        lock(&self.state).replay.as_mut().map_or(usize::MAX, |replay| {
            replay.attempts += 1;
            replay.attempts
        })
    }

    /// Counts the call as one that waits for a connection, or fails it: as many wait as may. Whether it waits.
    pub(super) fn pend(&self, settings: &Settings, metrics: &UpstreamMetrics) -> bool {
        let mut state = lock(&self.state);
        let Phase::Waiting { pending, .. } = &mut state.phase else { return true };
        if pending.is_none() {
            *pending = metrics.calls().wait(settings.max_pending);
        }
        let waits = pending.is_some();
        drop(state);
        if !waits {
            let (max, name) = (settings.max_pending.unwrap_or_default(), &settings.name);
            let text =
                format!("{max} calls wait already for a connection to upstream {name:?} (`max_pending`)");
            self.fail(Outcome::proxy(Code::UNAVAILABLE, text));
        }
        waits
    }

    /// There is no connection for this call.
    pub(super) fn fail(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        if let Phase::Waiting { .. } = state.phase {
            state.phase = Phase::Failed(Box::new(outcome));
            state.replay = None;
            state.wake();
        }
    }

    /// Opens the call's stream on a connection and sends what was sent on an earlier one. `slot` is called only when
    /// the stream is open, at `endpoint`.
    pub(super) fn open(&self, link: &Arc<Link>, endpoint: &Arc<str>, slot: impl FnOnce() -> Slot) -> Opened {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let (Phase::Waiting { finished, .. }, Some(replay)) = (&state.phase, &state.replay) else {
            return Opened::Done;
        };
        let finished = *finished;
        let Some(mut handle) = link.handle() else { return Opened::NoConnection };
        let remaining = replay.request.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if remaining.is_some_and(|left| left.is_zero()) {
            // The receiver's timer says so in a moment.
            return Opened::Done;
        }
        let ends = finished && replay.chunks.is_empty();
        let begun = Some(Begun { link: link.clone(), at: Instant::now(), writes: link.writes() });
        let opened = handle.send_request(head(&replay.request, link, remaining), ends);
        let (response, mut send) = match opened {
            Ok(opened) => opened,
            // It went away just now, on another thread.
            Err(_) if !link.check() => return Opened::NoConnection,
            Err(error) => {
                let text = format!("the request cannot be sent over HTTP/2: {error}");
                state.phase = Phase::Failed(Box::new(Outcome::proxy(Code::INTERNAL, text)));
                state.replay = None;
                state.wake();
                return Opened::Done;
            }
        };
        if let Some(trip) = &replay.request.trip {
            trip.opened(endpoint);
        }
        let mut eager = EAGER;
        for (at, chunk) in replay.chunks.iter().enumerate() {
            eager = eager.saturating_sub(chunk.remaining());
            let last = finished && at + 1 == replay.chunks.len();
            // An error means that the connection was lost just now; the receiver learns it.
            let _ = send.send_data(chunk.clone(), last);
        }
        let response = Some((response, slot()));
        state.phase = Phase::Open { send, response, eager, finished, begun, trickle: Trickle::default() };
        state.wake();
        Opened::Done
    }

    // For the sender.

    pub(super) fn poll_capacity(&self, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let (send, eager, trickle) = match &mut state.phase {
            Phase::Waiting { finished: false, .. } => {
                park(&mut state.sender, cx);
                return Poll::Pending;
            }
            Phase::Open { send, eager, finished: false, trickle, .. } => (send, *eager, trickle),
            _ => return Poll::Ready(0),
        };
        if eager > 0 {
            return Poll::Ready(want.min(eager));
        }
        if send.capacity() >= want {
            return Poll::Ready(want);
        }
        send.reserve_capacity(want);
        loop {
            let some = send.capacity();
            if trickle.is_enough(some, want) {
                return Poll::Ready(some.min(want));
            }
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(0),
                Poll::Pending => {
                    if some > 0 && trickle.poll_patience(cx, some).is_ready() {
                        return Poll::Ready(some);
                    }
                    park(&mut state.sender, cx);
                    return Poll::Pending;
                }
            }
        }
    }

    pub(super) fn send(&self, chunk: Chunk, last: bool) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let len = chunk.remaining();
        if len == 0 && !last {
            // An empty frame that ends nothing says nothing, and servers count such frames as abuse.
            return;
        }
        match &mut state.phase {
            Phase::Open { send, eager, finished: finished @ false, .. } => {
                if let Some(replay) = &mut state.replay {
                    if len <= *eager {
                        replay.chunks.push(chunk.clone());
                    } else {
                        state.replay = None;
                    }
                }
                *eager = eager.saturating_sub(len);
                *finished = last;
                let _ = send.send_data(chunk, last);
            }
            // The stream was refused between `poll_capacity` and `send`: this goes out on the next one.
            Phase::Waiting { finished: finished @ false, .. } => {
                *finished = last;
                if let Some(replay) = &mut state.replay {
                    replay.chunks.push(chunk);
                }
            }
            _ => {}
        }
    }

    pub(super) fn finish(&self) {
        let mut guard = lock(&self.state);
        match &mut guard.phase {
            Phase::Open { send, finished: finished @ false, .. } => {
                *finished = true;
                let _ = send.send_data(Chunk::plain(Bytes::new()), true);
            }
            Phase::Waiting { finished, .. } => *finished = true,
            _ => {}
        }
    }

    /// The sender is dropped: without a finished request the call is cancelled, and the receiver learns it.
    pub(super) fn sender_dropped(&self) {
        let mut state = lock(&self.state);
        if let Phase::Waiting { finished: false, .. } | Phase::Open { finished: false, .. } = state.phase {
            let outcome = Outcome::cancelled("the request was dropped before its end");
            let old = std::mem::replace(&mut state.phase, Phase::Failed(Box::new(outcome)));
            state.replay = None;
            state.wake();
            drop(state);
            old.leave(Ending::Cancelled, None);
        }
    }

    /// The call's time is over: the stream is reset, and the receiver learns why.
    pub(super) fn expire(&self, outcome: impl FnOnce() -> Outcome) {
        let mut state = lock(&self.state);
        if let Phase::Waiting { .. } | Phase::Open { .. } = state.phase {
            let outcome = Box::new(outcome());
            let old = std::mem::replace(&mut state.phase, Phase::Failed(outcome));
            state.replay = None;
            state.wake();
            drop(state);
            old.leave(Ending::Cancelled, None);
        }
    }

    // For the receiver.

    /// Ready when the stream is open, or with the outcome when there will be none.
    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<Result<(ResponseFuture, Slot), Box<Outcome>>> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        match &mut state.phase {
            Phase::Waiting { .. } => {
                park(&mut state.receiver, cx);
                Poll::Pending
            }
            Phase::Open { response, .. } => {
                Poll::Ready(Ok(response.take().expect("the receiver takes the response once")))
            }
            Phase::Failed(_) => match std::mem::replace(&mut state.phase, Phase::Over) {
                Phase::Failed(outcome) => Poll::Ready(Err(outcome)),
                _ => unreachable!("matched above"),
            },
            Phase::Over => unreachable!("the receiver does not ask after the end"),
        }
    }

    /// The outcome, if the sender's end of the call has made one.
    pub(super) fn take_failure(&self) -> Option<Box<Outcome>> {
        let mut state = lock(&self.state);
        match &mut state.phase {
            Phase::Failed(_) => match std::mem::replace(&mut state.phase, Phase::Over) {
                Phase::Failed(outcome) => Some(outcome),
                _ => unreachable!("matched above"),
            },
            _ => None,
        }
    }

    /// The response has begun: there will be no other attempt.
    pub(super) fn answered(&self) {
        let mut state = lock(&self.state);
        state.replay = None;
        if let Phase::Open { begun, .. } = &mut state.phase {
            *begun = None;
        }
    }

    /// Whether certainly nothing of the call was written to its connection.
    pub(super) fn is_unsent(&self) -> bool {
        match &lock(&self.state).phase {
            Phase::Open { begun: Some(begun), .. } => begun.link.writes() == begun.writes,
            _ => false,
        }
    }

    /// The server has certainly not begun this call. If everything sent is still at hand, and `allowed` says so, the
    /// call waits again, and is to be given to the pool; returns which attempt that is, the first having been 1.
    /// Otherwise why not, where there is a reason other than that the call is over.
    pub(super) fn again(
        &self,
        max_attempts: usize,
        allowed: impl FnOnce() -> Result<(), NoRetry>,
    ) -> Result<usize, Option<NoRetry>> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let finished = match &state.phase {
            Phase::Open { finished, .. } => *finished,
            _ => return Err(None),
        };
        let Some(replay) = &mut state.replay else { return Err(Some(NoRetry::Sent)) };
        if replay.request.deadline.is_some_and(|at| at <= Instant::now()) {
            return Err(Some(NoRetry::Deadline));
        }
        replay.attempts += 1;
        if replay.attempts >= max_attempts {
            return Err(Some(NoRetry::Attempts));
        }
        allowed()?;
        state.phase = Phase::Waiting { finished, pending: None };
        Ok(replay.attempts + 1)
    }

    /// The call is over: stops sending, and resets the stream unless both sides have ended it. `slot` is the stream's,
    /// if the receiver had taken it.
    pub(super) fn over(&self, ending: Ending, slot: Option<Slot>) {
        let mut state = lock(&self.state);
        let old = std::mem::replace(&mut state.phase, Phase::Over);
        state.replay = None;
        state.receiver = None;
        state.place = None;
        state.wake();
        drop(state);
        // Outside the lock: it may hold a slot, which locks the pool, and the pool locks lanes.
        old.leave(ending, slot);
    }
}

impl State {
    fn wake(&mut self) {
        for waker in [self.sender.take(), self.receiver.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Phase {
    fn leave(self, ending: Ending, slot: Option<Slot>) {
        let Self::Open { mut send, response, eager, finished, begun, .. } = self else { return };
        let reason = match ending {
            // The server has answered without waiting for the rest (RFC 9113, section 8.1; grpc-go does the same).
            Ending::Well if !finished => Reason::NO_ERROR,
            Ending::Well => return,
            // A finished request may still lie in h2 beyond the server's window, and would hold its stream until the
            // server, which has ended the call, opens the window. Where nothing is left, h2 sends no RST_STREAM.
            Ending::Badly if !finished || eager < EAGER => Reason::NO_ERROR,
            Ending::Badly => return,
            Ending::Cancelled => match begun {
                Some(Begun { link, at, .. }) if at.elapsed() < EARLY => {
                    let slot = slot.or_else(|| response.map(|(_, slot)| slot));
                    return link.reset_early(send, slot);
                }
                _ => Reason::CANCEL,
            },
        };
        send.send_reset(reason);
    }
}

fn park(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// The request's HEADERS, in the order of gRPC `doc/PROTOCOL-HTTP2.md`, "Requests".
fn head(request: &Request, link: &Link, remaining: Option<Duration>) -> http::Request<()> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(link.scheme.clone());
    uri.authority = Some(link.authority.clone());
    uri.path_and_query = Some(request.path.clone());
    let mut headers = HeaderMap::with_capacity(request.metadata.len() + 4);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(remaining) = remaining {
        let value = HeaderValue::try_from(timeout::encode(remaining)).expect("digits and a letter");
        headers.insert("grpc-timeout", value);
    }
    headers.insert(header::CONTENT_TYPE, request.content_type.clone());
    headers
        .insert(header::USER_AGENT, HeaderValue::from_static(concat!("bidiway/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &request.metadata {
        headers.append(name.clone(), value.clone());
    }
    let mut head = http::Request::new(());
    *head.method_mut() = Method::POST;
    *head.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are all there");
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers;
    head
}
