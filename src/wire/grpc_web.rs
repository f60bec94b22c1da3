//! gRPC-Web (gRPC `doc/PROTOCOL-WEB.md`): content types, and the trailers that travel in the body.

use bytes::Bytes;
use http::HeaderMap;

/// Which of gRPC-Web's two body forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `application/grpc-web`: bytes.
    Binary,
    /// `application/grpc-web-text`: base64.
    Text,
}

/// A gRPC-Web content type: the body's form, and the message format behind `+` (`proto` when there is none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    /// The body's form.
    pub form: Form,
    /// The message format, lower case: `proto`, `json`, `thrift`, …
    pub format: String,
}

impl ContentType {
    /// Reads a `content-type` (or `accept`) value, in any case, with or without parameters. `None` when it is not
    /// gRPC-Web's.
    pub fn parse(_value: &[u8]) -> Option<Self> {
        todo!()
    }

    /// The value for a response: `application/grpc-web+proto`, `application/grpc-web-text+proto`, …
    pub fn to_value(&self) -> String {
        todo!()
    }

    /// The same messages on HTTP/2: `application/grpc+proto`, …
    pub fn to_grpc(&self) -> String {
        todo!()
    }
}

/// The trailer frame that ends a gRPC-Web body: 0x80, a 32-bit length, `name: value\r\n` lines in lower case.
pub fn trailer_frame(_trailers: &HeaderMap) -> Bytes {
    todo!()
}
