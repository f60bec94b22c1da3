//! A client of the HTTP carrier (docs/protocol.md, section 20) over HTTP/1.1 that does as little as it may: one
//! connection for the response that streams, one for the requests up.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bidiway::wire::v1::{HttpOpen, HttpOpened, HttpUp};
use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The fields of an `HttpDown`, with their wire type.
const PACKET: u8 = 0x0a;
const OPENED: u8 = 0x12;
const PADDING: u8 = 0x22;

pub(super) struct HttpCarrier {
    target: SocketAddr,
    down: TcpStream,
    /// Of the response, as it came, in chunks.
    chunked: BytesMut,
    /// What is left of the chunk that is being read.
    chunk: usize,
    /// Of the response, without chunks.
    body: BytesMut,
    carrier: Bytes,
    up: TcpStream,
    /// Packets that wait for the answer to the request under way.
    packets: BytesMut,
    /// Bytes of requests that wait for the kernel.
    outbox: BytesMut,
    answer: BytesMut,
    number: u64,
    under_way: bool,
    /// What came with the head of the response has not been looked at.
    fresh: bool,
    read_size: usize,
}

impl HttpCarrier {
    /// `hello` is a packet with nothing else in it.
    pub(super) async fn connect(target: SocketAddr, hello: &[u8], read_size: usize) -> anyhow::Result<Self> {
        let (down, up) = (super::dial(target).await?, super::dial(target).await?);
        let mut this = Self {
            target,
            down,
            chunked: BytesMut::with_capacity(read_size),
            chunk: 0,
            body: BytesMut::new(),
            carrier: Bytes::new(),
            up,
            packets: BytesMut::new(),
            outbox: BytesMut::new(),
            answer: BytesMut::new(),
            number: 0,
            under_way: false,
            fresh: true,
            read_size,
        };
        let open = HttpOpen { packet: Bytes::copy_from_slice(hello), poll: false }.encode_to_vec();
        let mut request = BytesMut::new();
        this.post("open", &open, &mut request);
        this.down.write_all(&request).await?;
        let head = loop {
            if let Some(head) = head(&mut this.chunked) {
                break head;
            }
            let read = this.down.read_buf(&mut this.chunked).await?;
            ensure!(read > 0, "the connection ended within the first answer");
        };
        ensure!(head.starts_with(b"HTTP/1.1 200"), "no HTTP carrier: {}", String::from_utf8_lossy(&head));
        this.unchunk()?;
        Ok(this)
    }

    fn post(&self, what: &str, body: &[u8], out: &mut BytesMut) {
        let (target, len) = (self.target, body.len());
        let head = format!(
            "POST /bidiway/http/{what} HTTP/1.1\r\nhost: {target}\r\norigin: http://{target}\r\ncontent-length: {len}\r\n\r\n"
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.packets.len() + self.outbox.len()
    }

    /// Queues a packet: packets concatenate.
    pub(super) fn queue(&mut self, packet: &[u8]) {
        self.packets.extend_from_slice(packet);
    }

    /// Writes what is queued, reads what comes. May be dropped at any time.
    pub(super) async fn exchange(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.fresh) {
            return Ok(());
        }
        if !self.under_way && !self.packets.is_empty() && !self.carrier.is_empty() {
            self.number += 1;
            let packet = self.packets.split().freeze();
            let up = HttpUp { carrier: self.carrier.clone(), number: self.number, packet, close: None };
            let mut outbox = std::mem::take(&mut self.outbox);
            self.post("up", &up.encode_to_vec(), &mut outbox);
            self.outbox = outbox;
            self.under_way = true;
        }
        self.chunked.reserve(self.read_size);
        let (mut answers, mut requests) = self.up.split();
        tokio::select! {
            biased;
            written = requests.write_buf(&mut self.outbox), if !self.outbox.is_empty() => { written?; }
            read = self.down.read_buf(&mut self.chunked) => {
                ensure!(read? > 0, "the proxy ended the response");
                self.unchunk()?;
            }
            read = answers.read_buf(&mut self.answer), if self.under_way => {
                ensure!(read? > 0, "the proxy ended the connection of the requests");
                if let Some(head) = head(&mut self.answer) {
                    ensure!(head.starts_with(b"HTTP/1.1 204"), "refused: {}", String::from_utf8_lossy(&head));
                    self.under_way = false;
                }
            }
        }
        Ok(())
    }

    /// Takes what is here out of its chunks (RFC 9112, section 7.1).
    fn unchunk(&mut self) -> anyhow::Result<()> {
        loop {
            if self.chunk == 0 {
                let Some(end) = self.chunked.windows(2).position(|two| two == b"\r\n") else { return Ok(()) };
                let line = self.chunked.split_to(end + 2);
                if end == 0 {
                    continue;
                }
                let size = std::str::from_utf8(&line[..end]).context("a chunk's size")?;
                self.chunk = usize::from_str_radix(size, 16).context("a chunk's size")?;
                ensure!(self.chunk > 0, "the proxy ended the response");
            }
            if self.chunked.is_empty() {
                return Ok(());
            }
            let taken = self.chunk.min(self.chunked.len());
            self.body.extend_from_slice(&self.chunked.split_to(taken));
            self.chunk -= taken;
        }
    }

    /// The next packet that is here in whole.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let mut rest = &self.body[..];
            if rest.is_empty() {
                return Ok(None);
            }
            let kind = rest.get_u8();
            let Ok(length) = prost::encoding::decode_varint(&mut rest) else { return Ok(None) };
            let length = usize::try_from(length)?;
            if rest.len() < length {
                return Ok(None);
            }
            let start = self.body.len() - rest.len();
            self.body.advance(start);
            let field = self.body.split_to(length).freeze();
            match kind {
                PACKET => return Ok(Some(field)),
                OPENED => self.carrier = HttpOpened::decode(field)?.carrier,
                PADDING => {}
                _ => bail!("the proxy closed the carrier: {field:?}"),
            }
        }
    }
}

/// The head of an answer, if it is here in whole.
fn head(bytes: &mut BytesMut) -> Option<BytesMut> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(bytes.split_to(end + 4))
}
