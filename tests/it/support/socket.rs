//! A client of the session protocol: the session floor's client side over tokio-tungstenite.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bidiway::{
    session::{CloseReason, Event, Session, Settings, Side, StreamId},
    wire::{Code, v1},
};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::HeaderValue, protocol::CloseFrame},
};

use super::http_carrier::HttpWire;

/// What a socket is made of.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// What carries packets.
pub(crate) enum Wire {
    WebSocket(Box<WebSocketStream<Box<dyn Io>>>),
    Http(Box<HttpWire>),
}

impl Wire {
    pub(crate) async fn send(&mut self, message: Message) -> Result<(), ()> {
        match self {
            Self::WebSocket(ws) => ws.send(message).await.map_err(drop),
            Self::Http(http) => http.send(message).await,
        }
    }

    /// Says goodbye. Without a code, it is 1000 on an HTTP carrier.
    pub(crate) async fn close(&mut self, frame: Option<CloseFrame>) -> Result<(), ()> {
        match self {
            Self::WebSocket(ws) => WebSocketStream::close(ws, frame).await.map_err(drop),
            Self::Http(http) => {
                http.close(frame.map_or(1000, |frame| u16::from(frame.code).into())).await;
                Ok(())
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Result<Message, ()>> {
        match self {
            Self::WebSocket(ws) => Some(ws.next().await?.map_err(drop)),
            Self::Http(http) => http.next().await,
        }
    }
}

impl From<WebSocketStream<Box<dyn Io>>> for Wire {
    fn from(ws: WebSocketStream<Box<dyn Io>>) -> Self {
        Self::WebSocket(Box::new(ws))
    }
}

impl From<HttpWire> for Wire {
    fn from(http: HttpWire) -> Self {
        Self::Http(Box::new(http))
    }
}

/// A session on a WebSocket or another carrier, driven by hand: commands are sent at once, events are read when asked for.
pub(crate) struct Socket {
    pub(crate) ws: Wire,
    pub(crate) session: Session,
    events: VecDeque<Event>,
    /// The close frame, once it has come.
    pub(crate) closed: Option<CloseFrame>,
    /// Whether received data is consumed (credit goes back) as it is read.
    pub(crate) consumes: bool,
}

/// A session that has lost its carrier, and what it had told before.
pub(crate) struct Lost {
    pub(crate) session: Session,
    events: VecDeque<Event>,
}

impl Lost {
    /// Says Hello with the token on a new carrier, and waits for no answer.
    pub(crate) async fn resume(mut self, ws: impl Into<Wire>) -> Socket {
        self.session.reattach(Instant::now().into_std());
        let mut socket = Socket { events: self.events, ..Socket::with(ws, self.session) };
        socket.flush().await;
        socket
    }
}

/// The handshake's request; tests change it as they like.
pub(crate) fn request(address: SocketAddr) -> http::Request<()> {
    let mut request = format!("ws://{address}/bidiway/session").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("bidiway.v1"));
    request
}

impl Socket {
    /// Reads for a while, whatever comes.
    pub(crate) async fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.closed.is_none() && tokio::time::timeout_at(until, self.receive()).await.is_ok() {}
    }

    /// Connects in cleartext.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).await.unwrap();
        io.set_nodelay(true).unwrap();
        Self::over(Box::new(io), request(address), Settings::default()).await.unwrap()
    }

    /// A WebSocket over any I/O.
    pub(crate) async fn over(
        io: Box<dyn Io>,
        request: http::Request<()>,
        settings: Settings,
    ) -> Result<Self, Box<Error>> {
        let (ws, _) = client_async(request, io).await.map_err(Box::new)?;
        Ok(Self::new(ws, settings))
    }

    pub(crate) fn new(ws: impl Into<Wire>, settings: Settings) -> Self {
        Self::with(ws, Session::new(Side::Client, settings, Instant::now().into_std()))
    }

    /// Goes on with a session that has perhaps sent something already.
    pub(crate) fn with(ws: impl Into<Wire>, session: Session) -> Self {
        Self { ws: ws.into(), session, events: VecDeque::new(), closed: None, consumes: true }
    }

    /// Loses its carrier, without a word to the other side.
    pub(crate) fn cut(self) -> Lost {
        self.part().0
    }

