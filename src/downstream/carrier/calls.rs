//! The calls of one session.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use super::{
    json_stream::JsonStream,
    patience::Patience,
    ready::{KeyWaker, ReadyList},
    stream::Stream,
};
use crate::{
    downstream::{
        ConnInfo, Edge, Opening, admit,
        json::{JsonCall, Single},
    },
    session::{Session, StreamId, StreamTable},
    telemetry::{CallRecord, Dialect},
    wire::{Code, Outcome, metadata, v1},
};

/// Who opens a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) conn: &'a ConnInfo,
    /// What the configuration lets pass of the headers of the client's own upgrade.
    pub(super) upgrade_headers: &'a HeaderMap,
}

/// One call for each stream of the session, until either ends.
#[derive(Debug)]
pub(super) struct Calls {
    edge: Arc<Edge>,
    session_id: Arc<str>,
    /// Where streams are noted that can go on, under their numbers.
    ready: Arc<ReadyList>,
    streams: StreamTable<Entry>,
    /// The session's frames are text: all messages are JSON.
    text: bool,
    /// How long they go on without a carrier, where that is not for their session to say.
    patience: Patience,
}

/// A stream and its call.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are binary, and cost no allocation of their own")]
enum Entry {
    /// Its messages pass as they are.
    Binary(Stream),
    /// Its messages are JSON for the client.
    Json(Box<JsonStream>),
}

impl Calls {
    pub(super) fn new(edge: Arc<Edge>, session_id: Arc<str>, ready: Arc<ReadyList>, text: bool) -> Self {
        Self { edge, session_id, ready, streams: StreamTable::default(), text, patience: Patience::default() }
    }

    /// No call is open.
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The session has a new stream: its call goes upstream, or is refused.
    pub(super) fn open(&mut self, session: &mut Session, caller: Caller<'_>, id: StreamId, open: &v1::Open) {
        let Caller { conn, upgrade_headers } = caller;
        let admitted = self.readable(conn, open).and_then(|metadata| {
            admit(
                &self.edge,
                Opening {
                    dialect: Dialect::Session,
                    conn,
                    session: Some(&self.session_id),
                    path: &open.method,
                    metadata,
                    upgrade_headers,
                    timeout: (open.timeout_ms > 0).then(|| Duration::from_millis(open.timeout_ms)),
                },
            )
        });
        match admitted {
            Ok(admitted) => {
                if let Some(patience) = admitted.route.settings.resume {
                    self.patience.limit(id, patience);
                }
                let waker = self.ready.waker(id.into());
                waker.wake();
                let entry = if self.text || open.codec == v1::Codec::Json as i32 {
                    let call = JsonCall::new(admitted, Single::HalfClosed);
                    Entry::Json(Box::new(JsonStream::new(id, call, waker, self.text)))
                } else {
                    let call = admitted.upstream.call(admitted.request);
                    let max_message = admitted.route.settings.max_message;
                    Entry::Binary(Stream::new(id, call, waker, admitted.record, max_message))
                };
                self.streams.insert(id, entry);
            }
            Err(outcome) => session.end(id, trailers(&outcome, outcome.status.details.clone())),
        }
    }

