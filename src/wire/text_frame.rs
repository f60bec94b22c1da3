//! The session's frames as text (`bidiway.v1+json`): one frame is one JSON object, so that a person can read and type
//! it. `docs/protocol.md`, "Text sessions", describes the objects.
//!
//! Nothing here knows what a message means: it is JSON on both sides, and stands in its frame as it is.

use std::{borrow::Cow, collections::BTreeSet, fmt, marker::PhantomData};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value as Json, json, value::RawValue};

use super::{
    frame::{Frame, FrameError, FrameKind, PacketReader, encode, encode_data},
    v1::{self, metadata::Value},
};

/// The subprotocol of sessions whose frames are text.
pub const TEXT_SUBPROTOCOL: &str = "bidiway.v1+json";

/// The largest piece of a message that a data frame holds.
const MAX_PIECE: usize = 16 * 1024;

/// The credit of a client that does not mention any: so much that who types need not think of it.
const GENEROUS: u32 = 16 << 20;

/// Why a text is no frame of a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextFrameError {
    /// No JSON, or not of this form.
    #[error("the text is not a frame: {0}")]
    Malformed(String),
    /// None of the kinds, or several.
    #[error(
        "a frame is one of hello, open, message, piece, halfClose, cancel, credit, ack, ping, pong, refresh; this has {0}"
    )]
    Kinds(usize),
    /// `remaining` or `last` where they mean nothing.
    #[error("`remaining` belongs to piece, `last` to message or to the last piece")]
    Misplaced,
    /// A metadata value that is none.
    #[error(
        "the value of metadata {0:?} must be a text, or a list of texts; of names that end in -bin in base64"
    )]
    Metadata(String),
}

/// A frame as a client writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text<'a> {
    #[serde(default)]
    stream: u32,
    #[serde(borrow, default, deserialize_with = "raw")]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    piece: Option<Cow<'a, str>>,
    remaining: Option<u64>,
    #[serde(default)]
    last: bool,
    half_close: Option<Object<Nothing>>,
    cancel: Option<Object<Nothing>>,
    credit: Option<u64>,
    ack: Option<u64>,
    ping: Option<u64>,
    pong: Option<u64>,
    hello: Option<Object<Hello>>,
    open: Option<Object<Open>>,
    refresh: Option<Object<Refresh>>,
}

/// What stands in the text as an object. serde would take a list for a struct too, its items for the fields in turn.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, in braces")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hello {
    versions: Option<Vec<u32>>,
    stream_credit: Option<u32>,
    #[serde(default)]
    agent: String,
    #[serde(default)]
    metadata: Map<String, Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Open {
    method: String,
    #[serde(default)]
    metadata: Map<String, Json>,
    #[serde(default)]
    timeout_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    #[serde(default)]
    metadata: Map<String, Json>,
}

