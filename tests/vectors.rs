//! `tests/vectors/packets.json`: packets and the frames in them, for every implementation of the session protocol.
//!
//! The file is written from the cases below by `BIDIWAY_WRITE_VECTORS=1 cargo test --test vectors`. Look at the
//! difference before you commit it: a packet that changed is a changed protocol.
#![expect(clippy::unwrap_used, reason = "a broken vector fails the test, as it should")]

use std::{collections::HashSet, env, fs, mem, sync::OnceLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bidiway::wire::{
    frame::{self, Frame, FrameError, FrameKind, PacketReader},
    v1::{self, metadata::Value},
};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/packets.json");

const ABOUT: &str = "Packets of the session protocol (proto/bidiway/v1/session.proto) in hex, and their frames in the \
    JSON mapping of proto3. Reading `hex` gives `frames`; writing `frames` gives `hex`, except where `read_only` is \
    true (another writer made the packet). `refused` packets must not be read to their end: `malformed` is not \
    protobuf, `no_kind` is a frame without a known kind, `misplaced` has `remaining` or `last` where they do not fit. \
    Written by: BIDIWAY_WRITE_VECTORS=1 cargo test --test vectors";

#[derive(Deserialize, Serialize)]
struct Vectors {
    about: String,
    packets: Vec<Packet>,
    refused: Vec<Refused>,
}

#[derive(Deserialize, Serialize)]
struct Packet {
    name: String,
    hex: String,
    frames: Vec<Json>,
    read_only: bool,
}

#[derive(Deserialize, Serialize)]
struct Refused {
    name: String,
    hex: String,
    error: String,
}

#[test]
fn the_file_holds_what_the_cases_say() {
    assert!(
        file() == expected(),
        "packets.json is not what the cases give: see the head of tests/vectors.rs"
    );
}

#[test]
fn every_packet_is_read_and_written_as_the_file_says() {
    let vectors: Vectors = serde_json::from_str(file()).unwrap();
    assert!(vectors.packets.len() >= 30, "only {} packets", vectors.packets.len());
    let mut kinds = HashSet::new();
    for packet in vectors.packets {
        let bytes = bytes_of(&packet.hex);
        let frames = read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", packet.name));
        let found: Vec<Json> = frames.iter().map(frame_json).collect();
        assert_eq!(found, packet.frames, "{}", packet.name);
        if !packet.read_only {
            assert_eq!(hex(&write(&frames)), packet.hex, "{}", packet.name);
        }
        kinds.extend(frames.iter().map(|frame| mem::discriminant(&frame.kind)));
    }
    assert_eq!(kinds.len(), 14, "each kind of frame has a vector");
}

#[test]
fn every_refused_packet_is_refused_for_its_reason() {
    let vectors: Vectors = serde_json::from_str(file()).unwrap();
    assert!(vectors.refused.len() >= 15, "only {} packets", vectors.refused.len());
    for packet in vectors.refused {
        let found = read(&bytes_of(&packet.hex)).map_err(error_name);
        assert_eq!(found, Err(&*packet.error), "{}", packet.name);
    }
}

/// What the file holds, after it was written when that was asked for.
fn file() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        if env::var_os("BIDIWAY_WRITE_VECTORS").is_some() {
            fs::write(FILE, expected()).unwrap();
        }
        fs::read_to_string(FILE).unwrap()
    })
}

fn expected() -> String {
    serde_json::to_string_pretty(&vectors()).unwrap() + "\n"
}

fn vectors() -> Vectors {
    let written = written().into_iter().map(|(name, frames)| packet(name, &write(&frames), false));
    let read_only = read_only().into_iter().map(|(name, bytes)| packet(name, &bytes, true));
    let refused = refused().into_iter().map(|(name, bytes, error)| Refused {
        name: name.into(),
        hex: hex(bytes),
        error: error_name(error).into(),
    });
    Vectors { about: ABOUT.into(), packets: written.chain(read_only).collect(), refused: refused.collect() }
}

