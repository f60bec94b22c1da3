//! When new work is refused.

use crate::config::{
    Duration, Size,
    choice::Share,
    node::Node,
    problem::Problems,
    read::{At, Read, Section, section},
};

section! { "overload"
    /// When new work is refused, so that what runs can go on.
    struct Overload {
        /// The part of the memory above which new calls and sessions are refused; 1: never. New connections are closed
        /// from half of what is left on. Default: 0.9.
        memory: Option<Share>,
        /// The memory that there is. Default: the cgroup's limit, else the machine's.
        max_memory: Option<At<Size>>,
        /// The same of the file descriptors that the process may have open. Default: 0.9.
        files: Option<Share>,
        /// How long everything may wait for its worker thread, on and on, before that one refuses new calls and
        /// sessions. Default: 500ms.
        lag: Option<At<Duration>>,
        /// Whether /readyz says 503 meanwhile (memory and files), and not only while new connections are closed.
        /// Default: false.
        readiness: Option<bool>,
    }
}
