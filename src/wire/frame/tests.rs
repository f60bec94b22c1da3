use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::wire::v1::{frame::Kind as ProstKind, metadata::Value};

fn packet(frames: &[Frame]) -> Bytes {
    let mut packet = BytesMut::new();
    for frame in frames {
        encode(frame, &mut packet);
    }
    packet.freeze()
}

fn read(packet: impl Into<Bytes>) -> Result<Vec<Frame>, FrameError> {
    let mut reader = PacketReader::new(packet.into());
    let mut frames = Vec::new();
    while let Some(frame) = reader.next()? {
        frames.push(frame);
    }
    Ok(frames)
}

/// Reads a packet as the generated types do, and applies the proto file's rules to the result.
fn read_with_prost(packet: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let packet = v1::Packet::decode(packet).map_err(|_| FrameError::Malformed)?;
    packet.frames.into_iter().map(from_prost).collect()
}

fn from_prost(frame: v1::Frame) -> Result<Frame, FrameError> {
    let v1::Frame { stream, remaining, last, kind } = frame;
    let kind = match kind.ok_or(FrameError::NoKind)? {
        ProstKind::Data(_) if last && remaining > 0 => return Err(FrameError::Misplaced),
        ProstKind::Data(bytes) => {
            return Ok(Frame { stream, kind: FrameKind::Data { bytes, remaining, last } });
        }
        ProstKind::HalfClose(_) => FrameKind::HalfClose,
        ProstKind::Open(message) => FrameKind::Open(message.into()),
        ProstKind::Headers(message) => FrameKind::Headers(message),
        ProstKind::Trailers(message) => FrameKind::Trailers(message.into()),
        ProstKind::Cancel(_) => FrameKind::Cancel,
        ProstKind::Credit(n) => FrameKind::Credit(n),
        ProstKind::Ack(n) => FrameKind::Ack(n),
        ProstKind::Ping(n) => FrameKind::Ping(n),
        ProstKind::Pong(n) => FrameKind::Pong(n),
        ProstKind::Hello(message) => FrameKind::Hello(message.into()),
        ProstKind::Welcome(message) => FrameKind::Welcome(message.into()),
        ProstKind::GoAway(message) => FrameKind::GoAway(message.into()),
        ProstKind::Refresh(message) => FrameKind::Refresh(message),
    };
    if last || remaining > 0 { Err(FrameError::Misplaced) } else { Ok(Frame { stream, kind }) }
}

fn to_prost(frame: Frame) -> v1::Frame {
    let mut to = v1::Frame { stream: frame.stream, remaining: 0, last: false, kind: None };
    to.kind = Some(match frame.kind {
        FrameKind::Data { bytes, remaining, last } => {
            (to.remaining, to.last) = (remaining, last);
            ProstKind::Data(bytes)
        }
        FrameKind::HalfClose => ProstKind::HalfClose(v1::HalfClose {}),
        FrameKind::Open(message) => ProstKind::Open(*message),
        FrameKind::Headers(message) => ProstKind::Headers(message),
        FrameKind::Trailers(message) => ProstKind::Trailers(*message),
        FrameKind::Cancel => ProstKind::Cancel(v1::Cancel {}),
        FrameKind::Credit(n) => ProstKind::Credit(n),
        FrameKind::Ack(n) => ProstKind::Ack(n),
        FrameKind::Ping(n) => ProstKind::Ping(n),
        FrameKind::Pong(n) => ProstKind::Pong(n),
        FrameKind::Hello(message) => ProstKind::Hello(*message),
        FrameKind::Welcome(message) => ProstKind::Welcome(*message),
        FrameKind::GoAway(message) => ProstKind::GoAway(*message),
        FrameKind::Refresh(message) => ProstKind::Refresh(message),
    });
    to
}

fn data(stream: u32, bytes: &'static [u8], remaining: u64, last: bool) -> Frame {
    Frame { stream, kind: FrameKind::Data { bytes: Bytes::from_static(bytes), remaining, last } }
}

#[test]
fn a_message_of_100_bytes_costs_at_most_8_bytes_more() {
    let message = [7; 100];
    let overhead = |stream, last| {
        let mut packet = BytesMut::new();
        encode_data(stream, &message, 0, last, &mut packet);
        packet.len() - message.len()
    };
    assert_eq!(overhead(1, false), 6);
    assert_eq!(overhead(127, true), 8);
    assert_eq!(overhead(128, false), 7);
    assert_eq!(overhead((1 << 21) - 1, false), 8);
}

