//! One call in JSON, whatever carries it.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use tokio::time::{Sleep, sleep_until};

use super::gatherer::Gatherer;
use crate::{
    downstream::{Admitted, Route, response_body::invalid_response},
    schema::{JsonError, Method, SchemaError, json},
    telemetry::CallRecord,
    upstream::{Call, Chunk, Received, Request, Upstream},
    wire::{Code, Outcome},
};

/// How many bytes of JSON wait for upstream before a client has to wait.
const INBOX: usize = 64 * 1024;

/// What a waiting message costs besides its text: a stream of empty messages is bounded too.
const MESSAGE_COST: usize = 64;

/// Who says that a request which is no stream is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single {
    /// The client, by its half-close: two messages are then one too many before anything goes upstream.
    HalfClosed,
    /// Its only message.
    Implied,
}

/// What comes out of a call: at most one `Headers`, any number of `Message`, one `End`.
#[derive(Debug)]
pub(crate) enum Event {
    /// Initial metadata.
    Headers(HeaderMap),
    /// A response message: one line of JSON.
    Message(Vec<u8>),
    /// The end; exactly once. It is already counted and logged.
    End(Box<Outcome>),
}

/// A call whose messages are JSON on the client's side and protobuf upstream. Upstream hears of it when there is
/// something right to say: the method is known, and the first message could be read (of a request that is a stream:
/// or there is none yet). Dropped before its end, it is cancelled.
///
/// Nothing here blocks: while the schema is looked up, which may take its time, messages wait in a bounded inbox.
pub(crate) struct JsonCall {
    path: Box<str>,
    route: Arc<Route>,
    record: Option<CallRecord>,
    single: Single,
    /// A look-up that is under way.
    lookup: Option<BoxFuture<'static, Result<Arc<Method>, SchemaError>>>,
    method: Option<Arc<Method>>,
    /// The first message names a type that the schema lacked, and that is being looked up: why it failed.
    lacking: Option<JsonError>,
    /// Where the call goes and what opens it, until it is open.
    request: Option<(Upstream, Request)>,
    /// The call's deadline, until it is open.
    deadline: Option<Pin<Box<Sleep>>>,
    call: Option<Call>,
    /// Messages of the client that are not read yet.
    inbox: VecDeque<Bytes>,
    inbox_size: usize,
    half_closed: bool,
    /// A message on its way up.
    sending: Option<Chunk>,
    messages_up: u64,
    up_done: bool,
    down: Gatherer,
    messages_down: u64,
    /// Why the call is over, until it is told.
    failure: Option<Box<Outcome>>,
}

impl fmt::Debug for JsonCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonCall").field("path", &self.path).finish_non_exhaustive()
    }
}

impl JsonCall {
    /// A call that may go upstream. Looks its method up at once.
    pub(crate) fn new(admitted: Admitted, single: Single) -> Self {
        let Admitted { route, upstream, mut request, record } = admitted;
        let metadata = &mut request.metadata;
        // The messages are ours, and so is how they are encoded.
        metadata.remove("grpc-encoding");
        metadata.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        let path: Box<str> = request.path.path().into();
        let mut call = Self {
            single,
            record: Some(record),
            lookup: None,
            method: None,
            lacking: None,
            deadline: request.deadline.map(|at| Box::pin(sleep_until(at))),
            request: Some((upstream, request)),
            call: None,
            inbox: VecDeque::new(),
            inbox_size: 0,
            half_closed: false,
            sending: None,
            messages_up: 0,
            up_done: false,
            down: Gatherer::new(route.settings.max_message),
            messages_down: 0,
            failure: None,
            path,
            route,
        };
        match &call.route.schema {
            Some(schema) => {
                let (schema, path) = (schema.clone(), call.path.clone());
                call.lookup = Some(Box::pin(async move { schema.method(&path).await }));
            }
            None => call.fail(no_schema(&call.route)),
        }
        call
    }

    /// The method, once it is known.
    pub(crate) fn method(&self) -> Option<&Method> {
        self.method.as_deref()
    }

