//! The shapes of load. The cost of a message moves by a factor of three with the shape, so a figure without its
//! shape says nothing.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Bidiway's session protocol over a WebSocket (HTTP/1.1 upgrade).
    Session,
    /// The same over the HTTP carrier (HTTP/1.1), where WebSockets do not get through.
    SessionHttp,
    /// gRPC over HTTP/2 cleartext.
    H2,
    /// gRPC-Web, binary, over HTTP/1.1 with keep-alive.
    GrpcWeb,
}

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A message and its echo on a bidirectional call that stays open: two messages through the proxy.
    Echo,
    /// A whole unary call.
    Unary,
}

/// A shape that has a name; the letters are those of docs/performance.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "UPPER")]
pub enum Named {
    /// Echo, 1 socket, 1 stream: nothing can be coalesced.
    A,
    /// Echo, 50 sockets, 1 stream each.
    B,
    /// Echo, 1 socket, 100 streams.
    C,
    /// Echo, 10 sockets, 10 streams each, 16 messages in flight on each.
    D,
    /// Echo of a mebibyte, 1 socket, 1 stream.
    E,
    /// Unary, 10 sockets, 5 calls in flight each.
    U,
    /// Unary, 1 socket, 50 calls in flight.
    V,
    /// Unary, 50 sockets, 1 call in flight each.
    W,
    /// Unary by gRPC-Web over HTTP/1.1, 50 connections.
    G,
    /// Echo, 50 sockets, paced to a light load.
    L,
}

/// A shape of load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub kind: Kind,
    pub sockets: u32,
    /// Streams per socket, or calls in flight.
    pub streams: u32,
    /// Messages in flight on each stream.
    pub window: u32,
    /// Bytes of a message.
    pub size: usize,
    /// Operations a second over all sockets; 0: as fast as answers come.
    pub rate: u32,
}

impl Named {
    pub const ALL: [Self; 10] =
        [Self::A, Self::B, Self::C, Self::D, Self::E, Self::U, Self::V, Self::W, Self::G, Self::L];

    pub fn shape(self) -> Shape {
        let echo = Shape { kind: Kind::Echo, sockets: 1, streams: 1, window: 1, size: 100, rate: 0 };
        let unary = Shape { kind: Kind::Unary, ..echo };
        match self {
            Self::A => echo,
            Self::B => Shape { sockets: 50, ..echo },
            Self::C => Shape { streams: 100, ..echo },
            Self::D => Shape { sockets: 10, streams: 10, window: 16, ..echo },
            Self::E => Shape { size: 1 << 20, ..echo },
            Self::U => Shape { sockets: 10, streams: 5, ..unary },
            Self::V => Shape { streams: 50, ..unary },
            Self::W | Self::G => Shape { sockets: 50, ..unary },
            Self::L => Shape { sockets: 50, rate: 2_300, ..echo },
        }
    }

    /// Operations of one round: enough that the proxy works for half a second or more.
    pub fn operations(self) -> u64 {
        match self {
            Self::A => 20_000,
            Self::B => 60_000,
            Self::C | Self::D => 300_000,
            Self::E => 300,
            Self::U | Self::V => 20_000,
            Self::W | Self::G => 10_000,
            Self::L => 5_000,
        }
    }

    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::A => "echo 100 B, 1 × 1",
            Self::B => "echo 100 B, 50 × 1",
            Self::C => "echo 100 B, 1 × 100",
            Self::D => "echo 100 B, 10 × 10, 16 in flight",
            Self::E => "echo 1 MiB, 1 × 1",
            Self::U => "unary 100 B, 10 × 5",
            Self::V => "unary 100 B, 1 × 50",
            Self::W => "unary 100 B, 50 × 1",
            Self::G => "gRPC-Web unary 100 B, HTTP/1.1, 50 × 1",
            Self::L => "echo 100 B, 50 × 1, 2,300 a second",
        }
    }
}