#[test]
fn the_largest_overhead_is_exactly_what_is_promised() {
    let overhead = |stream, len, remaining, last| {
        let mut head = Head::new();
        head.data(stream, len, remaining, last);
        head.len
    };
    let largest = u64::from(u32::MAX) - 64;
    assert_eq!(overhead(u32::MAX, largest, u64::MAX, false), DATA_OVERHEAD_MAX);
    assert!(overhead(u32::MAX, largest, 0, true) < DATA_OVERHEAD_MAX);
}

#[test]
fn varint_lengths_are_right_at_every_step() {
    for bit in 0..64 {
        for value in [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1] {
            let mut head = Head::new();
            head.varint(value);
            assert_eq!(varint_len(value), head.len, "{value}");
        }
    }
    assert_eq!(varint_len(u64::MAX), 10);
}

#[test]
fn data_grows_the_packet_once() {
    let mut packet = BytesMut::with_capacity(100 + 6);
    let at = packet.as_ptr();
    encode_data(1, &[7; 100], 0, false, &mut packet);
    assert_eq!((packet.as_ptr(), packet.len()), (at, 106));
}

#[test]
fn data_is_a_slice_of_its_packet() {
    let packet = packet(&[data(1, b"one", 0, false), data(2, b"two", 0, false)]);
    let range = packet.as_ptr_range();
    for frame in read(packet).unwrap() {
        let FrameKind::Data { bytes, .. } = frame.kind else { panic!("{frame:?}") };
        assert!(range.contains(&bytes.as_ptr()));
    }
}

#[test]
fn the_only_frame_of_a_packet_takes_the_packet_over() {
    let mut reader = PacketReader::new(packet(&[data(1, b"alone", 0, false)]));
    let Some(Frame { kind: FrameKind::Data { bytes, .. }, .. }) = reader.next().unwrap() else { panic!() };
    assert!(bytes.is_unique());
    assert_eq!(&bytes[..], b"alone");
    assert_eq!(reader.next(), Ok(None));
}

#[test]
fn an_empty_message_is_not_the_same_as_none() {
    assert_eq!(read(packet(&[data(1, b"", 0, true)])), Ok(vec![data(1, b"", 0, true)]));
    assert_eq!(read(&b"\x0a\x02\x08\x01"[..]), Err(FrameError::NoKind));
    assert_eq!(read(&b"\x0a\x00"[..]), Err(FrameError::NoKind));
    assert_eq!(read(Bytes::new()), Ok(vec![]));
}

#[test]
fn unknown_fields_are_skipped_and_unknown_kinds_refused() {
    // In the packet: field 2 varint, field 3 bytes. In the frame: fields 18 to 21, one of each wire type.
    let skipped = b"\x10\x05\x1a\x01x\x0a\x1e\x08\x01\x90\x01\xff\x01\x99\x0112345678\xa2\x01\x02ab\xad\x011234\x22\x01m";
    assert_eq!(read(&skipped[..]), Ok(vec![data(1, b"m", 0, false)]));
    assert_eq!(read(&b"\x0a\x05\x08\x01\x92\x01\x00"[..]), Err(FrameError::NoKind));
}

#[test]
fn of_a_kind_that_is_there_twice_the_last_counts() {
    assert_eq!(read(&b"\x0a\x08\x22\x01a\x08\x01\x22\x01b"[..]), Ok(vec![data(1, b"b", 0, false)]));
    let ping = Frame { stream: 0, kind: FrameKind::Ping(7) };
    assert_eq!(read(&b"\x0a\x05\x22\x01a\x60\x07"[..]), Ok(vec![ping]));
    // Two messages of one kind are merged: method "/a" from the first, timeout 5 from the second.
    let open = v1::Open { method: "/a".into(), timeout_ms: 5, ..Default::default() };
    let open = Frame { stream: 0, kind: FrameKind::Open(open.into()) };
    assert_eq!(read(&b"\x0a\x0a\x32\x04\x0a\x02/a\x32\x02\x18\x05"[..]), Ok(vec![open]));
}

