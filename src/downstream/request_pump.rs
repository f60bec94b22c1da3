//! Carries a request's body upstream.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;

use super::{message_meter::MessageMeter, shared_record::SharedRecord};
use crate::{
    upstream::{CallSender, Chunk},
    wire::{
        Code, Outcome,
        base64_text::{Base64Decoder, InvalidBase64},
        envelope::EnvelopeError,
    },
};

/// Moves the bytes of a request from the client to upstream, as fast as upstream takes them and with at most one
/// chunk in hand. Reads along, so that what is no valid sequence of messages never ends well.
#[derive(Debug)]
pub(crate) struct RequestPump<B> {
    body: B,
    sender: CallSender,
    record: SharedRecord,
    meter: MessageMeter,
    /// For text bodies.
    base64: Option<Base64Decoder>,
    /// Checked, and waiting for room upstream.
    pending: Bytes,
    /// The body has ended, and well.
    ended: bool,
    /// Nothing is left to do.
    done: bool,
}

impl<B> RequestPump<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// A pump from `body` to `sender`. Messages of more than `max_message` bytes are refused.
    pub(crate) fn new(
        body: B,
        is_base64: bool,
        sender: CallSender,
        record: SharedRecord,
        max_message: u64,
    ) -> Self {
        Self {
            body,
            sender,
            record,
            meter: MessageMeter::new(max_message),
            base64: is_base64.then(Base64Decoder::default),
            pending: Bytes::new(),
            ended: false,
            done: false,
        }
    }

    /// Whether the client may still have something to say.
    pub(crate) fn is_open(&self) -> bool {
        !self.body.is_end_stream() || !self.done
    }

    /// What the client may still send. Drops the call's sender: a request that is not done is cancelled.
    pub(crate) fn into_body(self) -> B {
        self.body
    }

    /// Goes on. Ready when the request is sent whole, when upstream takes no more of it, or when it is not valid: then
    /// the call has this outcome, and upstream has not seen the request's end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Box<Outcome>>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_pump(cx));
        self.done = true;
        Poll::Ready(result)
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Box<Outcome>>> {
        loop {
            if !self.pending.is_empty() {
                let capacity = ready!(self.sender.poll_room(cx, &self.pending));
                if capacity == 0 {
                    // Upstream has answered without reading on. Its answer stands.
                    self.sender.finish();
                    return Poll::Ready(Ok(()));
                }
                let part = self.pending.split_to(capacity.min(self.pending.len()));
                let last = self.ended && self.pending.is_empty();
                self.sender.send(Chunk::plain(part), last);
                if last {
                    return Poll::Ready(Ok(()));
                }
            } else if self.ended {
                self.sender.finish();
                return Poll::Ready(Ok(()));
            } else {
                match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        // Trailers of a request mean nothing in gRPC.
                        if let Ok(data) = frame.into_data() {
                            self.pending = self.check(data)?;
                        }
                        if self.body.is_end_stream() {
                            self.end()?;
                        }
                    }
                    Some(Err(error)) => {
                        let outcome = Outcome::cancelled(format!("the request broke off: {error}"));
                        return Poll::Ready(Err(Box::new(outcome)));
                    }
                    None => self.end()?,
                }
            }
        }
    }

    /// A chunk's bytes as upstream gets them.
    fn check(&mut self, data: Bytes) -> Result<Bytes, Box<Outcome>> {
        let data = match &mut self.base64 {
            None => data,
            Some(decoder) => decoder.decode(&data).map_err(invalid_text)?,
        };
        let record = &self.record;
        match self.meter.measure(&data, |size| record.update(|record| record.message_up(size))).error {
            None => Ok(data),
            Some(error) => Err(invalid_request(&error)),
        }
    }

    fn end(&mut self) -> Result<(), Box<Outcome>> {
        if let Some(decoder) = &self.base64 {
            decoder.finish().map_err(invalid_text)?;
        }
        self.meter.finish().map_err(|error| invalid_request(&error))?;
        self.ended = true;
        Ok(())
    }
}

fn invalid_text(error: InvalidBase64) -> Box<Outcome> {
    Box::new(Outcome::proxy(Code::INVALID_ARGUMENT, format!("the request cannot be read: {error}")))
}

pub(super) fn invalid_request(error: &EnvelopeError) -> Box<Outcome> {
    let code = match error {
        EnvelopeError::TooLarge { .. } => Code::RESOURCE_EXHAUSTED,
        // A flag of 0x80 too: trailers in a request are not in the specification.
        EnvelopeError::Compressed | EnvelopeError::Flag(_) | EnvelopeError::Truncated { .. } => {
            Code::INVALID_ARGUMENT
        }
    };
    Box::new(Outcome::proxy(code, format!("the request is not valid: {error}")))
}
