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
            v1::Metadata { name: "a-bin".into(), value: Some(Value::Binary(Bytes::from_static(&[0, 1]))) },
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
        ("[]", "the text is not a frame: invalid type: sequence, expected an object, in braces at line 1"),
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
                let hello = v1::Hello { versions, stream_credit, agent, metadata, ..v1::Hello::default() };
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
