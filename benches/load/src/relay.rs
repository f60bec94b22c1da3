//! A plain TCP relay on one thread: reads, writes, and knows nothing. The floor under every proxy here.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};

/// Per direction. Large enough that a message of a mebibyte moves in few system calls.
const BUFFER: usize = 64 * 1024;

pub async fn run(target: SocketAddr, listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("{}", listener.local_addr()?);
    tokio::select! {
        () = crate::parent_gone() => Ok(()),
        failed = accept(listener, target) => failed,
    }
}

async fn accept(listener: TcpListener, target: SocketAddr) -> anyhow::Result<()> {
    loop {
        let (io, _) = listener.accept().await?;
        tokio::spawn(relay(io, target));
    }
}

async fn relay(mut down: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut up = TcpStream::connect(target).await?;
    down.set_nodelay(true)?;
    up.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut down, &mut up, BUFFER, BUFFER).await?;
    Ok(())
}
