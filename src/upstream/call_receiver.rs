//! The response of a call.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, client::ResponseFuture};
use http::HeaderMap;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Received, Tap,
    lane::{EAGER, Ending, Lane},
    lifetime::{End, Lifetime},
    pool::{Pool, Slot},
    response::{self, Early, Head},
    retries::{self, Retries},
};
use crate::{
    telemetry::{Backpressure, NoRetry, Retry, Wait},
    wire::{Code, Origin, Outcome, metadata_rules::MetadataRules},
};

/// How much of a foreign body goes into a status message, in bytes.
const EXCERPT: usize = 200;

/// The receiving half of a call.
#[derive(Debug)]
pub struct CallReceiver {
    lane: Arc<Lane>,
    pool: Option<Arc<Pool>>,
    stage: Stage,
    /// Bytes of `Data` that are not released.
    held: usize,
    /// For the client to take what is held.
    wait: Wait,
    backpressure: Option<Arc<Backpressure>>,
    pub(super) tap: Option<Tap>,
    lifetime: Option<Lifetime>,
    /// Dropped with the call: the question is given up.
    pub(super) asking: Option<AbortOnDropHandle<()>>,
    pub(super) rules: Option<Arc<MetadataRules>>,
    /// Headers have come, so the rules' additions are told.
    headers_ruled: bool,
}

/// How far the response is.
#[derive(Debug)]
enum Stage {
    /// No stream yet.
    Opening,
    /// Before another attempt.
    Pause(Pin<Box<Sleep>>),
    /// No headers yet.
    Head(ResponseFuture, Slot),
    Body(RecvStream, Slot),
    /// Headers with a status that do not end the stream.
    Early(RecvStream, Slot, Box<Early>),
    /// The first data after such headers, which were passed on.
    Put(RecvStream, Slot, Bytes),
    /// An answer that is no gRPC: its body may hold a word of explanation.
    NotGrpc(RecvStream, Slot, Box<NotGrpc>),
    /// The outcome, after headers that were passed on late.
    Last(Box<Outcome>),
    Done,
}

impl Stage {
    /// The stream's slot, if there is a stream.
    fn into_slot(self) -> Option<Slot> {
        match self {
            Self::Head(_, slot)
            | Self::Body(_, slot)
            | Self::Early(_, slot, _)
            | Self::Put(_, slot, _)
            | Self::NotGrpc(_, slot, _) => Some(slot),
            Self::Opening | Self::Pause(_) | Self::Last(_) | Self::Done => None,
        }
    }
}

#[derive(Debug)]
struct NotGrpc {
    code: Code,
    text: String,
    body: Vec<u8>,
}

impl CallReceiver {
    pub(super) fn new(
        lane: Arc<Lane>,
        pool: Option<Arc<Pool>>,
        lifetime: Option<Lifetime>,
        backpressure: Option<Arc<Backpressure>>,
    ) -> Self {
        Self {
            wait: Wait::default(),
            backpressure,
            lane,
            pool,
            stage: Stage::Opening,
            held: 0,
            tap: None,
            lifetime,
            asking: None,
            rules: None,
            headers_ruled: false,
        }
    }

