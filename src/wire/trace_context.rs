//! Which trace a call belongs to: the header `traceparent` (W3C Trace Context, level 1, section 3.2).

use std::fmt::Write;

/// A place in a trace: what one party tells the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Of the whole trace; not zero.
    pub trace_id: [u8; 16],
    /// Of the caller's span; not zero.
    pub span_id: [u8; 8],
    /// Whether the caller records its span.
    pub sampled: bool,
}

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

impl TraceContext {
    /// Reads a header's value. `None`: it is not valid, and a new trace begins. Of versions that are not known yet it
    /// reads what version 00 has, as section 4.3 asks.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(LENGTH)?;
        let [version] = read(&head[..2])?;
        let dashes = [2, 35, 52].iter().all(|&at| head[at] == b'-');
        let well_ended = rest.is_empty() || version != 0 && rest[0] == b'-';
        if version == 0xff || !dashes || !well_ended {
            return None;
        }
        let (trace_id, span_id) = (read(&head[3..35])?, read(&head[36..52])?);
        let [flags] = read(&head[53..])?;
        let valid = trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// The header's value, in version 00.
    pub fn to_header(self) -> String {
        let mut text = String::with_capacity(LENGTH);
        text.push_str("00-");
        text.push_str(&hex(&self.trace_id));
        text.push('-');
        text.push_str(&hex(&self.span_id));
        text.push_str(if self.sampled { "-01" } else { "-00" });
        text
    }
}

/// Bytes as they stand in headers and logs.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
    }
    text
}

/// Lower-case digits only, as the specification has them.
fn read<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!((context.trace_id[0], context.span_id[7], context.sampled), (0x4b, 0xb7, true));
        assert_eq!(context.to_header(), EXAMPLE);
    }

    #[test]
    fn a_version_to_come_is_read_as_far_as_it_is_known() {
        for (text, good) in [
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-more", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()).is_some(), good, "{text}");
        }
    }

    #[test]
    fn what_is_not_valid_begins_a_new_trace() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_makes_it_panic(
            trace_id: [u8; 16], span_id: [u8; 8], sampled: bool, any in proptest::collection::vec(any::<u8>(), 0..80)
        ) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let context = TraceContext { trace_id, span_id, sampled };
            prop_assert_eq!(TraceContext::parse(context.to_header().as_bytes()), Some(context));
            TraceContext::parse(&any);
        }
    }
}
