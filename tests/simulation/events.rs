//! What each side may hear, by the model.

use bidiway::{
    session::{CloseReason, Event, FRAME_OVERHEAD, Side, StreamId},
    wire::v1,
};
use bytes::BytesMut;

use crate::{call::Life, world::World};

impl World<'_> {
    /// Drains both sides' events against the model.
    pub(crate) fn events(&mut self) {
        while let Some(event) = self.proxy.poll_event() {
            self.at_proxy(event);
        }
        while let Some(event) = self.client.poll_event() {
            self.at_client(event);
        }
    }

    fn at_proxy(&mut self, event: Event) {
        assert!(!self.proxy_closed, "nothing follows Closed: {event:?}");
        match event {
            Event::Cancelled { stream, reason, .. } => {
                let call = self.calls.get_mut(&stream).expect("a call");
                assert_eq!(call.proxy, Life::Open, "one end only");
                call.proxy = Life::Over;
                match reason {
                    "cancelled" => assert_eq!(call.client, Life::Over, "only the client cancels"),
                    "message_too_large" => {
                        assert!(call.oversized);
                        self.count("oversized");
                    }
                    other => assert!(["carrier_lost", "lost", "resume_expired"].contains(&other), "{other}"),
                }
            }
            Event::Closed(reason) => {
                self.proxy_closed = true;
                self.carriers.tokens.clear();
                let open = self.streams(Side::Proxy, |_| true);
                assert!(open.is_empty(), "everything has ended before Closed: {open:?}");
                match reason.label {
                    "drained" => {
                        assert!(self.going_away);
                        self.count("drained");
                        self.goodbye(reason);
                    }
                    "resume_expired" => self.count("the proxy gave the session up"),
                    other => assert!(["carrier_lost", "lost"].contains(&other), "{reason:?}"),
                }
                self.left_by_proxy();
            }
            Event::Detached(reason) => {
                assert_eq!(reason.label, "silent");
                self.count("silence for the proxy");
                self.left_by_proxy();
            }
            Event::Resumed { frames, .. } => {
                assert_eq!(frames as usize, self.log[1].len() - self.next[1]);
            }
            Event::TokenRetired { token } => {
                let before = self.carriers.tokens.len();
                self.carriers.tokens.retain(|known| *known != token);
                assert_eq!(self.carriers.tokens.len(), before - 1, "a token is retired once");
            }
            Event::Data { stream, bytes, remaining, first, last } => {
                let window = self.windows.0;
                let call = self.calls.get_mut(&stream).expect("a call");
                assert_eq!(call.proxy, Life::Open, "nothing after the end");
                call.up.receive(&bytes, remaining, first, last);
                let held: usize = call.up.held.iter().map(|len| len + FRAME_OVERHEAD as usize).sum();
                assert!(held as u64 <= window, "what is held is within the credit");
            }
            Event::Greeted { .. } => self.greeted = true,
            Event::Refreshed => {}
            Event::HalfClosed { stream } => {
                let call = self.calls.get_mut(&stream).expect("a call");
                assert!(call.proxy == Life::Open && !call.up.end_seen);
                assert!(call.up.complete(), "every message came before the half-close");
                call.up.end_seen = true;
            }
            Event::Opened { stream, open } => {
                assert_eq!(open.method, format!("/s.S/{stream}"));
                assert_eq!(open.metadata.len(), 1, "the defaults are merged in");
                let call = self.calls.get_mut(&stream).expect("a call");
                assert_eq!(call.proxy, Life::Unheard);
                call.proxy = Life::Open;
            }
            Event::Writable { stream } => {
                self.calls.get_mut(&stream).expect("a call").down.blocked = false;
                self.count("writable");
            }
            other => panic!("not an event of a proxy: {other:?}"),
        }
    }

    fn at_client(&mut self, event: Event) {
        assert!(!self.client_closed, "nothing follows Closed: {event:?}");
        match event {
            Event::Closed(reason) => {
                self.client_closed = true;
                let known = ["carrier_lost", "drained", "lost", "resume_expired", "silent"];
                assert!(known.contains(&reason.label), "{reason:?}");
                if reason.label == "resume_expired" {
                    self.count("the client gave the session up");
                }
                let open = self.streams(Side::Client, |_| true);
                assert!(open.is_empty(), "everything has ended before Closed: {open:?}");
            }
            Event::Data { stream, bytes, remaining, first, last } => {
                let call = self.calls.get_mut(&stream).expect("a call");
                assert!(call.client == Life::Open && !last, "nothing after the end");
                call.down.receive(&bytes, remaining, first, last);
            }
            Event::Ended { stream, trailers } => self.ended(stream, &trailers),
            Event::Detached(reason) => {
                assert_eq!(reason.label, "silent");
                self.count("silence for the client");
                self.left_by_client();
            }
            Event::GoAway(_) => {}
            Event::Resumed { frames, .. } => {
                assert_eq!(frames as usize, self.log[0].len() - self.next[0]);
                self.count("resumed");
                if std::mem::take(&mut self.nothing_before_the_cut) {
                    self.count("resumed with calls and no message before the cut");
                }
                if std::mem::take(&mut self.cut_again) {
                    self.count("resumed after a second cut during the resume");
                }
                if self.log[1].is_empty() {
                    self.count("resumed when nothing had been received");
                }
            }
            Event::Welcomed(welcome) => {
                if welcome.resume_failure != 0 {
                    if !self.calls.is_empty() {
                        self.count("started over with open calls");
                    }
                    let open = self.streams(Side::Client, |_| true);
                    assert!(open.is_empty(), "everything of the old session has ended: {open:?}");
                    self.calls.clear();
                    self.log[0].clear();
                    self.next[0] = 0;
                    self.cut_again = false;
                    self.count("started over");
                }
            }
            Event::Headers { stream, .. } => {
                let call = &self.calls[&stream];
                assert!(call.client == Life::Open && call.headers && call.down.got == 0);
            }
            Event::Writable { stream } => {
                self.calls.get_mut(&stream).expect("a call").up.blocked = false;
                self.count("writable");
            }
            other => panic!("not an event of a client: {other:?}"),
        }
    }

    fn ended(&mut self, stream: StreamId, trailers: &v1::Trailers) {
        let call = self.calls.get_mut(&stream).expect("a call");
        assert_eq!(call.client, Life::Open, "one end only");
        call.client = Life::Over;
        if let Some(text) = trailers.message.strip_prefix("the session ended: ") {
            assert!(
                self.resumable || (trailers.code, text) == (14, "cut") || text == "drained",
                "{trailers:?}"
            );
            assert_eq!(trailers.code, 14);
            if trailers.metadata.iter().any(|e| e.name == "bidiway-unprocessed") {
                assert_eq!(call.proxy, Life::Unheard, "what was processed is not called unprocessed");
                self.count("lost, and not processed");
            }
            return;
        }
        match (call.ended, call.proxy) {
            (Some(code), _) => {
                assert_eq!(trailers.code, code, "the status is the one that was given");
                assert_eq!(call.down.got, call.down.sent_whole(), "everything came before the end");
            }
            (None, Life::Unheard) => {
                assert!(trailers.metadata.iter().any(|e| e.name == "bidiway-unprocessed"));
                match trailers.code {
                    14 => self.count("refused while going away"),
                    8 => self.count("refused for too many"),
                    code => panic!("refused with {code}"),
                }
            }
            (None, _) => assert!(call.oversized && trailers.code == 8, "{trailers:?}"),
        }
    }

    /// The proxy has closed in order: what it still has to say arrives, then the close.
    fn goodbye(&mut self, reason: CloseReason) {
        if self.carriers.client_on.is_some() && self.carriers.client_on == self.carriers.proxy_on {
            self.drain_to_client();
        } else {
            let unaware = self.streams(Side::Client, |call| call.proxy != Life::Unheard);
            assert!(unaware.is_empty(), "the client has heard of every end: {unaware:?}");
            self.count("drained while the client was away");
        }
        self.client.close(reason);
    }

    fn drain_to_client(&mut self) {
        let mut packet = BytesMut::new();
        while self.proxy.poll_packet(&mut packet, usize::MAX) {}
        let id = self.carriers.proxy_on.expect("checked by the caller");
        let down = &mut self.carriers.all.get_mut(&id).expect("the proxy is on it").down;
        let packets = down.packets.drain(..).map(|(_, packet)| packet).chain([packet]);
        for packet in packets.collect::<Vec<_>>() {
            let packet = packet.freeze();
            self.note_credit(&packet, Side::Client);
            self.client.handle_packet(packet, self.now);
            self.client.check_invariants();
        }
    }
}
