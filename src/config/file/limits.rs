//! What clients may use, sessions, and the stop.

use super::Peers;
use crate::config::{
    Duration, Size,
    node::Node,
    problem::Problems,
    read::{At, Read, Section, section},
};

section! { "limits"
    /// What clients may use.
    struct Limits {
        /// Open TCP connections of the process; more wait in the kernel. Default: 50000.
        max_connections: Option<u32>,
        /// The largest message, either way. Default: 4MiB.
        max_message: Option<At<Size>>,
        /// The largest metadata of a call. Default: 16KiB.
        max_metadata: Option<At<Size>>,
        /// Open WebSockets for each client address. Default: 100.
        sockets_per_address: Option<u32>,
        /// Sessions that wait for their clients to come back. Default: 50000.
        parked_sessions: Option<u32>,
        /// Those of each client address. Default: 100.
        parked_per_address: Option<u32>,
        /// What they keep for their clients, together. Default: 256MiB.
        parked_bytes: Option<At<Size>>,
        /// How long a TLS handshake may take. Default: 10s.
        handshake_timeout: Option<At<Duration>>,
        /// How long a client may take to send a request's headers; also how long an idle HTTP/1.1 connection is kept.
        /// Default: 10s.
        header_timeout: Option<At<Duration>>,
        /// Open HTTP/2 streams for each connection. Default: 250.
        http2_streams: Option<u32>,
        /// Open TCP connections for each client address; `trusted_proxies` have no such limit. Default: 1000.
        connections_per_address: Option<u32>,
        /// WebSockets and what stands in for them that a client address opens in a minute, and as many at once.
        /// Default: 600.
        upgrades_per_minute: Option<u32>,
        /// What one client address may call. Default: no limits.
        per_address: Option<CallLimits>,
        /// What one verified principal may call. Default: no limits.
        per_principal: Option<CallLimits>,
        /// Calls of one connection or session that its client gives up in a second, for long; ten times as many at once.
        /// Default: 100.
        cancels_per_second: Option<u32>,
        /// How long a client may take nothing of what is sent to it. Default: 2m.
        write_timeout: Option<At<Duration>>,
    }
}

section! { "call limits"
    /// What one client may call, and send.
    struct CallLimits {
        /// Calls that begin in a second, and as many at once. Default: no limit.
        calls_per_second: Option<u32>,
        /// Calls that run. Default: no limit.
        concurrent_calls: Option<u32>,
        /// Messages that the client sends in a second, in all its calls together, and as many at once. More wait.
        /// Default: no limit.
        messages_per_second: Option<u32>,
        /// The same of the messages' bytes, 1KiB to 1GiB. Default: no limit.
        bytes_per_second: Option<At<Size>>,
    }
}

section! { "session"
    /// The session protocol.
    struct Session {
        /// Bytes that a client may send on a stream before the service has taken them. 64KiB to 16MiB. Default:
        /// 256KiB.
        credit: Option<At<Size>>,
        /// Open streams for each session. Default: 256.
        streams: Option<u32>,
        /// How often the proxy pings; a client that is silent for twice as long is gone. Default: 20s.
        ping: Option<At<Duration>>,
        /// How long a client may take to say Hello. Default: 10s.
        hello_timeout: Option<At<Duration>>,
        /// How long a session without a carrier waits for its client to come back; 0s: not at all. Default: 30s.
        resume: Option<Duration>,
        /// Bytes that a session keeps until its client has acknowledged them. 128KiB to 64MiB. Default: 1MiB.
        resume_buffer: Option<At<Size>>,
        /// Whether clients may come by HTTP where WebSockets do not get through. Default: true.
        fallback: Option<bool>,
        /// The longest silence of such a client's response, and the longest wait of its polls. Default: 15s.
        heartbeat: Option<At<Duration>>,
        /// The other instances behind the same address, to which clients are brought whose sessions they have.
        /// Default: none; a client that comes back to another instance begins a new session.
        peers: Option<At<Peers>>,
    }
}

section! { "drain"
    /// How the proxy stops. All times begin with the signal to stop.
    struct DrainTimes {
        /// How long everything is served as before, while /readyz says that the proxy is not ready, and balancers
        /// learn to send nothing more. Default: 5s with an admin port, otherwise 0s; at most a quarter of the timeout.
        grace: Option<Duration>,
        /// The time after the grace over which sessions are told to go elsewhere, so that not all arrive there at
        /// once. Default: 5s, at most a quarter of the timeout.
        spread: Option<Duration>,
        /// How long open calls may go on. Default: 25s.
        timeout: Option<Duration>,
    }
}
