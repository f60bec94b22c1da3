//! Counting the frames that resume will need: both sides count, and acknowledge.

/// An Ack is due after so many sequenced frames, …
const ACK_FRAMES: u64 = 64;

/// … or so many bytes of packets, or with the next Ping or Pong: whatever comes first.
const ACK_BYTES: usize = 64 * 1024;

/// How many sequenced frames (every frame with stream ≠ 0) went each way.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// Put into packets.
    pub(super) sent: u64,
    /// Acknowledged by the peer.
    pub(super) acked: u64,
    pub(super) received: u64,
    /// `received`, as last acknowledged to the peer.
    acknowledged: u64,
    /// Bytes of packets received since.
    bytes: usize,
    /// Whether Welcome carried a resume token: otherwise nobody sends Ack.
    pub(super) resumable: bool,
}

impl Sequence {
    /// A packet was handled. Returns whether an Ack is due.
    pub(super) fn note_packet(&mut self, bytes: usize) -> bool {
        if !self.resumable {
            return false;
        }
        self.bytes += bytes;
        self.received - self.acknowledged >= ACK_FRAMES || (self.bytes >= ACK_BYTES && self.is_behind())
    }

    /// Whether the peer has something to hear: due at the latest with the next Ping or Pong.
    pub(super) fn is_behind(&self) -> bool {
        self.resumable && self.received > self.acknowledged
    }

    /// The number for an Ack that goes out now.
    pub(super) fn acknowledge(&mut self) -> u64 {
        self.acknowledged = self.received;
        self.bytes = 0;
        self.received
    }
}
