//! Clients of `grpc-websockets` and `grpc-websockets-multiplex`, as strict as the strictest of those in use.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{carrier::Carrier, edge::Edge, socket::Io, upstream};

pub(crate) const PLAIN: &str = "grpc-websockets";
pub(crate) const MULTIPLEX: &str = "grpc-websockets-multiplex";

/// What `@improbable-eng/grpc-web` puts into every header block.
pub(crate) const HEADERS: &str = "content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n";

/// A WebSocket, and what came on it.
pub(crate) struct Ws {
    ws: WebSocketStream<Box<dyn Io>>,
    /// Pings of the proxy.
    pub(crate) pings: usize,
}

/// What comes on a socket, pings aside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Message(Bytes),
    /// The close code.
    Close(u16),
    Lost,
}

impl Ws {
    pub(crate) async fn connect(carrier: Carrier, edge: &Edge, path: &str, subprotocol: &str) -> Self {
        Self::connect_with(carrier, edge, path, subprotocol, &[]).await
    }

    pub(crate) async fn connect_with(
        carrier: Carrier,
        edge: &Edge,
        path: &str,
        subprotocol: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let ws = carrier.websocket(carrier.port(edge), path, subprotocol, headers).await;
        Self { ws, pings: 0 }
    }

    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) {
        self.ws.send(Message::Binary(bytes.into())).await.unwrap();
    }

    /// Sends, unless the proxy has closed already.
    pub(crate) async fn try_send(&mut self, bytes: impl Into<Bytes>) -> bool {
        self.ws.send(Message::Binary(bytes.into())).await.is_ok()
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        self.ws.send(message).await.unwrap();
    }

    pub(crate) async fn close(&mut self) {
        self.ws.close(None).await.unwrap();
    }

    /// The bytes under the WebSocket.
    pub(crate) fn io(&mut self) -> &mut Box<dyn Io> {
        self.ws.get_mut()
    }

    pub(crate) async fn next(&mut self) -> Came {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Binary(bytes))) => return Came::Message(bytes),
                Some(Ok(Message::Close(frame))) => {
                    return Came::Close(frame.map_or(1005, |frame| frame.code.into()));
                }
                Some(Ok(Message::Ping(_))) => self.pings += 1,
                Some(Ok(other)) => panic!("the proxy sent {other:?}"),
                Some(Err(_)) | None => return Came::Lost,
            }
        }
    }
}

/// Reads what the proxy sends for one call.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) messages: VecDeque<Vec<u8>>,
    /// The block with the status.
    pub(crate) trailers: Option<HeaderMap>,
    rest: Vec<u8>,
}

impl Reader {
    /// A WebSocket message's payload. Holds every rule that a client relies on.
    fn feed(&mut self, bytes: &[u8]) {
        assert!(self.trailers.is_none(), "something follows the status: {bytes:?}");
        self.rest.extend_from_slice(bytes);
        while self.rest.len() >= 5 {
            let length = u32::from_be_bytes(self.rest[1..5].try_into().unwrap()) as usize;
            if self.rest.len() < 5 + length {
                return;
            }
            let tail = self.rest.split_off(5 + length);
            let whole = std::mem::replace(&mut self.rest, tail);
            match whole[0] {
                0 => {
                    assert!(self.headers.is_some(), "data before headers");
                    self.messages.push_back(whole[5..].to_vec());
                }
                0x80 => {
                    // The improbable client looks at what follows a block only with the next message.
                    assert!(self.rest.is_empty(), "a WebSocket message goes on after a block");
                    self.block(&whole[5..]);
                }
                flag => panic!("a message with flag {flag:#x}"),
            }
        }
    }

    fn block(&mut self, block: &[u8]) {
        assert!(block.is_ascii(), "a block is ASCII: {block:?}");
        let map = fields(std::str::from_utf8(block).unwrap());
        if map.contains_key("grpc-status") {
            self.trailers = Some(map);
        } else {
            assert!(self.headers.is_none(), "two blocks without a status");
            self.headers = Some(map);
        }
    }

