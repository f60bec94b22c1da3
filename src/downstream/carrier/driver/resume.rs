//! A session's task without its carrier, and on the next one.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use tokio::{sync::oneshot::error::RecvError, time::Instant};

use super::{Driver, State};
use crate::{
    downstream::{
        ConnInfo, Principal, call_gate,
        carrier::{
            mailbox::{Answer, Arrival, Mailbox},
            token, too_many_sockets,
        },
    },
    session::{CloseReason, Refusal},
    wire::{
        Code,
        frame::{Frame, FrameKind, PacketReader},
        metadata,
        v1::{self, ResumeFailure},
    },
};

/// Whether a client's close code ends its session; all others lose the carrier only (docs/protocol.md, section 17).
pub(super) fn ends_session(close_code: u16) -> bool {
    matches!(close_code, 1000 | 1001 | 4000..=4999) && close_code != Code::UNAVAILABLE.to_close()
}

impl Driver {
    /// The client has said Hello, and this session has begun.
    pub(super) fn greeted(&mut self, agent: &str) {
        tracing::debug!(session = %self.session_id, peer = %self.conn.peer, agent, "session opened");
        self.greeted = true;
        self.visitor = None;
        self.learn();
        let drain = &self.edge.drain;
        self.late = drain.draining.is_cancelled();
        // Who comes on new connections all the time cannot stay until there are none.
        let is_http = self.link.as_ref().is_some_and(|link| link.carrier.is_http());
        let departure = if is_http || !self.late { &drain.draining } else { &drain.closed };
        self.departure = Some(Box::pin(departure.clone().cancelled_owned()));
        self.own.wake();
        if let Some(token) = self.session.resume_tokens().next() {
            let mailbox = Mailbox::new(self.ready.waker(super::MAILBOX));
            self.entry = self.edge.sessions.enter(token, mailbox, self.late);
        }
    }

    /// Learns who the client is from what it said last about all its calls.
    pub(super) fn learn(&mut self) {
        self.hear();
        if let Some(identity) = &self.conn.shown.session {
            identity.learn();
        }
    }

    fn hear(&mut self) {
        self.refreshed = false;
        let Some(identity) = &self.conn.shown.session else { return };
        // What is no metadata ends each call, and tells nothing here.
        let metadata = metadata::from_entries(self.session.default_metadata()).unwrap_or_default();
        identity.hear(metadata, &self.conn.shown);
    }

    /// Verifying tokens takes time: of all that came in a turn only the last is, and no more often than the client may
    /// call. Otherwise it is when somebody needs it.
    pub(super) fn look_at_refresh(&mut self) {
        if !self.refreshed {
            return;
        }
        self.hear();
        if call_gate::refresh(&self.edge, &self.conn) {
            self.learn();
        }
    }

    /// Whether an arrival is who the session belongs to, as far as that was verified. Nobody in particular may become
    /// somebody.
    fn recognizes(&self, hello: &v1::Hello, conn: &ConnInfo) -> Recognized {
        let settings = self.edge.settings();
        let Some(authority) = &settings.identity else { return Recognized::Yes };
        let Some(own) = self.conn.shown.session.as_ref().and_then(|session| session.principal()) else {
            return Recognized::Yes;
        };
        let metadata = metadata::from_entries(&hello.metadata).unwrap_or_default();
        let found = authority.identify(&metadata, &conn.shown);
        match found.principal {
            Some(principal) if principal == own => Recognized::Yes,
            None if found.later => Recognized::Later,
            _ => Recognized::No,
        }
    }

    /// The client's Hello, unless it does something wrong. Not everybody may begin a session who may go on with one.
    pub(super) fn first_packet(&mut self, packet: Bytes, now: Instant) {
        // What is refused is counted: so who resumes is not asked about.
        let unwelcome = if asks_to_resume(&packet) { None } else { self.unwelcome() };
        match unwelcome {
            Some(reason) => self.session.close(reason),
            None => self.session.handle_packet(packet, now.into_std()),
        }
    }

    /// Why no new session can begin on this carrier.
    fn unwelcome(&self) -> Option<CloseReason> {
        if self.edge.drain.cut.is_cancelled() {
            let text = "this instance is shutting down; connect again";
            return Some(CloseReason::new(Code::UNAVAILABLE, "draining", text));
        }
        let crowded = self.link.as_ref().is_some_and(|link| link.crowded);
        crowded.then(|| too_many_sockets(&self.edge)).or_else(|| call_gate::overload(&self.edge))
    }

