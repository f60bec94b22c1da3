//! The body of a gRPC answer: native, or gRPC-Web in one of its two forms.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::AbortOnDropHandle,
};

use super::{message_gate::MessageGate, message_meter::MessageMeter, shared_record::SharedRecord};
use crate::{
    upstream::{CallReceiver, Received},
    wire::{
        Code, Outcome, base64_text,
        envelope::EnvelopeError,
        grpc_web::{Form, trailer_frame},
    },
};

/// How a body is written, with what each form has to know of the messages in it.
#[derive(Debug)]
pub(crate) enum BodyForm {
    /// As upstream wrote it; the trailers are HTTP trailers.
    Native(MessageMeter),
    /// The trailers are a frame of the body.
    Web(MessageGate, Form),
}

/// The rest of a call whose head is sent. Bytes from upstream are taken when the client has room for them, and
/// upstream may send more when the client has asked for what comes next. Dropped before its end: the client went
/// away, and the call is cancelled.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    phase: Phase,
    form: BodyForm,
    record: SharedRecord,
    /// Data bytes that were handed out last: once more is asked for, they are on their way.
    unreleased: usize,
    cut: Cut,
    request: Option<OpenRequest>,
    /// Keeps the deadline while the client does not read and nobody polls this.
    _expiry: Option<AbortOnDropHandle<()>>,
}

/// A request that goes on, in a task of its own, while the response goes down. Dropped when the call is over: then
/// the task stops too.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    /// Tells how the request failed; closed without a word when it did not.
    pub(crate) failure: oneshot::Receiver<Box<Outcome>>,
}

#[derive(Debug)]
enum Phase {
    Streaming(CallReceiver),
    /// The last data is out; this is left to tell.
    Ending(Box<Outcome>),
    Over,
}

/// The end of the process's patience, waited for only by calls that wait.
#[derive(Debug)]
enum Cut {
    Unarmed(CancellationToken),
    Armed(Pin<Box<WaitForCancellationFutureOwned>>),
}

/// The body cannot be ended in a way that the client would understand, so it is broken off: the client sees a failed
/// request rather than half a message with a status in it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the call ended in the middle of a large message")]
pub(crate) struct BrokenOff;

/// The outcome of calls that outlive the drain.
pub(crate) fn cut_off() -> Box<Outcome> {
    Box::new(Outcome::proxy(Code::UNAVAILABLE, "the proxy is draining and has ended the call"))
}

impl ResponseBody {
    pub(crate) fn new(
        receiver: CallReceiver,
        form: BodyForm,
        record: SharedRecord,
        cut: CancellationToken,
        request: Option<OpenRequest>,
        expiry: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        let phase = Phase::Streaming(receiver);
        Self { phase, form, record, unreleased: 0, cut: Cut::Unarmed(cut), request, _expiry: expiry }
    }

    /// Why the call ends although upstream has not ended it.
    fn poll_interruption(&mut self, cx: &mut Context<'_>) -> Poll<Box<Outcome>> {
        if let Some(request) = &mut self.request {
            match Pin::new(&mut request.failure).poll(cx) {
                Poll::Ready(Ok(outcome)) => return Poll::Ready(outcome),
                Poll::Ready(Err(_)) => self.request = None,
                Poll::Pending => {}
            }
        }
        match &mut self.cut {
            Cut::Unarmed(token) if token.is_cancelled() => Poll::Ready(cut_off()),
            Cut::Unarmed(_) => Poll::Pending,
            Cut::Armed(cut) => cut.as_mut().poll(cx).map(|()| cut_off()),
        }
    }

