//! A WebSocket as a carrier of packets.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    error::ProtocolError,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use crate::{downstream::ConnIo, session::MAX_PACKET};

/// tungstenite reads into a buffer of this size and fills it with zeros before every read, so a large one costs
/// time on each message and memory on each idle socket; larger messages grow it while they arrive.
const READ_BUFFER: usize = 4 * 1024;

/// How much may wait for the kernel. One packet and a close frame fit; the driver gives no second packet while one
/// waits.
const WRITE_BUFFER_MAX: usize = 4 * MAX_PACKET;

/// The bytes under a WebSocket.
#[derive(Debug)]
pub(super) enum CarrierIo {
    /// The whole connection, after an HTTP/1.1 upgrade.
    Http1(ConnIo),
    /// One HTTP/2 stream (RFC 8441).
    Http2(TokioIo<Upgraded>),
}

impl CarrierIo {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(io) => Pin::new(io).poll_read(cx, buf),
            Self::Http2(io) => Pin::new(io).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(io) => Pin::new(io).poll_write(cx, buf),
            Self::Http2(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(io) => Pin::new(io).poll_flush(cx),
            Self::Http2(io) => Pin::new(io).poll_flush(cx),
        }
    }
}

/// Lends the I/O to tungstenite for one poll: `WouldBlock` means that the task's waker is registered.
struct Polled<'a, 'b, 'c> {
    io: &'a mut CarrierIo,
    cx: &'b mut Context<'c>,
}

impl Read for Polled<'_, '_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match self.io.poll_read(self.cx, &mut buf) {
            Poll::Ready(Ok(())) => Ok(buf.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Polled<'_, '_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.io.poll_write(self.cx, buf) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.io.poll_flush(self.cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// What comes from the socket.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A binary message: one packet.
    Packet(Bytes),
    /// A text message, which the protocol does not have.
    Text,
    /// A ping or pong: the peer lives.
    Alive,
    /// The peer said that it goes. Its close code, if it gave one.
    Closed(Option<u16>),
    /// The connection broke, or the peer broke RFC 6455.
    Broken(Broken),
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection ended without a close frame.
    Lost,
    /// The peer broke RFC 6455.
    Protocol(String),
    /// A message is larger than [`MAX_PACKET`].
    TooLarge,
}

/// One WebSocket, server side.
#[derive(Debug)]
pub(super) struct Socket {
    io: CarrierIo,
    protocol: WebSocketContext,
    /// The peer sent what cannot be decoded: frames behind it cannot be found any more.
    unreadable: bool,
}

impl Socket {
    /// A socket whose handshake is done; `early` are bytes that came right behind it.
    pub(super) fn new(io: CarrierIo, early: &Bytes) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(2 * MAX_PACKET)
            .max_write_buffer_size(WRITE_BUFFER_MAX)
            .max_message_size(Some(MAX_PACKET))
            .max_frame_size(Some(MAX_PACKET));
        let protocol = WebSocketContext::from_partially_read(early.to_vec(), Role::Server, Some(config));
        Self { io, protocol, unreadable: false }
    }

    /// The next thing that the peer sent.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            let message = match self.protocol.read(&mut Polled { io: &mut self.io, cx }) {
                Ok(message) => message,
                Err(error) => return self.read_failed(error),
            };
            return Poll::Ready(match message {
                Message::Binary(packet) => Incoming::Packet(packet),
                Message::Text(_) => Incoming::Text,
                Message::Ping(_) | Message::Pong(_) => Incoming::Alive,
                Message::Close(frame) => Incoming::Closed(frame.map(|f| f.code.into())),
                Message::Frame(_) => continue,
            });
        }
    }

    fn read_failed(&mut self, error: Error) -> Poll<Incoming> {
        Poll::Ready(match error {
            Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Error::ConnectionClosed | Error::AlreadyClosed => Incoming::Closed(None),
            Error::Capacity(_) => {
                self.unreadable = true;
                Incoming::Broken(Broken::TooLarge)
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Incoming::Broken(Broken::Lost),
            Error::Protocol(error) => {
                self.unreadable = true;
                Incoming::Broken(Broken::Protocol(error.to_string()))
            }
            Error::Utf8(_) => {
                self.unreadable = true;
                Incoming::Text
            }
            _ => Incoming::Broken(Broken::Lost),
        })
    }

    /// Queues a packet. Only when `poll_flush` has said ready since the last.
    pub(super) fn queue(&mut self, cx: &mut Context<'_>, packet: Bytes) -> Result<(), Broken> {
        self.write(cx, Message::Binary(packet))
    }

    /// Queues a WebSocket ping, which browsers answer even while the page's script is busy.
    pub(super) fn ping(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        self.write(cx, Message::Ping(Bytes::new()))
    }

    fn write(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Broken> {
        match self.protocol.write(&mut Polled { io: &mut self.io, cx }, message) {
            Ok(()) => Ok(()),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Broken::Lost),
        }
    }

    /// Brings what is queued to the kernel; ready when nothing waits any more.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.protocol.flush(&mut Polled { io: &mut self.io, cx }) {
            Ok(()) | Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(_) => Poll::Ready(Err(Broken::Lost)),
        }
    }

    /// Queues a close frame.
    pub(super) fn close(&mut self, cx: &mut Context<'_>, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        // Whatever stands in the way of the close frame also ends the connection; there is nobody to tell.
        let _ = self.protocol.close(&mut Polled { io: &mut self.io, cx }, Some(frame));
    }

    /// After `close`: flushes, then reads until the peer has closed too.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        while self.unreadable {
            // What comes is thrown away; a connection that is closed with bytes unread is reset, and the peer might
            // not see the close frame.
            let mut scratch = [0; 1024];
            let mut buf = ReadBuf::new(&mut scratch);
            if ready!(self.io.poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
        loop {
            match ready!(self.poll_read(cx)) {
                Incoming::Closed(_) | Incoming::Broken(_) => return Poll::Ready(()),
                Incoming::Packet(_) | Incoming::Text | Incoming::Alive => {}
            }
        }
    }
}