    /// See [`Call::poll_receive`](super::Call::poll_receive).
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        let mut received = self.receive(cx);
        if let (Poll::Ready(received), Some(rules)) = (&mut received, &self.rules) {
            match received {
                Received::Headers(headers) => {
                    rules.apply(headers);
                    self.headers_ruled = true;
                }
                Received::End(outcome) if self.headers_ruled || outcome.origin != Origin::Upstream => {
                    rules.take(&mut outcome.trailers);
                }
                // Trailers-only: nothing else has the service's metadata.
                Received::End(outcome) => rules.apply(&mut outcome.trailers),
                Received::Data(_) => {}
            }
        }
        if let (Poll::Ready(received), Some(tap)) = (&received, &self.tap)
            && !tap.down(received)
        {
            self.tap = None;
        }
        received
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        loop {
            // What most polls are about, apart from the rest: here the stage stays where it is.
            if let Stage::Body(stream, _) = &mut self.stage {
                let body = poll_body(stream, cx);
                return self.body(cx, body);
            }
            // Every arm that does not wait leaves a new stage behind; `Done` stands in meanwhile.
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Opening => match self.lane.poll_open(cx) {
                    Poll::Ready(Ok((response, slot))) => self.stage = Stage::Head(response, slot),
                    Poll::Ready(Err(outcome)) => return self.end(Ending::Cancelled, outcome),
                    Poll::Pending => return self.wait(cx, Stage::Opening),
                },
                Stage::Head(mut response, slot) => match Pin::new(&mut response).poll(cx) {
                    Poll::Ready(Ok(response)) => {
                        if let Some(received) = self.head(response, slot) {
                            return received;
                        }
                    }
                    Poll::Ready(Err(error)) => match self.again(&error) {
                        Ok(attempt) => {
                            drop((response, slot));
                            let pause = retries::pause(attempt);
                            self.stage = Stage::Pause(Box::pin(sleep_until(Instant::now() + pause)));
                        }
                        Err(why_not) => {
                            if response::is_failure(&error) {
                                slot.failed();
                            }
                            return self.broken(&error, &slot, why_not);
                        }
                    },
                    Poll::Pending => return self.wait(cx, Stage::Head(response, slot)),
                },
                Stage::Pause(mut sleep) => {
                    if sleep.as_mut().poll(cx).is_pending() {
                        return self.wait(cx, Stage::Pause(sleep));
                    }
                    self.stage = Stage::Opening;
                    if let Some(pool) = &self.pool {
                        pool.place(self.lane.clone());
                    }
                }
                Stage::Body(..) => unreachable!("polled above"),
                Stage::Early(mut stream, slot, early) => match poll_body(&mut stream, cx) {
                    Poll::Ready(Body::Data(bytes)) => {
                        self.stage = Stage::Put(stream, slot, bytes);
                        return Poll::Ready(Received::Headers(early.headers));
                    }
                    Poll::Ready(Body::Trailers(trailers)) => {
                        self.stage = Stage::Last(Box::new(response::read_trailers(trailers, self.limit())));
                        return Poll::Ready(Received::Headers(early.headers));
                    }
                    Poll::Ready(Body::End) => {
                        return self.ended(Box::new(early.into_outcome()));
                    }
                    // The server had said its error. An OK before a broken end is not believed.
                    Poll::Ready(Body::Broken(_)) if early.status.code != Code::OK => {
                        return self.ended(Box::new(early.into_outcome()));
                    }
                    Poll::Ready(Body::Broken(error)) => return self.broken(&error, &slot, None),
                    Poll::Pending => return self.wait(cx, Stage::Early(stream, slot, early)),
                },
                Stage::Put(stream, slot, bytes) => {
                    self.held += bytes.len();
                    self.wait.begin();
                    self.stage = Stage::Body(stream, slot);
                    return Poll::Ready(Received::Data(bytes));
                }
                Stage::NotGrpc(mut stream, slot, mut answer) => {
                    if answer.body.len() < EXCERPT
                        && let Poll::Ready(Body::Data(bytes)) = poll_body(&mut stream, cx)
                    {
                        answer.body.extend_from_slice(&bytes[..bytes.len().min(EXCERPT)]);
                        self.stage = Stage::NotGrpc(stream, slot, answer);
                        continue;
                    }
                    // The whole body, enough of it, or what there is: nobody waits for more of it.
                    return self.end(Ending::Cancelled, Box::new(answer.into_outcome()));
                }
                Stage::Last(outcome) => return self.ended(outcome),
                Stage::Done => unreachable!("a call is not polled after its end"),
            }
        }
    }

    /// See [`Call::poll_deadline`](super::Call::poll_deadline).
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Box<Outcome>> {
        let Some(lifetime) = &mut self.lifetime else { return Poll::Pending };
        let end = ready!(lifetime.poll(cx));
        Poll::Ready(self.give_up_for(end))
    }

    /// What keeps the deadline, and the greatest age, while nobody polls this half, as where a body is polled only when
    /// its client reads: a future that waits for that time and then ends the call with it. `None` without either.
    pub fn expiry(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut lifetime = self.lifetime.as_ref()?.again();
        let pool = Arc::downgrade(self.pool.as_ref()?);
        let lane = self.lane.clone();
        Some(async move {
            let end = poll_fn(|cx| lifetime.poll(cx)).await;
            lane.expire(|| match pool.upgrade() {
                Some(pool) => end.outcome(pool.settings(), pool.metrics()),
                None => response::deadline_exceeded(),
            });
        })
    }

    /// See [`Call::release`](super::Call::release).
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        if self.held == 0
            && let Some(backpressure) = &self.backpressure
        {
            self.wait.end(&backpressure.down);
        }
        if let Stage::Body(stream, _) = &mut self.stage {
            // Never more than was received: `held` sees to it.
            let _ = stream.flow_control().release_capacity(bytes);
        }
    }

    /// See [`Call::buffered`](super::Call::buffered).
    pub fn buffered(&mut self) -> usize {
        match &mut self.stage {
            Stage::Body(stream, _)
            | Stage::Early(stream, ..)
            | Stage::Put(stream, ..)
            | Stage::NotGrpc(stream, ..) => stream.flow_control().used_capacity(),
            Stage::Opening | Stage::Pause(_) | Stage::Head(..) | Stage::Last(_) | Stage::Done => 0,
        }
    }

    /// What `poll_body` said in [`Stage::Body`].
    fn body(&mut self, cx: &mut Context<'_>, body: Poll<Body>) -> Poll<Received> {
        match body {
            Poll::Ready(Body::Data(bytes)) => {
                self.held += bytes.len();
                self.wait.begin();
                Poll::Ready(Received::Data(bytes))
            }
            Poll::Ready(Body::Trailers(trailers)) => {
                self.ended(Box::new(response::read_trailers(trailers, self.limit())))
            }
            Poll::Ready(Body::End) => self.ended(Box::new(response::no_trailers())),
            Poll::Ready(Body::Broken(error)) => {
                let stage = std::mem::replace(&mut self.stage, Stage::Done);
                let Stage::Body(_, slot) = stage else { unreachable!("the caller has looked") };
                self.broken(&error, &slot, None)
            }
            Poll::Pending => self.poll_deadline(cx).map(Received::End),
        }
    }

    /// Sets the stage that the headers lead to; returns what there is to say at once.
    fn head(&mut self, response: http::Response<RecvStream>, slot: Slot) -> Option<Poll<Received>> {
        self.lane.answered();
        let (parts, stream) = response.into_parts();
        let ended = stream.is_end_stream();
        let head = response::read_head(parts, ended, self.limit());
        if head.is_unavailable() {
            slot.failed();
        } else {
            slot.answered();
        }
        match head {
            Head::Headers(headers) => {
                self.stage = Stage::Body(stream, slot);
                Some(Poll::Ready(Received::Headers(headers)))
            }
            Head::End(outcome) => Some(self.ended(outcome)),
            Head::TooLarge(outcome) => Some(self.end(Ending::Cancelled, outcome)),
            Head::Early(early) => {
                self.stage = Stage::Early(stream, slot, early);
                None
            }
            Head::NotGrpc(code, text) => {
                self.stage = Stage::NotGrpc(stream, slot, Box::new(NotGrpc { code, text, body: Vec::new() }));
                None
            }
        }
    }

    /// The largest headers or trailers taken.
    fn limit(&self) -> u32 {
        self.pool.as_ref().map_or(0, |pool| pool.settings().max_header_list)
    }

    /// Nothing to say yet; unless the call's time is over.
    fn wait(&mut self, cx: &mut Context<'_>, stage: Stage) -> Poll<Received> {
        self.stage = stage;
        if let Poll::Ready(outcome) = self.poll_deadline(cx) {
            return Poll::Ready(Received::End(outcome));
        }
        // The sender has given up, and the stream is perhaps not reset yet.
        if let Some(outcome) = self.lane.take_failure() {
            return self.end(Ending::Cancelled, outcome);
        }
        Poll::Pending
    }

    /// Decides whether a call that broke before its answer is sent again: which attempt that is, or why not, if the
    /// server has not begun it.
    fn again(&self, error: &h2::Error) -> Result<usize, Option<NoRetry>> {
        let Some(pool) = &self.pool else { return Err(None) };
        let Some(retry) = retries::not_processed(error, self.lane.is_unsent()) else { return Err(None) };
        let settings = pool.settings().retries;
        let attempts = settings.unwrap_or_default().attempts;
        let attempt = self.lane.again(attempts, || match settings {
            // It costs nobody anything.
            _ if retry == Retry::Unsent => Ok(()),
            None => Err(NoRetry::Off),
            Some(settings) if !pool.budget().take(&settings) => Err(NoRetry::Budget),
            Some(_) => Ok(()),
        });
        match attempt {
            Ok(_) => pool.metrics().calls().retried(retry),
            Err(Some(why)) => pool.metrics().calls().retry_denied(why),
            Err(None) => {}
        }
        attempt
    }

    /// `why_not`: the server has not begun the call, and it is not sent again all the same.
    fn broken(&mut self, error: &h2::Error, slot: &Slot, why_not: Option<NoRetry>) -> Poll<Received> {
        let cancelled = error.reason() == Some(Reason::CANCEL) && error.is_reset();
        let expired = self.is_expired();
        let outcome = match self.lane.take_failure() {
            Some(outcome) => outcome,
            // The server has seen the same deadline pass and was quicker.
            None if cancelled && expired => Box::new(response::deadline_exceeded()),
            None if why_not == Some(NoRetry::Deadline) => Box::new(response::deadline_exceeded()),
            None => {
                let mut outcome = response::broken(error, slot.link.lost());
                if let (Some(why_not), Some(pool)) = (why_not, &self.pool) {
                    outcome.status.message.push_str(&not_again(why_not, pool.settings().retries));
                }
                Box::new(outcome)
            }
        };
        self.end(Ending::Cancelled, outcome)
    }

    /// The server has ended the call.
    fn ended(&mut self, mut outcome: Box<Outcome>) -> Poll<Received> {
        // The server's own timer can be the quicker one, and some servers call what it does CANCELLED.
        if outcome.status.code == Code::CANCELLED && self.is_expired() {
            outcome = Box::new(response::deadline_exceeded());
        }
        let ending = if outcome.status.code == Code::OK { Ending::Well } else { Ending::Badly };
        self.end(ending, outcome)
    }

    /// Whether the deadline has passed, as far as timers can tell.
    fn is_expired(&self) -> bool {
        self.lifetime.as_ref().is_some_and(Lifetime::is_expired)
    }

    /// The call is over: whatever it held is given back.
    fn end(&mut self, ending: Ending, outcome: Box<Outcome>) -> Poll<Received> {
        self.give_up(ending);
        Poll::Ready(Received::End(outcome))
    }

    /// The call's time is over.
    fn give_up_for(&mut self, end: End) -> Box<Outcome> {
        let outcome = match &self.pool {
            Some(pool) => end.outcome(pool.settings(), pool.metrics()),
            None => response::deadline_exceeded(),
        };
        self.give_up(Ending::Cancelled);
        Box::new(outcome)
    }

    fn give_up(&mut self, ending: Ending) {
        self.held = 0;
        self.lifetime = None;
        self.asking = None;
        let slot = std::mem::replace(&mut self.stage, Stage::Done).into_slot();
        self.lane.over(ending, slot);
        self.pool = None;
    }
}

