//! gRPC status codes, and the tables that map foreign failures to them.

use std::fmt;

/// A gRPC status code (gRPC `doc/statuscodes.md`). Numbers outside 0 to 16 are kept as they came: the proxy
/// passes on what upstream said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u32);

const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Code {
    /// Not an error.
    pub const OK: Self = Self(0);
    /// The call was given up, typically by the caller.
    pub const CANCELLED: Self = Self(1);
    /// An error of unknown kind.
    pub const UNKNOWN: Self = Self(2);
    /// The client sent something invalid.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// The deadline passed before the call completed.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// A requested entity was not found.
    pub const NOT_FOUND: Self = Self(5);
    /// The entity to create exists already.
    pub const ALREADY_EXISTS: Self = Self(6);
    /// The caller may not do this.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// A quota or limit is used up.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// The system is not in the state that the call needs.
    pub const FAILED_PRECONDITION: Self = Self(9);
    /// Aborted, typically by a conflict.
    pub const ABORTED: Self = Self(10);
    /// Past the valid range.
    pub const OUT_OF_RANGE: Self = Self(11);
    /// The method does not exist or is not supported.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// An invariant is broken.
    pub const INTERNAL: Self = Self(13);
    /// The service cannot be reached now.
    pub const UNAVAILABLE: Self = Self(14);
    /// Data was lost.
    pub const DATA_LOSS: Self = Self(15);
    /// The caller did not say, or could not prove, who it is.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// The code's name in the gRPC documents, such as `"NOT_FOUND"`; `"UNKNOWN_CODE"` outside 0 to 16.
    pub fn name(self) -> &'static str {
        NAMES.get(self.0 as usize).copied().unwrap_or("UNKNOWN_CODE")
    }

    /// The gRPC code for an HTTP status that came without a `grpc-status`
    /// (gRPC `doc/http-grpc-status-mapping.md`).
    pub fn from_http(status: u16) -> Self {
        match status {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// The gRPC code for an HTTP/2 error code that reset a stream (gRPC `doc/PROTOCOL-HTTP2.md`, "Errors").
    pub fn from_h2(reason: u32) -> Self {
        match reason {
            0x7 => Self::UNAVAILABLE,        // REFUSED_STREAM: not processed, safe to retry
            0x8 => Self::CANCELLED,          // CANCEL
            0xb => Self::RESOURCE_EXHAUSTED, // ENHANCE_YOUR_CALM
            0xc => Self::PERMISSION_DENIED,  // INADEQUATE_SECURITY
            _ => Self::INTERNAL,             // also NO_ERROR: a stream that is reset has not ended well
        }
    }

    /// The HTTP status that stands for this code where HTTP has to speak (google.rpc.Code's table).
    pub fn to_http(self) -> u16 {
        match self {
            Self::OK => 200,
            Self::INVALID_ARGUMENT | Self::FAILED_PRECONDITION | Self::OUT_OF_RANGE => 400,
            Self::UNAUTHENTICATED => 401,
            Self::PERMISSION_DENIED => 403,
            Self::NOT_FOUND => 404,
            Self::ALREADY_EXISTS | Self::ABORTED => 409,
            Self::RESOURCE_EXHAUSTED => 429,
            Self::CANCELLED => 499,
            Self::UNIMPLEMENTED => 501,
            Self::UNAVAILABLE => 503,
            Self::DEADLINE_EXCEEDED => 504,
            _ => 500,
        }
    }

    /// The WebSocket close code of a session-level failure: 4000 + the code. Outside 0 to 16: 4002.
    pub fn to_close(self) -> u16 {
        match u16::try_from(self.0) {
            Ok(n @ 0..=16) => 4000 + n,
            _ => 4002,
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_grpc_documents() {
        assert_eq!(Code::OK.name(), "OK");
        assert_eq!(Code::DEADLINE_EXCEEDED.name(), "DEADLINE_EXCEEDED");
        assert_eq!(Code::UNAUTHENTICATED.name(), "UNAUTHENTICATED");
        assert_eq!(Code(17).name(), "UNKNOWN_CODE");
        assert_eq!(Code(u32::MAX).name(), "UNKNOWN_CODE");
        assert_eq!(format!("{:?} {}", Code::NOT_FOUND, Code::NOT_FOUND), "NOT_FOUND(5) NOT_FOUND");
    }

    #[test]
    fn an_http_status_maps_as_the_grpc_table_says() {
        let table = [
            (400, Code::INTERNAL),
            (401, Code::UNAUTHENTICATED),
            (403, Code::PERMISSION_DENIED),
            (404, Code::UNIMPLEMENTED),
            (429, Code::UNAVAILABLE),
            (502, Code::UNAVAILABLE),
            (503, Code::UNAVAILABLE),
            (504, Code::UNAVAILABLE),
        ];
        for status in 100..600 {
            let expected = table.iter().find(|row| row.0 == status).map_or(Code::UNKNOWN, |row| row.1);
            assert_eq!(Code::from_http(status), expected, "{status}");
        }
    }

    #[test]
    fn an_http2_reset_maps_as_the_grpc_table_says() {
        for (reason, expected) in [
            (h2::Reason::REFUSED_STREAM, Code::UNAVAILABLE),
            (h2::Reason::CANCEL, Code::CANCELLED),
            (h2::Reason::ENHANCE_YOUR_CALM, Code::RESOURCE_EXHAUSTED),
            (h2::Reason::INADEQUATE_SECURITY, Code::PERMISSION_DENIED),
            (h2::Reason::NO_ERROR, Code::INTERNAL),
            (h2::Reason::PROTOCOL_ERROR, Code::INTERNAL),
            (h2::Reason::INTERNAL_ERROR, Code::INTERNAL),
            (h2::Reason::HTTP_1_1_REQUIRED, Code::INTERNAL),
            (h2::Reason::from(0xdead), Code::INTERNAL),
        ] {
            assert_eq!(Code::from_h2(reason.into()), expected, "{reason:?}");
        }
    }

    #[test]
    fn only_ok_becomes_http_200() {
        assert_eq!(Code::OK.to_http(), 200);
        for code in (1..=20).chain([u32::MAX]) {
            assert!(Code(code).to_http() >= 400, "{code}");
        }
        assert_eq!(Code::CANCELLED.to_http(), 499);
        assert_eq!(Code::DEADLINE_EXCEEDED.to_http(), 504);
        assert_eq!(Code(99).to_http(), 500);
    }

    #[test]
    fn a_close_code_is_4000_plus_the_code() {
        assert_eq!(Code::OK.to_close(), 4000);
        assert_eq!(Code::UNAUTHENTICATED.to_close(), 4016);
        for unknown in [17, 65_536, 65_537, u32::MAX] {
            assert_eq!(Code(unknown).to_close(), 4002, "{unknown}");
        }
    }
}
