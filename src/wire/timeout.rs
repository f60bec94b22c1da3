//! The `grpc-timeout` header (gRPC `doc/PROTOCOL-HTTP2.md`): at most 8 digits and a unit.

use std::time::Duration;

/// Reads a `grpc-timeout` value such as `100m` or `5S`. Units: H, M, S, m, u, n.
pub fn decode(_value: &[u8]) -> Result<Duration, InvalidTimeout> {
    todo!()
}

/// Writes a `grpc-timeout` value: the finest unit that fits in 8 digits, rounded up so that a deadline is never
/// shortened to zero.
pub fn encode(_timeout: Duration) -> String {
    todo!()
}

/// The value is not 1 to 8 digits and a unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout {value:?} is not valid: expected 1 to 8 digits and one of the units H, M, S, m, u, n")]
pub struct InvalidTimeout {
    /// What was there, cut to 32 characters, lossily decoded.
    pub value: String,
}
