//! The session protocol: the client side of the same core that the proxy has, over one WebSocket.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use anyhow::{Context, bail};
use bidiway::{
    session::{Event, Session, Settings, Side, StreamId},
    wire::v1,
};
use bytes::{Bytes, BytesMut};

use super::{
    Plan, Worker,
    http_carrier::HttpCarrier,
    phase::{self, Phase},
    websocket::WebSocket,
};
use crate::shape::Kind;

/// How much one packet holds, about.
const PACKET_TARGET: usize = 32 * 1024;
/// No more packets are made while so much waits for the kernel.
const OUTBOX_TARGET: usize = 128 * 1024;
/// Above this size of message, reads are large.
const LARGE: usize = 4 * 1024;

pub(super) async fn connect(plan: &Plan, index: u32) -> anyhow::Result<Socket> {
    let read_size = if plan.shape.size > LARGE || plan.shape.streams > 10 { 128 * 1024 } else { 8 * 1024 };
    let settings = Settings {
        agent: concat!("bidiway-load/", env!("CARGO_PKG_VERSION")).to_owned(),
        resumable: plan.resumable,
        max_message: plan.shape.size.max(4 << 20) as u64,
        ..Settings::default()
    };
    let mut session = Session::new(Side::Client, settings, Instant::now());
    let web = if plan.http {
        // Hello goes alone: nothing is opened yet.
        let mut hello = BytesMut::new();
        session.poll_packet(&mut hello, PACKET_TARGET);
        Web::Http(Box::new(HttpCarrier::connect(plan.target, &hello, read_size).await?))
    } else {
        Web::Socket(WebSocket::connect(plan.target, &plan.path, read_size).await?)
    };
    let mut socket = Socket {
        web,
        session,
        packet: BytesMut::new(),
        welcomed: false,
        kind: plan.shape.kind,
        method: plan.method.clone(),
        message: Bytes::from(vec![b'x'; plan.shape.size]),
        window: plan.shape.window,
        calls: Vec::new(),
        by_id: HashMap::new(),
        in_flight: 0,
        index,
    };
    for place in 0..plan.shape.streams as usize {
        let mut call = Call { id: 0, sent: VecDeque::new(), queued: 0, rest: Bytes::new() };
        if socket.kind == Kind::Echo {
            call.id = socket.session.open(socket.open())?;
            socket.by_id.insert(call.id, place);
        }
        socket.calls.push(call);
    }
    while !socket.welcomed {
        socket.turn(None).await.context("waiting for Welcome")?;
    }
    // One operation on each stream: all are open at the service then.
    socket.work(&Phase::alone(plan.shape.streams.into())).await.context("warming up")?;
    Ok(socket)
}

/// What carries the session.
enum Web {
    Socket(WebSocket),
    Http(Box<HttpCarrier>),
}

impl Web {
    fn waiting(&self) -> usize {
        match self {
            Self::Socket(web) => web.waiting(),
            Self::Http(web) => web.waiting(),
        }
    }

    fn queue(&mut self, packet: &[u8]) {
        match self {
            Self::Socket(web) => web.queue(packet),
            Self::Http(web) => web.queue(packet),
        }
    }

    async fn exchange(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Socket(web) => web.exchange().await,
            Self::Http(web) => web.exchange().await,
        }
    }

    fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        match self {
            Self::Socket(web) => web.next(),
            Self::Http(web) => web.next(),
        }
    }
}

/// One carrier, its session and all its streams.
pub(super) struct Socket {
    web: Web,
    session: Session,
    packet: BytesMut,
    welcomed: bool,
    kind: Kind,
    method: String,
    message: Bytes,
    window: u32,
    calls: Vec<Call>,
    by_id: HashMap<StreamId, usize>,
    in_flight: u64,
    index: u32,
}

/// A stream that stays open, or a place for one unary call after the other.
struct Call {
    id: StreamId,
    /// When the operations in flight began.
    sent: VecDeque<Instant>,
    /// Messages not yet given to the session.
    queued: u32,
    /// What is left of the message that is being given to it.
    rest: Bytes,
}

impl Worker for Socket {
    async fn work(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let mut turn = 0;
        loop {
            // A paced load has one stream and one message in flight: a slot is due when nothing is under way.
            if self.in_flight == 0 {
                if phase.is_over() {
                    return Ok(());
                }
                let begun = phase::wait(phase.slot(self.index, turn)).await;
                turn += 1;
                for place in 0..self.calls.len() {
                    self.begin(place, phase, begun)?;
                }
                continue;
            }
            self.turn(Some(phase)).await?;
        }
    }

