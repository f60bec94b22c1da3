//! The message log: what calls of a route say, decoded, for debugging.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tracing::info;

use super::{Edge, Route, json::metadata_to_json};
use crate::{
    schema::{JsonError, JsonOptions, Method},
    upstream::{Passed, Request, Tap},
    wire::{
        Outcome,
        envelope::{EnvelopeReader, Piece},
    },
};

/// Words in the names of what is never shown.
const SECRETS: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "authorization",
    "cookie",
    "privatekey",
    "session",
    "jwt",
    "bearer",
    "signature",
];

/// Whole names of the same kind, as they are parts of harmless words.
const WHOLE_SECRETS: [&str; 7] = ["auth", "xauth", "key", "xkey", "sid", "xsid", "sig"];

/// What stands in its place.
const MASK: &str = "[redacted]";

/// The largest message that is decoded. Of larger ones the size is logged.
const DECODED_MAX: u64 = 256 * 1024;

/// Numbers the calls that are logged, so that their lines can be found together.
static CALLS: AtomicU64 = AtomicU64::new(1);

/// Which messages of a route are logged, and how. Decoding happens on a copy, beside the call, which never waits for
/// it: what comes faster than it is decoded is not logged.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageLog {
    /// The part of the calls that are logged, from 0 to 1.
    pub sample: f64,
    /// The most bytes of a message's JSON that are logged. 4 KiB.
    pub max_bytes: usize,
    /// Words, without what separates them, in the names of what is masked.
    redact: Vec<String>,
    /// Whole names, likewise.
    whole: Vec<String>,
}

impl MessageLog {
    /// Logs this part of the calls. Passwords, tokens and the like are masked.
    pub fn new(sample: f64) -> Self {
        Self {
            sample,
            max_bytes: 4096,
            redact: SECRETS.map(str::to_owned).into(),
            whole: WHOLE_SECRETS.map(str::to_owned).into(),
        }
    }

    /// Masks fields and metadata with this word in their names too. False: there is nothing in the word.
    pub fn redact(&mut self, word: &str) -> bool {
        let word = bare(word);
        let is_word = !word.is_empty();
        self.redact.extend(is_word.then_some(word));
        is_word
    }

    fn hides(&self, name: &str) -> bool {
        let name = bare(name);
        self.redact.iter().any(|word| name.contains(word)) || self.whole.contains(&name)
    }

