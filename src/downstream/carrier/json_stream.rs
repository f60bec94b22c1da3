//! One stream of a session whose messages are JSON, joined to its call.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::ready::KeyWaker;
use crate::{
    downstream::json::{Event, JsonCall},
    session::{MAX_PIECE, Session, StreamId},
    wire::{Code, Outcome, metadata, v1},
};

/// A call in JSON and what is on its way in either direction. A table entry, not a task.
#[derive(Debug)]
pub(super) struct JsonStream {
    id: StreamId,
    call: JsonCall,
    waker: KeyWaker,
    /// The request message that is arriving.
    arriving: BytesMut,
    /// Payload bytes, and the frames that they came in, for which the client has no credit back yet.
    owed: (usize, usize),
    /// A response message, as far as it has not left.
    leaving: Option<Leaving>,
    /// The client reads text: what is cut must be cut between characters.
    text: bool,
}

#[derive(Debug)]
struct Leaving {
    json: Bytes,
    /// Part of it has left.
    cut: bool,
}

impl JsonStream {
    pub(super) fn new(id: StreamId, call: JsonCall, waker: KeyWaker, text: bool) -> Self {
        Self { id, call, waker, arriving: BytesMut::new(), owed: (0, 0), leaving: None, text }
    }

    pub(super) fn waker(&self) -> &KeyWaker {
        &self.waker
    }

    /// A piece of a request message. JSON is read whole, so pieces wait for the last one.
    pub(super) fn push_up(&mut self, bytes: Bytes, remaining: u64, first: bool, last: bool) {
        self.owed.0 += bytes.len();
        self.owed.1 += 1;
        let (size, limit) = (bytes.len() as u64 + remaining, self.call.max_message());
        if first && size > limit {
            let text =
                format!("as JSON, a request message has {size} bytes, more than the limit of {limit} bytes");
            self.call.fail(Outcome::faulty_request(Code::RESOURCE_EXHAUSTED, text));
        } else if first && remaining == 0 {
            self.call.push(bytes);
        } else {
            self.arriving.extend_from_slice(&bytes);
            if remaining == 0 {
                self.call.push(self.arriving.split().freeze());
            }
        }
        if last {
            self.end_up();
        }
        self.waker.wake();
    }

    /// The client sends no more messages.
    pub(super) fn end_up(&mut self) {
        self.call.half_close();
        self.waker.wake();
    }

    /// Lets both directions go on. `Some` when the call has ended; it is counted.
    pub(super) fn poll(&mut self, session: &mut Session) -> Option<Outcome> {
        self.waker.arm();
        let waker = self.waker.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        let outcome = loop {
            let has_left = self.send(session);
            match self.call.poll(cx, has_left) {
                Poll::Pending => break None,
                Poll::Ready(Event::Headers(headers)) => {
                    let metadata = metadata::to_entries(&headers);
                    session.send_headers(self.id, v1::Headers { metadata });
                }
                Poll::Ready(Event::Message(json)) => {
                    self.leaving = Some(Leaving { json: json.into(), cut: false })
                }
                Poll::Ready(Event::End(outcome)) => break Some(*outcome),
            }
        };
        // What waits is bounded: by the inbox, and by the credit for what does not fit in there.
        if self.owed.1 > 0 && self.call.has_room() && outcome.is_none() {
            let (bytes, frames) = std::mem::take(&mut self.owed);
            session.consumed(self.id, bytes, frames as u32);
        }
        outcome
    }

    /// Sends the message at hand as far as credit goes. Whether it has left.
    fn send(&mut self, session: &mut Session) -> bool {
        while let Some(Leaving { json, cut }) = &mut self.leaving {
            let want = json.len().min(MAX_PIECE);
            let Some(room) = session.piece(self.id, want) else { return false };
            if room < json.len() && !*cut {
                *cut = true;
                if self.text && !json.is_ascii() {
                    *json = to_ascii(json);
                }
            }
            let piece = json.split_to(room.min(json.len()));
            let remaining = json.len() as u64;
            session.send(self.id, piece, remaining, false);
            if remaining == 0 {
                self.leaving = None;
            }
        }
        true
    }

    /// The status, as the client's Trailers have it.
    pub(super) fn details(&self, outcome: &Outcome) -> Bytes {
        if self.text { self.call.details_to_json(outcome) } else { outcome.status.details.clone() }
    }

    /// Bytes on their way, in either direction.
    pub(super) fn held_bytes(&mut self) -> usize {
        let leaving = self.leaving.as_ref().map_or(0, |leaving| leaving.json.len());
        self.call.backlog() + self.call.held_down() + self.arriving.len() + leaving
    }

    /// Counts and logs the end of a call that has not ended by itself.
    pub(super) fn close(mut self, outcome: &Outcome) {
        self.call.finish(outcome.clone());
    }
}

/// The same JSON in ASCII, which can be cut anywhere. What is not ASCII stands in strings only, where it may be escaped.
fn to_ascii(json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() * 2);
    for c in String::from_utf8_lossy(json).chars() {
        if c.is_ascii() {
            out.extend_from_slice(&[c as u8]);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_ascii_is_the_same_json() {
        let json = serde_json::json!({"ä": "über \u{1f980}\n\"", "b": ["", "日本"]});
        let ascii = to_ascii(json.to_string().as_bytes());
        assert!(ascii.is_ascii());
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&ascii).unwrap(), json);
    }
}