    /// How much has come of a message that is not complete.
    pub(crate) fn incomplete(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn code(&self) -> u32 {
        self.trailers.as_ref().expect("a status")["grpc-status"].to_str().unwrap().parse().unwrap()
    }

    pub(crate) fn message(&self) -> String {
        let message = self.trailers.as_ref().unwrap().get("grpc-message");
        let message = message.map_or("", |value| value.to_str().unwrap());
        percent_encoding::percent_decode_str(message).decode_utf8().unwrap().into_owned()
    }

    pub(crate) fn payloads(&self) -> Vec<&[u8]> {
        self.messages.iter().map(Vec::as_slice).collect()
    }

    /// Asserts a status that the proxy made.
    #[track_caller]
    pub(crate) fn assert_refused(&self, code: u32, part: &str) {
        let trailers = self.trailers.as_ref().unwrap_or_else(|| panic!("no status: {self:?}"));
        assert_eq!(self.code(), code, "{self:?}");
        assert!(self.message().contains(part), "{:?} lacks {part:?}", self.message());
        assert_eq!(trailers["bidiway-origin"], "proxy", "{self:?}");
    }
}

fn fields(text: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in text.split_terminator("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    map
}

/// A call on a socket of its own.
pub(crate) struct Call {
    pub(crate) ws: Ws,
    pub(crate) reader: Reader,
    /// The close code, once it has come.
    pub(crate) closed: Option<u16>,
}

impl Call {
    /// Opens the socket, and sends the header block with these lines added.
    pub(crate) async fn open(carrier: Carrier, edge: &Edge, path: &str, lines: &str) -> Self {
        let mut call = Self::silent(carrier, edge, path).await;
        call.ws.send(format!("{HEADERS}{lines}")).await;
        call
    }

    /// Opens the socket, and sends nothing.
    pub(crate) async fn silent(carrier: Carrier, edge: &Edge, path: &str) -> Self {
        Self { ws: Ws::connect(carrier, edge, path, PLAIN).await, reader: Reader::default(), closed: None }
    }

    /// Sends a message as the clients do: all of it in one.
    pub(crate) async fn send(&mut self, payload: &[u8]) {
        self.ws.send(data(payload)).await;
    }

    pub(crate) async fn half_close(&mut self) {
        self.ws.send(&[1][..]).await;
    }

    /// Reads one WebSocket message; false at the end.
    pub(crate) async fn receive(&mut self) -> bool {
        match self.ws.next().await {
            Came::Message(bytes) => self.reader.feed(&bytes),
            Came::Close(code) => self.closed = Some(code),
            Came::Lost => self.closed = self.closed.or(Some(1006)),
        }
        self.closed.is_none()
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Vec<u8> {
        while self.reader.messages.is_empty() {
            assert!(self.receive().await, "closed instead of a message: {:?}", self.reader);
        }
        self.reader.messages.pop_front().unwrap()
    }

    /// The headers.
    pub(crate) async fn headers(&mut self) -> HeaderMap {
        while self.reader.headers.is_none() {
            assert!(self.receive().await, "closed instead of headers: {:?}", self.reader);
        }
        self.reader.headers.clone().unwrap()
    }

    /// Everything to the close frame.
    pub(crate) async fn finish(&mut self) -> (&Reader, u16) {
        while self.receive().await {}
        (&self.reader, self.closed.unwrap())
    }

    /// One message each way.
    pub(crate) async fn unary(carrier: Carrier, edge: &Edge, path: &str, payload: &[u8]) -> Self {
        let mut call = Self::open(carrier, edge, path, "").await;
        call.send(payload).await;
        call.half_close().await;
        call.finish().await;
        call
    }
}

/// Many calls on a socket.
pub(crate) struct Multiplex {
    pub(crate) ws: Ws,
    pub(crate) streams: HashMap<u32, Reader>,
    pub(crate) goaway: bool,
    pub(crate) closed: Option<u16>,
}

impl Multiplex {
    pub(crate) async fn connect(carrier: Carrier, edge: &Edge) -> Self {
        let ws = Ws::connect(carrier, edge, "/a.B/First", MULTIPLEX).await;
        Self { ws, streams: HashMap::new(), goaway: false, closed: None }
    }

    pub(crate) async fn open(&mut self, id: u32, path: &str) {
        self.open_with(id, path, "").await;
    }

    pub(crate) async fn open_with(&mut self, id: u32, path: &str, lines: &str) {
        self.frame(id, format!("{HEADERS}grpc-websockets-path: {path}\r\n{lines}").as_bytes()).await;
    }

    /// A message with a number in front.
    pub(crate) async fn frame(&mut self, id: u32, payload: &[u8]) {
        self.ws.send([&id.to_be_bytes(), payload].concat()).await;
    }

    pub(crate) async fn send(&mut self, id: u32, payload: &[u8]) {
        self.frame(id, &data(payload)).await;
    }

    pub(crate) async fn half_close(&mut self, id: u32) {
        self.frame(id | 1 << 31, &[1]).await;
    }

    pub(crate) async fn receive(&mut self) -> bool {
        match self.ws.next().await {
            Came::Message(bytes) => {
                let id = u32::from_be_bytes(bytes[..4].try_into().unwrap());
                if id == 0x7fff_ffff && bytes.len() == 4 {
                    assert!(!self.goaway, "GOAWAY twice");
                    self.goaway = true;
                    return true;
                }
                let (id, last) = (id & !(1 << 31), id >> 31 == 1);
                let reader = self.streams.entry(id).or_default();
                reader.feed(&bytes[4..]);
                assert_eq!(last, reader.trailers.is_some(), "the last message has the status, and only it");
            }
            Came::Close(code) => self.closed = Some(code),
            Came::Lost => self.closed = self.closed.or(Some(1006)),
        }
        self.closed.is_none()
    }

    pub(crate) async fn message(&mut self, id: u32) -> Vec<u8> {
        loop {
            let reader = self.streams.entry(id).or_default();
            if let Some(message) = reader.messages.pop_front() {
                return message;
            }
            assert!(reader.trailers.is_none(), "ended instead of a message: {reader:?}");
            assert!(self.receive().await, "closed instead of a message: {:?}", self.closed);
        }
    }

    /// Everything of a call.
    pub(crate) async fn end(&mut self, id: u32) -> Reader {
        while self.streams.get(&id).is_none_or(|reader| reader.trailers.is_none()) {
            assert!(self.receive().await, "{id}: closed instead of a status: {:?}", self.closed);
        }
        self.streams.remove(&id).unwrap()
    }

    /// One message each way.
    pub(crate) async fn unary(&mut self, id: u32, path: &str, payload: &[u8]) -> Reader {
        self.open(id, path).await;
        self.send(id, payload).await;
        self.half_close(id).await;
        self.end(id).await
    }

    /// Reads to the close frame.
    pub(crate) async fn close_code(&mut self) -> u16 {
        while self.receive().await {}
        self.closed.unwrap()
    }

    pub(crate) async fn until_goaway(&mut self) {
        while !self.goaway {
            assert!(self.receive().await, "closed instead of GOAWAY: {:?}", self.closed);
        }
    }
}

/// A request message as clients send it.
pub(crate) fn data(payload: &[u8]) -> Vec<u8> {
    [&[0][..], &upstream::message(payload)].concat()
}