#[test]
fn what_is_not_protobuf_is_refused() {
    for (bytes, what) in [
        (&b"\x0a"[..], "no length"),
        (b"\x0a\x05\x08\x01", "a frame longer than the packet"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a length of 2^64 - 1"),
        (b"\x0a\x80", "a cut varint"),
        (b"\x0a\x0c\x50\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "a varint above 2^64"),
        (b"\x0a\x0d\x50\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "a varint of 11 bytes"),
        (b"\x0a\x04\x08\x01\x22\x05", "data longer than its frame"),
        (b"\x0a\x03\x08\x01\x20", "data as a varint"),
        (b"\x0a\x04\x0a\x02\x08\x01", "a stream with the wrong wire type"),
        (b"\x08\x01", "frames with the wrong wire type"),
        (b"\x00\x00", "field number 0"),
        (b"\x13\x14", "a group"),
        (b"\x16", "wire type 6"),
        (b"\x17", "wire type 7"),
        (b"\xf8\xff\xff\xff\xff\x01\x00", "a field number above 2^29"),
        (b"\x0a\x03\x32\x01\x0a", "a broken Open"),
        (b"\x0a\x06\x32\x04\x0a\x02\xff\xfe", "a method that is not UTF-8"),
        (b"\x0a\x03\x2a\x01\x0a", "a broken HalfClose"),
        (b"\x11\x00\x00\x00\x00\x00\x00\x00", "a cut 64-bit field"),
        (b"\x15\x00\x00\x00", "a cut 32-bit field"),
    ] {
        assert_eq!(read(bytes), Err(FrameError::Malformed), "{what}");
    }
}

#[test]
fn remaining_and_last_stand_on_fitting_data_only() {
    for (bytes, what) in [
        (&b"\x0a\x07\x10\x01\x18\x01\x22\x01m"[..], "the last message is incomplete"),
        (b"\x0a\x04\x10\x01\x2a\x00", "remaining on a half-close"),
        (b"\x0a\x04\x18\x01\x60\x01", "last on a ping"),
        (b"\x0a\x04\x32\x00\x18\x01", "last behind an open"),
    ] {
        assert_eq!(read(bytes), Err(FrameError::Misplaced), "{what}");
    }
    assert_eq!(read(&b"\x0a\x06\x08\x01\x18\x00\x2a\x00"[..]).unwrap()[0].kind, FrameKind::HalfClose);
}

fn metadata() -> impl Strategy<Value = Vec<v1::Metadata>> {
    let value = option::of(prop_oneof![
        ".{0,8}".prop_map(Value::Text),
        vec(any::<u8>(), 0..8).prop_map(|bytes| Value::Binary(bytes.into())),
    ]);
    vec(("[a-z-]{0,8}", value).prop_map(|(name, value)| v1::Metadata { name, value }), 0..3)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..300, any::<u64>(), (0u32..64).prop_map(|bit| 1 << bit)]
}

fn data_kind() -> impl Strategy<Value = FrameKind> {
    prop_oneof![
        (bytes(), number()).prop_map(|(bytes, remaining)| FrameKind::Data { bytes, remaining, last: false }),
        bytes().prop_map(|bytes| FrameKind::Data { bytes, remaining: 0, last: true }),
    ]
}

fn cold_kind() -> impl Strategy<Value = FrameKind> {
    let open = (".{0,12}", metadata(), number(), 0..3).prop_map(|(method, metadata, timeout_ms, codec)| {
        FrameKind::Open(v1::Open { method, metadata, timeout_ms, codec }.into())
    });
    let trailers =
        (any::<u32>(), ".{0,12}", bytes(), metadata()).prop_map(|(code, message, details, metadata)| {
            FrameKind::Trailers(v1::Trailers { code, message, details, metadata }.into())
        });
    let hello =
        (vec(any::<u32>(), 0..3), bytes(), number(), metadata(), any::<u32>(), ".{0,12}", any::<bool>())
            .prop_map(|(versions, resume_token, received, metadata, stream_credit, agent, resumable)| {
                let hello =
                    v1::Hello { versions, resume_token, received, metadata, stream_credit, agent, resumable };
                FrameKind::Hello(hello.into())
            });
    let limits = (number(), any::<[u32; 3]>()).prop_map(
        |(max_message, [max_streams, stream_credit, max_metadata])| v1::Limits {
            max_message,
            max_streams,
            stream_credit,
            max_metadata,
        },
    );
    let welcome = (any::<[u32; 4]>(), ".{0,12}", bytes(), any::<bool>(), number(), option::of(limits))
        .prop_map(
            |(
                [version, ping_interval_ms, resume_grace_ms, failure],
                session_id,
                resume_token,
                resumed,
                received,
                limits,
            )| {
                FrameKind::Welcome(Box::new(v1::Welcome {
                    version,
                    session_id,
                    resume_token,
                    resumed,
                    received,
                    limits,
                    ping_interval_ms,
                    resume_grace_ms,
                    resume_failure: (failure % 7) as i32,
                }))
            },
        );
    let go_away =
        (any::<[u32; 3]>(), ".{0,12}").prop_map(|([last_stream, code, reconnect_delay_ms], message)| {
            FrameKind::GoAway(v1::GoAway { last_stream, code, message, reconnect_delay_ms }.into())
        });
    prop_oneof![
        open,
        trailers,
        hello,
        welcome,
        go_away,
        metadata().prop_map(|metadata| FrameKind::Headers(v1::Headers { metadata })),
        metadata().prop_map(|metadata| FrameKind::Refresh(v1::Refresh { metadata })),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let kind = prop_oneof![
        4 => data_kind(),
        2 => cold_kind(),
        1 => number().prop_map(FrameKind::Ack),
        1 => number().prop_map(FrameKind::Credit),
        1 => number().prop_map(FrameKind::Ping),
        1 => number().prop_map(FrameKind::Pong),
        1 => Just(FrameKind::Cancel),
        1 => Just(FrameKind::HalfClose),
    ];
    let stream = prop_oneof![0u32..3, 120u32..140, any::<u32>()];
    (stream, kind).prop_map(|(stream, kind)| Frame { stream, kind })
}

/// A field that neither `Packet` nor `Frame` has.
fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
    let key = |number: u32, wire: u32| {
        let mut head = Head::new();
        head.key(number, wire);
        head.as_slice().to_vec()
    };
    let value = prop_oneof![
        number().prop_map(|n| {
            let mut head = Head::new();
            head.varint(n);
            (VARINT, head.as_slice().to_vec())
        }),
        any::<[u8; 8]>().prop_map(|bytes| (FIXED64, bytes.to_vec())),
        any::<[u8; 4]>().prop_map(|bytes| (FIXED32, bytes.to_vec())),
        vec(any::<u8>(), 0..20).prop_map(|bytes| (LEN, [vec![bytes.len() as u8], bytes].concat())),
    ];
    (18u32..(1 << 29), value).prop_map(move |(number, (wire, value))| [key(number, wire), value].concat())
}

proptest! {
    #[test]
    fn packets_are_written_as_prost_writes_them_and_read_back(frames in vec(frame(), 0..6)) {
        let packet = packet(&frames);
        let prost = v1::Packet { frames: frames.iter().cloned().map(to_prost).collect() };
        prop_assert_eq!(&packet[..], &prost.encode_to_vec()[..]);
        prop_assert_eq!(&read_with_prost(&packet).unwrap(), &frames);
        prop_assert_eq!(read(packet).unwrap(), frames);
    }

    #[test]
    fn packets_concatenate(front in vec(frame(), 0..4), back in vec(frame(), 0..4)) {
        let glued = [packet(&front), packet(&back)].concat();
        prop_assert_eq!(read(glued).unwrap(), [front, back].concat());
    }

    #[test]
    fn unknown_fields_change_nothing(
        frames in vec((unknown_field(), unknown_field(), frame(), unknown_field()), 1..4),
    ) {
        let mut bytes = Vec::new();
        for (outside, before, frame, behind) in &frames {
            bytes.extend_from_slice(outside);
            let body = [&before[..], &to_prost(frame.clone()).encode_to_vec(), behind].concat();
            bytes.push(0x0a);
            let mut head = Head::new();
            head.varint(body.len() as u64);
            bytes.extend_from_slice(head.as_slice());
            bytes.extend_from_slice(&body);
        }
        let expected: Vec<Frame> = frames.into_iter().map(|(_, _, frame, _)| frame).collect();
        prop_assert_eq!(&read_with_prost(&bytes).unwrap(), &expected);
        prop_assert_eq!(read(bytes).unwrap(), expected);
    }

    #[test]
    fn broken_packets_get_the_verdict_that_prost_gives(
        frames in vec(frame(), 1..3),
        breaks in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut bytes = packet(&frames).to_vec();
        for (index, byte) in breaks {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(keep.index(bytes.len() + 1));
        let read = read(bytes.clone());
        // Prost reads the whole packet first, so errors of different frames may differ; groups it skips.
        if !has_group(&bytes) {
            prop_assert_eq!(read.is_ok(), read_with_prost(&bytes).is_ok());
        }
        if let Ok(frames) = read {
            prop_assert_eq!(read_with_prost(&bytes).unwrap(), frames);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..100)) {
        if let Ok(frames) = read(bytes.clone()) {
            prop_assert_eq!(read_with_prost(&bytes).unwrap(), frames);
        }
    }
}

/// Whether a key of a group is anywhere in the packet or directly in a frame.
fn has_group(packet: &[u8]) -> bool {
    let mut cursor = Cursor { bytes: packet, at: 0 };
    while let Ok(Some((number, wire))) = cursor.field() {
        if wire == 3 || wire == 4 {
            return true;
        }
        let start = cursor.at;
        if cursor.skip(wire).is_err() {
            return false;
        }
        if (number, wire) == (PACKET_FRAMES, LEN) {
            let mut value = Cursor { bytes: packet, at: start };
            let body = value.length_delimited().expect("it was skipped a moment ago");
            let mut frame = Cursor { bytes: &packet[..body.end], at: body.start };
            while let Ok(Some((_, wire))) = frame.field() {
                if wire == 3 || wire == 4 {
                    return true;
                }
                if frame.skip(wire).is_err() {
                    break;
                }
            }
        }
    }
    false
}