    /// The largest message, as text and as protobuf.
    pub(crate) fn max_message(&self) -> u64 {
        self.route.settings.max_message
    }

    /// A status as this call's client reads it.
    pub(crate) fn status_to_json(&self, outcome: &Outcome) -> Vec<u8> {
        let options = &self.route.settings.json;
        match &self.method {
            Some(method) => method.status_to_json(&outcome.status, options),
            None => json::status_to_json(None, &outcome.status, options),
        }
    }

    /// A status's details alone: a list in JSON, or nothing when there are none.
    pub(crate) fn details_to_json(&self, outcome: &Outcome) -> Bytes {
        #[derive(serde::Deserialize)]
        struct Details<'a> {
            #[serde(borrow)]
            details: &'a serde_json::value::RawValue,
        }
        if outcome.status.details.is_empty() {
            return Bytes::new();
        }
        let status = self.status_to_json(outcome);
        let details = serde_json::from_slice(&status).map(|Details { details }| details.get());
        Bytes::copy_from_slice(details.unwrap_or_default().as_bytes())
    }

    /// A message of the client.
    pub(crate) fn push(&mut self, json: Bytes) {
        if self.up_done || self.failure.is_some() {
            return;
        }
        if self.half_closed {
            let error = match self.method() {
                Some(method) if !method.client_streaming() => {
                    format!("{} takes one request message, and another one came", method.name())
                }
                _ => "the client has half-closed, and another message came".to_owned(),
            };
            return self.fail(invalid(error));
        }
        let (size, limit) = (json.len(), self.max_message());
        if size as u64 > limit {
            return self.fail(too_large("as JSON, a request message", size as u64, limit));
        }
        self.inbox_size += size + MESSAGE_COST;
        self.inbox.push_back(json);
    }

    /// The client sends no more messages.
    pub(crate) fn half_close(&mut self) {
        self.half_closed = true;
    }

    /// What waits for upstream, about.
    pub(crate) fn backlog(&self) -> usize {
        self.inbox_size + self.sending.as_ref().map_or(0, Chunk::len)
    }

    /// What has come from upstream and is not on its way to the client.
    pub(crate) fn held_down(&mut self) -> usize {
        self.call.as_mut().map_or(0, Call::buffered) + self.down.len()
    }

    /// Whether more may come from the client now. When it does not, `poll` tells when it does again.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog() < INBOX
    }

    /// Ends the call with this outcome, unless it has ended. `poll` tells it.
    pub(crate) fn fail(&mut self, outcome: Outcome) {
        if self.failure.is_none() {
            self.failure = Some(Box::new(outcome));
        }
    }

    /// Lets the request go on, and gives what comes back; with `wanted` false only the end of a call that fails, for
    /// a client that takes nothing now. Not to be polled after `End`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, wanted: bool) -> Poll<Event> {
        if self.failure.is_none()
            && let Err(outcome) = self.advance(cx)
        {
            self.failure = Some(outcome);
        }
        if let Some(outcome) = self.failure.take() {
            return Poll::Ready(self.end(outcome));
        }
        if self.call.is_none() {
            let expired = self.deadline.as_mut().is_some_and(|at| at.as_mut().poll(cx).is_ready());
            if !expired {
                return Poll::Pending;
            }
            let text = "the deadline passed before the call was sent";
            return Poll::Ready(self.end(Box::new(Outcome::proxy(Code::DEADLINE_EXCEEDED, text))));
        }
        match self.receive(cx, wanted) {
            Ok(Poll::Ready(event)) => Poll::Ready(event),
            Ok(Poll::Pending) => Poll::Pending,
            Err(outcome) => Poll::Ready(self.end(outcome)),
        }
    }

    /// Ends the call with this outcome, unless it has ended, and counts it. Nobody is told; not to be polled any more.
    pub(crate) fn finish(&mut self, outcome: Outcome) {
        self.end(Box::new(outcome));
    }

    fn end(&mut self, outcome: Box<Outcome>) -> Event {
        if let Some(record) = self.record.take() {
            record.end(&outcome);
        }
        self.call = None;
        self.lookup = None;
        self.up_done = true;
        self.inbox = VecDeque::new();
        self.inbox_size = 0;
        self.sending = None;
        Event::End(outcome)
    }

    /// Brings the request up as far as that is possible now.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<(), Box<Outcome>> {
        loop {
            if let Some(lookup) = &mut self.lookup {
                let Poll::Ready(found) = lookup.as_mut().poll(cx) else { return Ok(()) };
                self.lookup = None;
                match (found, &self.lacking) {
                    (Ok(method), _) => self.method = Some(method),
                    // What the client can do something about is its message.
                    (Err(_), Some(error)) => return Err(Box::new(unreadable(error))),
                    (Err(error), None) => {
                        return Err(Box::new(Outcome::proxy(error.code(), error.to_string())));
                    }
                }
            }
            let Some(method) = self.method.clone() else { return Ok(()) };
            if self.up_done {
                return Ok(());
            }
            if self.sending.is_some() {
                if !self.send(cx, &method)? {
                    return Ok(());
                }
            } else if let Some(json) = self.inbox.pop_front() {
                self.inbox_size -= json.len() + MESSAGE_COST;
                self.read(&method, json)?;
            } else if self.half_closed {
                if !method.client_streaming() && self.messages_up == 0 {
                    let text = format!("{} takes one request message, and none came", method.name());
                    return Err(Box::new(invalid(text)));
                }
                self.up_done = true;
                self.open().finish();
            } else {
                if method.client_streaming() {
                    self.open();
                }
                return Ok(());
            }
        }
    }

    /// Reads a message of the client.
    fn read(&mut self, method: &Method, json: Bytes) -> Result<(), Box<Outcome>> {
        if !method.client_streaming() && self.messages_up > 0 {
            let text = format!("{} takes one request message, and another one came", method.name());
            return Err(Box::new(invalid(text)));
        }
        let message = match method.request_to_protobuf(&json, &self.route.settings.json) {
            Ok(message) => message,
            Err(error) => {
                let (Some(missing), None, Some(schema)) =
                    (error.missing_type(), &self.lacking, &self.route.schema)
                else {
                    return Err(Box::new(unreadable(&error)));
                };
                let (schema, path, missing) = (schema.clone(), self.path.clone(), missing.to_owned());
                self.lookup = Some(Box::pin(async move { schema.method_with_type(&path, &missing).await }));
                self.lacking = Some(error);
                self.inbox_size += json.len() + MESSAGE_COST;
                self.inbox.push_front(json);
                return Ok(());
            }
        };
        self.lacking = None;
        let (size, limit) = (message.len(), self.max_message());
        match u32::try_from(size) {
            Ok(length) if size as u64 <= limit => self.sending = Some(Chunk::message(length, message)),
            _ => return Err(Box::new(too_large("a request message", size as u64, limit))),
        }
        self.messages_up += 1;
        if let Some(record) = &mut self.record {
            record.message_up(size as u64);
        }
        if !method.client_streaming() && self.single == Single::Implied {
            self.half_closed = true;
        }
        Ok(())
    }

    /// Sends the message at hand. `false`: it has to wait.
    fn send(&mut self, cx: &mut Context<'_>, method: &Method) -> Result<bool, Box<Outcome>> {
        if !method.client_streaming() {
            if !self.inbox.is_empty() && self.call.is_none() {
                let text = format!("{} takes one request message, and another one came", method.name());
                return Err(Box::new(invalid(text)));
            }
            if !self.half_closed {
                return Ok(false);
            }
        }
        let last = self.half_closed && self.inbox.is_empty();
        let Some(mut chunk) = self.sending.take() else { return Ok(true) };
        let call = self.open();
        let want = chunk.len();
        match call.poll_room(cx, &chunk) {
            Poll::Pending => {
                self.sending = Some(chunk);
                Ok(false)
            }
            Poll::Ready(0) => {
                // Upstream takes no more. Its answer stands, and the client may go on until it sees it.
                self.up_done = true;
                self.inbox.clear();
                self.inbox_size = 0;
                Ok(true)
            }
            Poll::Ready(room) if room < want => {
                call.send(chunk.split_to(room), false);
                self.sending = Some(chunk);
                Ok(true)
            }
            Poll::Ready(_) => {
                call.send(chunk, last);
                self.up_done = last;
                Ok(true)
            }
        }
    }

    /// The call, which upstream now hears of.
    fn open(&mut self) -> &mut Call {
        let Self { call, request, deadline, .. } = self;
        call.get_or_insert_with(|| {
            *deadline = None;
            match request.take() {
                Some((upstream, request)) => upstream.call(request),
                None => Call::refused(Outcome::proxy(Code::INTERNAL, "the call was opened twice")),
            }
        })
    }

    fn receive(&mut self, cx: &mut Context<'_>, wanted: bool) -> Result<Poll<Event>, Box<Outcome>> {
        let (Some(call), Some(method)) = (&mut self.call, &self.method) else { return Ok(Poll::Pending) };
        if !wanted {
            return match call.poll_deadline(cx) {
                Poll::Ready(outcome) => Err(outcome),
                Poll::Pending => Ok(Poll::Pending),
            };
        }
        loop {
            if let Some(message) = self.down.next().map_err(|error| invalid_response(&error))? {
                self.messages_down += 1;
                if self.messages_down > 1 && !method.server_streaming() {
                    let text =
                        format!("the service sent several messages for {}, which has one", method.name());
                    return Err(Box::new(Outcome::proxy(Code::INTERNAL, text)));
                }
                let json = method.response_to_json(&message, &self.route.settings.json).map_err(|error| {
                    let text = format!("the response of the service is not valid: {error}");
                    Box::new(Outcome::proxy(error.code(), text))
                })?;
                let limit = self.route.settings.max_message;
                if json.len() as u64 > limit {
                    return Err(Box::new(too_large("as JSON, a response message", json.len() as u64, limit)));
                }
                if let Some(record) = &mut self.record {
                    record.message_down(message.len() as u64);
                }
                return Ok(Poll::Ready(Event::Message(json)));
            }
            call.release(self.down.release());
            // A service that never pauses must not outrun the deadline.
            if let Poll::Ready(outcome) = call.poll_deadline(cx) {
                return Err(outcome);
            }
            match call.poll_receive(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Received::Headers(mut headers)) => {
                    headers.remove(CONTENT_TYPE);
                    if let Some(record) = &mut self.record {
                        record.headers();
                    }
                    return Ok(Poll::Ready(Event::Headers(headers)));
                }
                Poll::Ready(Received::Data(bytes)) => self.down.push(bytes),
                Poll::Ready(Received::End(outcome)) if outcome.status.code != Code::OK => {
                    return Err(outcome);
                }
                Poll::Ready(Received::End(outcome)) => {
                    self.down.finish().map_err(|error| invalid_response(&error))?;
                    if self.messages_down == 0 && !method.server_streaming() {
                        let text =
                            format!("the service ended {} with OK and without a message", method.name());
                        return Err(Box::new(Outcome::proxy(Code::INTERNAL, text)));
                    }
                    return Err(outcome);
                }
            }
        }
    }
}

fn invalid(message: impl Into<String>) -> Outcome {
    Outcome::proxy(Code::INVALID_ARGUMENT, message)
}

fn unreadable(error: &JsonError) -> Outcome {
    Outcome::proxy(error.code(), error.to_string())
}

pub(super) fn too_large(what: &str, size: u64, limit: u64) -> Outcome {
    let message = format!("{what} has {size} bytes, more than the limit of {limit} bytes");
    Outcome::proxy(Code::RESOURCE_EXHAUSTED, message)
}

fn no_schema(route: &Route) -> Outcome {
    let upstream = route.settings.main_upstream();
    let message = format!(
        "JSON needs the schema of upstream {upstream:?}, which is off; set `schema` of that upstream in the \
         configuration to reflection, a descriptor set or .proto files"
    );
    Outcome::proxy(Code::UNIMPLEMENTED, message)
}
