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

mod core;
mod event;
mod invariants;
mod keepalive;
mod metadata;
mod outbox;
mod receive;
mod sequence;
mod settings;
mod stream;
#[cfg(test)]
mod tests;
mod violation;

pub use self::core::{OpenError, Session, Side};
pub use event::{CloseReason, Event};
pub use metadata::UNPROCESSED_HEADER;
pub use settings::{
    FRAME_OVERHEAD, INITIAL_CREDIT, MAX_PACKET, MAX_PIECE, MIN_CREDIT, MIN_PIECE, Settings, VERSION,
};
pub use stream::StreamTable;
pub use violation::{Verdict, Violation};

/// A stream's number within its session; 1, 2, 3, … in the order of opening.
pub type StreamId = u32;