    /// This carrier's client wants to go on with another session: its task gets the carrier.
    pub(super) fn ask(&mut self, hello: v1::Hello) {
        let (Some(visitor), Some(link)) = (self.visitor.take(), self.link.take()) else { return };
        let (arrival, answered) = Arrival::new(hello, self.conn.clone(), *visitor, link);
        self.state = State::Asking(answered);
        match self.edge.sessions.elsewhere(&arrival.hello.resume_token) {
            None => self.edge.sessions.deliver(arrival),
            Some((peers, instance)) => {
                let brought = peers.bring(Arc::clone(&self.edge), instance, arrival);
                self.edge.drain.tasks.spawn(brought);
            }
        }
    }

    /// What became of that.
    pub(super) fn answered(&mut self, answer: Result<Answer, RecvError>, now: Instant) {
        self.state = State::Open;
        let reason = match answer {
            Ok(Answer::Taken) => {
                self.edge.metrics.session_continued();
                self.state = State::Gone;
                return;
            }
            Ok(Answer::Refused(link, refusal)) => {
                let label = match &refusal {
                    Refusal::Failure(failure) => label(*failure),
                    Refusal::Violation(violation) => violation.label(),
                };
                tracing::debug!(session = %self.session_id, peer = %self.conn.peer, label, "session not resumed");
                self.edge.metrics.resume_failed(label);
                self.link = Some(link);
                let unwelcome = self.unwelcome();
                if unwelcome.is_none() {
                    self.session.refuse_resume(refusal, now.into_std());
                }
                unwelcome
            }
            Ok(Answer::Busy(link)) => {
                self.edge.metrics.resume_failed("busy");
                self.link = Some(link);
                let text = "several carriers ask for this session at once; connect again";
                Some(CloseReason::new(Code::UNAVAILABLE, "resume_busy", text))
            }
            // An arrival answers even when it is dropped.
            Err(_) => {
                let text = "the carrier was lost on its way to the session";
                Some(CloseReason::new(Code::UNAVAILABLE, "lost", text))
            }
        };
        if let Some(reason) = reason {
            self.session.close(reason);
        }
        // Polled elsewhere meanwhile, perhaps.
        self.reader.wake();
        self.own.wake();
        self.drain_events();
    }

    /// What others have for this session.
    pub(super) fn open_mailbox(&mut self, now: Instant) {
        let Some(letters) = self.entry.as_ref().map(|entry| entry.mailbox().open()) else { return };
        for arrival in letters.arrivals {
            self.adopt(arrival, now);
        }
        // If it has a carrier by now, it needs no place.
        if letters.evicted.is_some_and(|lost| self.place.as_ref().is_some_and(|place| place.is(lost))) {
            let text = "there are more sessions without a carrier than the proxy keeps";
            self.session.close(CloseReason::new(Code::UNAVAILABLE, "parking_full", text));
        }
    }

    /// Takes a carrier over, if it may have this session.
    fn adopt(&mut self, mut arrival: Arrival, now: Instant) {
        let hello = std::mem::take(&mut arrival.hello);
        let known = self.session.resume_tokens().any(|token| token::same(token, &hello.resume_token));
        let refusal = if !known {
            Refusal::Failure(ResumeFailure::UnknownToken)
        } else if Principal::of(&self.settings, &arrival.visitor) != self.principal {
            Refusal::Failure(ResumeFailure::WrongPrincipal)
        } else if let who @ (Recognized::No | Recognized::Later) = self.recognizes(&hello, &arrival.conn) {
            if who == Recognized::Later {
                return arrival.busy();
            }
            Refusal::Failure(ResumeFailure::WrongPrincipal)
        } else {
            let Ok(token) = self.edge.sessions.next_token(&hello.resume_token) else {
                return; // dropped, and so refused: the system has no random numbers
            };
            match self.session.attach(hello, token, now.into_std()) {
                Ok(()) => return self.adopted(arrival, now),
                Err(refusal) => refusal,
            }
        };
        arrival.refuse(refusal);
    }

