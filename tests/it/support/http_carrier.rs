//! A client's side of the HTTP carrier (docs/protocol.md, section 20), over each version of HTTP.

use std::{collections::VecDeque, net::SocketAddr};

use bidiway::{
    session::{Session, Settings, Side},
    wire::v1::{HttpClose, HttpDown, HttpOpen, HttpPoll, HttpUp},
};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use super::carrier::{Carrier, tcp, tls};

/// A connection for requests, made when it is needed and again when it is gone. Or several, which take turns.
pub(crate) struct Requests {
    carrier: Carrier,
    /// The first is the next one's.
    to: VecDeque<(SocketAddr, Option<Connection>)>,
    /// Headers of each request.
    pub(crate) headers: HeaderMap,
}

enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Requests {
    pub(crate) fn new(carrier: Carrier, address: SocketAddr, headers: HeaderMap) -> Self {
        Self::among(carrier, [address], headers)
    }

    /// Each request goes to another address than the one before.
    pub(crate) fn among(
        carrier: Carrier,
        addresses: impl IntoIterator<Item = SocketAddr>,
        headers: HeaderMap,
    ) -> Self {
        Self { carrier, to: addresses.into_iter().map(|address| (address, None)).collect(), headers }
    }

    /// Another connection for the same.
    pub(crate) fn another(&self) -> Self {
        let addresses = self.to.iter().map(|(address, _)| *address);
        Self::among(self.carrier, addresses, self.headers.clone())
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        self.request("POST", path, body).await
    }

    /// A request that is sent again when its connection breaks, as numbers allow.
    async fn insist(&mut self, path: &str, body: impl Into<Bytes>) -> Option<Response<Incoming>> {
        let body = body.into();
        for _ in 0..3 {
            if let Ok(response) = self.post(path, body.clone()).await {
                return Some(response);
            }
        }
        None
    }

    /// One request; its answer's head, and its body to be read.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let (address, mut connection) = self.to.pop_front().unwrap();
        let ready = match &mut connection {
            None => false,
            Some(Connection::One(one)) => one.ready().await.is_ok(),
            Some(Connection::Two(two)) => two.ready().await.is_ok(),
        };
        if !ready {
            connection = Some(self.connect(address).await);
        }
        let mut request = Request::builder().method(method).body(Full::new(body.into())).unwrap();
        request.headers_mut().extend(self.headers.clone());
        let answer = match connection.as_mut().unwrap() {
            Connection::One(one) => {
                *request.uri_mut() = path.parse().unwrap();
                request.headers_mut().insert("host", address.to_string().parse().unwrap());
                one.send_request(request).await
            }
            Connection::Two(two) => {
                let scheme = if self.carrier.has_tls() { "https" } else { "http" };
                *request.uri_mut() = format!("{scheme}://{address}{path}").parse().unwrap();
                two.send_request(request).await
            }
        };
        self.to.push_back((address, connection));
        answer
    }

    async fn connect(&self, address: SocketAddr) -> Connection {
        let io = tcp(address).await;
        match self.carrier {
            Carrier::Http1 => self.speak(io).await,
            Carrier::Http1Tls => self.speak(tls(io, "http/1.1").await).await,
            Carrier::Http2 => self.speak(io).await,
            Carrier::Http2Tls => self.speak(tls(io, "h2").await).await,
        }
    }

    async fn speak(&self, io: impl super::socket::Io + 'static) -> Connection {
        let io = TokioIo::new(io);
        if matches!(self.carrier, Carrier::Http1 | Carrier::Http1Tls) {
            let (one, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Connection::One(one)
        } else {
            let (two, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Connection::Two(two)
        }
    }
}

/// The status of an answer, and its sentence.
pub(crate) async fn said(response: hyper::Result<Response<Incoming>>) -> (u16, String) {
    let response = response.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

pub(crate) fn up(carrier: &Bytes, number: u64, packet: impl Into<Bytes>) -> Vec<u8> {
    HttpUp { carrier: carrier.clone(), number, packet: packet.into(), close: None }.encode_to_vec()
}

pub(crate) fn close(carrier: &Bytes, code: u32) -> Vec<u8> {
    let close = Some(HttpClose { code, reason: String::new() });
    HttpUp { carrier: carrier.clone(), close, ..HttpUp::default() }.encode_to_vec()
}

pub(crate) fn poll(carrier: &Bytes, number: u64, wait_ms: u32) -> Vec<u8> {
    HttpPoll { carrier: carrier.clone(), number, wait_ms }.encode_to_vec()
}

pub(crate) fn open(packet: impl Into<Bytes>, poll: bool) -> Vec<u8> {
    HttpOpen { packet: packet.into(), poll }.encode_to_vec()
}

/// One field of an `HttpDown`.
#[derive(Debug)]
pub(crate) enum Field {
    Opened(Bytes),
    Packet(Bytes),
    Close(HttpClose),
    Padding(usize),
}

/// Reads fields from bytes that come in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Fields(BytesMut);

impl Fields {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn next(&mut self) -> Option<Field> {
        let mut rest = &self.0[..];
        if rest.is_empty() {
            return None;
        }
        rest.advance(1);
        let len = prost::encoding::decode_varint(&mut rest).ok()? as usize;
        if rest.len() < len {
            return None;
        }
        let size = self.0.len() - rest.len() + len;
        let mut field = HttpDown::decode(self.0.split_to(size).freeze()).unwrap();
        Some(if let Some(opened) = field.opened {
            Field::Opened(opened.carrier)
        } else if let Some(close) = field.close {
            Field::Close(close)
        } else if let Some(padding) = field.padding.pop() {
            Field::Padding(padding.len())
        } else {
            Field::Packet(field.packet.pop().unwrap())
        })
    }
}

/// An HTTP carrier, used like a WebSocket.
pub(crate) struct HttpWire {
    pub(crate) up: Requests,
    polls: bool,
    /// Empty before the first packet has opened it.
    pub(crate) carrier: Bytes,
    /// Of the last packet.
    pub(crate) number: u64,
    pub(crate) down: Down,
    pub(crate) fields: Fields,
}

/// Where bytes come from.
pub(crate) enum Down {
    Unopened,
    Stream(Box<Incoming>),
    Poll { requests: Option<Requests>, number: u64, waiting: Option<JoinHandle<(Requests, Bytes)>> },
    Ended,
}

impl HttpWire {
    pub(crate) fn new(requests: Requests, polls: bool) -> Self {
        Self {
            up: requests,
            polls,
            carrier: Bytes::new(),
            number: 0,
            down: Down::Unopened,
            fields: Fields::default(),
        }
    }

    /// Sends a packet, and waits until the proxy has taken it.
    pub(crate) async fn send(&mut self, message: Message) -> Result<(), ()> {
        let Message::Binary(mut packet) = message else { panic!("{message:?} cannot be sent") };
        if matches!(self.down, Down::Unopened) {
            let hello = first_frame(&mut packet);
            self.open(hello).await?;
        }
        if packet.is_empty() {
            return Ok(());
        }
        self.number += 1;
        let response = self.up.insist("/bidiway/http/up", up(&self.carrier, self.number, packet)).await;
        match response {
            Some(response) if response.status() == StatusCode::NO_CONTENT => Ok(()),
            _ => Err(()),
        }
    }

    async fn open(&mut self, hello: Bytes) -> Result<(), ()> {
        let mut requests = self.up.another();
        let response = requests.post("/bidiway/http/open", open(hello, self.polls)).await.map_err(drop)?;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/octet-stream");
        assert_eq!(response.headers().contains_key("content-length"), self.polls);
        let body = response.into_body();
        if self.polls {
            self.fields.feed(&body.collect().await.map_err(drop)?.to_bytes());
            self.down = Down::Poll { requests: Some(requests), number: 0, waiting: None };
        } else {
            self.down = Down::Stream(Box::new(body));
        }
        match self.field().await {
            Some(Field::Opened(carrier)) => self.carrier = carrier,
            other => panic!("instead of `opened`: {other:?}"),
        }
        Ok(())
    }

    /// What comes next, as a WebSocket would say it. May be given up and called again.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, ()>> {
        match self.field().await? {
            Field::Packet(packet) => Some(Ok(Message::Binary(packet))),
            Field::Padding(len) => Some(Ok(Message::Pong(vec![0; len].into()))),
            Field::Close(close) => {
                self.down = Down::Ended;
                let code = u16::try_from(close.code).unwrap();
                Some(Ok(Message::Close(Some(CloseFrame { code: code.into(), reason: close.reason.into() }))))
            }
            Field::Opened(_) => panic!("opened twice"),
        }
    }

    /// Opens it with a session of its own, and waits for Welcome.
    pub(crate) async fn opened(mut self, settings: Settings) -> Self {
        self.send(Message::Binary(hello(settings))).await.unwrap();
        let field = self.field().await;
        assert!(matches!(field, Some(Field::Packet(_))), "instead of Welcome: {field:?}");
        self
    }

    /// One request for this carrier.
    pub(crate) async fn ask(&mut self, path: &str, body: Vec<u8>) -> (u16, String) {
        said(self.up.post(path, body).await).await
    }

    /// Reads until the proxy closes the carrier.
    pub(crate) async fn closed(&mut self) -> Option<(u32, String)> {
        loop {
            match self.field().await? {
                Field::Close(close) => return Some((close.code, close.reason)),
                Field::Packet(_) | Field::Padding(_) | Field::Opened(_) => {}
            }
        }
    }

    pub(crate) async fn field(&mut self) -> Option<Field> {
        loop {
            if let Some(field) = self.fields.next() {
                return Some(field);
            }
            match &mut self.down {
                Down::Unopened => panic!("it is not open"),
                Down::Ended => return None,
                Down::Stream(body) => match body.frame().await {
                    Some(Ok(frame)) => self.fields.feed(frame.data_ref().unwrap()),
                    Some(Err(_)) | None => self.down = Down::Ended,
                },
                Down::Poll { requests, number, waiting } => {
                    if let Some(mut requests) = requests.take() {
                        *number += 1;
                        let body = poll(&self.carrier, *number, 0);
                        *waiting = Some(tokio::spawn(async move {
                            let response = requests.insist("/bidiway/http/down", body).await;
                            let response = response.expect("the poll is answered");
                            assert_eq!(response.status(), StatusCode::OK);
                            let bytes = response.into_body().collect().await.unwrap().to_bytes();
                            (requests, bytes)
                        }));
                    }
                    match waiting.as_mut().unwrap().await {
                        Ok((back, bytes)) => {
                            self.fields.feed(&bytes);
                            *requests = Some(back);
                        }
                        Err(_) => self.down = Down::Ended,
                    }
                }
            }
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(&mut self, code: u32) {
        let response = self.up.post("/bidiway/http/up", close(&self.carrier, code)).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }
}

impl Drop for HttpWire {
    fn drop(&mut self) {
        if let Down::Poll { waiting: Some(waiting), .. } = &self.down {
            waiting.abort();
        }
    }
}

/// A packet with the Hello of a new session.
pub(crate) fn hello(settings: Settings) -> Bytes {
    let mut session = Session::new(Side::Client, settings, tokio::time::Instant::now().into_std());
    let mut packet = BytesMut::new();
    assert!(session.poll_packet(&mut packet, 1024));
    packet.freeze()
}

/// A packet with a Ping.
pub(crate) fn ping(number: u8) -> Bytes {
    vec![0x0a, 2, 0x60, number].into()
}

/// Takes the first frame of a packet.
pub(crate) fn first_frame(packet: &mut Bytes) -> Bytes {
    let mut rest = &packet[1..];
    let len = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
    let size = packet.len() - rest.len() + len;
    packet.split_to(size)
}
