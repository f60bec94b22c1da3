//! One HTTP request ⇄ one call: what gRPC-Web and native gRPC have in common.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Version, header::CONTENT_TYPE, header::HOST, request::Parts};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::{
    ConnInfo, Edge, Opening, admit, answer,
    linger::linger,
    message_gate::MessageGate,
    message_meter::MessageMeter,
    request_kind::Negotiated,
    request_pump::RequestPump,
    response_body::{BodyForm, OpenRequest, ResponseBody, cut_off},
    shared_record::SharedRecord,
    upgrade_headers,
};
use crate::{
    telemetry::Dialect,
    upstream::{CallReceiver, Received},
    wire::{Code, Outcome, grpc_web::Form},
};

/// The dialects in which one HTTP request is one call.
#[derive(Clone, Debug)]
pub(crate) enum HttpDialect {
    /// Native gRPC, passed through.
    Grpc,
    /// gRPC-Web.
    Web(Negotiated),
}

impl HttpDialect {
    fn label(&self) -> Dialect {
        match self {
            Self::Grpc => Dialect::Grpc,
            Self::Web(negotiated) => match negotiated.request.form {
                Form::Binary => Dialect::GrpcWeb,
                Form::Text => Dialect::GrpcWebText,
            },
        }
    }

    /// The content type upstream gets.
    fn upstream_type(&self, head: &Parts) -> HeaderValue {
        let value = match self {
            Self::Grpc => head.headers.get(CONTENT_TYPE).cloned(),
            Self::Web(negotiated) => Some(negotiated.request.to_grpc()),
        };
        value.unwrap_or(HeaderValue::from_static("application/grpc"))
    }

    /// The content type the client gets, when `upstream` is what upstream said.
    fn client_type(&self, upstream: Option<HeaderValue>) -> HeaderValue {
        match self {
            Self::Grpc => upstream.unwrap_or(HeaderValue::from_static("application/grpc")),
            Self::Web(negotiated) => answer::web_type(negotiated),
        }
    }

    fn takes_base64(&self) -> bool {
        matches!(self, Self::Web(negotiated) if negotiated.request.form == Form::Text)
    }

    fn body_form(&self, max_message: u64) -> BodyForm {
        match self {
            Self::Grpc => BodyForm::Native(MessageMeter::new(max_message)),
            Self::Web(negotiated) => BodyForm::Web(MessageGate::new(max_message), negotiated.response.form),
        }
    }
}

/// Answers one call. The future may be dropped at any time: then the client went away, and the call is cancelled.
pub(crate) async fn answer<B>(
    edge: &Edge,
    mut head: Parts,
    body: B,
    conn: &ConnInfo,
    dialect: HttpDialect,
) -> Response<axum::body::Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    let content_type = dialect.upstream_type(&head);
    head.headers.remove(HOST);
    let upgrade_headers = upgrade_headers::pick(&edge.settings(), &head.headers);
    let opening = Opening {
        dialect: dialect.label(),
        conn,
        session: None,
        path: head.uri.path(),
        metadata: head.headers,
        upgrade_headers: &upgrade_headers,
        timeout: None,
    };
    let mut admitted = match admit(edge, opening) {
        Ok(admitted) => admitted,
        Err(outcome) => {
            linger(&edge.drain, head.version, body);
            return answer::trailers_only(*outcome, dialect.client_type(None));
        }
    };
    admitted.request.content_type = content_type;
    let max_message = admitted.route.settings.max_message;
    let record = SharedRecord::new(admitted.record);
    let (sender, receiver) = admitted.upstream.call(admitted.request).split();
    let mut pump = RequestPump::new(body, dialect.takes_base64(), sender, record.clone(), max_message);
    // Declared last, so dropped first when the client goes away: it gives the stream up together with its slot.
    let mut receiver = receiver;

    let cut = &edge.drain.cut;
    let mut cut_waits = pin!(cut.cancelled());
    let first = poll_fn(|cx| match poll_first(cx, &mut pump, &mut receiver) {
        Poll::Ready(first) => Poll::Ready(first),
        Poll::Pending => cut_waits.as_mut().poll(cx).map(|()| Err(cut_off())),
    });
    match first.await {
        Ok(mut headers) => {
            record.update(|record| record.headers());
            let upstream_type = headers.remove(CONTENT_TYPE);
            headers.insert(CONTENT_TYPE, dialect.client_type(upstream_type));
            let request = pump.is_open().then(|| go_on(edge, head.version, pump));
            let form = dialect.body_form(max_message);
            let expiry =
                receiver.expiry().map(|expiry| AbortOnDropHandle::new(edge.drain.tasks.spawn(expiry)));
            let body = ResponseBody::new(receiver, form, record, cut.clone(), request, expiry);
            answer::with_headers(headers, axum::body::Body::new(body))
        }
        Err(outcome) => {
            record.end(&outcome);
            linger(&edge.drain, head.version, pump.into_body());
            answer::trailers_only(*outcome, dialect.client_type(None))
        }
    }
}

/// Pumps the request until upstream's headers are there, or the call's end.
fn poll_first<B>(
    cx: &mut Context<'_>,
    pump: &mut RequestPump<B>,
    receiver: &mut CallReceiver,
) -> Poll<Result<HeaderMap, Box<Outcome>>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    if let Poll::Ready(Err(outcome)) = pump.poll(cx) {
        return Poll::Ready(Err(outcome));
    }
    receiver.poll_receive(cx).map(|received| match received {
        Received::Headers(headers) => Ok(headers),
        Received::End(outcome) => Err(outcome),
        Received::Data(_) => {
            Err(Box::new(Outcome::proxy(Code::INTERNAL, "the service sent data before its headers")))
        }
    })
}

/// Lets a request go on in a task of its own: it must not wait for the client to read the response.
fn go_on<B>(edge: &Edge, version: Version, mut pump: RequestPump<B>) -> OpenRequest
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    let (mut report, failure) = oneshot::channel();
    let drain = edge.drain.clone();
    edge.drain.tasks.spawn(async move {
        let pumped = tokio::select! {
            pumped = poll_fn(|cx| pump.poll(cx)) => pumped,
            () = report.closed() => Ok(()),
        };
        if let Err(outcome) = pumped {
            // Reported before the sender is dropped, which cancels the call: so this is the end that is told.
            let _ = report.send(outcome);
        }
        linger(&drain, version, pump.into_body());
    });
    OpenRequest { failure }
}
