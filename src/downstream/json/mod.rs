//! JSON in, protobuf upstream: for people, scripts and debuggers. `docs/json.md` describes it.
//!
//! `call` is one call in JSON, whatever carries it; the carriers are adapters round it: `http` (a request is a call),
//! `socket` (a WebSocket is a call). `options` is what a client says that cannot set headers, `request` cuts bodies
//! into messages, `gatherer` puts response messages together.

mod call;
mod gatherer;
mod http;
mod options;
mod request;
mod socket;

pub(crate) use call::{Event, JsonCall, Single};
pub(crate) use http::{answer, refusal};
pub(crate) use options::metadata_to_json;
pub(crate) use socket::{max_message, serve};

use crate::{
    schema::{JsonOptions, json},
    wire::Outcome,
};
use ::http::{HeaderMap, HeaderName, header, request::Parts};

/// How a JSON request is written, and how the answer is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JsonForm {
    /// The request has a message on each line, not just one.
    lines: bool,
    /// The form of an answer with any number of messages.
    stream: StreamForm,
}

/// How the messages of a stream are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum StreamForm {
    /// NDJSON.
    #[default]
    Lines,
    /// Server-sent events.
    Events,
}

impl JsonForm {
    /// Whether a request is JSON.
    ///
    /// A page of another site can make its visitor's browser send what HTML forms send, and the browser does not ask
    /// first. So the content type has to be one that a page cannot send without a CORS preflight. The one exception is
    /// for `curl -d`, which calls everything a form: see [`is_curls`].
    pub(crate) fn of(head: &Parts) -> Option<Self> {
        let content_type = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let mut parts = content_type.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        let lines = match name.as_str() {
            "application/json" => false,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => true,
            "application/x-www-form-urlencoded" if is_curls(&head.headers) => false,
            _ => return None,
        };
        // JSON is UTF-8 (RFC 8259, section 8.1), also where another parameter says what it likes.
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
        });
        if charset.is_some_and(|charset| !charset.eq_ignore_ascii_case("utf-8")) {
            return None;
        }
        let accepted = head.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let first = accepted.flat_map(|value| value.split(',')).find_map(|entry| {
            let name = entry.split(';').next()?.trim().to_ascii_lowercase();
            match name.as_str() {
                "text/event-stream" => Some(StreamForm::Events),
                "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/json" => {
                    Some(StreamForm::Lines)
                }
                _ => None,
            }
        });
        Some(Self { lines, stream: first.unwrap_or(StreamForm::Lines) })
    }
}

/// Whether `curl` has sent a request, and no browser.
///
/// That nothing of a browser's is there does not show it: browsers of 2019 (Firefox before 70) send neither `origin`
/// nor `sec-fetch-…` with a `no-cors` fetch, today's send no `sec-fetch-…` over cleartext, the page can take off
/// `referer` and `cookie`, and a proxy on the way may drop all of them. So `curl` has to say that it is `curl`: a page
/// cannot change `user-agent` without a preflight, and no browser calls itself that.
fn is_curls(headers: &HeaderMap) -> bool {
    const SEC_FETCH: [&str; 4] = ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-user"];
    let mut agents = headers.get_all(header::USER_AGENT).iter();
    agents.next().is_some_and(|agent| agent.as_bytes().starts_with(b"curl/"))
        && agents.next().is_none()
        && ![header::ORIGIN, header::REFERER, header::COOKIE].iter().any(|name| headers.contains_key(name))
        && !SEC_FETCH.into_iter().any(|name| headers.contains_key(HeaderName::from_static(name)))
}

/// The status of what never became a call.
fn status_json(outcome: &Outcome) -> Vec<u8> {
    json::status_to_json(None, &outcome.status, &JsonOptions::default())
}
