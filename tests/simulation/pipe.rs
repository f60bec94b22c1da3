//! The carrier between the two sides.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};

use crate::rng::Rng;

/// One direction of the carrier: packets in order, each with its time of arrival.
#[derive(Default)]
pub(crate) struct Pipe {
    pub(crate) packets: VecDeque<(Instant, BytesMut)>,
    pub(crate) last: Option<Instant>,
}

impl Pipe {
    /// Splits a packet at random frames; sometimes glues the parts to the packet before.
    pub(crate) fn put(&mut self, mut packet: Bytes, now: Instant, rng: &mut Rng) {
        while packet.has_remaining() {
            let mut len = frame_len(&packet);
            while len < packet.len() && !rng.one_in(3) {
                len += frame_len(&packet[len..]);
            }
            let part = packet.split_to(len);
            let at = now + Duration::from_millis(rng.below(200) as u64);
            let at = self.last.map_or(at, |last| at.max(last));
            self.last = Some(at);
            match self.packets.back_mut() {
                Some((_, packet)) if rng.one_in(3) => packet.extend_from_slice(&part),
                _ => self.packets.push_back((at, BytesMut::from(&part[..]))),
            }
        }
    }
}

/// The length of the first frame of a packet: its tag, its length, itself.
pub(crate) fn frame_len(packet: &[u8]) -> usize {
    assert_eq!(packet[0], 0x0a, "a packet is a sequence of `frames`");
    let (mut len, mut shift, mut at) = (0, 0, 1);
    loop {
        let byte = packet[at];
        len |= usize::from(byte & 0x7f) << shift;
        (shift, at) = (shift + 7, at + 1);
        if byte < 0x80 {
            return at + len;
        }
    }
}
