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

    /// Bytes left, with the prefix.
    pub fn len(&self) -> usize {
        self.remaining()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// Takes the first `n` bytes off, which must be there; the rest stays.
    pub fn split_to(&mut self, n: usize) -> Self {
        let head = (PREFIX_LEN - usize::from(self.at)).min(n);
        let mut front = self.clone();
        front.body = self.body.split_to(n - head);
        if head < PREFIX_LEN - usize::from(self.at) {
            // Cut within the prefix: the front carries its first part as plain bytes.
            let from = usize::from(self.at);
            front = Self::plain(Bytes::copy_from_slice(&self.prefix[from..from + head]));
        }
        self.at += head as u8;
        front
    }

    /// Copies the bytes out of whatever larger buffer they are a slice of.
    pub fn unshare(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut chunk: Chunk) -> Vec<u8> {
        chunk.copy_to_bytes(chunk.remaining()).to_vec()
    }

    #[test]
    fn a_message_begins_with_its_prefix() {
        assert_eq!(drain(Chunk::message(3, Bytes::from_static(b"ab"))), [0, 0, 0, 0, 3, b'a', b'b']);
        assert_eq!(drain(Chunk::plain(Bytes::from_static(b"ab"))), b"ab");
    }

    #[test]
    fn a_chunk_cut_anywhere_is_the_same_bytes() {
        let whole = Chunk::message(7, Bytes::from_static(b"payload"));
        for cut in 0..=whole.len() {
            for again in 0..=cut {
                let mut rest = whole.clone();
                let mut front = rest.split_to(cut);
                assert_eq!((front.len(), rest.len()), (cut, whole.len() - cut));
                let first = front.split_to(again);
                let bytes = [drain(first), drain(front), drain(rest)].concat();
                assert_eq!(bytes, drain(whole.clone()), "cut at {again} and {cut}");
            }
        }
    }
}