fn packet(name: &str, bytes: &[u8], read_only: bool) -> Packet {
    let frames = read(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    Packet { name: name.into(), hex: hex(bytes), frames: frames.iter().map(frame_json).collect(), read_only }
}

/// Packets as Bidiway writes them.
fn written() -> Vec<(&'static str, Vec<Frame>)> {
    let metadata = || {
        vec![
            text("authorization", "Bearer abc"),
            binary("trace-bin", &[0, 255, 128]),
            text("x-twice", "one"),
            text("x-twice", "two"),
            text("x-empty", ""),
            binary("empty-bin", &[]),
        ]
    };
    let hello = |hello| on(0, FrameKind::Hello(Box::new(hello)));
    let open = |stream, open| on(stream, FrameKind::Open(Box::new(open)));
    let welcome = |welcome| {
        let limits = v1::Limits {
            max_message: 4 << 20,
            max_streams: 256,
            stream_credit: 262_144,
            max_metadata: 16_384,
        };
        let all = v1::Welcome {
            version: 1,
            session_id: "s-7".into(),
            limits: Some(limits),
            ping_interval_ms: 20_000,
            ..welcome
        };
        on(0, FrameKind::Welcome(Box::new(all)))
    };
    let refused = |failure: v1::ResumeFailure| {
        welcome(v1::Welcome {
            resume_token: Bytes::from_static(b"\xfenext"),
            resume_failure: failure.into(),
            resume_grace_ms: 30_000,
            ..Default::default()
        })
    };
    let trailers = |stream, trailers| on(stream, FrameKind::Trailers(Box::new(trailers)));
    let chat = v1::Open { method: "/demo.v1.Demo/Chat".into(), ..Default::default() };
    vec![
        ("a packet without frames", vec![]),
        ("data: a message", vec![data(1, b"hello", 0, false)]),
        ("data: the last message", vec![data(1, b"hello", 0, true)]),
        ("data: an empty message", vec![data(1, b"", 0, false)]),
        ("data: an empty message that is the last", vec![data(1, b"", 0, true)]),
        ("half_close: no message at all", vec![on(1, FrameKind::HalfClose)]),
        (
            "data: a message in three pieces, with another stream's message between them",
            vec![
                data(1, b"hel", 8, false),
                data(1, b"lo w", 4, false),
                data(2, b"mine", 0, false),
                data(1, b"orld", 0, true),
            ],
        ),
        ("data: the first piece of a message of 5 GiB", vec![data(1, b"x", (5 << 30) - 1, false)]),
        ("data: 200 bytes, so that lengths take two bytes", vec![data(1, &[7; 200], 0, false)]),
        ("data: a stream above 127", vec![data(300, b"m", 0, false)]),
        ("data: the largest stream", vec![data(u32::MAX, b"m", 0, false)]),
        ("open: only a method", vec![open(1, chat.clone())]),
        (
            "open: everything",
            vec![open(
                2,
                v1::Open {
                    metadata: metadata(),
                    timeout_ms: 30_000,
                    codec: v1::Codec::Json.into(),
                    ..chat.clone()
                },
            )],
        ),
        ("headers: none", vec![on(1, FrameKind::Headers(v1::Headers { metadata: vec![] }))]),
        ("headers: text and binary", vec![on(1, FrameKind::Headers(v1::Headers { metadata: metadata() }))]),
        ("trailers: OK", vec![trailers(1, v1::Trailers::default())]),
        (
            "trailers: an error with message, details and metadata",
            vec![trailers(
                1,
                v1::Trailers {
                    code: 5,
                    message: "no such room:\n100% \u{1f980}".into(),
                    details: Bytes::from_static(b"\x08\x05\x12\x04nope"),
                    metadata: metadata(),
                },
            )],
        ),
        ("cancel", vec![on(3, FrameKind::Cancel)]),
        ("credit", vec![on(1, FrameKind::Credit(65_536))]),
        ("ack: more than 2^53", vec![on(0, FrameKind::Ack((1 << 53) + 1))]),
        ("ping", vec![on(0, FrameKind::Ping(1))]),
        ("ping: zero is a number, too", vec![on(0, FrameKind::Ping(0))]),
        ("pong: the largest number", vec![on(0, FrameKind::Pong(u64::MAX))]),
        ("hello: the least", vec![hello(v1::Hello { versions: vec![1], ..Default::default() })]),
        (
            "hello: everything",
            vec![hello(v1::Hello {
                versions: vec![2, 1],
                resume_token: Bytes::from_static(b"\x00token\xff"),
                received: 42,
                metadata: metadata(),
                stream_credit: 262_144,
                agent: "bidiway-js/0.1.0".into(),
                resumable: true,
            })],
        ),
        (
            "welcome: everything",
            vec![on(
                0,
                FrameKind::Welcome(Box::new(v1::Welcome {
                    version: 1,
                    session_id: "s-7".into(),
                    resume_token: Bytes::from_static(b"\x00token\xff"),
                    resumed: true,
                    received: 41,
                    limits: Some(v1::Limits {
                        max_message: 4 << 20,
                        max_streams: 256,
                        stream_credit: 262_144,
                        max_metadata: 16_384,
                    }),
                    ping_interval_ms: 20_000,
                    resume_grace_ms: 30_000,
                    resume_failure: 0,
                })),
            )],
        ),
        (
            "hello: the client comes back with a token, and has received 300 frames",
            vec![hello(v1::Hello {
                versions: vec![1],
                resume_token: Bytes::from_static(b"\x00token\xff"),
                received: 300,
                resumable: true,
                ..Default::default()
            })],
        ),
        (
            "welcome: the session goes on, then what the client lacks, then new frames",
            vec![
                welcome(v1::Welcome {
                    resume_token: Bytes::from_static(b"\xfenext"),
                    resumed: true,
                    received: 41,
                    resume_grace_ms: 30_000,
                    ..Default::default()
                }),
                data(1, b"again", 0, false),
                on(1, FrameKind::Credit(48_096)),
                data(1, b"new", 0, false),
            ],
        ),
        ("welcome: the token is unknown", vec![refused(v1::ResumeFailure::UnknownToken)]),
        ("welcome: the grace is over", vec![refused(v1::ResumeFailure::Expired)]),
        ("welcome: the session is somebody else's", vec![refused(v1::ResumeFailure::WrongPrincipal)]),
        ("welcome: the session was given up", vec![refused(v1::ResumeFailure::StateLost)]),
        ("welcome: the session is in another instance", vec![refused(v1::ResumeFailure::OtherInstance)]),
        ("ack: the answer to a resumed welcome, also of nothing", vec![on(0, FrameKind::Ack(0))]),
        (
            "go_away",
            vec![on(
                0,
                FrameKind::GoAway(Box::new(v1::GoAway {
                    last_stream: 9,
                    code: 14,
                    message: "draining".into(),
                    reconnect_delay_ms: 1500,
                })),
            )],
        ),
        (
            "refresh",
            vec![on(
                0,
                FrameKind::Refresh(v1::Refresh { metadata: vec![text("authorization", "Bearer new")] }),
            )],
        ),
        (
            "a session's first packet: hello, and a whole unary call",
            vec![
                hello(v1::Hello { versions: vec![1], agent: "test".into(), ..Default::default() }),
                open(1, chat),
                data(1, b"hello", 0, true),
            ],
        ),
        (
            "a whole answer",
            vec![
                on(1, FrameKind::Headers(v1::Headers { metadata: vec![text("x-served-by", "a")] })),
                data(1, b"hello", 0, false),
                trailers(1, v1::Trailers::default()),
            ],
        ),
    ]
}

/// Packets that others may write, and that must be read.
fn read_only() -> Vec<(&'static str, Vec<u8>)> {
    let glued = [write(&[data(1, b"one", 0, false)]), write(&[data(2, b"two", 0, false)])].concat();
    vec![
        ("two packets glued together", glued),
        ("an unknown field in the packet", b"\x12\x03new\x0a\x05\x08\x01\x22\x01m".to_vec()),
        (
            "unknown fields of each wire type in a frame",
            b"\x0a\x1e\x08\x01\x90\x01\xff\x01\x99\x0112345678\xa2\x01\x02ab\xad\x011234\x22\x01m".to_vec(),
        ),
        ("an unknown field in an open", b"\x0a\x0b\x08\x01\x32\x07\x0a\x02/a\x7a\x01x".to_vec()),
        ("an unknown field in a cancel", b"\x0a\x06\x08\x01\x4a\x02\x08\x01".to_vec()),
        ("the stream behind the data", b"\x0a\x05\x22\x01m\x08\x01".to_vec()),
        ("a varint longer than it need be", b"\x0a\x07\x08\x81\x80\x00\x22\x01m".to_vec()),
        ("two streams in one frame: the last counts", b"\x0a\x07\x08\x01\x08\x02\x22\x01m".to_vec()),
        ("two datas in one frame: the last counts", b"\x0a\x08\x08\x01\x22\x01a\x22\x01b".to_vec()),
        ("two kinds in one frame: the last counts", b"\x0a\x07\x08\x01\x22\x01a\x50\x07".to_vec()),
        ("defaults that are written out", b"\x0a\x08\x08\x01\x10\x00\x18\x00\x2a\x00".to_vec()),
    ]
}

/// Packets that must not be read to their end.
fn refused() -> Vec<(&'static str, &'static [u8], FrameError)> {
    use FrameError::{Malformed, Misplaced, NoKind};
    vec![
        ("a frame without its length", b"\x0a", Malformed),
        ("a frame longer than the packet", b"\x0a\x05\x08\x01", Malformed),
        ("a frame of 2^64 - 1 bytes", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Malformed),
        ("a cut varint", b"\x0a\x02\x08\x80", Malformed),
        ("a varint of eleven bytes", b"\x0a\x0c\x50\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", Malformed),
        ("data longer than its frame", b"\x0a\x04\x08\x01\x22\x05", Malformed),
        (
            "data that reaches into the next frame",
            b"\x0a\x04\x08\x01\x22\x03\x0a\x05\x08\x01\x22\x01m",
            Malformed,
        ),
        ("field number 0", b"\x0a\x04\x00\x00\x2a\x00", Malformed),
        ("wire type 7", b"\x0a\x03\x97\x01\x00", Malformed),
        ("a method that is not UTF-8", b"\x0a\x08\x08\x01\x32\x04\x0a\x02\xff\xfe", Malformed),
        ("a good frame, then half a frame", b"\x0a\x05\x08\x01\x22\x01m\x0a\x05\x08", Malformed),
        ("text instead of a packet", b"{\"hello\":{}}", Malformed),
        ("an empty frame", b"\x0a\x00", NoKind),
        ("a frame with a stream and nothing else", b"\x0a\x02\x08\x01", NoKind),
        ("a frame of an unknown kind", b"\x0a\x05\x08\x01\x92\x01\x00", NoKind),
        ("the last message is not complete", b"\x0a\x09\x08\x01\x10\x01\x18\x01\x22\x01m", Misplaced),
        ("remaining on a half-close", b"\x0a\x06\x08\x01\x10\x01\x2a\x00", Misplaced),
        ("last on an open", b"\x0a\x06\x08\x01\x18\x01\x32\x00", Misplaced),
    ]
}

fn on(stream: u32, kind: FrameKind) -> Frame {
    Frame { stream, kind }
}

fn data(stream: u32, bytes: &[u8], remaining: u64, last: bool) -> Frame {
    on(stream, FrameKind::Data { bytes: Bytes::copy_from_slice(bytes), remaining, last })
}

fn text(name: &str, value: &str) -> v1::Metadata {
    v1::Metadata { name: name.into(), value: Some(Value::Text(value.into())) }
}

fn binary(name: &str, value: &[u8]) -> v1::Metadata {
    v1::Metadata { name: name.into(), value: Some(Value::Binary(Bytes::copy_from_slice(value))) }
}

fn read(packet: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let mut reader = PacketReader::new(Bytes::copy_from_slice(packet));
    std::iter::from_fn(|| reader.next().transpose()).collect()
}

fn write(frames: &[Frame]) -> Vec<u8> {
    let mut packet = BytesMut::new();
    frames.iter().for_each(|frame| frame::encode(frame, &mut packet));
    packet.to_vec()
}

fn error_name(error: FrameError) -> &'static str {
    match error {
        FrameError::Malformed => "malformed",
        FrameError::NoKind => "no_kind",
        FrameError::Misplaced => "misplaced",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// A frame in the JSON mapping of proto3: fields that have their default are absent, 64-bit numbers are strings,
/// bytes are base64.
fn frame_json(frame: &Frame) -> Json {
    let mut out = json!({});
    let map = out.as_object_mut().unwrap();
    put(map, "stream", frame.stream.into());
    let (name, kind) = match &frame.kind {
        FrameKind::Ack(n) => ("ack", long(*n)),
        FrameKind::Cancel => ("cancel", json!({})),
        FrameKind::Credit(n) => ("credit", long(*n)),
        FrameKind::Data { bytes, remaining, last } => {
            put(map, "remaining", long(*remaining));
            put(map, "last", (*last).into());
            ("data", base64(bytes))
        }
        FrameKind::GoAway(m) => (
            "goAway",
            message([
                ("lastStream", m.last_stream.into()),
                ("code", m.code.into()),
                ("message", m.message.as_str().into()),
                ("reconnectDelayMs", m.reconnect_delay_ms.into()),
            ]),
        ),
        FrameKind::HalfClose => ("halfClose", json!({})),
        FrameKind::Headers(m) => ("headers", message([("metadata", metadata_json(&m.metadata))])),
        FrameKind::Hello(m) => (
            "hello",
            message([
                ("versions", m.versions.clone().into()),
                ("resumeToken", base64(&m.resume_token)),
                ("received", long(m.received)),
                ("metadata", metadata_json(&m.metadata)),
                ("streamCredit", m.stream_credit.into()),
                ("agent", m.agent.as_str().into()),
                ("resumable", m.resumable.into()),
            ]),
        ),
        FrameKind::Open(m) => (
            "open",
            message([
                ("method", m.method.as_str().into()),
                ("metadata", metadata_json(&m.metadata)),
                ("timeoutMs", long(m.timeout_ms)),
                ("codec", if m.codec == 0 { "".into() } else { m.codec().as_str_name().into() }),
            ]),
        ),
        FrameKind::Ping(n) => ("ping", long(*n)),
        FrameKind::Pong(n) => ("pong", long(*n)),
        FrameKind::Refresh(m) => ("refresh", message([("metadata", metadata_json(&m.metadata))])),
        FrameKind::Trailers(m) => (
            "trailers",
            message([
                ("code", m.code.into()),
                ("message", m.message.as_str().into()),
                ("details", base64(&m.details)),
                ("metadata", metadata_json(&m.metadata)),
            ]),
        ),
        FrameKind::Welcome(m) => (
            "welcome",
            message([
                ("version", m.version.into()),
                ("sessionId", m.session_id.as_str().into()),
                ("resumeToken", base64(&m.resume_token)),
                ("resumed", m.resumed.into()),
                ("received", long(m.received)),
                ("limits", m.limits.as_ref().map_or(Json::Null, limits_json)),
                ("pingIntervalMs", m.ping_interval_ms.into()),
                ("resumeGraceMs", m.resume_grace_ms.into()),
                (
                    "resumeFailure",
                    if m.resume_failure == 0 { "".into() } else { m.resume_failure().as_str_name().into() },
                ),
            ]),
        ),
    };
    // What is in the oneof is there even when it is a default.
    map.insert(name.into(), kind);
    out
}

fn limits_json(limits: &v1::Limits) -> Json {
    message([
        ("maxMessage", long(limits.max_message)),
        ("maxStreams", limits.max_streams.into()),
        ("streamCredit", limits.stream_credit.into()),
        ("maxMetadata", limits.max_metadata.into()),
    ])
}

fn metadata_json(entries: &[v1::Metadata]) -> Json {
    let entry = |entry: &v1::Metadata| match &entry.value {
        Some(Value::Text(text)) => json!({ "name": entry.name, "text": text }),
        Some(Value::Binary(bytes)) => json!({ "name": entry.name, "binary": base64(bytes) }),
        None => json!({ "name": entry.name }),
    };
    entries.iter().map(entry).collect()
}

fn message<const N: usize>(fields: [(&str, Json); N]) -> Json {
    let mut map = Map::new();
    for (name, value) in fields {
        put(&mut map, name, value);
    }
    map.into()
}

/// Sets a field, unless it has its default.
fn put(map: &mut Map<String, Json>, name: &str, value: Json) {
    let defaults = [json!(0), json!("0"), json!(""), json!(false), json!([]), Json::Null];
    if !defaults.contains(&value) {
        map.insert(name.into(), value);
    }
}

fn long(n: u64) -> Json {
    n.to_string().into()
}

fn base64(bytes: &[u8]) -> Json {
    STANDARD.encode(bytes).into()
}
