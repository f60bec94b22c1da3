//! A WebSocket as a carrier of packets.
//!
//! tokio-tungstenite could do this (and does, in the tests). Here the buffers are the reason for code of our own: an
//! idle socket must hold none, a busy one must not copy or clear more than it has to. `docs/decisions/0005` has the
//! figures.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::{
    downstream::ConnIo,
    wire::websocket::{
        HEADER_MAX, Message, MessageReader, Opcode, WebSocketError, close_payload, write_header,
    },
};

/// How much is read at once: what one system call is worth.
const READ: usize = 64 * 1024;

/// From this much missing on, a frame is read straight into its own buffer, without the copy from [`SCRATCH`].
const LARGE: usize = 16 * 1024;

thread_local! {
    /// Where bytes are read before they are known: one for all sockets of a worker.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// The bytes under a WebSocket.
#[derive(Debug)]
pub(in crate::downstream) enum CarrierIo {
    /// The whole connection, after an HTTP/1.1 upgrade.
    Http1(ConnIo),
    /// One HTTP/2 stream (RFC 8441), or this instance's end of a link to another.
    Upgraded(TokioIo<Upgraded>),
}

impl AsyncRead for CarrierIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(io) => Pin::new(io).poll_read(cx, buf),
            Self::Upgraded(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl CarrierIo {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(io) => Pin::new(io).poll_write(cx, buf),
            Self::Upgraded(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(io) => Pin::new(io).poll_flush(cx),
            Self::Upgraded(io) => Pin::new(io).poll_flush(cx),
        }
    }
}

/// What comes from the socket.
#[derive(Debug)]
pub(in crate::downstream) enum Incoming {
    /// A binary message: one packet.
    Packet(Bytes),
    /// A text message. Nobody has looked whether it is UTF-8.
    Text(Bytes),
    /// A ping or pong: the peer lives.
    Alive,
    /// The peer said that it goes. Its close code, if it gave one.
    Closed(Option<u16>),
    /// The connection broke, or the peer broke RFC 6455.
    Broken(Broken),
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(in crate::downstream) enum Broken {
    /// The connection ended without a close frame.
    Lost,
    /// The peer broke RFC 6455, or sent more in one message than the socket takes.
    Protocol(WebSocketError),
}

/// One WebSocket, server side.
#[derive(Debug)]
pub(in crate::downstream) struct Socket {
    io: CarrierIo,
    reader: MessageReader,
    /// What the kernel (or TLS, or HTTP/2) has not taken yet. Empty and without memory while nothing is in the way.
    out: BytesMut,
    /// Something was written since the last flush of the I/O.
    unflushed: bool,
    /// A close frame was written: nothing may follow it.
    closing: bool,
    /// The peer sent what cannot be decoded: frames behind it cannot be found any more.
    unreadable: bool,
    /// The peer is another instance: nothing is masked, and pings are not for us to answer but for the client.
    instance: bool,
    /// What another instance said with its close code.
    reason: Bytes,
}

impl Socket {
    /// A socket whose handshake is done; `early` are bytes that came right behind it. Takes messages of at most
    /// `max_message` bytes.
    pub(in crate::downstream) fn new(io: CarrierIo, early: &Bytes, max_message: usize) -> Self {
        Self::with(io, MessageReader::new(max_message), early, false)
    }

    /// The same with another instance at the other end.
    pub(in crate::downstream) fn to_instance(io: CarrierIo, early: &Bytes, max_message: usize) -> Self {
        Self::with(io, MessageReader::unmasked(max_message), early, true)
    }

    fn with(io: CarrierIo, mut reader: MessageReader, early: &Bytes, instance: bool) -> Self {
        reader.feed(early);
        Self {
            io,
            reader,
            out: BytesMut::new(),
            unflushed: false,
            closing: false,
            unreadable: false,
            instance,
            reason: Bytes::new(),
        }
    }

    /// Whether another instance is at the other end.
    pub(in crate::downstream) fn is_to_instance(&self) -> bool {
        self.instance
    }

    /// What another instance said with its close code.
    pub(in crate::downstream) fn reason(&self) -> &str {
        std::str::from_utf8(&self.reason).unwrap_or_default()
    }

    /// The next thing that the peer sent.
    pub(in crate::downstream) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            match self.reader.next_message() {
                Ok(Some(message)) => return Poll::Ready(self.received(cx, message)),
                Ok(None) => {}
                Err(error) => {
                    self.unreadable = true;
                    return Poll::Ready(Incoming::Broken(Broken::Protocol(error)));
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Incoming::Broken(Broken::Lost)),
                Ok(_) => {}
            }
        }
    }

    fn received(&mut self, cx: &mut Context<'_>, message: Message) -> Incoming {
        match message {
            Message::Binary(packet) => Incoming::Packet(packet),
            Message::Text(text) => Incoming::Text(text),
            Message::Pong => Incoming::Alive,
            Message::Ping(payload) => {
                // What cannot be written now is written with the next flush. The driver reads only so many messages
                // while writing is blocked, so no more pongs than that can gather.
                if !self.instance {
                    self.control(cx, Opcode::Pong, &payload);
                }
                Incoming::Alive
            }
            Message::Close { code, reason } => {
                if self.instance {
                    self.reason = reason;
                }
                // RFC 6455, section 5.5.1: it is answered with a close frame, usually with the same code.
                self.close(cx, code.unwrap_or(1000), "");
                Incoming::Closed(code)
            }
        }
    }

    /// Reads what there is into the reader; how many bytes.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some((buffer, missing)) = self.reader.missing()
            && missing >= LARGE
        {
            buffer.reserve(missing);
            let mut limited = bytes::BufMut::limit(buffer, missing);
            let mut read = std::pin::pin!(self.io.read_buf(&mut limited));
            return Future::poll(read.as_mut(), cx);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            self.reader.feed(buf.filled());
            Poll::Ready(Ok(buf.filled().len()))
        })
    }

    /// Writes a packet that stands in `packet` behind [`HEADER_MAX`] bytes of room for the frame's header, and clears
    /// `packet`. Only when `poll_flush` has said ready since the last.
    pub(in crate::downstream) fn send(&mut self, cx: &mut Context<'_>, packet: &mut BytesMut) {
        self.send_as(Opcode::Binary, cx, packet);
    }

    /// The same as a text message; what stands in `text` must be UTF-8.
    pub(in crate::downstream) fn send_text(&mut self, cx: &mut Context<'_>, text: &mut BytesMut) {
        self.send_as(Opcode::Text, cx, text);
    }

    fn send_as(&mut self, opcode: Opcode, cx: &mut Context<'_>, packet: &mut BytesMut) {
        if let Some((room, payload)) = packet.split_first_chunk_mut::<HEADER_MAX>() {
            let start = write_header(opcode, payload.len(), room);
            self.write(cx, &packet[start..]);
        }
        packet.clear();
    }

    /// Writes a WebSocket ping, which browsers answer even while the page's script is busy.
    pub(in crate::downstream) fn ping(&mut self, cx: &mut Context<'_>) {
        self.control(cx, Opcode::Ping, &[]);
    }

    /// Writes a pong, to an instance that waits for its client's.
    pub(in crate::downstream) fn pong(&mut self, cx: &mut Context<'_>) {
        self.control(cx, Opcode::Pong, &[]);
    }

    /// Writes a close frame.
    pub(in crate::downstream) fn close(&mut self, cx: &mut Context<'_>, code: u16, reason: &str) {
        self.control(cx, Opcode::Close, &close_payload(code, reason));
        self.closing = true;
    }

    fn control(&mut self, cx: &mut Context<'_>, opcode: Opcode, payload: &[u8]) {
        let mut room = [0; HEADER_MAX];
        let start = write_header(opcode, payload.len(), &mut room);
        self.write(cx, &[&room[start..], payload].concat());
    }

    /// Gives bytes to the kernel as far as it takes them, and keeps the rest.
    fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) {
        if self.closing {
            return;
        }
        self.unflushed = true;
        while self.out.is_empty() && !bytes.is_empty() {
            match self.io.poll_write(cx, bytes) {
                Poll::Ready(Ok(n)) if n > 0 => bytes = &bytes[n..],
                // An error, or the end, shows again with the next flush.
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        self.out.extend_from_slice(bytes);
    }

    /// Brings what waits to the kernel; ready when nothing waits any more.
    pub(in crate::downstream) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.out.is_empty() {
            match ready!(self.io.poll_write(cx, &self.out)) {
                Ok(n) if n > 0 => self.out.advance(n),
                Ok(_) | Err(_) => return Poll::Ready(Err(Broken::Lost)),
            }
            if self.out.is_empty() {
                self.out = BytesMut::new();
            }
        }
        if self.unflushed {
            if ready!(self.io.poll_flush(cx)).is_err() {
                return Poll::Ready(Err(Broken::Lost));
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// After `close`: flushes, then reads until the peer has closed too.
    pub(in crate::downstream) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        while self.unreadable {
            // What comes is thrown away; a connection that is closed with bytes unread is reset, and the peer might
            // not see the close frame.
            let mut scratch = [0; 1024];
            let mut buf = ReadBuf::new(&mut scratch);
            if ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
        loop {
            match ready!(self.poll_read(cx)) {
                Incoming::Closed(_) | Incoming::Broken(_) => return Poll::Ready(()),
                Incoming::Packet(_) | Incoming::Text(_) | Incoming::Alive => {}
            }
        }
    }
}
