//! JSON over HTTP: one request is one call.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS},
    request::Parts,
};
use http_body::{Body, Frame};
use tokio::{sync::mpsc, time::interval_at};

use super::{
    JsonForm, StreamForm,
    call::{Event, JsonCall, Single, too_large},
    options::CallOptions,
    request::{RequestReader, TooLarge},
};
use crate::{
    downstream::{
        ConnInfo, Drain, Edge, Opening, account, admit, answer, linger::hear_out, response_body::cut_off,
        upgrade_headers,
    },
    telemetry::Dialect,
    wire::{Code, Outcome, status::ORIGIN_HEADER},
};

/// How much of a stream goes to the client at once, about.
const TOGETHER: usize = 16 * 1024;

/// Before the name of trailing metadata that stands in headers, as in the Connect protocol.
const TRAILER: &str = "trailer-";

/// Answers one call. The future may be dropped at any time: then the client went away, and the call is cancelled.
pub(crate) async fn answer<B>(
    edge: &Edge,
    mut head: Parts,
    body: B,
    conn: &ConnInfo,
    form: &JsonForm,
) -> Response<axum::body::Body>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    head.headers.remove(HOST);
    let upgrade_headers = upgrade_headers::pick(&edge.settings(), &head.headers);
    let options = CallOptions::from_query(head.uri.query(), false);
    let opening = Opening {
        dialect: Dialect::JsonHttp,
        conn,
        session: None,
        path: head.uri.path(),
        metadata: head.headers,
        upgrade_headers: &upgrade_headers,
        timeout: options.as_ref().ok().and_then(|options| options.timeout),
    };
    let admitted = match options {
        Ok(_) => admit(edge, opening),
        Err(error) => {
            let outcome = Outcome::proxy(Code::INVALID_ARGUMENT, error.to_string());
            account(edge, &opening).end(&outcome);
            Err(Box::new(outcome))
        }
    };
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(outcome) => {
            hear_out(&edge.drain, body);
            return refusal(&outcome);
        }
    };
    let max_message = admitted.route.settings.max_message;
    let mut exchange = Exchange {
        call: JsonCall::new(admitted, Single::HalfClosed),
        reader: RequestReader::new(form.lines, max_message),
        body: Some(body),
        drain: edge.drain.clone(),
    };
    let mut headers = HeaderMap::new();
    let first = match exchange.next().await {
        Event::Headers(initial) => {
            headers = initial;
            None
        }
        event => Some(event),
    };
    let is_stream = exchange.call.method().is_some_and(|method| method.server_streaming());
    match first {
        Some(Event::End(outcome)) if !is_stream || outcome.status.code != Code::OK => {
            failed(headers, &outcome, exchange.call.status_to_json(&outcome))
        }
        first if is_stream => stream(edge, exchange, form.stream, headers, first),
        first => unary(exchange, headers, first).await,
    }
}

/// The answer of a call that has one message: it waits for the end, so that its HTTP status is the true one.
async fn unary<B>(
    mut exchange: Exchange<B>,
    mut headers: HeaderMap,
    mut next: Option<Event>,
) -> Response<axum::body::Body>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    let mut message = Vec::new();
    loop {
        let event = match next.take() {
            Some(event) => event,
            None => exchange.next().await,
        };
        match event {
            Event::Headers(_) => {}
            Event::Message(json) => message = json,
            Event::End(outcome) if outcome.status.code == Code::OK => {
                message.push(b'\n');
                trailing(&outcome.trailers, &mut headers);
                return with_type(headers, "application/json", axum::body::Body::from(message));
            }
            Event::End(outcome) => {
                return failed(headers, &outcome, exchange.call.status_to_json(&outcome));
            }
        }
    }
}

