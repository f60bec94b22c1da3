//! What must always hold.

use super::{
    FRAME_OVERHEAD, MAX_PIECE, Session, Side, StreamId,
    core::{Phase, STREAMS_BEFORE_WELCOME},
    stream::{MAX_CREDIT, Stream, Tail},
};

impl Session {
    /// Checks what must always hold. Called by tests after every mutation.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        let open = self.streams.values().filter(|s| !s.gone).count();
        assert_eq!(self.open as usize, open, "the count of open streams");
        if self.phase == Phase::Closed {
            assert_eq!(open, 0, "no stream is open in a closed session");
        }
        if self.side == Side::Proxy {
            assert!(open <= self.max_streams as usize, "more streams than allowed");
            assert!(
                self.streams.len() <= (self.max_streams + STREAMS_BEFORE_WELCOME) as usize,
                "refusals are bounded"
            );
        }
        assert!(self.sequence.acked <= self.sequence.sent, "the peer acknowledged what was sent");
        self.check_resume();
        assert!(self.last_sent <= self.last_opened, "no number is sent before it is given");

        // Sorted, not hashed: simulations come here millions of times, without optimisation.
        let mut ready: Vec<StreamId> = self.outbox.ready.iter().copied().collect();
        let mut owing: Vec<StreamId> = self.outbox.owing.iter().copied().collect();
        ready.sort_unstable();
        owing.sort_unstable();
        assert!(ready.is_sorted_by(|one, next| one < next), "each stream has one turn");
        assert!(owing.is_sorted_by(|one, next| one < next), "each stream owes once");
        assert!(ready.len() <= 2 * self.streams.len() + 34, "turns of streams that are gone are swept");
        assert!(owing.len() <= 2 * self.streams.len() + 34, "debts of streams that are gone are swept");
        for (id, s) in &self.streams {
            assert!(*id <= self.last_opened, "stream {id} was opened");
            assert_eq!(s.outbound.ready, ready.binary_search(id).is_ok(), "stream {id}: its turn");
            assert_eq!(s.outbound.ready, !s.outbound.is_empty(), "stream {id}: a turn when something waits");
            self.check_stream(*id, s, owing.binary_search(id).is_ok());
        }
    }

    fn check_resume(&self) {
        let Some(resume) = self.resume.as_deref() else {
            assert!(!self.is_resumable(), "a session that can be resumed keeps what it has sent");
            assert!(!matches!(self.phase, Phase::Asking | Phase::Detached | Phase::Resuming));
            return;
        };
        assert_ne!(self.phase, Phase::Closed, "a closed session cannot be resumed");
        assert_eq!(self.asked.is_some(), self.phase == Phase::Asking, "the Hello that waits for an answer");
        resume.replay.check_invariants(self.sequence.acked, self.sequence.sent);
        if self.is_resumable() {
            assert!(!resume.token.is_empty() && resume.previous.as_ref() != Some(&resume.token));
        }
        let away = matches!(self.phase, Phase::Detached | Phase::Resuming);
        assert!(away || resume.expires.is_none(), "the grace runs without a carrier only");
        if self.phase == Phase::Detached {
            assert!(self.outbox.greeting.is_none() && !self.outbox.ack, "nothing waits for a lost carrier");
        }
    }

    fn check_stream(&self, id: StreamId, s: &Stream, owing: bool) {
        let (inbound, out) = (&s.inbound, &s.outbound);
        assert_eq!(inbound.window(), self.granted, "stream {id}: granted + held + owed is the window");
        let cost: u32 = out.data.iter().map(|p| p.bytes.len() as u32 + FRAME_OVERHEAD).sum();
        assert_eq!(out.cost, cost, "stream {id}: what its outbox holds");
        assert!(cost <= 2 * (MAX_PIECE as u32 + FRAME_OVERHEAD), "stream {id}: two pieces wait at most");
        assert!(out.credit <= MAX_CREDIT, "stream {id}: credit below its cap");
        if s.gone {
            let end = matches!(out.tail, Some(Tail::Cancel | Tail::Trailers(_)));
            assert!(end, "stream {id}: one that is gone waits for its last frame only");
            return;
        }
        assert_eq!(inbound.owing, owing, "stream {id}: its debt");
        assert!(
            inbound.closed || owing || inbound.owed < (inbound.window() / 2).max(1),
            "stream {id}: half a window is given back"
        );
        assert!(!inbound.closed || inbound.left == 0, "stream {id}: no message is open after the last");
        assert!(
            !matches!(out.tail, Some(Tail::Cancel | Tail::Trailers(_))),
            "stream {id}: not ended and yet gone"
        );
        if let Some(piece) = out.data.back() {
            assert_eq!(piece.remaining, out.left, "stream {id}: the message in the outbox");
            assert_eq!(piece.last, out.finished, "stream {id}: its last message");
        }
    }
}