impl Drop for CallReceiver {
    fn drop(&mut self) {
        if let Some(backpressure) = &self.backpressure {
            self.wait.end(&backpressure.down);
        }
        if !matches!(self.stage, Stage::Done) {
            self.give_up(Ending::Cancelled);
        }
    }
}

/// Why a call is not sent again that the server has not begun.
fn not_again(why: NoRetry, retries: Option<Retries>) -> String {
    let retries = retries.unwrap_or_default();
    match why {
        NoRetry::Budget => format!(
            "; not sent again: {}% of the upstream's recent calls were, and {} a second",
            retries.budget, retries.per_second
        ),
        NoRetry::Attempts => format!("; not sent again: this was attempt {}", retries.attempts),
        NoRetry::Sent => {
            format!("; not sent again: more than {} KiB of the request were sent", EAGER / 1024)
        }
        NoRetry::Off => "; not sent again: the upstream's retries are off".to_owned(),
        NoRetry::Deadline => String::new(),
    }
}

/// The next thing of a body.
enum Body {
    /// Never empty.
    Data(Bytes),
    Trailers(HeaderMap),
    /// Without trailers.
    End,
    Broken(h2::Error),
}

fn poll_body(stream: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Body> {
    loop {
        match stream.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
            Poll::Ready(Some(Ok(bytes))) => return Poll::Ready(Body::Data(bytes)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Body::Broken(error)),
            Poll::Ready(None) => break,
            Poll::Pending => return Poll::Pending,
        }
    }
    stream.poll_trailers(cx).map(|trailers| match trailers {
        Ok(Some(trailers)) => Body::Trailers(trailers),
        Ok(None) => Body::End,
        Err(error) => Body::Broken(error),
    })
}

impl NotGrpc {
    fn into_outcome(self) -> Outcome {
        let Self { code, mut text, body } = self;
        let body = &body[..body.len().min(EXCERPT)];
        // The cut may go through a character, but what is no text is of no use in a message.
        let text_only = match std::str::from_utf8(body) {
            Ok(all) => all,
            Err(error) if error.error_len().is_none() => {
                std::str::from_utf8(&body[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => "",
        };
        // Line breaks would spoil logs.
        let excerpt = text_only.replace(char::is_control, " ");
        let excerpt = excerpt.trim();
        if !excerpt.is_empty() {
            text.push_str("; its body begins: ");
            text.push_str(excerpt);
        }
        Outcome::proxy(code, text)
    }
}
