//! A header block becomes a call, or a refusal.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

use super::{Driver, State, TOO_MANY};
use crate::{
    downstream::{Opening, account, admit, grpc_websockets::stream::Stream},
    telemetry::Dialect,
    wire::{
        Code, Outcome,
        grpc_web::{ContentType, Form},
        grpc_websockets::{PATH_HEADER, read_headers},
    },
};

/// Room in a header block for what is no metadata. A larger one is not even read.
const BLOCK_ROOM: usize = 16 * 1024;

impl Driver {
    /// A header block: a call begins.
    pub(super) fn open(&mut self, id: u32, block: &[u8]) {
        self.greeting = None;
        let most = self.settings.limits.max_metadata as usize + BLOCK_ROOM;
        let headers = match block.len() {
            size if size > most => {
                let text = format!("a header block of {size} bytes is larger than the limit of {most} bytes");
                Err((Code::RESOURCE_EXHAUSTED, text))
            }
            _ => read_headers(block).map_err(|error| (Code::INVALID_ARGUMENT, error.to_string())),
        };
        let mut failure = None;
        let mut metadata = headers.unwrap_or_else(|error| {
            failure = Some(error);
            HeaderMap::new()
        });
        let named = metadata.remove(PATH_HEADER);
        let path = match &self.path {
            Some(path) => path.clone(),
            None => method(named.as_ref()),
        };
        let content_type = match content_type(metadata.get(CONTENT_TYPE)) {
            Ok(content_type) => content_type,
            Err(error) => {
                failure.get_or_insert(error);
                HeaderValue::from_static("application/grpc+proto")
            }
        };
        if let Err(reason) = &self.place {
            failure = Some((reason.code, reason.message.clone()));
            self.state = State::Ending(1000, TOO_MANY);
        }
        let most = self.settings.session.max_streams as usize;
        if self.streams.len() >= most {
            let text = format!("this socket has {most} open calls, which is the limit");
            failure.get_or_insert((Code::RESOURCE_EXHAUSTED, text));
        }
        // These clients take compressed messages for garbage.
        metadata.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        let dialect = self.dialect();
        let opening = Opening {
            dialect,
            conn: &self.conn,
            session: None,
            path: &path,
            metadata,
            upgrade_headers: &self.upgrade_headers,
            timeout: None,
        };
        let admitted = match failure {
            None => admit(&self.edge, opening),
            Some((code, text)) => {
                let outcome = Outcome::proxy(code, text);
                account(&self.edge, &opening).end(&outcome);
                Err(Box::new(outcome))
            }
        };
        match admitted {
            Ok(mut admitted) => {
                admitted.request.content_type = content_type;
                let call = admitted.upstream.call(admitted.request);
                let waker = self.ready.waker(id.into());
                waker.wake();
                let max_message = admitted.route.settings.max_message;
                self.streams.insert(id, Stream::new(call, waker, admitted.record, max_message));
            }
            Err(outcome) => self.refused.push_back((id, outcome)),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.path {
            Some(_) => Dialect::GrpcWebSockets,
            None => Dialect::GrpcWebSocketsMultiplex,
        }
    }
}

/// The method that a multiplexed call names, as a path. What is none is refused when it is looked up.
fn method(named: Option<&HeaderValue>) -> Box<str> {
    let named = named.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if named.starts_with('/') { named.into() } else { format!("/{named}").into() }
}

/// The content type that upstream gets for what the client says.
fn content_type(said: Option<&HeaderValue>) -> Result<HeaderValue, (Code, String)> {
    let Some(said) = said else { return Ok(HeaderValue::from_static("application/grpc+proto")) };
    match ContentType::parse(said.as_bytes()) {
        Some(content_type) if content_type.form == Form::Binary => Ok(content_type.to_grpc()),
        Some(_) => {
            let text =
                "grpc-web-text is not spoken on WebSockets; send application/grpc-web+proto".to_owned();
            Err((Code::UNIMPLEMENTED, text))
        }
        None => {
            let text =
                format!("content-type {said:?} is not that of gRPC-Web; send application/grpc-web+proto");
            Err((Code::INVALID_ARGUMENT, text))
        }
    }
}