    /// Masks what must not be seen, at any depth.
    fn mask(&self, json: &mut Json) {
        match json {
            Json::Object(fields) => {
                for (name, value) in fields {
                    if self.hides(name) {
                        *value = MASK.into();
                    } else {
                        self.mask(value);
                    }
                }
            }
            Json::Array(items) => items.iter_mut().for_each(|item| self.mask(item)),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }

    /// A message as it is logged.
    fn shown(&self, json: &[u8]) -> String {
        let Ok(mut json) = serde_json::from_slice(json) else { return String::new() };
        self.mask(&mut json);
        let mut text = json.to_string();
        if text.len() > self.max_bytes {
            text.truncate(text.floor_char_boundary(self.max_bytes));
            text.push('…');
        }
        text
    }

    fn metadata(&self, headers: &HeaderMap) -> String {
        let mut json = metadata_to_json(headers);
        self.mask(&mut json);
        json.to_string()
    }
}

/// A name without what tells its spellings apart: `apiKey`, `api_key` and `x-api-key` all hold `apikey`.
fn bare(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// For a call whose messages are to be logged: what shows them.
pub(crate) fn sampled(edge: &Edge, route: &Arc<Route>, request: &Request) -> Option<Tap> {
    let log = route.settings.log_messages.as_ref()?;
    let random = getrandom::u32().ok()?;
    if f64::from(random) >= log.sample * f64::from(u32::MAX) && log.sample < 1.0 {
        return None;
    }
    let mut log = log.clone();
    if let Some(authority) = &edge.settings().identity {
        log.whole.extend(authority.secret_names().map(|name| bare(name.as_str())));
    }
    // Cookies are credentials, whatever they are called on their way up.
    log.whole.extend(route.settings.cookies.iter().map(|(_, name)| bare(name.as_str())));
    let (tap, passed) = Tap::new();
    let logger = Logger {
        call: CALLS.fetch_add(1, Ordering::Relaxed),
        log,
        path: request.path.path().into(),
        route: Arc::clone(route),
        method: None,
        up: Direction::new("up"),
        down: Direction::new("down"),
    };
    let metadata = logger.log.metadata(&request.metadata);
    edge.drain.tasks.spawn(logger.run(passed, metadata));
    Some(tap)
}

/// One of [`Method`]'s two ways to read a message.
type Decode = fn(&Method, &[u8], &JsonOptions) -> Result<Vec<u8>, JsonError>;

/// Logs the messages of one call.
struct Logger {
    call: u64,
    log: MessageLog,
    path: Box<str>,
    route: Arc<Route>,
    method: Option<Arc<Method>>,
    up: Direction,
    down: Direction,
}

/// The messages in one direction.
struct Direction {
    name: &'static str,
    reader: EnvelopeReader,
    /// The message that is coming; empty when it is too large.
    held: Vec<u8>,
    size: u64,
    count: u64,
    /// What cannot be read any more.
    broken: bool,
}

impl Direction {
    fn new(name: &'static str) -> Self {
        let reader = EnvelopeReader::new(u64::MAX);
        Self { name, reader, held: Vec::new(), size: 0, count: 0, broken: false }
    }
}

impl Logger {
    async fn run(mut self, mut passed: mpsc::Receiver<Passed>, metadata: String) {
        let Self { call, .. } = self;
        info!(target: "message", call, method = &*self.path, route = self.route.name, metadata);
        let mut problem = None;
        if let Some(schema) = &self.route.schema {
            // While this takes its time, what passes waits; and what does not fit is not logged.
            match schema.method(&self.path).await {
                Ok(method) => self.method = Some(method),
                Err(error) => problem = Some(error.to_string()),
            }
        } else {
            problem = Some("the upstream has no schema".to_owned());
        }
        if let Some(problem) = problem {
            info!(target: "message", call, problem, "messages cannot be decoded");
        }
        let mut ended = false;
        while let Some(passed) = passed.recv().await {
            match passed {
                Passed::Up(bytes) => self.bytes(true, bytes),
                Passed::Headers(headers) => {
                    info!(target: "message", call, direction = "down", metadata = self.log.metadata(&headers));
                }
                Passed::Down(bytes) => self.bytes(false, bytes),
                Passed::End(outcome) => {
                    ended = true;
                    self.end(&outcome);
                }
            }
        }
        if !ended {
            let text = "the rest of the call was not seen: it was given up, or it was too fast";
            info!(target: "message", call, "{text}");
        }
    }

    fn bytes(&mut self, up: bool, mut bytes: Bytes) {
        loop {
            let direction = if up { &mut self.up } else { &mut self.down };
            if direction.broken {
                return;
            }
            match direction.reader.next(&mut bytes, usize::MAX) {
                Ok(Some(piece)) => self.piece(up, &piece),
                Ok(None) => return,
                Err(_) => direction.broken = true,
            }
        }
    }

    fn piece(&mut self, up: bool, piece: &Piece) {
        let direction = if up { &mut self.up } else { &mut self.down };
        if piece.first {
            direction.held.clear();
            direction.size = piece.bytes.len() as u64 + piece.remaining;
        }
        let is_held = direction.size <= DECODED_MAX && !piece.compressed;
        if is_held {
            direction.held.extend_from_slice(&piece.bytes);
        }
        if piece.remaining > 0 {
            return;
        }
        direction.count += 1;
        let (call, bytes, number, name) = (self.call, direction.size, direction.count, direction.name);
        let message = std::mem::take(&mut direction.held);
        let shown = match &self.method {
            _ if piece.compressed => Err("compressed".to_owned()),
            _ if !is_held => Err(format!("larger than {DECODED_MAX} bytes")),
            None => Err("no schema".to_owned()),
            Some(method) => {
                let read: Decode = if up { Method::request_to_json } else { Method::response_to_json };
                self.read(method, read, &message)
            }
        };
        match shown {
            Ok(json) => info!(target: "message", call, direction = name, number, bytes, json),
            Err(problem) => info!(target: "message", call, direction = name, number, bytes, problem),
        }
    }

    fn read(&self, method: &Method, read: Decode, message: &[u8]) -> Result<String, String> {
        let json = read(method, message, &self.route.settings.json).map_err(|error| error.to_string())?;
        Ok(self.log.shown(&json))
    }

    fn end(&self, outcome: &Outcome) {
        let status = match &self.method {
            Some(method) => method.status_to_json(&outcome.status, &self.route.settings.json),
            None => {
                json!({ "code": outcome.status.code.0, "message": outcome.status.message }).to_string().into()
            }
        };
        info!(
            target: "message",
            call = self.call,
            direction = "down",
            status = self.log.shown(&status),
            metadata = self.log.metadata(&outcome.trailers),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_at_any_depth_however_they_are_spelt() {
        let mut log = MessageLog::new(1.0);
        assert!(log.redact("Card-Number"));
        assert!(!log.redact("_"));
        let text = br#"{"user":"ada","Password":"x","login":{"accessToken":{"a":1},"items":[{"api_key":"k","cardNumber":4}]}}"#;
        let shown: Json = serde_json::from_str(&log.shown(text)).unwrap();
        assert_eq!(
            shown,
            json!({"user": "ada", "Password": MASK, "login": {
                "accessToken": MASK, "items": [{"api_key": MASK, "cardNumber": MASK}],
            }})
        );
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer x".parse().unwrap());
        headers.insert("x-api-key", "k".parse().unwrap());
        headers.insert("x-jwt", "a.b.c".parse().unwrap());
        headers.insert("key", "k".parse().unwrap());
        headers.insert("x-keyboard", "de".parse().unwrap());
        headers.insert("x-user", "ada".parse().unwrap());
        let shown: Json = serde_json::from_str(&log.metadata(&headers)).unwrap();
        assert_eq!(
            shown,
            json!({
                "authorization": MASK, "x-api-key": MASK, "x-jwt": MASK, "key": MASK, "x-keyboard": "de",
                "x-user": "ada",
            })
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut log = MessageLog::new(1.0);
        log.max_bytes = 10;
        assert_eq!(log.shown("{\"a\":\"ääää\"}".as_bytes()), "{\"a\":\"ää…");
    }
}
