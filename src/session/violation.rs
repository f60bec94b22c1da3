//! Everything a peer can do wrong, and the one answer to each.

use crate::wire::Code;

/// A breach of the protocol by the peer; one variant each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// To be filled.
    #[error("todo")]
    Todo,
}

/// What follows a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// End the session: close code 4000 + this code.
    Close(Code),
    /// End the stream with this code; the session goes on.
    Reset(Code),
}

impl Violation {
    /// The answer to each violation.
    pub fn verdict(&self) -> Verdict {
        todo!()
    }

    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        todo!()
    }
}