    /// The session without its carrier, which may go on living; nothing of it is read any more.
    pub(crate) fn part(mut self) -> (Lost, Wire) {
        assert!(self.session.detach(Instant::now().into_std()), "it cannot be resumed");
        (Lost { session: self.session, events: self.events }, self.ws)
    }

    /// Opens a call without metadata.
    pub(crate) async fn open(&mut self, method: &str) -> StreamId {
        self.open_with(v1::Open { method: method.to_owned(), ..v1::Open::default() }).await
    }

    /// Opens a call.
    pub(crate) async fn open_with(&mut self, open: v1::Open) -> StreamId {
        let id = self.session.open(open).unwrap();
        self.flush().await;
        id
    }

    /// Puts a small message where the next packet takes it from. False: there is no credit.
    pub(crate) fn message_sent(&mut self, stream: StreamId, message: &'static str) -> bool {
        let room = self.session.piece(stream, message.len());
        self.session.send(stream, Bytes::from_static(message.as_bytes()), 0, false);
        room == Some(message.len())
    }

    /// Sends a message, waiting for credit piece by piece.
    pub(crate) async fn send(&mut self, stream: StreamId, message: impl Into<Bytes>) {
        let mut rest: Bytes = message.into();
        loop {
            match self.session.piece(stream, rest.len()) {
                Some(room) => {
                    let piece = rest.split_to(room);
                    self.session.send(stream, piece, rest.len() as u64, false);
                    self.flush().await;
                    if rest.is_empty() {
                        return;
                    }
                }
                None => self.receive().await,
            }
        }
    }

    /// Says goodbye, and waits for no answer.
    pub(crate) async fn close(&mut self) {
        self.ws.close(None).await.unwrap();
    }

    /// Half-closes.
    pub(crate) async fn finish(&mut self, stream: StreamId) {
        self.session.finish(stream);
        self.flush().await;
    }

    /// Cancels.
    pub(crate) async fn cancel(&mut self, stream: StreamId) {
        self.session.cancel(stream);
        self.flush().await;
    }

    /// One call with one message each way.
    pub(crate) async fn unary(&mut self, method: &str, message: impl Into<Bytes>) -> Answer {
        let stream = self.unary_request(method, message).await;
        self.answer(stream).await
    }

    /// The request of such a call.
    pub(crate) async fn unary_request(&mut self, method: &str, message: impl Into<Bytes>) -> StreamId {
        let stream = self.open(method).await;
        self.send(stream, message).await;
        self.finish(stream).await;
        stream
    }