/// The answer of a call that has any number of messages.
fn stream<B>(
    edge: &Edge,
    exchange: Exchange<B>,
    form: StreamForm,
    mut headers: HeaderMap,
    first: Option<Event>,
) -> Response<axum::body::Body>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if form == StreamForm::Events {
        // nginx would hold events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    // Room for a part of the stream, and for a comment.
    let (sender, receiver) = mpsc::channel(2);
    let keepalive = edge.settings().session.ping;
    edge.drain.tasks.spawn(async move {
        let mut writer = StreamWriter { exchange, form, sender, first };
        match form {
            StreamForm::Lines => writer.run().await,
            StreamForm::Events => writer.run_with_comments(keepalive).await,
        }
    });
    let body = axum::body::Body::new(StreamBody { receiver, ended: false });
    with_type(headers, form.content_type(), body)
}

/// An answer that is an error and nothing else.
fn failed(mut headers: HeaderMap, outcome: &Outcome, mut json: Vec<u8>) -> Response<axum::body::Body> {
    json.push(b'\n');
    trailing(&outcome.trailers, &mut headers);
    headers.insert("grpc-status", HeaderValue::from(outcome.status.code.0));
    let mut response = with_type(headers, "application/json", axum::body::Body::from(json));
    *response.status_mut() = status_code(outcome.status.code);
    response
}

/// An answer to what never became a call.
pub(crate) fn refusal(outcome: &Outcome) -> Response<axum::body::Body> {
    failed(HeaderMap::new(), outcome, super::status_json(outcome))
}

fn status_code(code: Code) -> StatusCode {
    StatusCode::from_u16(code.to_http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn with_type(
    mut headers: HeaderMap,
    content_type: &'static str,
    body: axum::body::Body,
) -> Response<axum::body::Body> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What a service says is data, whatever it looks like.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer::with_headers(headers, body)
}

/// Trailing metadata where only headers can be.
fn trailing(trailers: &HeaderMap, headers: &mut HeaderMap) {
    for (name, value) in trailers {
        let name = match name.as_str() {
            ORIGIN_HEADER => Ok(name.clone()),
            other => HeaderName::try_from(format!("{TRAILER}{other}")),
        };
        // Only a name of more than 65,535 bytes fails.
        if let Ok(name) = name {
            headers.append(name, value.clone());
        }
    }
}

/// A call and the request that brings its messages.
struct Exchange<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    call: JsonCall,
    reader: RequestReader,
    /// `None` when it has ended.
    body: Option<B>,
    drain: Drain,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    /// The next thing for the client.
    async fn next(&mut self) -> Event {
        self.run(true).await
    }

    /// Lets the request go on while the client takes nothing; ready only when the call ends without the service.
    async fn idle(&mut self) -> Event {
        self.run(false).await
    }

    async fn run(&mut self, wanted: bool) -> Event {
        let cut = self.drain.cut.clone();
        let mut cut = pin!(cut.cancelled());
        poll_fn(|cx| {
            if cut.as_mut().poll(cx).is_ready() {
                self.call.fail(*cut_off());
            }
            self.poll(cx, wanted)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, wanted: bool) -> Poll<Event> {
        loop {
            self.pump(cx);
            let had_room = self.call.has_room();
            match self.call.poll(cx, wanted) {
                Poll::Pending if !had_room && self.call.has_room() => {}
                other => return other,
            }
        }
    }

    /// Reads the request as far as the call takes its messages.
    fn pump(&mut self, cx: &mut Context<'_>) {
        while self.call.has_room() {
            match self.reader.next() {
                Ok(Some(message)) => {
                    self.call.push(message);
                    continue;
                }
                Ok(None) => {}
                Err(TooLarge(size)) => {
                    let limit = self.call.max_message();
                    self.call.fail(too_large("as JSON, a request message", size, limit));
                    return;
                }
            }
            let Some(body) = &mut self.body else { return };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.reader.push(data);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.body = None;
                    self.call.fail(Outcome::cancelled(format!("the request broke off: {error}")));
                }
                Poll::Ready(None) => {
                    self.body = None;
                    if let Some(last) = self.reader.finish() {
                        self.call.push(last);
                    }
                    self.call.half_close();
                }
            }
        }
    }
}

impl<B> Drop for Exchange<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            hear_out(&self.drain, body);
        }
    }
}

