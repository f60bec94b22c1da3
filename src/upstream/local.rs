//! A service within this process.

use std::{fmt, io};

use tokio::{net::UnixStream, sync::mpsc};

/// How many connections may wait to be accepted.
const BACKLOG: usize = 16;

/// A service within this process, which is reached over pairs of sockets: to calls it is an upstream like any other.
/// Clones are the same service.
#[derive(Clone)]
pub struct LocalEndpoint(mpsc::Sender<UnixStream>);

impl LocalEndpoint {
    /// A service, and the connections that it has to accept. They end when the last clone is gone.
    pub fn new() -> (Self, mpsc::Receiver<UnixStream>) {
        let (sender, connections) = mpsc::channel(BACKLOG);
        (Self(sender), connections)
    }

    /// A connection, whose other end the service gets. Must be called within a runtime, which both ends belong to.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.0.try_send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(ours)
    }
}

impl PartialEq for LocalEndpoint {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for LocalEndpoint {}

impl fmt::Debug for LocalEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalEndpoint")
    }
}