    async fn idle(&mut self) -> anyhow::Result<()> {
        loop {
            self.turn(None).await?;
        }
    }
}

impl Socket {
    fn open(&self) -> v1::Open {
        v1::Open { method: self.method.clone(), ..v1::Open::default() }
    }

    /// Fills a stream's window with operations, as long as there are any.
    fn begin(&mut self, place: usize, phase: &Phase, now: Instant) -> anyhow::Result<()> {
        while self.calls[place].sent.len() < self.window as usize && phase.take() {
            if self.kind == Kind::Unary {
                self.calls[place].id = self.session.open(self.open())?;
                self.by_id.insert(self.calls[place].id, place);
            }
            self.calls[place].sent.push_back(now);
            self.calls[place].queued += 1;
            self.in_flight += 1;
        }
        self.push(place);
        Ok(())
    }

    /// Gives the session as much as it takes of what a call has to send; a `Writable` event calls again.
    fn push(&mut self, place: usize) {
        let call = &mut self.calls[place];
        loop {
            if call.rest.is_empty() {
                if call.queued == 0 {
                    return;
                }
                call.queued -= 1;
                call.rest = self.message.clone();
            }
            let Some(room) = self.session.piece(call.id, call.rest.len()) else { return };
            let piece = call.rest.split_to(room);
            let last = self.kind == Kind::Unary && call.rest.is_empty();
            self.session.send(call.id, piece, call.rest.len() as u64, last);
        }
    }

    /// Sends what is ready, waits for what comes, and acts on it.
    async fn turn(&mut self, phase: Option<&Phase>) -> anyhow::Result<()> {
        while self.web.waiting() < OUTBOX_TARGET && self.session.poll_packet(&mut self.packet, PACKET_TARGET)
        {
            self.web.queue(&self.packet);
            self.packet.clear();
            // Room in the outbox may let calls go on.
            self.drain(phase, Instant::now())?;
        }
        self.web.exchange().await?;
        let now = Instant::now();
        while let Some(packet) = self.web.next()? {
            self.session.handle_packet(packet, now);
            self.drain(phase, now)?;
        }
        Ok(())
    }

    fn drain(&mut self, phase: Option<&Phase>, now: Instant) -> anyhow::Result<()> {
        while let Some(event) = self.session.poll_event() {
            self.act(event, phase, now)?;
        }
        Ok(())
    }

    fn act(&mut self, event: Event, phase: Option<&Phase>, now: Instant) -> anyhow::Result<()> {
        match event {
            Event::Data { stream, bytes, remaining, .. } => {
                self.session.consumed(stream, bytes.len(), 1);
                if remaining == 0 && self.kind == Kind::Echo {
                    let place = *self.by_id.get(&stream).context("an echo on an unknown stream")?;
                    self.done(place, phase, now)?;
                }
            }
            Event::Ended { stream, trailers } => {
                if trailers.code != 0 || self.kind == Kind::Echo {
                    bail!("a call ended with code {}: {}", trailers.code, trailers.message);
                }
                let place = self.by_id.remove(&stream).context("an unknown call ended")?;
                self.done(place, phase, now)?;
            }
            Event::Welcomed(_) => self.welcomed = true,
            Event::Writable { stream } => {
                if let Some(&place) = self.by_id.get(&stream) {
                    self.push(place);
                }
            }
            Event::Closed(reason) => bail!("the session is over: {} {}", reason.close_code, reason.message),
            Event::GoAway(away) => bail!("the proxy is going away: {}", away.message),
            Event::Headers { .. } => {}
            // The events of a proxy's session; and this one never loses its carrier.
            Event::Cancelled { .. }
            | Event::Detached(_)
            | Event::Greeted { .. }
            | Event::HalfClosed { .. }
            | Event::Opened { .. }
            | Event::Refreshed
            | Event::ResumeAsked(_)
            | Event::Resumed { .. }
            | Event::TokenRetired { .. } => bail!("a client's session does not say {event:?}"),
        }
        Ok(())
    }

    /// An operation is complete.
    fn done(&mut self, place: usize, phase: Option<&Phase>, now: Instant) -> anyhow::Result<()> {
        let begun = self.calls[place].sent.pop_front().context("more answers than messages")?;
        self.in_flight -= 1;
        let Some(phase) = phase else { return Ok(()) };
        phase.record(now - begun);
        if !phase.is_paced() {
            self.begin(place, phase, now)?
        }
        Ok(())
    }
}
