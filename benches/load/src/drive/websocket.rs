//! A WebSocket client that does as little as RFC 6455 allows: the proxy, not the client, is what is measured.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Any key does, and the same one for all frames: this client protects nobody's cache.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The inbox is made larger when it has less room than this.
const LEAST_ROOM: usize = 4 * 1024;

pub(super) struct WebSocket {
    io: TcpStream,
    inbox: BytesMut,
    outbox: BytesMut,
    /// How much is read at once.
    read_size: usize,
}

impl WebSocket {
    pub(super) async fn connect(target: SocketAddr, path: &str, read_size: usize) -> anyhow::Result<Self> {
        let mut io = super::dial(target).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {target}\r\norigin: http://{target}\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: bidiway.v1\r\n\r\n"
        );
        io.write_all(request.as_bytes()).await?;
        let mut inbox = BytesMut::with_capacity(read_size);
        let head = loop {
            if let Some(end) = inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                break inbox.split_to(end + 4);
            }
            let read = io.read_buf(&mut inbox).await?;
            ensure!(read > 0, "the connection ended within the handshake");
        };
        ensure!(
            head.starts_with(b"HTTP/1.1 101"),
            "no WebSocket at {target}{path}: {}",
            String::from_utf8_lossy(&head)
        );
        Ok(Self { io, inbox, outbox: BytesMut::new(), read_size })
    }

    /// Bytes that wait for the kernel.
    pub(super) fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// Queues a binary message.
    pub(super) fn queue(&mut self, payload: &[u8]) {
        frame(BINARY, payload, &mut self.outbox);
    }

    /// Writes what is queued; when all is written, reads what comes. May be dropped at any time.
    pub(super) async fn exchange(&mut self) -> anyhow::Result<()> {
        if self.inbox.capacity() - self.inbox.len() < LEAST_ROOM {
            self.inbox.reserve(self.read_size);
        }
        let (mut read, mut write) = self.io.split();
        tokio::select! {
            biased;
            written = write.write_buf(&mut self.outbox), if !self.outbox.is_empty() => { written?; }
            read = read.read_buf(&mut self.inbox) => {
                ensure!(read? > 0, "the proxy ended the connection");
            }
        }
        Ok(())
    }

    /// The next binary message that is here in whole.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some((opcode, payload)) = unframe(&mut self.inbox)? {
            match opcode {
                BINARY => return Ok(Some(payload.freeze())),
                PING => frame(PONG, &payload, &mut self.outbox),
                PONG => {}
                CLOSE => {
                    let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                    bail!("the proxy closed the socket: {code} {reason}");
                }
                other => bail!("a frame has opcode {other}, which this client does not expect"),
            }
        }
        Ok(None)
    }
}

/// Appends a masked frame (RFC 6455, section 5.2).
fn frame(opcode: u8, payload: &[u8], out: &mut BytesMut) {
    out.reserve(payload.len() + 14);
    out.put_u8(FINAL | opcode);
    match payload.len() {
        len @ 0..126 => out.put_u8(MASKED | len as u8),
        len @ 126..0x1_0000 => {
            out.put_u8(MASKED | 126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(MASKED | 127);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(&MASK);
    let begin = out.len();
    out.put_slice(payload);
    for chunk in out[begin..].chunks_mut(MASK.len()) {
        for (byte, mask) in chunk.iter_mut().zip(MASK) {
            *byte ^= mask;
        }
    }
}

/// Takes an unmasked, unfragmented frame from the front.
fn unframe(inbox: &mut BytesMut) -> anyhow::Result<Option<(u8, BytesMut)>> {
    let &[first, second, ..] = &inbox[..] else { return Ok(None) };
    ensure!(first & FINAL != 0, "the proxy sent a fragmented message, which it need not");
    ensure!(second & MASKED == 0, "the proxy masked a frame");
    let mut rest = &inbox[2..];
    let length = match second {
        126 if rest.len() >= 2 => u64::from(rest.get_u16()),
        127 if rest.len() >= 8 => rest.get_u64(),
        126 | 127 => return Ok(None),
        length => u64::from(length),
    };
    let length = usize::try_from(length).context("a frame is too long")?;
    if rest.len() < length {
        return Ok(None);
    }
    inbox.advance(inbox.len() - rest.len());
    Ok(Some((first & 0x0f, inbox.split_to(length))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_masked_and_has_the_shortest_length() {
        for (len, header) in [(1, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let mut out = BytesMut::new();
            frame(BINARY, &vec![7; len], &mut out);
            assert_eq!(out.len(), header + len);
            assert_eq!(out[header], 7 ^ MASK[0]);
            assert_eq!(out[header + len - 1], 7 ^ MASK[(len - 1) % 4]);
        }
    }

    #[test]
    fn a_frame_is_taken_when_all_of_it_is_here() {
        let whole = [&[0x82, 126, 0, 200][..], &[9; 200], &[0x82, 0]].concat();
        for cut in 0..204 {
            assert!(unframe(&mut BytesMut::from(&whole[..cut])).unwrap().is_none(), "{cut}");
        }
        let mut inbox = BytesMut::from(&whole[..]);
        assert_eq!(unframe(&mut inbox).unwrap().unwrap().1.len(), 200);
        assert_eq!(unframe(&mut inbox).unwrap().unwrap(), (BINARY, BytesMut::new()));
        assert!(inbox.is_empty());
    }
}
