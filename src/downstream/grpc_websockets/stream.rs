//! One call of a socket.

use std::{
    collections::VecDeque,
    mem,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header::CONTENT_TYPE};

use crate::{
    downstream::{
        carrier::ready::KeyWaker, message_gate::MessageGate, message_meter::MessageMeter,
        request_pump::invalid_request, response_body::invalid_response,
    },
    telemetry::CallRecord,
    upstream::{Call, Chunk, Received},
    wire::{Code, Outcome, grpc_websockets::write_block},
};

/// How much of a response goes into one WebSocket message, about.
const MESSAGE_TARGET: usize = 16 * 1024;

/// Request bytes up to this size are put together with their neighbours: services count tiny DATA frames as abuse (h2
/// closes the connection), and a few bytes must not keep a whole read buffer alive.
const SMALL: usize = 2 * 1024;

/// How many request bytes are put together at most, and from how many on they do not wait for more.
pub(super) const TOGETHER: usize = 16 * 1024;

/// A call and what is on its way in either direction. A table entry, not a task.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` when the call is over and only its end is left to tell.
    call: Option<Call>,
    waker: KeyWaker,
    record: Option<CallRecord>,
    up: MessageMeter,
    /// Request bytes that wait for upstream's window.
    backlog: VecDeque<Bytes>,
    /// Small ones, behind the others.
    gathered: BytesMut,
    /// The bytes in both.
    backlog_size: usize,
    half_closed: bool,
    /// Nothing more goes up.
    up_done: bool,
    down: MessageGate,
    /// Response bytes that were handed to the socket and not yet given back to upstream's window.
    unreleased: usize,
    outcome: Option<Box<Outcome>>,
    /// Whether the driver has this stream in its queue.
    pub(super) queued: bool,
}

/// What a stream has for the client.
#[derive(Debug)]
pub(super) enum Down {
    /// Nothing now; its waker tells.
    Pending,
    /// A WebSocket message's payload.
    Message,
    /// Its end. `None`: part of a message is out, and a status behind it would be read as the rest.
    End(Option<Box<Outcome>>),
}

impl Stream {
    pub(super) fn new(call: Call, waker: KeyWaker, record: CallRecord, max_message: u64) -> Self {
        Self {
            call: Some(call),
            waker,
            record: Some(record),
            up: MessageMeter::new(max_message),
            backlog: VecDeque::new(),
            gathered: BytesMut::new(),
            backlog_size: 0,
            half_closed: false,
            up_done: false,
            down: MessageGate::uncompressed(max_message),
            unreleased: 0,
            outcome: None,
            queued: false,
        }
    }

    pub(super) fn waker(&self) -> &KeyWaker {
        &self.waker
    }

    /// What it holds of its request.
    pub(super) fn backlog(&self) -> usize {
        self.backlog_size
    }

    /// Whether only its end is left to tell.
    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// Request bytes from the client; they go on with the next `pump_up`.
    pub(super) fn push_up(&mut self, bytes: Bytes) -> Result<(), Box<Outcome>> {
        if self.half_closed {
            return Err(invalid("a message came after the half-close"));
        }
        let record = &mut self.record;
        let measured = self.up.measure(&bytes, |size| {
            if let Some(record) = record {
                record.message_up(size);
            }
        });
        if let Some(error) = measured.error {
            return Err(invalid_request(&error));
        }
        if self.up_done || bytes.is_empty() {
            return Ok(());
        }
        self.backlog_size += bytes.len();
        if bytes.len() <= SMALL {
            self.gathered.extend_from_slice(&bytes);
            if self.gathered.len() >= TOGETHER {
                self.gather();
            }
        } else {
            self.gather();
            self.backlog.push_back(bytes);
        }
        Ok(())
    }

    fn gather(&mut self) {
        if !self.gathered.is_empty() {
            self.backlog.push_back(mem::take(&mut self.gathered).freeze());
        }
    }

    /// The client sends no more messages, which goes on with the next `pump_up`.
    pub(super) fn half_close(&mut self) -> Result<(), Box<Outcome>> {
        if !self.half_closed {
            self.up.finish().map_err(|error| invalid_request(&error))?;
            self.half_closed = true;
        }
        Ok(())
    }