    /// Everything that comes on a stream until its end; events of other streams are kept.
    pub(crate) async fn answer(&mut self, stream: StreamId) -> Answer {
        let mut answer = Answer::default();
        loop {
            match self.next_of(stream).await {
                Event::Headers { headers, .. } => answer.headers = Some(headers.metadata),
                Event::Data { bytes, remaining, first, .. } => {
                    if first {
                        answer.messages.push(Vec::new());
                    }
                    let message = answer.messages.last_mut().unwrap();
                    message.extend_from_slice(&bytes);
                    answer.incomplete = remaining > 0;
                }
                Event::Ended { trailers, .. } => {
                    answer.trailers = *trailers;
                    return answer;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// The next whole message on a stream.
    pub(crate) async fn message(&mut self, stream: StreamId) -> Vec<u8> {
        let mut message = Vec::new();
        loop {
            match self.next_of(stream).await {
                Event::Headers { .. } => {}
                Event::Data { bytes, remaining, .. } => {
                    message.extend_from_slice(&bytes);
                    if remaining == 0 {
                        return message;
                    }
                }
                other => panic!("instead of a message: {other:?}"),
            }
        }
    }

    /// The next event of a stream.
    pub(crate) async fn next_of(&mut self, stream: StreamId) -> Event {
        loop {
            let at = self.events.iter().position(|event| stream_of(event) == Some(stream));
            if let Some(at) = at {
                return self.events.remove(at).unwrap();
            }
            assert!(self.closed.is_none(), "the socket was closed: {:?}", self.closed);
            self.receive().await;
        }
    }

    /// The next event that belongs to no stream.
    pub(crate) async fn next_own(&mut self) -> Event {
        loop {
            let at = self.events.iter().position(|event| stream_of(event).is_none());
            if let Some(at) = at {
                return self.events.remove(at).unwrap();
            }
            assert!(self.closed.is_none(), "the socket was closed: {:?}", self.closed);
            self.receive().await;
        }
    }

    /// An event that has come already.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Reads until the proxy closes the socket; the close code and reason.
    pub(crate) async fn close_frame(&mut self) -> (u16, String) {
        while self.closed.is_none() {
            self.receive().await;
        }
        let frame = self.closed.clone().unwrap();
        (frame.code.into(), frame.reason.to_string())
    }

    /// Sends raw bytes as one carrier message.
    pub(crate) async fn send_raw(&mut self, message: Message) {
        self.ws.send(message).await.unwrap();
    }

    /// Reads one carrier message.
    pub(crate) async fn receive(&mut self) {
        let now = || Instant::now().into_std();
        match self.ws.next().await {
            Some(Ok(Message::Binary(packet))) => self.session.handle_packet(packet, now()),
            Some(Ok(Message::Close(frame))) => {
                self.closed = Some(frame.unwrap_or(CloseFrame { code: 1005.into(), reason: "".into() }));
            }
            Some(Ok(_)) => self.session.handle_activity(now()),
            None | Some(Err(_)) => {
                self.closed.get_or_insert(CloseFrame { code: 1006.into(), reason: "lost".into() });
            }
        }
        if let Some(frame) = &self.closed {
            let ends = matches!(frame.code.into(), 1000_u16 | 1001 | 4000..=4013 | 4015..);
            if self.session.is_resumable() && !ends {
                return self.drain(); // what it brought before; the test says how it goes on
            }
            self.session.close(CloseReason::new(Code::UNAVAILABLE, "closed", frame.reason.as_str()));
        }
        self.drain();
        if self.closed.is_none() {
            self.flush().await;
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.session.poll_event() {
            if let Event::Data { stream, bytes, .. } = &event
                && self.consumes
            {
                self.session.consumed(*stream, bytes.len(), 1);
            }
            if !matches!(event, Event::Writable { .. } | Event::Closed(_)) {
                self.events.push_back(event);
            }
        }
    }

    /// Sends what the session has ready.
    pub(crate) async fn flush(&mut self) {
        let mut packet = BytesMut::new();
        while self.session.poll_packet(&mut packet, 32 * 1024) {
            if self.ws.send(Message::Binary(packet.split().freeze())).await.is_err() {
                return; // the close frame, or its absence, is read later
            }
        }
        self.drain();
    }
}

fn stream_of(event: &Event) -> Option<StreamId> {
    match event {
        Event::Headers { stream, .. } | Event::Data { stream, .. } | Event::Ended { stream, .. } => {
            Some(*stream)
        }
        _ => None,
    }
}

/// The packet that opens a session and makes a call of one message in it; and the session.
pub(crate) fn first_packet(method: &str, message: &'static [u8], settings: Settings) -> (Bytes, Session) {
    let mut session = Session::new(Side::Client, settings, Instant::now().into_std());
    let stream = session.open(v1::Open { method: method.to_owned(), ..v1::Open::default() }).unwrap();
    session.send(stream, Bytes::from_static(message), 0, true);
    let mut packet = BytesMut::new();
    session.poll_packet(&mut packet, 32 * 1024);
    (packet.freeze(), session)
}

/// All that came back of a call.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Initial metadata; `None` when the answer was trailers only.
    pub(crate) headers: Option<Vec<v1::Metadata>>,
    pub(crate) messages: Vec<Vec<u8>>,
    /// The last message was not complete when the call ended.
    pub(crate) incomplete: bool,
    pub(crate) trailers: v1::Trailers,
}

impl Answer {
    pub(crate) fn code(&self) -> Code {
        Code(self.trailers.code)
    }

    /// Whether the proxy made the status itself.
    pub(crate) fn by_proxy(&self) -> bool {
        text(&self.trailers.metadata, "bidiway-origin").as_deref() == Some("proxy")
    }
}

/// The first text value of a name.
pub(crate) fn text(metadata: &[v1::Metadata], name: &str) -> Option<String> {
    metadata.iter().find(|entry| entry.name == name).and_then(|entry| match &entry.value {
        Some(v1::metadata::Value::Text(text)) => Some(text.clone()),
        _ => None,
    })
}
