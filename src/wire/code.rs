//! gRPC status codes, and the tables that map foreign failures to them.

use std::fmt;

/// A gRPC status code (gRPC `doc/statuscodes.md`). Numbers outside 0 to 16 are kept as they came: the proxy
/// passes on what upstream said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u32);

impl Code {
    /// Not an error.
    pub const OK: Code = Code(0);
    /// The call was given up, typically by the caller.
    pub const CANCELLED: Code = Code(1);
    /// An error of unknown kind.
    pub const UNKNOWN: Code = Code(2);
    /// The client sent something invalid.
    pub const INVALID_ARGUMENT: Code = Code(3);
    /// The deadline passed before the call completed.
    pub const DEADLINE_EXCEEDED: Code = Code(4);
    /// A requested entity was not found.
    pub const NOT_FOUND: Code = Code(5);
    /// The entity to create exists already.
    pub const ALREADY_EXISTS: Code = Code(6);
    /// The caller may not do this.
    pub const PERMISSION_DENIED: Code = Code(7);
    /// A quota or limit is used up.
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    /// The system is not in the state that the call needs.
    pub const FAILED_PRECONDITION: Code = Code(9);
    /// Aborted, typically by a conflict.
    pub const ABORTED: Code = Code(10);
    /// Past the valid range.
    pub const OUT_OF_RANGE: Code = Code(11);
    /// The method does not exist or is not supported.
    pub const UNIMPLEMENTED: Code = Code(12);
    /// An invariant is broken.
    pub const INTERNAL: Code = Code(13);
    /// The service cannot be reached now.
    pub const UNAVAILABLE: Code = Code(14);
    /// Data was lost.
    pub const DATA_LOSS: Code = Code(15);
    /// The caller did not say, or could not prove, who it is.
    pub const UNAUTHENTICATED: Code = Code(16);

    /// The code's name in the gRPC documents, such as `"NOT_FOUND"`; `"UNKNOWN_CODE"` outside 0 to 16.
    pub fn name(self) -> &'static str {
        todo!()
    }

    /// The gRPC code for an HTTP status that came without a `grpc-status`
    /// (gRPC `doc/http-grpc-status-mapping.md`).
    pub fn from_http(_status: u16) -> Code {
        todo!()
    }

    /// The gRPC code for an HTTP/2 error code that reset a stream (gRPC `doc/PROTOCOL-HTTP2.md`, "Errors").
    pub fn from_h2(_reason: u32) -> Code {
        todo!()
    }

    /// The HTTP status that stands for this code where HTTP has to speak (google.rpc.Code's table).
    pub fn to_http(self) -> u16 {
        todo!()
    }

    /// The WebSocket close code of a session-level failure: 4000 + the code. Outside 0 to 16: 4002.
    pub fn to_close(self) -> u16 {
        todo!()
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
