//! One call as bytes.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::{
    Allowance, CallReceiver, Chunk, Tap, Terms, lane::Lane, lifetime::Lifetime, pace::Pace, pool::Pool,
};
use crate::{
    telemetry::{Backpressure, Trip, Wait},
    wire::{Code, Outcome, metadata_rules::MetadataRules},
};

/// What opens a call.
#[derive(Clone, Debug)]
pub struct Request {
    /// `/package.Service/Method`, checked to be a valid path.
    pub path: http::uri::PathAndQuery,
    /// `application/grpc`, `application/grpc+proto`, …
    pub content_type: HeaderValue,
    /// Filtered with `wire::metadata::filter_request`. `te`, `user-agent` and `grpc-timeout` are set here.
    pub metadata: HeaderMap,
    /// Sent as `grpc-timeout` and enforced: DEADLINE_EXCEEDED, and upstream is reset.
    pub deadline: Option<Instant>,
    /// Sees what passes.
    pub tap: Option<Tap>,
    /// Is told where it goes.
    pub trip: Option<Arc<Trip>>,
    /// What becomes of the response's metadata.
    pub response_rules: Option<Arc<MetadataRules>>,
    /// Who is asked first, and how long it may go on; `None`: nobody, and as long as the deadline allows.
    pub terms: Option<Box<Terms>>,
    /// How fast it may send; `None`: as fast as upstream takes it.
    pub pace: Option<Arc<dyn Allowance>>,
}

/// What comes back from upstream, in this order: at most one `Headers`, any number of `Data`, one `End`.
#[derive(Debug)]
pub enum Received {
    /// Initial metadata, filtered with `wire::metadata::filter_response`; and the content type.
    Headers(HeaderMap),
    /// Bytes of the body. They count against the call's window until `release`.
    Data(Bytes),
    /// The end; exactly once. After a trailers-only answer nothing came before it.
    End(Box<Outcome>),
}

/// One call. Dropped before its end, it is cancelled: upstream is reset with CANCEL.
///
/// Poll-based, so that one task can drive many calls. Both halves may use different wakers.
#[derive(Debug)]
pub struct Call {
    sender: CallSender,
    receiver: CallReceiver,
}