    /// The metadata of an Open, if the frame asks for what there is.
    fn readable(&self, conn: &ConnInfo, open: &v1::Open) -> Result<HeaderMap, Box<Outcome>> {
        let outcome = if v1::Codec::try_from(open.codec).is_err() {
            let text = format!("codec {} is not known; there are PROTOBUF (0) and JSON (1)", open.codec);
            Outcome::proxy(Code::UNIMPLEMENTED, text)
        } else {
            match metadata::from_entries(&open.metadata) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => Outcome::proxy(Code::INVALID_ARGUMENT, error.to_string()),
            }
        };
        let metrics = Arc::clone(self.edge.routes().unrouted(Dialect::Session));
        let session = Some(Arc::clone(&self.session_id));
        CallRecord::start(metrics, &open.method, conn.peer, session).end(&outcome);
        Err(Box::new(outcome))
    }

    /// A piece of a request message.
    pub(super) fn data(
        &mut self,
        session: &mut Session,
        id: StreamId,
        bytes: Bytes,
        remaining: u64,
        first: bool,
        last: bool,
    ) {
        match self.streams.get_mut(&id) {
            Some(Entry::Binary(stream)) => {
                if let Err(outcome) = stream.push_up(session, bytes, remaining, first, last) {
                    self.end(session, id, &outcome);
                }
            }
            Some(Entry::Json(stream)) => stream.push_up(bytes, remaining, first, last),
            None => {}
        }
    }

    /// The client sends no more messages on a stream.
    pub(super) fn half_closed(&mut self, session: &mut Session, id: StreamId) {
        match self.streams.get_mut(&id) {
            Some(Entry::Binary(stream)) => stream.end_up(session),
            Some(Entry::Json(stream)) => stream.end_up(),
            None => {}
        }
    }

    /// The session has given a stream up.
    pub(super) fn cancelled(&mut self, id: StreamId, code: Code, reason: &'static str) {
        if let Some(stream) = self.remove(id) {
            // What is counted is what the client was told.
            stream.close(&match code {
                Code::CANCELLED => Outcome::cancelled(reason),
                // It broke the rules of the stream.
                code => Outcome::faulty_request(code, reason),
            });
        }
    }

    /// A stream that was denied may send again.
    pub(super) fn writable(&self, id: StreamId) {
        if let Some(stream) = self.streams.get(&id) {
            stream.waker().wake();
        }
    }

    /// A stream can go on.
    pub(super) fn poll(&mut self, session: &mut Session, id: StreamId) {
        let outcome = match self.streams.get_mut(&id) {
            Some(Entry::Binary(stream)) => {
                stream.waker().arm();
                stream.pump_up(session);
                stream.pump_down(session)
            }
            Some(Entry::Json(stream)) => stream.poll(session),
            None => None,
        };
        if let Some(outcome) = outcome {
            self.end(session, id, &outcome);
        }
    }

    fn end(&mut self, session: &mut Session, id: StreamId, outcome: &Outcome) {
        let Some(entry) = self.remove(id) else { return };
        let details = match &entry {
            Entry::Binary(_) => outcome.status.details.clone(),
            Entry::Json(stream) => stream.details(outcome),
        };
        session.end(id, trailers(outcome, details));
        entry.close(outcome);
    }

    fn remove(&mut self, id: StreamId) -> Option<Entry> {
        self.patience.ended(id);
        self.streams.remove(&id)
    }

    /// The session has lost its carrier: some routes' calls do not wait for the next one, or not for long.
    pub(super) fn lose_carrier(&mut self, session: &mut Session, now: Instant) {
        self.patience.lost(now);
        self.give_up(session, now);
    }

    /// It has another one.
    pub(super) fn find_carrier(&mut self) {
        self.patience.found();
    }

    /// When to give calls up, if there is still no carrier then.
    pub(super) fn next_given_up(&self) -> Option<Instant> {
        self.patience.next()
    }

    /// Ends the calls that have waited for a carrier as long as their routes let them.
    pub(super) fn give_up(&mut self, session: &mut Session, now: Instant) {
        for (id, most) in self.patience.over(now) {
            let text = format!(
                "the client's connection was lost, and calls of this route go on without for {most:?} at most"
            );
            self.end(session, id, &Outcome::proxy(Code::UNAVAILABLE, text));
        }
    }

    /// Ends every call with an outcome of the proxy's, which the clients are told.
    pub(super) fn end_all(&mut self, session: &mut Session, outcome: &Outcome) {
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.end(session, id, outcome);
        }
    }

    /// Bytes on their way, in either direction. Costs a look at every call.
    pub(super) fn held_bytes(&mut self) -> usize {
        self.streams.values_mut().map(Entry::held_bytes).sum()
    }

    /// Cancels every call that still runs: there is nobody to tell.
    pub(super) fn abandon(&mut self, text: &str) {
        let outcome = Outcome::cancelled(text);
        self.patience = Patience::default();
        for (_, stream) in self.streams.drain() {
            stream.close(&outcome);
        }
    }
}

impl Entry {
    fn waker(&self) -> &KeyWaker {
        match self {
            Self::Binary(stream) => stream.waker(),
            Self::Json(stream) => stream.waker(),
        }
    }

    fn held_bytes(&mut self) -> usize {
        match self {
            Self::Binary(stream) => stream.held_bytes(),
            Self::Json(stream) => stream.held_bytes(),
        }
    }

    /// Counts and logs the end, unless the stream has done so.
    fn close(self, outcome: &Outcome) {
        match self {
            Self::Binary(stream) => stream.close(outcome),
            Self::Json(stream) => stream.close(outcome),
        }
    }
}

fn trailers(outcome: &Outcome, details: Bytes) -> v1::Trailers {
    v1::Trailers {
        code: outcome.status.code.0,
        message: outcome.status.message.clone(),
        details,
        metadata: metadata::to_entries(&outcome.trailers),
    }
}
