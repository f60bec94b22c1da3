//! A connected byte stream that knows whether anything was written to it, and that hears its peer out.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dial::Io;

/// What HTTP/2 runs on. Two things are its own:
///
/// It counts writes, so that a call whose HEADERS were certainly not written can be told from one that the server may
/// have seen.
///
/// When the peer has hung up, a write fails while the peer's last words, its GOAWAY, may still lie unread. HTTP/2 would
/// end the connection with the write's error, and calls that the GOAWAY says were not begun would look as if they had
/// been. So a write that fails like this is swallowed; what is there is read, and the end of that is the connection's.
#[derive(Debug)]
pub(super) struct Socket {
    io: Io,
    progress: Arc<Progress>,
    /// A write has failed: nothing more is written.
    hung_up: bool,
}

/// How far a [`Socket`] is, for those who do not own it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    writes: AtomicU64,
    error: OnceLock<String>,
}

impl Progress {
    /// How many writes may have reached the peer. As long as this stays the same, nothing did.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }

    /// How the peer hung up, if it did so with an error.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.get().map(String::as_str)
    }

    fn hung_up(&self, error: &io::Error) {
        let _ = self.error.set(error.to_string());
    }
}

/// Errors by which a socket says that the peer is gone: what it sent before can still be read, and then there is an
/// end of the stream or another error.
fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl Socket {
    pub(super) fn new(io: Io) -> (Self, Arc<Progress>) {
        let progress = Arc::<Progress>::default();
        (Self { io, progress: progress.clone(), hung_up: false }, progress)
    }

    /// `len`: how much was to be written.
    fn write_with(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        write: impl FnOnce(Pin<&mut Io>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.hung_up {
            return Poll::Ready(Ok(len));
        }
        if let Io::Tls(_) = self.io {
            // TLS may have sent a record of several before it says that it failed.
            self.progress.writes.fetch_add(1, Relaxed);
        }
        match write(Pin::new(&mut self.io), cx) {
            Poll::Ready(Err(error)) if is_hang_up(&error) => {
                self.progress.hung_up(&error);
                self.hung_up = true;
                // The socket is readable now, to its end.
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Ok(n)) => {
                self.progress.writes.fetch_add(1, Relaxed);
                Poll::Ready(Ok(n))
            }
            other => other,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            // As an end, so that HTTP/2 says what the peer's GOAWAY said, if there was one.
            Poll::Ready(Err(error)) if is_hang_up(&error) => {
                self.progress.hung_up(&error);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write_with(cx, buf.len(), |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.write_with(cx, len, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hung_up { Poll::Ready(Ok(())) } else { Pin::new(&mut self.io).poll_flush(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hung_up { Poll::Ready(Ok(())) } else { Pin::new(&mut self.io).poll_shutdown(cx) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn what_the_peer_said_before_it_hung_up_is_read_after_a_write_has_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let (mut socket, progress) = Socket::new(Io::Tcp(io));
        socket.write_all(b"unread").await.unwrap();
        assert_eq!(progress.writes(), 1);
        peer.readable().await.unwrap();
        peer.write_all(b"last words").await.unwrap();
        // It has not read everything: so this is a reset.
        drop(peer);
        assert_eq!(socket.write(b"too late").await.unwrap(), 8);
        assert_eq!(progress.writes(), 1, "nothing reached anybody");
        assert!(progress.error().is_some());
        let mut read = Vec::new();
        socket.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"last words");
        socket.shutdown().await.unwrap();
    }
}
