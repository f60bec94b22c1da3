//! Any bytes as a packet: what is read agrees with prost, and survives being written again.
#![no_main]

use bidiway::wire::{
    frame::{self, Frame, FrameError, FrameKind, PacketReader},
    v1,
};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|packet: &[u8]| {
    let Ok(frames) = read(Bytes::copy_from_slice(packet)) else { return };
    let prost = v1::Packet::decode(packet).expect("prost refuses what was read");
    assert_eq!(prost.frames.len(), frames.len());
    for (prost, frame) in prost.frames.iter().zip(&frames) {
        assert_eq!(prost.stream, frame.stream);
        if let FrameKind::Data { bytes, remaining, last } = &frame.kind {
            assert_eq!(prost.kind, Some(v1::frame::Kind::Data(bytes.clone())));
            assert_eq!((prost.remaining, prost.last), (*remaining, *last));
        }
    }
    let mut again = BytesMut::new();
    frames.iter().for_each(|frame| frame::encode(frame, &mut again));
    assert_eq!(&again[..], prost.encode_to_vec());
    assert_eq!(read(again.freeze()), Ok(frames));
});

fn read(packet: Bytes) -> Result<Vec<Frame>, FrameError> {
    let mut reader = PacketReader::new(packet);
    std::iter::from_fn(|| reader.next().transpose()).collect()
}