    /// Ends the call: the account, upstream, and the last frame.
    fn finish(&mut self, outcome: Box<Outcome>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.phase = Phase::Over;
        self.request = None;
        let outcome = self.form.complete(outcome);
        self.record.end(&outcome);
        let frame = match &self.form {
            BodyForm::Native(_) => Frame::trailers(outcome.into_trailers()),
            BodyForm::Web(gate, _) if !gate.is_between_messages() => {
                return Poll::Ready(Some(Err(BrokenOff)));
            }
            BodyForm::Web(_, form) => Frame::data(written(trailer_frame(&outcome.into_trailers()), *form)),
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

impl BodyForm {
    /// Takes a chunk from upstream; tells what goes out, how much of the chunk does not, and what is wrong.
    fn push(&mut self, chunk: Bytes, record: &SharedRecord) -> (Bytes, usize, Option<EnvelopeError>) {
        let on_message = |size| record.update(|record| record.message_down(size));
        match self {
            Self::Native(meter) => {
                let error = meter.measure(&chunk, on_message).error;
                (chunk, 0, error)
            }
            Self::Web(gate, form) => {
                let gated = gate.push(chunk, on_message);
                (written(gated.out, *form), gated.kept, gated.error)
            }
        }
    }

    /// The outcome, which is not OK when the last message is not whole.
    fn complete(&self, outcome: Box<Outcome>) -> Box<Outcome> {
        let whole = match self {
            Self::Native(meter) => meter.finish(),
            Self::Web(gate, _) => gate.finish(),
        };
        match whole {
            Err(error) if outcome.status.code == Code::OK => invalid_response(&error),
            _ => outcome,
        }
    }
}

/// Bytes as the form writes them. Each piece of text is padded, so that it can be read as soon as it arrives.
fn written(bytes: Bytes, form: Form) -> Bytes {
    match form {
        Form::Text if !bytes.is_empty() => {
            let mut text = BytesMut::with_capacity(bytes.len().div_ceil(3) * 4);
            base64_text::encode(&bytes, &mut text);
            text.freeze()
        }
        Form::Text | Form::Binary => bytes,
    }
}

pub(super) fn invalid_response(error: &EnvelopeError) -> Box<Outcome> {
    let code = match error {
        EnvelopeError::TooLarge { .. } => Code::RESOURCE_EXHAUSTED,
        EnvelopeError::Compressed | EnvelopeError::Flag(_) | EnvelopeError::Truncated { .. } => {
            Code::INTERNAL
        }
    };
    Box::new(Outcome::proxy(code, format!("the response of the service is not valid: {error}")))
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        if let Phase::Streaming(_) = this.phase
            && let Poll::Ready(outcome) = this.poll_interruption(cx)
        {
            return this.finish(outcome);
        }
        loop {
            let receiver = match &mut this.phase {
                Phase::Streaming(receiver) => receiver,
                Phase::Over => return Poll::Ready(None),
                Phase::Ending(_) => {
                    let Phase::Ending(outcome) = mem::replace(&mut this.phase, Phase::Over) else {
                        return Poll::Ready(None);
                    };
                    return this.finish(outcome);
                }
            };
            if this.unreleased > 0 {
                receiver.release(mem::take(&mut this.unreleased));
            }
            match receiver.poll_receive(cx) {
                Poll::Ready(Received::Headers(_)) => {}
                Poll::Ready(Received::Data(chunk)) => {
                    let size = chunk.len();
                    let (out, kept, error) = this.form.push(chunk, &this.record);
                    this.unreleased = size - kept;
                    if kept > 0 {
                        // What waits for the rest of its message is bounded by itself, and must not hold the rest up.
                        receiver.release(kept);
                    }
                    if let Some(error) = error {
                        this.phase = Phase::Ending(invalid_response(&error));
                    }
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out))));
                    }
                }
                Poll::Ready(Received::End(outcome)) => return this.finish(outcome),
                Poll::Pending => {
                    let Cut::Unarmed(token) = &this.cut else { return Poll::Pending };
                    this.cut = Cut::Armed(Box::pin(token.clone().cancelled_owned()));
                    return match this.poll_interruption(cx) {
                        Poll::Ready(outcome) => this.finish(outcome),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }
}
