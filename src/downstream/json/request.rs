//! The messages in the body of a JSON request.

use bytes::{Bytes, BytesMut};

/// Cuts a body into messages.
#[derive(Debug)]
pub(super) struct RequestReader {
    /// One message on each line (NDJSON). Otherwise the body is one message.
    lines: bool,
    /// The beginning of a message.
    held: BytesMut,
    /// What has come behind the last message that was given.
    rest: Bytes,
    max_message: u64,
}

/// A message that is larger than allowed, as far as it has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge(pub(super) u64);

impl RequestReader {
    pub(super) fn new(lines: bool, max_message: u64) -> Self {
        Self { lines, held: BytesMut::new(), rest: Bytes::new(), max_message }
    }

    /// Bytes of the body; only when `next` has said `None`.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.rest = bytes;
    }

    /// The next message that is complete. Blank lines are none.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLarge> {
        while self.lines
            && let Some(end) = self.rest.iter().position(|&b| b == b'\n')
        {
            let mut line = self.rest.split_to(end + 1);
            line.truncate(end);
            let line = if self.held.is_empty() {
                line
            } else {
                self.held.extend_from_slice(&line);
                self.held.split().freeze()
            };
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
        self.held.extend_from_slice(&std::mem::take(&mut self.rest));
        match self.held.len() as u64 {
            size if size > self.max_message => Err(TooLarge(size)),
            _ => Ok(None),
        }
    }

    /// The body has ended: its last message. Of lines the last may have no end; a body without lines has one message,
    /// even if that is empty (and then no message at all, as whoever reads it will say).
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        let last = self.held.split().freeze();
        (!self.lines || !last.iter().all(u8::is_ascii_whitespace)).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: bool, parts: &[&str]) -> Result<Vec<Bytes>, TooLarge> {
        let mut reader = RequestReader::new(lines, 10);
        let mut messages = Vec::new();
        for part in parts {
            reader.push(Bytes::copy_from_slice(part.as_bytes()));
            while let Some(message) = reader.next()? {
                messages.push(message);
            }
        }
        messages.extend(reader.finish());
        Ok(messages)
    }

    #[test]
    fn lines_are_messages_wherever_the_body_is_cut() {
        let body = "{}\r\n\n  \n[1]\n\"ab\"";
        for cut in 0..=body.len() {
            let parts = [&body[..cut], &body[cut..]];
            assert_eq!(read(true, &parts).unwrap(), ["{}\r", "[1]", "\"ab\""], "cut at {cut}");
            assert_eq!(read(false, &[&body[..cut.min(9)], ""]).unwrap().len(), 1);
        }
        assert_eq!(read(true, &["", "\n"]).unwrap(), [""; 0]);
    }

    #[test]
    fn a_body_without_lines_is_one_message() {
        assert_eq!(read(false, &["{\n", "}\n"]).unwrap(), ["{\n}\n"]);
        assert_eq!(read(false, &[]).unwrap(), [""], "and its reader says that it is empty");
    }

    #[test]
    fn a_message_that_has_become_too_large_is_not_waited_for() {
        assert_eq!(read(true, &["12345678901"]), Err(TooLarge(11)));
        assert_eq!(read(false, &["12345", "67890", "1"]), Err(TooLarge(11)));
    }
}
