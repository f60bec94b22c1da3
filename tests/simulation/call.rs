//! What the model knows of a call.

use std::collections::VecDeque;

use bytes::Bytes;

/// One direction of one call: what its sender has given, and what its receiver has seen.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) messages: Vec<Bytes>,
    /// What the session has not yet taken of the last message; `None`: between messages.
    pub(crate) rest: Option<Bytes>,
    /// The session took nothing; wait for `Writable` or for a packet to leave.
    pub(crate) blocked: bool,
    /// The sender has said that no more messages follow.
    pub(crate) finished: bool,
    /// Messages received whole, and bytes of the one that is arriving.
    pub(crate) got: usize,
    pub(crate) at: usize,
    pub(crate) end_seen: bool,
    /// Pieces received and not consumed.
    pub(crate) held: VecDeque<usize>,
    /// What data frames have cost, and what the receiver has allowed, as seen at the sender's end of the pipe.
    pub(crate) spent: u64,
    pub(crate) allowed: u64,
}

impl Flow {
    pub(crate) fn complete(&self) -> bool {
        self.rest.is_none() && self.got == self.messages.len() && self.at == 0
    }

    pub(crate) fn sent_whole(&self) -> usize {
        self.messages.len() - usize::from(self.rest.is_some())
    }

    pub(crate) fn receive(&mut self, bytes: &Bytes, remaining: u64, first: bool, last: bool) {
        assert!(!self.end_seen, "nothing comes after the end");
        assert_eq!(first, self.at == 0, "`first` marks the beginning of a message");
        let message = &self.messages[self.got];
        assert!(message[self.at..].starts_with(bytes), "bytes are unaltered and in order");
        self.at += bytes.len();
        assert_eq!(remaining, (message.len() - self.at) as u64, "`remaining` is true");
        if remaining == 0 {
            self.got += 1;
            self.at = 0;
        }
        self.held.push_back(bytes.len());
        self.end_seen = last;
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Life {
    /// The proxy has not heard of it.
    Unheard,
    Open,
    Over,
}

pub(crate) struct Call {
    pub(crate) up: Flow,
    pub(crate) down: Flow,
    pub(crate) client: Life,
    pub(crate) proxy: Life,
    pub(crate) headers: bool,
    /// How the proxy's owner ended it.
    pub(crate) ended: Option<u32>,
    /// It has sent a message that is too large, so that the session ends it.
    pub(crate) oversized: bool,
}
