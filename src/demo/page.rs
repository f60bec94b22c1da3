//! The demo's page, embedded: the binary alone serves it.

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, media type and text of every file.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("page/index.html")),
    ("/demo/style.css", CSS, include_str!("page/style.css")),
    ("/favicon.svg", SVG, include_str!("page/favicon.svg")),
    ("/demo/call.js", JS, include_str!("page/call.js")),
    ("/demo/chat.js", JS, include_str!("page/chat.js")),
    ("/demo/code.js", JS, include_str!("page/code.js")),
    ("/demo/format.js", JS, include_str!("page/format.js")),
    ("/demo/forms.js", JS, include_str!("page/forms.js")),
    ("/demo/main.js", JS, include_str!("page/main.js")),
    ("/demo/messages.js", JS, include_str!("page/messages.js")),
    ("/demo/mode.js", JS, include_str!("page/mode.js")),
    ("/demo/result.js", JS, include_str!("page/result.js")),
    ("/demo/timeline.js", JS, include_str!("page/timeline.js")),
    ("/demo/wire.js", JS, include_str!("page/wire.js")),
];

/// The page may run its own scripts and talk to its own origin; nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers GET for the page's files.
pub(super) fn router() -> Router {
    FILES.iter().fold(Router::new(), |router, &(path, media_type, text)| {
        router.route(path, get(async move || file(media_type, text)))
    })
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}
