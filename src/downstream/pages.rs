//! What the proxy serves besides calls: the shim's files, extra pages, and a word to whoever is lost.

use axum::{Router, body::Body, extract::Path, routing::get};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::assets;

/// The routes of everything that is no call.
pub(crate) fn router(extra: Router) -> Router {
    extra.route("/bidiway/{*file}", get(asset)).fallback(not_found)
}

/// One of the shim's files. They change with the proxy's version under the same names, so a browser asks each time
/// whether its copy is current.
async fn asset(Path(file): Path<String>, request: HeaderMap) -> Response<Body> {
    let Some(asset) = assets::find(&file) else {
        return text(StatusCode::NOT_FOUND, "The shim has no such file; its entry is /bidiway/index.js.\n");
    };
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|tags| {
        let tags = tags.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii);
        tags.map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag)).any(|tag| tag == asset.etag.as_bytes())
    });
    let mut response = Response::new(if known { Body::empty() } else { Body::from(asset.text) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    headers.insert(header::ETAG, HeaderValue::from_static(asset.etag));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Whether a page may read it depends on the page, also when no page asked this time.
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn not_found() -> Response<Body> {
    text(
        StatusCode::NOT_FOUND,
        "This is Bidiway, a gRPC proxy for browsers. It answers gRPC-Web, gRPC, JSON posted to a method \
         (application/json), and WebSockets with the subprotocol bidiway.v1; the JavaScript client is under /bidiway/.\n",
    )
}

fn text(status: StatusCode, sentence: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(sentence));
    *response.status_mut() = status;
    let value = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
