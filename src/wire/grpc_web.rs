//! gRPC-Web (gRPC `doc/PROTOCOL-WEB.md`): content types, and the trailers that travel in the body.

use std::borrow::Cow;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::envelope::PREFIX_LEN;

/// Which of gRPC-Web's two body forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `application/grpc-web`: bytes.
    Binary,
    /// `application/grpc-web-text`: base64.
    Text,
}

/// A gRPC-Web content type: the body's form, and the message format behind `+` (`proto` when there is none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    /// The body's form.
    pub form: Form,
    /// The message format, lower case: `proto`, `json`, `thrift`, … Nearly always `proto`, which costs nothing.
    pub format: Cow<'static, str>,
}

impl ContentType {
    /// Reads a `content-type` value (or one element of `accept`), in any case, with or without parameters. `None` when
    /// it is not gRPC-Web's.
    pub fn parse(value: &[u8]) -> Option<Self> {
        // As nearly every client writes it.
        if value == b"application/grpc-web+proto" {
            return Some(Self { form: Form::Binary, format: Cow::Borrowed("proto") });
        }
        let essence = std::str::from_utf8(value).ok()?.split(';').next()?.trim().to_ascii_lowercase();
        let rest = essence.strip_prefix("application/grpc-web")?;
        let (form, rest) = match rest.strip_prefix("-text") {
            Some(rest) => (Form::Text, rest),
            None => (Form::Binary, rest),
        };
        let format = match rest.strip_prefix('+') {
            None if rest.is_empty() => Cow::Borrowed("proto"),
            Some("proto") => Cow::Borrowed("proto"),
            Some(format) if !format.is_empty() && format.bytes().all(is_format_byte) => {
                Cow::Owned(format.to_owned())
            }
            _ => return None,
        };
        Some(Self { form, format })
    }

    /// The value for a response: `application/grpc-web+proto`, `application/grpc-web-text+proto`, …
    pub fn to_value(&self) -> HeaderValue {
        match (self.form, &*self.format) {
            (Form::Binary, "proto") => HeaderValue::from_static("application/grpc-web+proto"),
            (Form::Text, "proto") => HeaderValue::from_static("application/grpc-web-text+proto"),
            (Form::Binary, format) => header_value("application/grpc-web+", format),
            (Form::Text, format) => header_value("application/grpc-web-text+", format),
        }
    }

    /// The same messages on HTTP/2: `application/grpc+proto`, …
    pub fn to_grpc(&self) -> HeaderValue {
        match &*self.format {
            "proto" => HeaderValue::from_static("application/grpc+proto"),
            format => header_value("application/grpc+", format),
        }
    }
}

fn header_value(start: &str, format: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{start}{format}")).expect("a format has only bytes that a header may have")
}

/// What a format may consist of (RFC 6838, section 4.2: restricted names), so that it can stand in a header again.
fn is_format_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte)
}

/// The flag byte of a frame that holds headers instead of a message.
pub const TRAILER_FLAG: u8 = 0x80;

/// The trailer frame that ends a gRPC-Web body: 0x80, a 32-bit length, `name: value\r\n` lines in lower case.
pub fn trailer_frame(trailers: &HeaderMap) -> Bytes {
    let length: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut frame = BytesMut::with_capacity(PREFIX_LEN + length);
    frame.put_u8(TRAILER_FLAG);
    frame.put_u32(u32::try_from(length).expect("a header map is bounded far below 4 GiB"));
    for (name, value) in trailers {
        frame.put_slice(name.as_str().as_bytes());
        frame.put_slice(b": ");
        frame.put_slice(value.as_bytes());
        frame.put_slice(b"\r\n");
    }
    frame.freeze()
}

/// Reads the lines of a trailer frame (without its prefix): names in any case, with or without a space behind the
/// colon, with or without a line end behind the last line.
pub fn parse_lines(block: &[u8]) -> Result<HeaderMap, InvalidLine> {
    let mut headers = HeaderMap::new();
    for (i, line) in block.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let parsed = line.iter().position(|&byte| byte == b':').and_then(|colon| {
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
            headers.try_append(name, value).ok()
        });
        if parsed.is_none() {
            return Err(InvalidLine { line: i + 1 });
        }
    }
    Ok(headers)
}

