//! One DATA frame's worth of bytes on its way upstream.

use bytes::{Buf, Bytes};

use crate::wire::envelope::PREFIX_LEN;

/// Bytes for upstream, with gRPC's length prefix in front where a message begins: one DATA frame, and the payload is
/// not copied to make room for the prefix.
#[derive(Clone, Debug)]
pub struct Chunk {
    prefix: [u8; PREFIX_LEN],
    /// How much of the prefix is already read; `PREFIX_LEN` when there is none.
    at: u8,
    body: Bytes,
}

impl Chunk {
    /// Bytes as they are.
    pub fn plain(body: Bytes) -> Self {
        Self { prefix: [0; PREFIX_LEN], at: PREFIX_LEN as u8, body }
    }

    /// The first piece of an uncompressed message of `size` bytes.
    pub fn message(size: u32, body: Bytes) -> Self {
        Self { prefix: crate::wire::envelope::prefix(size), at: 0, body }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        PREFIX_LEN - usize::from(self.at) + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        let head = &self.prefix[usize::from(self.at)..];
        if head.is_empty() { &self.body } else { head }
    }

    fn advance(&mut self, cnt: usize) {
        let head = (PREFIX_LEN - usize::from(self.at)).min(cnt);
        self.at += head as u8;
        self.body.advance(cnt - head);
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut n = 0;
        for part in [&self.prefix[usize::from(self.at)..], &self.body[..]] {
            if !part.is_empty() && n < dst.len() {
                dst[n] = std::io::IoSlice::new(part);
                n += 1;
            }
        }
        n
    }
}
