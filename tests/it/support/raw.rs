//! HTTP/2 written by hand, frame by frame, mostly the server: for everything that a proper library refuses to do.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Error codes of RFC 9113, section 7.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// Settings of RFC 9113, section 6.5.2.
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A port that speaks only when told to.
pub(crate) struct RawServer {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

impl RawServer {
    pub(crate) async fn bind() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        let (io, _) = self.listener.accept().await.unwrap();
        io.set_nodelay(true).unwrap();
        io
    }

    /// Accepts a connection and exchanges prefaces with these settings.
    pub(crate) async fn http2(&self, settings: &[(u16, u32)]) -> RawConnection {
        let mut connection = RawConnection { io: self.accept().await };
        connection.preface().await;
        connection.write(&settings_frame(settings)).await;
        connection
    }
}

pub(crate) struct RawConnection {
    pub(crate) io: TcpStream,
}

impl RawConnection {
    /// Reads the client's connection preface.
    pub(crate) async fn preface(&mut self) {
        let mut preface = [0; 24];
        self.io.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    }

    /// The next frame; `None` when the client has closed the connection.
    pub(crate) async fn any_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame that belongs to a stream or ends the connection. SETTINGS and PING are answered, window
    /// updates skipped.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any_frame().await?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(&encode(SETTINGS, ACK, 0, &[])).await,
                PING if frame.flags & ACK == 0 => self.write(&encode(PING, ACK, 0, &frame.payload)).await,
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// Waits for a frame of this kind; others are skipped.
    pub(crate) async fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("the client closed the connection");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Waits for a new request; returns its stream.
    pub(crate) async fn request(&mut self) -> u32 {
        self.expect(HEADERS).await.stream
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Reads until the client closes the connection.
    pub(crate) async fn closed(&mut self) {
        while self.frame().await.is_some() {}
    }
}

pub(crate) fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn settings_frame(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    encode(SETTINGS, 0, 0, &payload)
}

/// HEADERS, followed by CONTINUATION frames when the block is larger than a frame may be.
pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let block = hpack(fields);
    let mut pieces = block.chunks(16_384).peekable();
    let first = pieces.next().unwrap_or_default();
    let last = |more: bool| if more { 0 } else { END_HEADERS };
    let mut out = encode(HEADERS, flags | last(pieces.peek().is_some()), stream, first);
    while let Some(piece) = pieces.next() {
        out.extend(encode(CONTINUATION, last(pieces.peek().is_some()), stream, piece));
    }
    out
}

pub(crate) fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    encode(DATA, flags, stream, bytes)
}

/// One uncompressed gRPC message in one DATA frame.
pub(crate) fn message(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    data(stream, flags, &bytes)
}

pub(crate) fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    encode(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn goaway(last_stream: u32, code: u32) -> Vec<u8> {
    let mut payload = last_stream.to_be_bytes().to_vec();
    payload.extend(code.to_be_bytes());
    encode(GOAWAY, 0, 0, &payload)
}

/// Response headers of a proper gRPC server.
pub(crate) fn ok_headers(stream: u32) -> Vec<u8> {
    headers(stream, 0, &[(":status", "200"), ("content-type", "application/grpc"), ("initial", "yes")])
}

/// Trailers that end a stream.
pub(crate) fn trailers(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, END_STREAM, fields)
}

/// HPACK (RFC 7541, section 6.2.2): every field a literal with a new name, without indexing and Huffman code.
fn hpack(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a 7-bit prefix (RFC 7541, section 5.1).
fn length(mut len: usize, block: &mut Vec<u8>) {
    if len < 127 {
        return block.push(len as u8);
    }
    block.push(127);
    len -= 127;
    while len >= 128 {
        block.push((len % 128) as u8 | 128);
        len /= 128;
    }
    block.push(len as u8);
}

/// The client's side, as far as a test likes to play it.
impl RawConnection {
    /// Connects and says what a client has to say first. `receive`: how much the kernel takes for it unread.
    pub(crate) async fn to(address: SocketAddr, receive: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(receive) = receive {
            socket.set_recv_buffer_size(receive).unwrap();
        }
        let mut io = socket.connect(address).await.unwrap();
        io.set_nodelay(true).unwrap();
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        io.write_all(&settings_frame(&[])).await.unwrap();
        Self { io }
    }

    /// Writes the same bytes until the server takes no more or closes the connection; how many it took.
    pub(crate) async fn flood(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.io.write_all(bytes).await.is_ok() {
            taken += bytes.len();
        }
        taken
    }

    /// The code of the GOAWAY with which the server ends the connection.
    pub(crate) async fn goaway(&mut self) -> Option<u32> {
        loop {
            let frame = self.any_frame().await?;
            if frame.kind == GOAWAY {
                return Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
    }
}

/// The request of a native call.
pub(crate) fn call_headers(stream: u32, path: &str) -> Vec<u8> {
    call_headers_with(stream, path, &[])
}

/// The same with more of its own.
pub(crate) fn call_headers_with(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "edge.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers(stream, 0, &[&fields, more].concat())
}
