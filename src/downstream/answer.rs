//! The heads of gRPC answers over HTTP.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};

use super::request_kind::Negotiated;
use crate::wire::Outcome;

/// The content type of a gRPC-Web answer.
pub(crate) fn web_type(negotiated: &Negotiated) -> HeaderValue {
    negotiated.response.to_value()
}

/// An answer that is all end: the status and the metadata are HTTP headers, and the body is empty. Not even an empty
/// trailer frame stands in it (clients would take that for the end, and it has no status), and over HTTP/2 the
/// headers end the stream.
pub(crate) fn trailers_only(outcome: Outcome, content_type: HeaderValue) -> Response<Body> {
    let mut headers = outcome.into_trailers();
    headers.insert(CONTENT_TYPE, content_type);
    with_headers(headers, Body::empty())
}

/// An answer with a body.
pub(crate) fn with_headers(headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}
