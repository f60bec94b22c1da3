//! The calls of one session.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;

use super::{ready::ReadyList, stream::Stream};
use crate::{
    downstream::{ConnInfo, Edge, Opening, admit},
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
    streams: StreamTable<Stream>,
}

impl Calls {
    pub(super) fn new(edge: Arc<Edge>, session_id: Arc<str>, ready: Arc<ReadyList>) -> Self {
        Self { edge, session_id, ready, streams: StreamTable::default() }
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
                let call = admitted.route.upstream.call(admitted.request);
                let waker = self.ready.waker(id.into());
                waker.wake();
                let max_message = admitted.route.settings.max_message;
                self.streams.insert(id, Stream::new(id, call, waker, admitted.record, max_message));
            }
            Err(outcome) => session.end(id, trailers(&outcome)),
        }
    }

    /// The metadata of an Open, if the frame asks for what there is.
    fn readable(&self, conn: &ConnInfo, open: &v1::Open) -> Result<HeaderMap, Box<Outcome>> {
        let outcome = if open.codec != v1::Codec::Protobuf as i32 {
            Outcome::proxy(Code::UNIMPLEMENTED, "the JSON codec is not available; send protobuf messages")
        } else {
            match metadata::from_entries(&open.metadata) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => Outcome::proxy(Code::INVALID_ARGUMENT, error.to_string()),
            }
        };
        let metrics = Arc::clone(self.edge.routes.unrouted(Dialect::Session));
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
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Err(outcome) = stream.push_up(session, bytes, remaining, first, last) {
            self.end(session, id, &outcome);
        }
    }

    /// The client sends no more messages on a stream.
    pub(super) fn half_closed(&mut self, session: &mut Session, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end_up(session);
        }
    }

    /// The session has given a stream up.
    pub(super) fn cancelled(&mut self, id: StreamId, code: Code, reason: &'static str) {
        if let Some(stream) = self.streams.remove(&id) {
            // What is counted is what the client was told.
            stream.close(&match code {
                Code::CANCELLED => Outcome::cancelled(reason),
                code => Outcome::proxy(code, reason),
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
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.waker().arm();
        stream.pump_up(session);
        if let Some(outcome) = stream.pump_down(session) {
            self.end(session, id, &outcome);
        }
    }

    fn end(&mut self, session: &mut Session, id: StreamId, outcome: &Outcome) {
        session.end(id, trailers(outcome));
        if let Some(stream) = self.streams.remove(&id) {
            stream.close(outcome);
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
        self.streams.values_mut().map(Stream::held_bytes).sum()
    }

    /// Cancels every call that still runs: there is nobody to tell.
    pub(super) fn abandon(&mut self, text: &str) {
        let outcome = Outcome::cancelled(text);
        for (_, stream) in self.streams.drain() {
            stream.close(&outcome);
        }
    }
}

fn trailers(outcome: &Outcome) -> v1::Trailers {
    v1::Trailers {
        code: outcome.status.code.0,
        message: outcome.status.message.clone(),
        details: outcome.status.details.clone(),
        metadata: metadata::to_entries(&outcome.trailers),
    }
}
