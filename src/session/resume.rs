//! A session without its carrier, and on the next one.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    CloseReason, Event, Session, Side, VERSION, Violation, core::Phase, outbox::Outbox, replay::Replay,
    sequence::Sequence, stream::Streams,
};
use crate::wire::{
    Code,
    frame::FrameKind,
    v1::{self, ResumeFailure},
};

/// The least bytes that a session can keep until they are acknowledged. A full replay buffer waits for an Ack, which is
/// due after 64 KiB: it has to hold more than that, and what is on its way meanwhile.
pub const LEAST_REPLAY: usize = 128 * 1024;

/// What a session has that can be resumed.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) replay: Replay,
    /// Proxy: the token that was announced last. Client: that of the last Welcome; empty until there is one.
    pub(super) token: Bytes,
    /// Proxy: the one before, until the client has shown that it knows `token`.
    pub(super) previous: Option<Bytes>,
    /// How long the session lives without a carrier.
    pub(super) grace: Duration,
    /// Without a carrier: until when.
    pub(super) expires: Option<Instant>,
    /// Proxy: the GoAway that every new carrier has to hear of.
    pub(super) go_away: Option<Box<v1::GoAway>>,
    /// Proxy: a Ping has asked for the Ack of so many frames, the last ones before the end. 0: none has.
    pub(super) asked: u64,
}

impl Resume {
    pub(super) fn new(token: Bytes, grace: Duration, limit: usize) -> Box<Self> {
        Box::new(Self {
            replay: Replay::new(limit.max(LEAST_REPLAY)),
            token,
            previous: None,
            grace,
            expires: None,
            go_away: None,
            asked: 0,
        })
    }
}