impl Call {
    pub(super) fn open(pool: &Arc<Pool>, mut request: Request) -> Self {
        let deadline = request.deadline;
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return Self::refused(Outcome::proxy(
                Code::DEADLINE_EXCEEDED,
                "the deadline had passed before the call was sent",
            ));
        }
        let Terms { permission, lease, max_age } =
            request.terms.take().map(|terms| *terms).unwrap_or_default();
        if let Some(lease) = lease.as_ref().filter(|lease| lease.until() <= Instant::now()) {
            return Self::refused(lease.outcome());
        }
        let settings = pool.settings();
        let tap = request.tap.take();
        let rules = request.response_rules.take();
        let pace = request.pace.take().map(|allowance| Box::new(Pace::new(allowance)));
        let (lane, asking) = match permission {
            None => {
                let place = match pool.enter() {
                    Ok(place) => place,
                    Err(outcome) => return Self::refused(*outcome),
                };
                let lane = Lane::new(request);
                lane.enter(place);
                pool.place(lane.clone());
                (lane, None)
            }
            Some(permission) => {
                let metadata = std::mem::take(&mut request.metadata);
                let lane = Lane::new(request);
                let asking = permission.ask(metadata, lane.clone(), pool.clone());
                (lane, Some(asking))
            }
        };
        let lifetime = Lifetime::new(deadline, lease, max_age, settings);
        let mut call = Self::over(lane, Some(pool.clone()), lifetime);
        call.receiver.asking = asking;
        call.sender.tap.clone_from(&tap);
        call.sender.pace = pace;
        call.receiver.tap = tap;
        call.receiver.rules = rules;
        call
    }

    fn over(lane: Arc<Lane>, pool: Option<Arc<Pool>>, lifetime: Option<Lifetime>) -> Self {
        let backpressure = pool.as_ref().map(|pool| pool.metrics().backpressure().clone());
        Self {
            sender: CallSender {
                lane: lane.clone(),
                tap: None,
                pace: None,
                wait: Wait::default(),
                backpressure: backpressure.clone(),
            },
            receiver: CallReceiver::new(lane, pool, lifetime, backpressure),
        }
    }

    /// A call that is over before it began (no route, a refused request): yields only this outcome.
    pub fn refused(outcome: Outcome) -> Self {
        Self::over(Lane::failed(outcome), None, None)
    }

    /// Asks to send `want` bytes (at least 1), whatever limits the request has. Ready with how many may be sent now, at most `want`; ready with 0 when
    /// the call takes no more (it is over, or the server has stopped reading: RST_STREAM with NO_ERROR after its
    /// answer): then drop what is left, and learn the end from `poll_receive`.
    pub fn poll_capacity(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        self.sender.poll_capacity(cx, want)
    }

    /// The same for the `next` bytes of the request, of which there is at least one, within its limits: how many of them
    /// may be sent now. Until it has been ready with all of them, it is to be asked about the same bytes again, without
    /// those that were sent.
    pub fn poll_room<B: Buf + Clone>(&mut self, cx: &mut Context<'_>, next: &B) -> Poll<usize> {
        self.sender.poll_room(cx, next)
    }

    /// Sends bytes within the capacity given by `poll_capacity` or `poll_room`. With `last` the request ends.
    pub fn send(&mut self, chunk: Chunk, last: bool) {
        self.sender.send(chunk, last);
    }

    /// Ends the request without more bytes (half-close). Needs no capacity. Before the call is connected it is
    /// remembered.
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// The next thing from upstream. Not to be polled after `End`.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        self.receiver.poll_receive(cx)
    }

    /// Ready with the outcome when the deadline has passed, the lease is over or the call is too old: for a caller that
    /// can take no more data and therefore does not call `poll_receive`, which sees to the deadline otherwise. Not to be polled after `End`.
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Box<Outcome>> {
        self.receiver.poll_deadline(cx)
    }

    /// The client has taken so many bytes of `Data`: upstream may send as many more.
    pub fn release(&mut self, bytes: usize) {
        self.receiver.release(bytes);
    }

    /// Bytes of the response that are here and not released: in the HTTP/2 window, polled or not.
    pub fn buffered(&mut self) -> usize {
        self.receiver.buffered()
    }

    /// Two halves for two tasks. Dropping the receiver before the end cancels the call; dropping the sender before
    /// `finish` cancels it too.
    pub fn split(self) -> (CallSender, CallReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half of a call.
#[derive(Debug)]
pub struct CallSender {
    lane: Arc<Lane>,
    tap: Option<Tap>,
    pace: Option<Box<Pace>>,
    wait: Wait,
    backpressure: Option<Arc<Backpressure>>,
}

impl CallSender {
    /// See [`Call::poll_capacity`].
    pub fn poll_capacity(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        let room = self.lane.poll_capacity(cx, want);
        match (&room, &self.backpressure) {
            (Poll::Pending, _) => self.wait.begin(),
            (Poll::Ready(_), Some(backpressure)) => self.wait.end(&backpressure.up),
            (Poll::Ready(_), None) => {}
        }
        room
    }

    /// See [`Call::poll_room`].
    pub fn poll_room<B: Buf + Clone>(&mut self, cx: &mut Context<'_>, next: &B) -> Poll<usize> {
        let want = match &mut self.pace {
            None => next.remaining(),
            Some(pace) => ready!(pace.poll(cx, next)),
        };
        self.poll_capacity(cx, want)
    }

    /// See [`Call::send`].
    pub fn send(&mut self, chunk: Chunk, last: bool) {
        if let Some(pace) = &mut self.pace {
            pace.sent(chunk.len());
        }
        if self.tap.as_ref().is_some_and(|tap| !tap.up(&chunk)) {
            self.tap = None;
        }
        self.lane.send(chunk, last);
    }

    /// See [`Call::finish`].
    pub fn finish(&mut self) {
        self.lane.finish();
    }
}

impl Drop for CallSender {
    fn drop(&mut self) {
        if let Some(backpressure) = &self.backpressure {
            self.wait.end(&backpressure.up);
        }
        self.lane.sender_dropped();
    }
}