    /// Sends what upstream has room for.
    pub(super) fn pump_up(&mut self) {
        if self.up_done {
            return;
        }
        self.gather();
        let Some(call) = &mut self.call else { return };
        let cx = &mut Context::from_waker(self.waker.waker());
        while let Some(next) = self.backlog.front_mut() {
            let want = next.len();
            let Poll::Ready(room) = call.poll_room(cx, next) else { return };
            if room == 0 {
                // Upstream takes no more. Its answer stands, and the client may go on until it sees it.
                self.up_done = true;
                self.backlog.clear();
                self.backlog_size = 0;
                return;
            }
            if room < want {
                call.send(Chunk::plain(next.split_to(room)), false);
                self.backlog_size -= room;
                continue;
            }
            let Some(bytes) = self.backlog.pop_front() else { return };
            self.backlog_size -= want;
            self.up_done = self.half_closed && self.backlog.is_empty();
            call.send(Chunk::plain(bytes), self.up_done);
        }
        if self.half_closed && !self.up_done {
            self.up_done = true;
            call.finish();
        }
    }

    /// Writes what upstream sends behind what `message` holds. Only to be called when the socket has taken everything
    /// that came of it before.
    pub(super) fn poll_down(&mut self, message: &mut BytesMut) -> Down {
        let empty = message.len();
        loop {
            if self.outcome.is_some() {
                return if message.len() > empty { Down::Message } else { self.end() };
            }
            let Some(call) = &mut self.call else { return Down::Pending };
            call.release(mem::take(&mut self.unreleased));
            let waker = self.waker.waker().clone();
            let cx = &mut Context::from_waker(&waker);
            // A service that never pauses must not outrun the deadline.
            if let Poll::Ready(outcome) = call.poll_deadline(cx) {
                self.finish(outcome);
                continue;
            }
            match call.poll_receive(cx) {
                Poll::Pending if message.len() > empty => return Down::Message,
                Poll::Pending => return Down::Pending,
                Poll::Ready(Received::Headers(mut headers)) => {
                    if let Some(record) = &mut self.record {
                        record.headers();
                    }
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc-web+proto"));
                    write_block(&headers, message);
                    // The client looks no further than a block in one WebSocket message.
                    return Down::Message;
                }
                Poll::Ready(Received::Data(bytes)) => self.data(bytes, message),
                Poll::Ready(Received::End(outcome)) => {
                    let whole = self.down.finish();
                    self.finish(match whole {
                        Err(error) if outcome.status.code == Code::OK => invalid_response(&error),
                        _ => outcome,
                    });
                }
            }
            if message.len() - empty >= MESSAGE_TARGET {
                return Down::Message;
            }
        }
    }

    fn data(&mut self, bytes: Bytes, message: &mut BytesMut) {
        let size = bytes.len();
        let record = &mut self.record;
        let gated = self.down.push(bytes, |size| {
            if let Some(record) = record {
                record.message_down(size);
            }
        });
        message.extend_from_slice(&gated.out);
        self.unreleased += size - gated.kept;
        if let Some(call) = &mut self.call {
            // What waits for the rest of its message is bounded by itself.
            call.release(gated.kept);
        }
        if let Some(error) = gated.error {
            self.finish(invalid_response(&error));
        }
    }

    /// Sees to the deadline while the socket takes nothing.
    pub(super) fn poll_deadline(&mut self) {
        let Some(call) = &mut self.call else { return };
        if let Poll::Ready(outcome) = call.poll_deadline(&mut Context::from_waker(self.waker.waker())) {
            self.finish(outcome);
        }
    }

    /// The call is over: it is counted, upstream is let go, and the client is still to be told. Only the first end
    /// counts.
    pub(super) fn finish(&mut self, outcome: Box<Outcome>) {
        if self.outcome.is_some() {
            return;
        }
        if let Some(record) = self.record.take() {
            record.end(&outcome);
        }
        self.outcome = Some(outcome);
        self.call = None;
        self.backlog = VecDeque::new();
        self.gathered = BytesMut::new();
        self.backlog_size = 0;
        self.up_done = true;
    }

    fn end(&mut self) -> Down {
        Down::End(self.outcome.take().filter(|_| self.down.is_between_messages()))
    }
}

fn invalid(message: &str) -> Box<Outcome> {
    Box::new(Outcome::proxy(Code::INVALID_ARGUMENT, message))
}
