//! Reads the PROXY header that a connection begins with, and not one byte more.

use std::io;

use tokio::{io::AsyncReadExt, net::TcpStream};

pub use crate::wire::proxy_header::ProxyHeader;
use crate::wire::proxy_header::{self, MAX_HEADER, ProxyHeaderError};

/// Why a connection has no header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It ended, or broke.
    #[error("the connection ended within its PROXY header: {0}")]
    Io(#[from] io::Error),
    /// It begins otherwise.
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
}

/// The header of a connection. What stands behind it stays in the socket: the kernel is asked what there is, and only
/// what belongs to the header is taken.
pub async fn read(socket: &mut TcpStream) -> Result<ProxyHeader, HeaderError> {
    let mut header = Vec::new();
    let mut there = vec![0; MAX_HEADER];
    loop {
        let len = socket.peek(&mut there).await?;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let had = header.len();
        header.extend_from_slice(&there[..len]);
        let parsed = proxy_header::parse(&header)?;
        // Until it is complete, all that is there belongs to it.
        let taken = parsed.map_or(len, |(_, whole)| whole - had);
        socket.read_exact(&mut there[..taken]).await?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}
