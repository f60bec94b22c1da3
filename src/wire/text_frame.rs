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
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// The frames of a text.
    fn frames(text: &str) -> Result<Vec<Frame>, String> {
        let mut packet = BytesMut::new();
        read(text.as_bytes(), &mut packet).map_err(|error| error.to_string())?;
        let mut reader = PacketReader::new(packet.freeze());
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().unwrap() {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The texts of frames.
    fn texts(frames: &[Frame]) -> Vec<String> {
        let mut packet = BytesMut::new();
        frames.iter().for_each(|frame| encode(frame, &mut packet));
        let mut texts = Vec::new();
        TextFrameWriter::default().write(packet.freeze(), |text| texts.push(text.to_owned())).unwrap();
        texts
    }

    fn piece(stream: u32, bytes: &str, remaining: u64, last: bool) -> Frame {
        let bytes = Bytes::copy_from_slice(bytes.as_bytes());
        Frame { stream, kind: FrameKind::Data { bytes, remaining, last } }
    }

    #[test]
    fn what_a_person_types_is_a_frame() {
        let open = v1::Open {
            method: "/demo.v1.Chat/Talk".into(),
            metadata: vec![
                v1::Metadata {
                    name: "a-bin".into(),
                    value: Some(Value::Binary(Bytes::from_static(&[0, 1]))),
                },
                v1::Metadata { name: "x".into(), value: Some(Value::Text("1".into())) },
                v1::Metadata { name: "x".into(), value: Some(Value::Text("2".into())) },
            ],
            timeout_ms: 5000,
            codec: v1::Codec::Json.into(),
        };
        let hello = v1::Hello { versions: vec![1], stream_credit: GENEROUS, ..v1::Hello::default() };
        for (text, frame) in [
            (r#"{"hello":{}}"#, Frame { stream: 0, kind: FrameKind::Hello(Box::new(hello)) }),
            (
                r#"{"stream":1,"open":{"method":"/demo.v1.Chat/Talk","metadata":{"x":["1","2"],"a-bin":"AAE="},"timeoutMs":5000}}"#,
                Frame { stream: 1, kind: FrameKind::Open(Box::new(open)) },
            ),
            (r#" {"message" : {"a": 1} , "stream" : 2}"#, piece(2, r#"{"a": 1}"#, 0, false)),
            (r#"{"stream":2,"message":null,"last":true}"#, piece(2, "null", 0, true)),
            (r#"{"stream":2,"piece":"{\"a","remaining":7}"#, piece(2, "{\"a", 7, false)),
            (r#"{"stream":3,"halfClose":{}}"#, Frame { stream: 3, kind: FrameKind::HalfClose }),
            (r#"{"stream":3,"cancel":{}}"#, Frame { stream: 3, kind: FrameKind::Cancel }),
            (r#"{"stream":3,"credit":100}"#, Frame { stream: 3, kind: FrameKind::Credit(100) }),
            (r#"{"ping":7}"#, Frame { stream: 0, kind: FrameKind::Ping(7) }),
        ] {
            assert_eq!(frames(text), Ok(vec![frame]), "{text}");
        }
    }

    #[test]
    fn what_is_no_frame_is_said_to_be_none() {
        for (text, part) in [
            ("hello", "the text is not a frame: expected value at line 1 column 1"),
            (
                "[]",
                "the text is not a frame: invalid type: sequence, expected an object, in braces at line 1",
            ),
            ("7", "the text is not a frame: invalid type: integer `7`, expected an object, in braces"),
            (r#"{"hello":[]}"#, "expected an object, in braces"),
            (r#"{"stream":1,"open":["/a.B/C",{},0]}"#, "expected an object, in braces"),
            (r#"{"stream":1,"halfClose":[]}"#, "expected an object, in braces"),
            (r#"{"refresh":[{}]}"#, "expected an object, in braces"),
            ("{}", "this has 0"),
            (r#"{"stream":1}"#, "this has 0"),
            (r#"{"ping":1,"pong":1}"#, "this has 2"),
            (r#"{"stream":-1,"message":{}}"#, "the text is not a frame: invalid value"),
            (r#"{"stream":1,"massage":{}}"#, "unknown field `massage`"),
            (r#"{"hello":{"resumeToken":"x"}}"#, "unknown field `resumeToken`"),
            (r#"{"stream":1,"data":"AAEC"}"#, "unknown field `data`"),
            (r#"{"stream":1,"trailers":{"code":0}}"#, "unknown field `trailers`"),
            (r#"{"stream":1,"message":{},"remaining":1}"#, "`remaining` belongs to piece"),
            (r#"{"stream":1,"halfClose":{},"last":true}"#, "`last` to message"),
            (r#"{"stream":1,"piece":"a","remaining":1,"last":true}"#, "the last piece"),
            (r#"{"refresh":{"metadata":{"x":1}}}"#, "the value of metadata \"x\""),
            (r#"{"refresh":{"metadata":{"x-bin":"?"}}}"#, "the value of metadata \"x-bin\""),
            (r#"{"ping":1}{"ping":2}"#, "trailing characters"),
        ] {
            let error = frames(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_proxy_s_frames_can_be_read() {
        let frames = [
            Frame {
                stream: 0,
                kind: FrameKind::Welcome(Box::new(v1::Welcome {
                    version: 1,
                    session_id: "s".into(),
                    limits: Some(v1::Limits {
                        max_message: 4,
                        max_streams: 3,
                        stream_credit: 2,
                        max_metadata: 1,
                    }),
                    ping_interval_ms: 20_000,
                    ..v1::Welcome::default()
                })),
            },
            Frame { stream: 1, kind: FrameKind::Headers(v1::Headers::default()) },
            piece(1, r#"{"a":"ä"}"#, 0, false),
            piece(1, "{\"b\":", 3, false),
            piece(2, "{}", 0, false),
            piece(1, "12}", 0, false),
            piece(1, "{}", 0, false),
            Frame {
                stream: 1,
                kind: FrameKind::Trailers(Box::new(v1::Trailers {
                    code: 5,
                    message: "weg \"ä\"".into(),
                    details: Bytes::from_static(b"[{\"@type\":\"x\"}]"),
                    metadata: vec![v1::Metadata { name: "x".into(), value: Some(Value::Text("1".into())) }],
                })),
            },
            Frame { stream: 0, kind: FrameKind::GoAway(Box::default()) },
        ];
        assert_eq!(
            texts(&frames),
            [
                r#"{"welcome":{"limits":{"maxMessage":4,"maxMetadata":1,"maxStreams":3,"streamCredit":2},"pingIntervalMs":20000,"sessionId":"s","version":1}}"#,
                r#"{"stream":1,"headers":{"metadata":{}}}"#,
                r#"{"stream":1,"message":{"a":"ä"}}"#,
                r#"{"stream":1,"piece":"{\"b\":","remaining":3}"#,
                r#"{"stream":2,"message":{}}"#,
                r#"{"stream":1,"piece":"12}","remaining":0}"#,
                r#"{"stream":1,"message":{}}"#,
                r#"{"stream":1,"trailers":{"code":5,"message":"weg \"ä\"","details":[{"@type":"x"}],"metadata":{"x":"1"}}}"#,
                r#"{"goAway":{"code":0,"lastStream":0,"message":"","reconnectDelayMs":0}}"#,
            ]
        );
    }

    #[test]
    fn a_large_message_becomes_several_frames() {
        let message = format!("\"{}\"", "x".repeat(40_000));
        let frames = frames(&format!("{{\"stream\":1,\"message\":{message},\"last\":true}}")).unwrap();
        let sizes = frames.iter().map(|frame| match &frame.kind {
            FrameKind::Data { bytes, remaining, last } => (bytes.len(), *remaining, *last),
            other => panic!("{other:?}"),
        });
        assert_eq!(
            sizes.collect::<Vec<_>>(),
            [(16_384, 23_618, false), (16_384, 7_234, false), (7_234, 0, true)]
        );
    }

    #[test]
    fn a_piece_stays_one_frame_also_with_what_its_client_held_back_of_a_character() {
        let text = format!("{{\"stream\":1,\"piece\":\"{}\",\"remaining\":1}}", "x".repeat(16_387));
        let frames = frames(&text).unwrap();
        assert!(
            matches!(&frames[..], [Frame { kind: FrameKind::Data { bytes, remaining: 1, .. }, .. }] if bytes.len() == 16_387)
        );
    }

    fn metadata() -> impl Strategy<Value = Vec<v1::Metadata>> {
        let value = |name: String, (text, bytes): (String, Vec<u8>)| {
            let value = if name.ends_with("-bin") { Value::Binary(bytes.into()) } else { Value::Text(text) };
            v1::Metadata { name, value: Some(value) }
        };
        let entries = vec(("[a-z]{1,4}(-bin)?", (any::<String>(), vec(any::<u8>(), 0..9))), 0..5);
        entries.prop_map(move |entries| {
            let mut entries: Vec<_> = entries.into_iter().map(|(name, both)| value(name, both)).collect();
            // An object keeps the order of one name's values, not that of names.
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries
        })
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![
            any::<u64>().prop_map(FrameKind::Credit),
            any::<u64>().prop_map(FrameKind::Ack),
            any::<u64>().prop_map(FrameKind::Ping),
            any::<u64>().prop_map(FrameKind::Pong),
            Just(FrameKind::Cancel),
            Just(FrameKind::HalfClose),
            metadata().prop_map(|metadata| FrameKind::Refresh(v1::Refresh { metadata })),
            (any::<String>(), metadata(), any::<u64>()).prop_map(|(method, metadata, timeout_ms)| {
                let codec = v1::Codec::Json.into();
                FrameKind::Open(Box::new(v1::Open { method, metadata, timeout_ms, codec }))
            }),
            (vec(any::<u32>(), 0..3), any::<u32>(), any::<String>(), metadata()).prop_map(
                |(versions, stream_credit, agent, metadata)| {
                    let hello =
                        v1::Hello { versions, stream_credit, agent, metadata, ..v1::Hello::default() };
                    FrameKind::Hello(Box::new(hello))
                }
            ),
            // What is cut is any text; a whole message is JSON.
            (any::<String>(), 1..u64::MAX / 2).prop_map(|(text, remaining)| FrameKind::Data {
                bytes: text.into(),
                remaining,
                last: false
            }),
            (any::<String>(), any::<bool>()).prop_map(|(text, last)| {
                let bytes = Json::from(text).to_string().into();
                FrameKind::Data { bytes, remaining: 0, last }
            }),
        ];
        (any::<u32>(), kind).prop_map(|(stream, kind)| Frame { stream, kind })
    }

    proptest! {
        #[test]
        fn a_frame_in_text_is_the_frame_in_bytes(frame in frame()) {
            let written = texts(std::slice::from_ref(&frame));
            prop_assert_eq!(written.len(), 1);
            prop_assert_eq!(frames(&written[0]), Ok(vec![frame]));
        }

        #[test]
        fn any_text_is_a_frame_or_an_error(text in "[ -~]{0,40}") {
            let _ = frames(&text);
        }

        #[test]
        fn every_text_of_the_proxy_is_one_json_object(message in any::<String>(), metadata in metadata(), cut in 0..20usize) {
            let json = Json::from(message).to_string();
            let cut = json.ceil_char_boundary(cut.min(json.len()));
            let (front, back) = json.split_at(cut);
            let trailers = v1::Trailers { code: 1, message: json.clone(), details: Bytes::new(), metadata };
            let mut data = vec![piece(1, back, 0, false)];
            if !front.is_empty() && !back.is_empty() {
                data.insert(0, piece(1, front, back.len() as u64, false));
            } else if back.is_empty() {
                data = vec![piece(1, front, 0, false)];
            }
            data.push(Frame { stream: 1, kind: FrameKind::Trailers(Box::new(trailers)) });
            let mut message = String::new();
            for text in texts(&data) {
                let object: Json = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(&object["stream"], 1);
                message += object["piece"].as_str().unwrap_or_default();
                if let Some(whole) = object.get("message") {
                    message += &whole.to_string();
                }
            }
            prop_assert_eq!(message, json);
        }
    }
}
