//! What to send next: the session's own frames, then credit, then the streams in turn.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{
    Event, Session, Side, StreamId,
    core::Phase,
    stream::{Head, Inbound, Outbound, Streams, Tail},
};
use crate::wire::{
    frame::{self, Frame, FrameKind},
    v1,
};

/// What waits to be sent. Of each frame of the session at most one waits: a later one replaces it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Hello or Welcome: before anything else.
    pub(super) greeting: Option<FrameKind>,
    pub(super) ack: bool,
    pub(super) go_away: Option<Box<v1::GoAway>>,
    pub(super) ping: Option<u64>,
    pub(super) pong: Option<u64>,
    pub(super) refresh: Option<v1::Refresh>,
    /// Streams that owe credit to the peer, each once. Their frames are small and stop the peer from waiting, so
    /// they go before data. Streams that are gone may stand here until their turn.
    pub(super) owing: VecDeque<StreamId>,
    /// Streams with something to send, in turn, each once. Streams that are gone may stand here until their turn.
    pub(super) ready: VecDeque<StreamId>,
}

impl Outbox {
    pub(super) fn ready(&mut self, id: StreamId, out: &mut Outbound) {
        if !out.ready && !out.is_empty() {
            out.ready = true;
            self.ready.push_back(id);
        }
    }

    pub(super) fn owe(&mut self, id: StreamId, inbound: &mut Inbound) {
        if !inbound.owing {
            inbound.owing = true;
            self.owing.push_back(id);
        }
    }

    /// Takes streams off the lists that are in no table any more. Called where streams disappear without their
    /// turn, so that opening and cancelling past a blocked carrier cannot grow the lists: the cost is spread over
    /// the streams that went.
    pub(super) fn sweep(&mut self, streams: &Streams) {
        let most = 2 * streams.len() + 32;
        if self.ready.len() > most {
            self.ready.retain(|id| streams.contains_key(id));
        }
        if self.owing.len() > most {
            self.owing.retain(|id| streams.contains_key(id));
        }
    }

    /// Drops what was meant for the carrier that is gone. What belongs to streams waits for the next one.
    pub(super) fn leave_carrier(&mut self) {
        self.greeting = None;
        self.ack = false;
        self.ping = None;
        self.pong = None;
    }

    /// The session is closed: keeps what says goodbye, and the ends of the streams that are in the table.
    pub(super) fn forget(&mut self, streams: &Streams) {
        self.ack = false;
        self.ping = None;
        self.pong = None;
        self.refresh = None;
        self.owing = VecDeque::new();
        self.ready.retain(|id| streams.contains_key(id));
    }
}

impl Session {
    pub(super) fn fill(&mut self, packet: &mut BytesMut, target: usize) {
        if let Some(kind) = self.outbox.greeting.take() {
            frame::encode(&Frame { stream: 0, kind }, packet);
        } else if self.side == Side::Proxy && self.phase == Phase::Greeting {
            return; // Welcome has to be first
        }
        if matches!(self.phase, Phase::Asking | Phase::Detached | Phase::Resuming) {
            return; // without a carrier, or until both know what was lost
        }
        self.fill_session(packet);
        let (mut target, mut credit_target) = (target, target);
        if let Some(resume) = self.resume.as_deref_mut() {
            if !resume.replay.send_again(packet, target) {
                return;
            }
            resume.replay.begin(packet.len());
            credit_target = target.min(packet.len() + resume.replay.room_for_credit());
            target = target.min(packet.len() + resume.replay.room());
        }
        while packet.len() < credit_target
            && let Some(stream) = self.outbox.owing.pop_front()
        {
            let Some(s) = self.streams.get_mut(&stream).filter(|s| !s.gone) else { continue };
            s.inbound.owing = false;
            let owed = s.inbound.repay();
            if owed > 0 {
                self.sequence.sent += 1;
                frame::encode(&Frame { stream, kind: FrameKind::Credit(u64::from(owed)) }, packet);
            }
        }
        while packet.len() < target
            && let Some(stream) = self.outbox.ready.pop_front()
        {
            self.fill_turn(stream, packet);
        }
        if let Some(resume) = self.resume.as_deref_mut() {
            resume.replay.keep(packet);
        }
        for list in [&mut self.outbox.owing, &mut self.outbox.ready] {
            if list.is_empty() && list.capacity() > 64 {
                *list = VecDeque::new(); // a burst must not pin its room in an idle session
            }
        }
    }

    fn fill_session(&mut self, packet: &mut BytesMut) {
        let mut put = |kind| frame::encode(&Frame { stream: 0, kind }, packet);
        let outbox = &mut self.outbox;
        if std::mem::take(&mut outbox.ack) {
            put(FrameKind::Ack(self.sequence.acknowledge()));
        }
        if let Some(number) = outbox.pong.take() {
            put(FrameKind::Pong(number));
        }
        if let Some(number) = outbox.ping.take() {
            put(FrameKind::Ping(number));
        }
        if let Some(refresh) = outbox.refresh.take() {
            put(FrameKind::Refresh(refresh));
        }
        if let Some(go_away) = outbox.go_away.take() {
            put(FrameKind::GoAway(go_away));
        }
    }

    /// One stream's turn: its head, one piece, and its tail when no more pieces wait.
    fn fill_turn(&mut self, stream: StreamId, packet: &mut BytesMut) {
        let Some(s) = self.streams.get_mut(&stream) else { return };
        let out = &mut s.outbound;
        out.ready = false;
        let sent = &mut self.sequence.sent;
        let mut put = |kind, packet: &mut BytesMut| {
            *sent += 1;
            frame::encode(&Frame { stream, kind }, packet);
        };
        match out.head.take() {
            Some(Head::Headers(headers)) => put(FrameKind::Headers(headers), packet),
            Some(Head::Open(open)) => {
                self.last_sent = stream;
                put(FrameKind::Open(open), packet);
            }
            None => {}
        }
        if let Some(piece) = out.pop() {
            if out.relent() {
                self.events.push_back(Event::Writable { stream });
            }
            self.sequence.sent += 1;
            frame::encode_data(stream, &piece.bytes, piece.remaining, piece.last, packet);
            if let Some(resume) = self.resume.as_deref_mut() {
                resume.replay.keep_payload(packet, self.sequence.sent, piece.bytes);
            }
            if !out.data.is_empty() {
                self.outbox.ready(stream, out);
                return;
            }
        }
        let Some(tail) = out.tail.take() else { return };
        self.sequence.sent += 1;
        let kind = match tail {
            Tail::Cancel => FrameKind::Cancel,
            Tail::HalfClose => FrameKind::HalfClose,
            Tail::Trailers(trailers) => FrameKind::Trailers(trailers),
        };
        let over = !matches!(kind, FrameKind::HalfClose);
        frame::encode(&Frame { stream, kind }, packet);
        if over {
            self.remove(stream);
        }
    }

    /// Takes a stream out of the table.
    pub(super) fn remove(&mut self, stream: StreamId) {
        if let Some(s) = self.streams.remove(&stream)
            && !s.gone
        {
            self.open -= 1;
        }
        if self.streams.is_empty() && self.streams.capacity() > 64 {
            self.streams.shrink_to_fit();
        }
        self.outbox.sweep(&self.streams);
    }
}