/// `null` is a message too, or at least it is for somebody else to say.
fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one frame of a client and appends it to a packet. A message that is too large for one data frame becomes
/// several; each counts.
pub fn read(text: &[u8], packet: &mut BytesMut) -> Result<(), TextFrameError> {
    let Object::<Text<'_>>(frame) =
        serde_json::from_slice(text).map_err(|error| TextFrameError::Malformed(error.to_string()))?;
    let Text { stream, remaining, last, .. } = frame;
    let kinds = [
        frame.message.is_some(),
        frame.piece.is_some(),
        frame.half_close.is_some(),
        frame.cancel.is_some(),
        frame.credit.is_some(),
        frame.ack.is_some(),
        frame.ping.is_some(),
        frame.pong.is_some(),
        frame.hello.is_some(),
        frame.open.is_some(),
        frame.refresh.is_some(),
    ];
    match kinds.iter().filter(|&&kind| kind).count() {
        1 => {}
        kinds => return Err(TextFrameError::Kinds(kinds)),
    }
    let fits = match (frame.message.is_some(), frame.piece.is_some()) {
        (true, _) => remaining.is_none(),
        (_, true) => !last || remaining.unwrap_or_default() == 0,
        _ => remaining.is_none() && !last,
    };
    if !fits {
        return Err(TextFrameError::Misplaced);
    }
    if let Some(message) = frame.message {
        data(stream, message.get().as_bytes(), last, packet);
        return Ok(());
    }
    if let Some(piece) = frame.piece {
        // As it is: a client that holds back half a character sends up to three bytes more with the next piece, which
        // must not cost it another frame.
        encode_data(stream, piece.as_bytes(), remaining.unwrap_or_default(), last, packet);
        return Ok(());
    }
    let numbers = [
        (frame.credit, FrameKind::Credit as fn(u64) -> FrameKind),
        (frame.ack, FrameKind::Ack),
        (frame.ping, FrameKind::Ping),
        (frame.pong, FrameKind::Pong),
    ];
    let number = numbers.into_iter().find_map(|(number, kind)| number.map(kind));
    let kind = if let Some(number) = number {
        number
    } else if let Some(Object(hello)) = frame.hello {
        FrameKind::Hello(Box::new(v1::Hello {
            versions: hello.versions.unwrap_or_else(|| vec![1]),
            stream_credit: hello.stream_credit.unwrap_or(GENEROUS),
            agent: hello.agent,
            metadata: entries(hello.metadata)?,
            ..v1::Hello::default()
        }))
    } else if let Some(Object(open)) = frame.open {
        FrameKind::Open(Box::new(v1::Open {
            method: open.method,
            metadata: entries(open.metadata)?,
            timeout_ms: open.timeout_ms,
            codec: v1::Codec::Json.into(),
        }))
    } else if let Some(Object(refresh)) = frame.refresh {
        FrameKind::Refresh(v1::Refresh { metadata: entries(refresh.metadata)? })
    } else if frame.cancel.is_some() {
        FrameKind::Cancel
    } else {
        FrameKind::HalfClose
    };
    encode(&Frame { stream, kind }, packet);
    Ok(())
}

/// A message, in frames that are not too large.
fn data(stream: u32, mut bytes: &[u8], last: bool, packet: &mut BytesMut) {
    loop {
        let (piece, rest) = bytes.split_at(bytes.len().min(MAX_PIECE));
        let remaining = rest.len() as u64;
        encode_data(stream, piece, remaining, last && remaining == 0, packet);
        if rest.is_empty() {
            return;
        }
        bytes = rest;
    }
}

fn entries(metadata: Map<String, Json>) -> Result<Vec<v1::Metadata>, TextFrameError> {
    let mut entries = Vec::new();
    for (name, value) in metadata {
        let values = match value {
            Json::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let invalid = || TextFrameError::Metadata(name.chars().take(64).collect());
            let Json::String(text) = value else { return Err(invalid()) };
            let value = if name.ends_with("-bin") {
                Value::Binary(super::metadata::decode_binary(text.as_bytes()).ok_or_else(invalid)?)
            } else {
                Value::Text(text)
            };
            entries.push(v1::Metadata { name: name.clone(), value: Some(value) });
        }
    }
    Ok(entries)
}

/// Writes the proxy's frames.
#[derive(Debug, Default)]
pub struct TextFrameWriter {
    /// Streams on which part of a message is out, and not its end.
    amid: BTreeSet<u32>,
}