/// A line of a header or trailer block is not `name: value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the header block is not `name: value`")]
pub struct InvalidLine {
    /// Which line, from 1.
    pub line: usize,
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn content_type(form: Form, format: &str) -> ContentType {
        ContentType { form, format: format.to_owned().into() }
    }

    #[test]
    fn content_types_are_read_in_any_case_and_with_parameters() {
        for (value, form, format) in [
            ("application/grpc-web", Form::Binary, "proto"),
            ("application/grpc-web+proto", Form::Binary, "proto"),
            ("application/grpc-web+json", Form::Binary, "json"),
            ("application/grpc-web-text", Form::Text, "proto"),
            ("application/grpc-web-text+proto", Form::Text, "proto"),
            ("Application/GRPC-Web-Text+Proto", Form::Text, "proto"),
            (" application/grpc-web+proto ; charset=utf-8", Form::Binary, "proto"),
        ] {
            assert_eq!(ContentType::parse(value.as_bytes()), Some(content_type(form, format)), "{value}");
        }
    }

    #[test]
    fn what_is_not_grpc_web_is_not_taken_for_it() {
        for value in [
            "",
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-webx",
            "application/grpc-web+",
            "application/grpc-web+a b",
            "application/grpc-web+a\r\nb",
            "application/grpc-web-textual",
            "application/grpc-web-text+",
            "application/json",
            "text/plain; application/grpc-web",
            // One value, whose type is text/plain: a page may send it across origins without a preflight.
            "text/plain;a=,application/grpc-web",
            "*/*, application/grpc-web-text",
        ] {
            assert_eq!(ContentType::parse(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(ContentType::parse(b"application/grpc-web\xff"), None);
    }

    #[test]
    fn content_types_are_written() {
        let text = content_type(Form::Text, "proto");
        assert_eq!(text.to_value(), "application/grpc-web-text+proto");
        assert_eq!(text.to_grpc(), "application/grpc+proto");
        assert_eq!(content_type(Form::Binary, "json").to_value(), "application/grpc-web+json");
    }

    #[test]
    fn a_trailer_frame_has_one_line_for_each_entry() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.append("x-t", HeaderValue::from_static("1"));
        trailers.append("x-t", HeaderValue::from_static("2"));
        let lines = b"grpc-status: 0\r\nx-t: 1\r\nx-t: 2\r\n";
        let frame = trailer_frame(&trailers);
        assert_eq!(frame[..5], [0x80, 0, 0, 0, lines.len() as u8]);
        assert_eq!(&frame[5..], lines);
        assert_eq!(&trailer_frame(&HeaderMap::new())[..], [0x80, 0, 0, 0, 0]);
    }

    #[test]
    fn lines_are_read_as_peers_write_them() {
        let headers = parse_lines(b"Grpc-Status:0\r\ngrpc-message: a: b \nx:").unwrap();
        assert_eq!(
            (&headers["grpc-status"], &headers["grpc-message"]),
            (&"0".parse().unwrap(), &"a: b".parse().unwrap())
        );
        assert_eq!(headers["x"], "");
        assert_eq!(parse_lines(b"a: b\r\nnonsense\r\n"), Err(InvalidLine { line: 2 }));
        assert_eq!(parse_lines(b": b"), Err(InvalidLine { line: 1 }));
        assert_eq!(parse_lines(b"a: \x00"), Err(InvalidLine { line: 1 }));
    }

    proptest! {
        #[test]
        fn trailers_survive_their_frame(entries in vec(("[a-z][a-z0-9_.-]{0,8}", "([!-~]([ -~]{0,10}[!-~])?)?"), 0..8)) {
            let trailers: HeaderMap = entries
                .iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
                .collect();
            let frame = trailer_frame(&trailers);
            let length = u32::from_be_bytes(frame[1..5].try_into().unwrap());
            prop_assert_eq!(length as usize, frame.len() - 5);
            prop_assert_eq!(parse_lines(&frame[5..]).unwrap(), trailers);
        }
    }
}
