//! The session protocol's state machine, both sides of it.
//!
//! This floor is pure: bytes and the time go in, bytes and events come out. No tokio, no async, no clock, no I/O,
//! no locks. It is driven like this:
//!
//! - `handle_*` takes one input: a packet, the passing of time.
//! - Plain verbs are commands of the owner: `open`, `send`, `end`, `cancel`.
//! - `poll_*` gives outputs: packets to send, events to act on, the time of the next `handle_timeout`.
//!
//! After every input or command the owner drains `poll_event` and then `poll_packet` until they are empty. What a
//! peer did wrong is one variant of [`Violation`], and [`Violation::verdict`] is the one place that says what
//! follows. A panic is a bug, never an answer to input.
//!
//! # A session that outlives its carrier
//!
//! Both sides keep the sequenced frames that they sent until the peer acknowledges them; on the next carrier each sends
//! again what the other lacks. The session does the counting and the sending. Its owner, the driver, has the rest:
//!
//! **Beginning (proxy).** For each new carrier, make a [`Session`] and give it a token with
//! [`Session::announce_resume`]: 32 random bytes, never logged. After [`Event::Greeted`], if
//! [`Session::is_resumable`], put [`Session::resume_tokens`] into the table by which sessions are found, together with
//! what the session is bound to (origin, principal). Without `announce_resume` nothing is kept and nothing resumed.
//!
//! **Losing the carrier.** It broke, or was closed with a code that does not end the session (docs/protocol.md, section
//! 17.4): call [`Session::detach`]. False: the session is closed, as ever. True: it is parked: drop the socket and
//! whatever was polled and not written (it is kept), go on polling the calls, events and [`Session::poll_timeout`], and
//! call [`Session::handle_timeout`] when it is due; it ends the session after the grace. [`Event::Detached`]
//! is the same at the session's own wish (silence): close the socket with its reason. While parked, `piece` denies, so
//! calls wait; `held_bytes` is what the session itself keeps, for the limits; `close` gives it up.
//!
//! **Coming back (proxy).** A carrier whose Hello has a token raises [`Event::ResumeAsked`] in the session that was
//! made for it, if that one has a token to announce itself; read no more of this carrier now. Look the token up (compare
//! what the session is bound to), then one of:
//! - found: call [`Session::attach`] of the session that was found, with the Hello and a new token, whether it is parked
//!   or still has a carrier. `Ok`: this carrier is the session's now. The old one, if there is one, is closed with 4014,
//!   and **no byte of it may reach `handle_packet` any more**: what was not handled before `attach` is lost, and the
//!   client sends it again. Throw away the session that was made for the new carrier (it has no stream, and needs no
//!   closing). Put `resume_tokens` into the table. `Err`: the session that was found is as it was, also with its old
//!   carrier; hand the [`Refusal`] to `refuse_resume` of the other.
//! - not found, or not to be had: [`Session::refuse_resume`] of the session that asked, with the
//!   reason. A new session goes on there, as if it had asked for none. No answer is no option: it waits without a timer.
//!
//! [`Event::TokenRetired`]: take this token out of the table. (Two are valid until the client has shown that it knows
//! the newer one, because its Welcome may be lost.) After [`Event::Closed`] take out what is left.
//!
//! **Coming back (client).** After `detach`, and on a new carrier, [`Session::reattach`]; if that carrier breaks before
//! Welcome, `detach` and `reattach` again. Then [`Event::Resumed`]; or [`Event::Welcomed`] behind an
//! [`Event::Ended`] for each old stream, and the session begins again with stream 1. Both sides get
//! [`Event::Writable`] for streams that were denied meanwhile.

mod core;
mod event;
mod invariants;
mod keepalive;
mod metadata;
mod outbox;
mod receive;
mod replay;
mod resume;
mod sequence;
mod settings;
mod stream;
#[cfg(test)]
mod tests;
mod violation;

pub use self::core::{OpenError, Session, Side};
pub use event::{CloseReason, Event};
pub use metadata::UNPROCESSED_HEADER;
pub use resume::{LEAST_REPLAY, Refusal};
pub use settings::{
    FRAME_OVERHEAD, INITIAL_CREDIT, MAX_PACKET, MAX_PIECE, MIN_CREDIT, MIN_PIECE, Settings, VERSION,
};
pub use stream::StreamTable;
pub use violation::{Verdict, Violation};

/// A stream's number within its session; 1, 2, 3, … in the order of opening.
pub type StreamId = u32;
