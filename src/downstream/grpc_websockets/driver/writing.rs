//! The way to the client.

use std::{
    cell::RefCell,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{Driver, GoAway, State};
use crate::{
    downstream::grpc_websockets::stream::Down,
    wire::{
        grpc_websockets::{GOAWAY, stream_number, write_block},
        websocket::HEADER_MAX,
    },
};

thread_local! {
    /// Where messages are written before they are framed: one for all sockets of a worker.
    static MESSAGE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

impl Driver {
    /// Writes until nothing is left or the kernel takes no more. `true`: nothing is left.
    pub(super) fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        loop {
            if !matches!(self.state, State::Open | State::Ending(..)) {
                return true;
            }
            match self.socket.poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    if self.blocked.take().is_some() {
                        self.answers_while_blocked = 0;
                        self.heard = now;
                        self.reader.wake();
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.gone("the client's connection was lost");
                    return true;
                }
                Poll::Pending => {
                    if self.blocked.is_none() {
                        self.blocked = Some(now);
                        // Nobody polls these until there is room: their deadlines must go on.
                        for at in 0..self.down.len() {
                            self.with_stream(self.down[at], |stream| {
                                stream.poll_deadline();
                                Ok(())
                            });
                        }
                    }
                    return false;
                }
            }
            let wrote = MESSAGE.with_borrow_mut(|message| {
                message.clear();
                message.resize(HEADER_MAX, 0);
                let wrote = self.next_message(message, now);
                if wrote {
                    self.socket.send(cx, message);
                }
                wrote
            });
            if !wrote {
                return true;
            }
        }
    }

    /// Writes the payload of the next WebSocket message, if there is one.
    fn next_message(&mut self, message: &mut BytesMut, now: Instant) -> bool {
        if self.goaway == GoAway::Due {
            message.extend_from_slice(&GOAWAY.to_be_bytes());
            self.goaway = GoAway::Sent(now);
            return true;
        }
        if let Some((id, outcome)) = self.refused.pop_front() {
            self.number(id, true, message);
            write_block(&outcome.into_trailers(), message);
            return true;
        }
        while let Some(id) = self.down.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let start = message.len();
            if self.path.is_none() {
                message.extend_from_slice(&stream_number(id, false));
            }
            let before = stream.backlog();
            let down = stream.poll_down(message);
            self.backlog = self.backlog - before + stream.backlog();
            match down {
                Down::Pending => {
                    stream.queued = false;
                    message.truncate(start);
                }
                Down::Message => {
                    // Behind the others.
                    self.down.push_back(id);
                    return true;
                }
                Down::End(outcome) => {
                    self.streams.remove(&id);
                    message.truncate(start);
                    match outcome {
                        Some(outcome) => {
                            self.number(id, true, message);
                            write_block(&outcome.into_trailers(), message);
                            return true;
                        }
                        // The message that is out in part stays so; the client sees that the end is missing.
                        None if self.path.is_none() => {
                            self.number(id, true, message);
                            return true;
                        }
                        None => self.state = State::Ending(1011, "the call ended in the middle of a message"),
                    }
                }
            }
        }
        self.resume(now);
        false
    }

    fn number(&self, id: u32, last: bool, message: &mut BytesMut) {
        if self.path.is_none() {
            message.extend_from_slice(&stream_number(id, last));
        }
    }
}