/// Why a session does not go on, on a carrier that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Welcome says so, and a new session begins.
    Failure(ResumeFailure),
    /// The carrier is closed.
    Violation(Violation),
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl Session {
    /// Proxy: the session can be resumed, and Welcome announces this token, if the client wants one
    /// (`Hello.resumable`) and the grace is not zero. To be called before the first packet is handled. The token is a secret that nobody can
    /// guess; the session only stores it.
    pub fn announce_resume(&mut self, token: Bytes) {
        debug_assert!(self.side == Side::Proxy && self.phase == Phase::Greeting, "a proxy's first command");
        debug_assert!(!token.is_empty(), "an empty token means none");
        self.resume = Some(Resume::new(token, self.settings.resume_grace, self.settings.replay_limit));
    }

    /// Whether the session outlives its carrier: on the proxy's side both want it, and Hello has come; on the client's
    /// side Welcome has brought a token.
    pub fn is_resumable(&self) -> bool {
        self.sequence.resumable && self.phase != Phase::Closed
    }

    /// Proxy: the tokens that open this session now: the newest, and the one before as long as the client may not
    /// know the newest. It changes with `attach` and with [`Event::TokenRetired`].
    pub fn resume_tokens(&self) -> impl Iterator<Item = &Bytes> {
        let resume = self.resume.as_deref().filter(|_| self.is_resumable());
        resume.into_iter().flat_map(|resume| std::iter::once(&resume.token).chain(&resume.previous))
    }

    /// Whether the session has no carrier: `detach` was the last word about it.
    pub fn is_detached(&self) -> bool {
        self.phase == Phase::Detached
    }

    /// Bytes that the session keeps for its peer: sent and not acknowledged, and waiting to be sent. (What its owner
    /// has been given in events is not among them.) Costs a look at every stream.
    pub fn held_bytes(&self) -> usize {
        let kept = self.resume.as_deref().map_or(0, |resume| resume.replay.held());
        kept + self.streams.values().map(|s| s.outbound.held_bytes()).sum::<usize>()
    }

    /// The carrier is lost, or is to be used no more. Returns whether the session goes on without one: then
    /// `poll_packet` gives nothing and `piece` denies, until `attach`; and `handle_timeout` ends the session when its
    /// grace is over. If it does not go on, it is closed.
    ///
    /// Nothing that this carrier still brings may be given to `handle_packet` after this.
    pub fn detach(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed => return false,
            Phase::Detached => return true,
            Phase::Greeting | Phase::Asking | Phase::Open | Phase::Resuming => {}
        }
        let greeting = self.outbox.greeting.take();
        let resume = self.resume.as_deref_mut().filter(|_| self.sequence.resumable);
        // A proxy's first token has never left: nobody can come back with it.
        let unheard = |resume: &Resume| greeting.is_some() && resume.previous.is_none();
        let Some(resume) = resume.filter(|resume| self.side == Side::Client || !unheard(resume)) else {
            self.close(CloseReason::new(Code::UNAVAILABLE, "lost", "the carrier was lost"));
            return false;
        };
        if resume.expires.is_none() {
            resume.expires = now.checked_add(resume.grace);
        }
        self.phase = Phase::Detached;
        self.keepalive.stop();
        self.outbox.leave_carrier();
        true
    }

    /// Client: there is a new carrier. Its first packet, a Hello with the token, is ready to be polled; nothing else
    /// is until Welcome has come. Only after `detach` has returned true.
    pub fn reattach(&mut self, now: Instant) {
        debug_assert_eq!(self.side, Side::Client, "a proxy's `attach` needs the client's Hello");
        debug_assert_eq!(self.phase, Phase::Detached, "one carrier at a time");
        let Some(resume) = self.resume.as_deref_mut().filter(|_| self.phase == Phase::Detached) else {
            return;
        };
        self.phase = Phase::Resuming;
        self.outbox.refresh = None;
        self.outbox.greeting = Some(FrameKind::Hello(Box::new(v1::Hello {
            versions: vec![VERSION],
            resume_token: resume.token.clone(),
            received: self.sequence.received,
            metadata: self.settings.metadata.clone(),
            stream_credit: self.granted,
            agent: self.settings.agent.clone(),
            resumable: true,
        })));
        self.keepalive.expect_greeting(now, self.settings.hello_timeout);
    }

    /// Proxy: a new carrier takes the session over, whether or not it is detached; this is the Hello that came on it.
    /// `token` is a new one; see [`Session::resume_tokens`] for those that count afterwards. Welcome is ready to be
    /// polled, then what the client lacks. After an error the session is as it was.
    pub fn attach(&mut self, hello: v1::Hello, token: Bytes, now: Instant) -> Result<(), Refusal> {
        debug_assert_eq!(self.side, Side::Proxy, "a client's `reattach` needs no Hello");
        debug_assert!(!token.is_empty(), "an empty token means none");
        if !self.is_resumable() {
            return Err(Refusal::Failure(ResumeFailure::StateLost));
        }
        if !self.resume_tokens().any(|token| *token == hello.resume_token) {
            return Err(Refusal::Failure(ResumeFailure::UnknownToken));
        }
        super::receive::check_versions(&hello.versions)?;
        self.check_received(hello.received)?;
        // As Refresh: for the Opens that come from now on.
        self.on_defaults(hello.metadata)?;

        let Some(resume) = self.resume.as_deref_mut() else {
            return Err(Refusal::Failure(ResumeFailure::StateLost));
        };
        if hello.resume_token == resume.token {
            let used = std::mem::replace(&mut resume.token, token);
            if let Some(token) = resume.previous.replace(used) {
                self.events.push_back(Event::TokenRetired { token });
            }
        } // else its Welcome was lost, or is: it is told the same token again
        self.outbox.leave_carrier();
        self.outbox.go_away = resume.go_away.clone();
        resume.asked = 0;
        self.phase = Phase::Open;
        self.keepalive.begin(self.side, self.settings.ping_interval, now);
        let received = self.sequence.acknowledge();
        let mut welcome = self.welcome();
        welcome.resumed = true;
        welcome.received = received;
        self.outbox.greeting = Some(FrameKind::Welcome(Box::new(welcome)));
        self.go_on(hello.received);
        self.close_when_drained();
        Ok(())
    }

    /// Proxy: the session that [`Event::ResumeAsked`] is about does not go on. A new one begins here, and its Welcome
    /// says why; or, for a violation, this session is closed too.
    pub fn refuse_resume(&mut self, refusal: Refusal, now: Instant) {
        debug_assert!(self.phase == Phase::Asking || self.is_closed(), "nobody asked");
        let Some(hello) = self.asked.take() else { return };
        self.phase = Phase::Greeting;
        let result = match refusal {
            Refusal::Failure(failure) => self.greet(*hello, failure, now),
            Refusal::Violation(violation) => Err(violation),
        };
        if let Err(violation) = result {
            self.punish(0, &violation);
        }
    }

    /// Client: Welcome on a carrier of `reattach`, and the session goes on.
    pub(super) fn on_resumed(&mut self, welcome: v1::Welcome, now: Instant) -> Result<(), Violation> {
        self.check_received(welcome.received)?;
        if welcome.resume_token.is_empty() {
            return Err(Violation::ResumedWithoutToken);
        }
        if let Some(resume) = self.resume.as_deref_mut() {
            resume.token = welcome.resume_token;
            resume.grace = Duration::from_millis(welcome.resume_grace_ms.into());
        }
        self.phase = Phase::Open;
        self.keepalive.begin(self.side, Duration::from_millis(welcome.ping_interval_ms.into()), now);
        self.sequence.acknowledge(); // Hello said it
        self.outbox.ack = true; // and this one says that the new token is known
        self.go_on(welcome.received);
        Ok(())
    }

    /// Client: Welcome on a carrier of `reattach`, and the session does not go on: what it had ends, and a new one
    /// begins in its place.
    pub(super) fn start_over(&mut self, failure: i32) {
        let why = ResumeFailure::try_from(failure).unwrap_or_default().as_str_name();
        let why = why.trim_start_matches("RESUME_FAILURE_").to_lowercase().replace('_', " ");
        let reason =
            CloseReason::new(Code::UNAVAILABLE, "not_resumed", format!("it could not be resumed ({why})"));
        self.end_streams(&reason);
        self.streams = Streams::default();
        self.outbox = Outbox::default();
        self.sequence = Sequence::default();
        self.going_away = None;
        (self.last_opened, self.last_sent) = (0, 0);
        self.credit = super::INITIAL_CREDIT;
        self.resume = Some(Resume::new(Bytes::new(), Duration::ZERO, self.settings.replay_limit));
    }

    /// The new carrier is greeted, and the peer has received so much.
    fn go_on(&mut self, received: u64) {
        self.sequence.acked = received;
        let Some(resume) = self.resume.as_deref_mut() else { return };
        resume.expires = None;
        resume.replay.rewind(received);
        let (frames, bytes) = (self.sequence.sent - received, resume.replay.held());
        self.events.push_back(Event::Resumed { frames, bytes });
        let mut waiting: Vec<_> = self
            .streams
            .iter_mut()
            .filter_map(|(&id, s)| (!s.gone && s.outbound.relent()).then_some(id))
            .collect();
        waiting.sort_unstable();
        self.events.extend(waiting.into_iter().map(|stream| Event::Writable { stream }));
    }

    /// What the peer says that it has received, before anything is sent on this carrier. It may be more than was sent on
    /// the last one: a Hello that came late or twice can have led us to a carrier on which nobody listens, while the
    /// peer received more on the one before.
    fn check_received(&self, received: u64) -> Result<(), Violation> {
        let Sequence { sent, acked, .. } = self.sequence;
        if received < acked {
            return Err(Violation::ReceivedBackwards { received, acked });
        }
        if received > sent {
            return Err(Violation::ReceivedBeyondSent { received, sent });
        }
        Ok(())
    }

    /// How many sequenced frames the peer can acknowledge on this carrier: all that were sent, or, while they are being
    /// sent again, those up to there.
    pub(super) fn reached(&self) -> u64 {
        self.resume.as_deref().and_then(|resume| resume.replay.reached()).unwrap_or(self.sequence.sent)
    }

    /// Without a carrier: when the session ends.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.resume.as_deref()?.expires
    }

    /// Proxy: whether the client has received everything. If only its Ack is missing, a Ping asks for it.
    pub(super) fn is_delivered(&mut self) -> bool {
        if self.sequence.acked == self.sequence.sent && self.streams.is_empty() {
            return true;
        }
        let written = self.streams.is_empty() && self.reached() == self.sequence.sent;
        if let Some(resume) = self.resume.as_deref_mut()
            && written // or the Ping would overtake it
            && self.phase == Phase::Open
            && std::mem::replace(&mut resume.asked, self.sequence.sent) != self.sequence.sent
        {
            self.outbox.ping = Some(self.keepalive.ping());
        }
        false
    }

    /// Proxy: a frame has come on the carrier, so its Welcome has arrived.
    pub(super) fn confirm_token(&mut self) {
        if let Some(resume) = self.resume.as_deref_mut()
            && let Some(token) = resume.previous.take()
        {
            self.events.push_back(Event::TokenRetired { token });
        }
    }
}