impl TextFrameWriter {
    /// Gives the frames of a packet as texts, one after the other. Fails at what is no frame.
    ///
    /// A message in one data frame stands in its text as it is, so it must be JSON; one in several is cut text, so it
    /// must be cut between characters. `details` of Trailers must be JSON, or empty.
    pub fn write(&mut self, packet: Bytes, mut give: impl FnMut(&str)) -> Result<(), FrameError> {
        let mut reader = PacketReader::new(packet);
        while let Some(frame) = reader.next()? {
            give(&self.frame(&frame));
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame) -> String {
        let stream = frame.stream;
        let of_stream = |kind: &str, value: &str| match stream {
            0 => format!("{{\"{kind}\":{value}}}"),
            stream => format!("{{\"stream\":{stream},\"{kind}\":{value}}}"),
        };
        match &frame.kind {
            FrameKind::Data { bytes, remaining, last } => {
                let text = String::from_utf8_lossy(bytes);
                let last = if *last { ",\"last\":true" } else { "" };
                let goes_on =
                    if *remaining > 0 { !self.amid.insert(stream) } else { self.amid.remove(&stream) };
                if *remaining == 0 && !goes_on && !bytes.is_empty() {
                    return format!("{{\"stream\":{stream},\"message\":{text}{last}}}");
                }
                let piece = Json::from(&*text);
                format!("{{\"stream\":{stream},\"piece\":{piece},\"remaining\":{remaining}{last}}}")
            }
            FrameKind::Trailers(trailers) => {
                self.amid.remove(&stream);
                let v1::Trailers { code, message, details, metadata } = &**trailers;
                let message = Json::from(message.as_str());
                let details = match String::from_utf8_lossy(details) {
                    details if details.is_empty() => String::new(),
                    details => format!(",\"details\":{details}"),
                };
                let metadata = metadata_json(metadata);
                of_stream(
                    "trailers",
                    &format!("{{\"code\":{code},\"message\":{message}{details},\"metadata\":{metadata}}}"),
                )
            }
            FrameKind::Ack(n) => of_stream("ack", &n.to_string()),
            FrameKind::Credit(n) => of_stream("credit", &n.to_string()),
            FrameKind::Ping(n) => of_stream("ping", &n.to_string()),
            FrameKind::Pong(n) => of_stream("pong", &n.to_string()),
            FrameKind::Cancel => of_stream("cancel", "{}"),
            FrameKind::HalfClose => of_stream("halfClose", "{}"),
            FrameKind::Headers(headers) => {
                of_stream("headers", &json!({ "metadata": metadata_json(&headers.metadata) }).to_string())
            }
            FrameKind::Refresh(refresh) => {
                of_stream("refresh", &json!({ "metadata": metadata_json(&refresh.metadata) }).to_string())
            }
            FrameKind::Open(open) => {
                let v1::Open { method, metadata, timeout_ms, codec: _ } = &**open;
                let metadata = metadata_json(metadata);
                let open = json!({ "method": method, "metadata": metadata, "timeoutMs": timeout_ms });
                of_stream("open", &open.to_string())
            }
            FrameKind::Hello(hello) => {
                let hello = json!({
                    "versions": hello.versions,
                    "streamCredit": hello.stream_credit,
                    "agent": hello.agent,
                    "metadata": metadata_json(&hello.metadata),
                });
                of_stream("hello", &hello.to_string())
            }
            FrameKind::Welcome(welcome) => {
                let limits = welcome.limits.as_ref().map(|limits| {
                    json!({
                        "maxMessage": limits.max_message,
                        "maxStreams": limits.max_streams,
                        "streamCredit": limits.stream_credit,
                        "maxMetadata": limits.max_metadata,
                    })
                });
                let welcome = json!({
                    "version": welcome.version,
                    "sessionId": welcome.session_id,
                    "limits": limits,
                    "pingIntervalMs": welcome.ping_interval_ms,
                });
                of_stream("welcome", &welcome.to_string())
            }
            FrameKind::GoAway(go_away) => {
                let go_away = json!({
                    "lastStream": go_away.last_stream,
                    "code": go_away.code,
                    "message": go_away.message,
                    "reconnectDelayMs": go_away.reconnect_delay_ms,
                });
                of_stream("goAway", &go_away.to_string())
            }
        }
    }
}

fn metadata_json(entries: &[v1::Metadata]) -> Json {
    let mut map = Map::new();
    for entry in entries {
        let value: Json = match &entry.value {
            Some(Value::Text(text)) => text.as_str().into(),
            Some(Value::Binary(bytes)) => BASE64_STANDARD.encode(bytes).into(),
            None => Json::Null,
        };
        match map.get_mut(&entry.name) {
            None => drop(map.insert(entry.name.clone(), value)),
            Some(Json::Array(values)) => values.push(value),
            Some(one) => *one = Json::Array(vec![one.take(), value]),
        }
    }
    map.into()
}

#[cfg(test)]
mod tests;