/// Writes a stream, in a task of its own: the request must go on also while the client does not read.
struct StreamWriter<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    exchange: Exchange<B>,
    form: StreamForm,
    sender: mpsc::Sender<Part>,
    /// What has come before there was a stream.
    first: Option<Event>,
}

/// A part of a stream's body.
#[derive(Debug)]
enum Part {
    Data(Bytes),
    /// The end, with HTTP trailers.
    End(HeaderMap),
}

impl<B> StreamWriter<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    async fn run(&mut self) {
        let Self { exchange, sender, first, form } = self;
        let sender = &*sender;
        let mut buffer = BytesMut::new();
        loop {
            // First room, then the next message: what nobody takes stays upstream.
            let mut next = first.take();
            let permit = tokio::select! {
                permit = sender.reserve() => permit,
                event = exchange.idle(), if next.is_none() => {
                    next = Some(event);
                    sender.reserve().await
                }
            };
            let Ok(permit) = permit else { return };
            let mut event = match next {
                Some(event) => event,
                None => tokio::select! {
                    event = exchange.next() => event,
                    () = sender.closed() => return,
                },
            };
            loop {
                match event {
                    Event::Headers(_) => {}
                    Event::Message(json) => form.message(&json, &mut buffer),
                    Event::End(outcome) => {
                        let status = exchange.call.status_to_json(&outcome);
                        form.end(outcome.status.code == Code::OK, &status, &mut buffer);
                        if !buffer.is_empty() {
                            permit.send(Part::Data(buffer.split().freeze()));
                        } else {
                            drop(permit);
                        }
                        // Nobody may be left to take it.
                        let _ = sender.send(Part::End(outcome.into_trailers())).await;
                        return;
                    }
                }
                if buffer.len() >= TOGETHER {
                    break;
                }
                let ready = poll_fn(|cx| Poll::Ready(exchange.poll(cx, true))).await;
                match ready {
                    Poll::Ready(more) => event = more,
                    Poll::Pending => break,
                }
            }
            if !buffer.is_empty() {
                permit.send(Part::Data(buffer.split().freeze()));
            }
        }
    }

    /// The same, with a comment now and then: middleboxes end what is silent.
    async fn run_with_comments(&mut self, every: std::time::Duration) {
        let sender = self.sender.clone();
        let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
        let mut run = pin!(self.run());
        loop {
            tokio::select! {
                () = &mut run => return,
                _ = ticks.tick() => {
                    // When there is no room, the client has something to read.
                    let _ = sender.try_send(Part::Data(Bytes::from_static(b":\n\n")));
                }
            }
        }
    }
}

impl StreamForm {
    fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }

    /// Writes a message, which is one line of JSON.
    fn message(self, json: &[u8], out: &mut BytesMut) {
        match self {
            Self::Lines => write(out, &[json, b"\n"]),
            Self::Events => write(out, &[b"data: ", json, b"\n\n"]),
        }
    }

    /// Writes the end. Lines that end well have none: their HTTP body is complete.
    fn end(self, ok: bool, status: &[u8], out: &mut BytesMut) {
        match self {
            Self::Lines if ok => {}
            Self::Lines => write(out, &[b"{\"@error\":", status, b"}\n"]),
            Self::Events if ok => write(out, &[b"event: end\ndata: ", status, b"\n\n"]),
            Self::Events => write(out, &[b"event: error\ndata: ", status, b"\n\n"]),
        }
    }
}

fn write(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The body of a stream. Dropped before its end: the client went away, and the call is cancelled.
#[derive(Debug)]
struct StreamBody {
    receiver: mpsc::Receiver<Part>,
    ended: bool,
}

/// The task that writes the body is gone before its end: the client must not take what it has for all.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the call was given up")]
struct GivenUp;

impl Body for StreamBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.receiver.poll_recv(cx).map(|part| match part {
            Some(Part::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Part::End(trailers)) => {
                this.ended = true;
                Some(Ok(Frame::trailers(trailers)))
            }
            None => {
                this.ended = true;
                Some(Err(GivenUp))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