    fn adopted(&mut self, arrival: Arrival, now: Instant) {
        let session = self.conn.shown.session.take();
        let before = std::mem::replace(&mut self.conn, arrival.conn.clone());
        // The same principal, and so the same certificate; which another instance tells by its fingerprint only.
        self.conn.certificate = before.certificate;
        self.conn.shown.session = session;
        // Running calls count here when they are given up.
        self.conn.brake = before.brake;
        self.learn();
        let from = before.peer;
        let (session, peer, parked) = (&self.session_id, self.conn.peer, self.place.is_some());
        tracing::debug!(%session, %peer, %from, parked, "session resumed");
        self.place = None;
        // One more that is lost, if the proxy had not noticed it.
        self.calls.lose_carrier(&mut self.session, now);
        self.calls.find_carrier();
        let old = std::mem::replace(&mut self.link, arrival.accept());
        if let Some(old) = old {
            let code = Code::UNAVAILABLE.to_close();
            let farewell = old.farewell(code, "another carrier has taken the session over");
            self.edge.drain.tasks.spawn(farewell);
        }
        self.reader.wake();
    }

    /// The carrier brought its own end. The session goes on without one if it can, and otherwise ends; it also does if
    /// the client says that it `ends`.
    pub(super) fn lose(&mut self, label: &'static str, text: &str, ends: bool) {
        if let Some(mut link) = self.link.take() {
            // The answer to the peer's close frame, if there is one, is worth one try.
            let _ = link.carrier.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
        if ends || !self.detach(label) {
            self.gone(label, text);
        }
    }

    /// The carrier is of no more use, and its client is told so.
    pub(super) fn drop_carrier(&mut self, reason: &CloseReason) {
        if let Some(link) = self.link.take() {
            self.edge.drain.tasks.spawn(link.farewell(reason.close_code, &reason.message));
        }
    }

    /// Lets the session go on without its carrier. False: it cannot.
    pub(super) fn detach(&mut self, label: &'static str) -> bool {
        let goes_on = self.session.is_resumable() && self.cut.is_some();
        let detached = goes_on && self.session.detach(Instant::now().into_std());
        if detached {
            self.park(label);
        }
        detached
    }

    /// The session waits for its client.
    pub(super) fn park(&mut self, label: &'static str) {
        self.calls.lose_carrier(&mut self.session, Instant::now());
        let bytes = self.held_bytes();
        self.place = self.entry.as_ref().map(|entry| entry.park(self.conn.peer.ip(), bytes));
        self.edge.metrics.carrier_lost(label);
        let (session, peer) = (&self.session_id, self.conn.peer);
        tracing::debug!(%session, %peer, label, bytes, "session lost its carrier, and waits for another");
    }

    /// A parked session's calls go on: what it keeps changes. What comes into their windows wakes nobody, so it is
    /// looked at from time to time.
    pub(super) fn update_place(&mut self) {
        if self.place.is_some() {
            let bytes = self.held_bytes();
            self.place.iter_mut().for_each(|place| place.update(bytes, Instant::now()));
        }
    }

    /// After the cut nobody is waited for.
    pub(super) fn stop(&mut self) {
        self.session.close(CloseReason::new(Code::UNAVAILABLE, "draining", "the proxy has stopped"));
    }

    /// What is kept for the client.
    fn held_bytes(&mut self) -> u64 {
        (self.session.held_bytes() + self.calls.held_bytes()) as u64
    }

    /// The session is over: nobody finds it any more.
    pub(super) fn leave_directory(&mut self, label: &'static str) {
        self.place = None;
        match self.entry.take() {
            Some(entry) if label == "resume_expired" => entry.expired(),
            _ => {}
        }
    }
}

/// What is known of who asks for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recognized {
    Yes,
    No,
    /// The issuer's keys are on their way.
    Later,
}

/// Whether a packet begins with a Hello that has a token.
fn asks_to_resume(packet: &Bytes) -> bool {
    match PacketReader::new(packet.clone()).next() {
        Ok(Some(Frame { kind: FrameKind::Hello(hello), .. })) => !hello.resume_token.is_empty(),
        _ => false,
    }
}

/// The label of a failure in metrics and logs.
fn label(failure: ResumeFailure) -> &'static str {
    match failure {
        ResumeFailure::None => "none",
        ResumeFailure::UnknownToken => "unknown_token",
        ResumeFailure::Expired => "expired",
        ResumeFailure::WrongPrincipal => "wrong_principal",
        ResumeFailure::StateLost => "state_lost",
        ResumeFailure::OtherInstance => "other_instance",
    }
}
