//! What one side of a session allows and expects.

use std::time::Duration;

use crate::wire::v1;

/// The credit, in bytes, that a client works with on each stream until Welcome tells the real one.
pub const INITIAL_CREDIT: u32 = 64 * 1024;

/// The least credit that either side may announce.
pub const MIN_CREDIT: u32 = 16 * 1024;

/// What a data frame costs besides its length. It bounds what a flood of tiny messages can make the receiver hold.
pub const FRAME_OVERHEAD: u32 = 32;

/// The largest piece of a message in one frame: small enough that streams take turns often.
pub const MAX_PIECE: usize = 16 * 1024;

/// No message is cut into a smaller piece than this because credit is short: the sender waits for more. It is far
/// below half of [`MIN_CREDIT`], which is what a receiver may keep back, so that nobody waits for ever.
pub const MIN_PIECE: usize = 1024;

/// The version of the protocol that this code speaks.
pub const VERSION: u32 = 1;

/// The largest packet that a receiver takes, in bytes. A sender fills packets to much less; the room is for a frame
/// with as much metadata as any route allows.
pub const MAX_PACKET: usize = 256 * 1024;

/// One side's settings. Each default is argued where it stands.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Credit given to the peer on each new stream, in bytes. 256 KiB: one stream fills 20 ms at 100 Mbit/s.
    /// The proxy's must be at least [`INITIAL_CREDIT`], the client's at least [`MIN_CREDIT`].
    pub stream_credit: u32,
    /// The largest message accepted from the peer, and announced in Welcome. 4 MiB, as in gRPC's implementations.
    pub max_message: u64,
    /// How many streams may be open at once (proxy: enforced and announced; client: until Welcome says). 256.
    pub max_streams: u32,
    /// The largest metadata of one call, as `wire::metadata::size` counts. 16 KiB.
    pub max_metadata: u32,
    /// Proxy: how often a Ping goes out, announced in Welcome; a carrier that is silent for twice as long is dead.
    /// 20 s: below the 30 to 60 s after which common middleboxes cut a silent connection.
    pub ping_interval: Duration,
    /// Proxy: how long the client may take until its Hello. 10 s.
    pub hello_timeout: Duration,
    /// Proxy: the name of the session for logs, announced in Welcome.
    pub session_id: String,
    /// Client: default metadata for every call, sent in Hello.
    pub metadata: Vec<v1::Metadata>,
    /// Client: name and version, sent in Hello.
    pub agent: String,
    /// Client: it acknowledges and can resume; without it the proxy grants no token.
    pub resumable: bool,
    /// Proxy: how long a session without a carrier is kept, announced in Welcome; only if `announce_resume` was
    /// called. Zero: this one cannot be resumed, but its carrier may ask for another. 30 s: a tunnel, a change of network, a laptop that is opened again.
    pub resume_grace: Duration,
    /// In a session that can be resumed: how many bytes may be sent before the peer has acknowledged some. It is the
    /// window of the session, in effect: 1 MiB fills 80 ms at 100 Mbit/s. At least 128 KiB.
    pub replay_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_credit: 256 * 1024,
            max_message: 4 * 1024 * 1024,
            max_streams: 256,
            max_metadata: 16 * 1024,
            ping_interval: Duration::from_secs(20),
            hello_timeout: Duration::from_secs(10),
            session_id: String::new(),
            metadata: Vec::new(),
            agent: String::new(),
            resumable: false,
            resume_grace: Duration::from_secs(30),
            replay_limit: 1024 * 1024,
        }
    }
}
